"""Counters of the server, in Prometheus' text form."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64)
OUTCOMES = ("answered", "bad_request", "busy", "failed", "abandoned")
REFUSALS = ("token", "origin", "full", "crowded_out")
CUT_OFF = ("control_frames", "fragments", "slow", "unread", "silent")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of values up to each bound, their sum and their number."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """The samples: cumulative buckets, sum and count."""
        found, total = [], 0
        for bound, count in zip([*self._bounds, "+Inf"], self._counts, strict=True):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {self._sum:.9g}", f"{name}_count {total}"]


class ServerMetrics:
    """Counters of one server; all are changed on the event loop's thread alone."""

    def __init__(self) -> None:
        self.ready = False
        self.connections = 0
        self.connections_total = 0
        self.waiting = 0
        # Connections whose handshakes are under way.
        self.strangers = 0
        # outcome -> requests; why -> handshakes that were refused
        self.requests: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.refused: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))
        # why -> clients that were disconnected
        self.cut_off: Counter[str] = Counter(dict.fromkeys(CUT_OFF, 0))
        # Requests with an instruction that the policy was not trained on.
        self.unknown_instructions = 0
        # state key -> requests whose reading was far from the logs
        self.far_readings: Counter[str] = Counter()
        self.queue_seconds = Histogram(SECONDS)
        self.inference_seconds = Histogram(SECONDS)
        self.request_seconds = Histogram(SECONDS)
        self.batch_size = Histogram(SIZES)

    def text(self) -> str:
        """The page that Prometheus scrapes."""
        lines: list[str] = []
        far = self.far_readings

        def add(name: str, kind: str, text: str, samples: Sequence[str]) -> None:
            lines.extend([f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples])

        def number(name: str, kind: str, text: str, value: float) -> None:
            add(name, kind, text, [f"{name} {value}"])

        info = f'qsft_build_info{{version="{version("qsft-robot")}"}} 1'
        add("qsft_build_info", "gauge", "Version of the server.", [info])
        number("qsft_ready", "gauge", "1 once the warm-up is over.", int(self.ready))
        number("qsft_connections", "gauge", "Clients connected now.", self.connections)
        number(
            "qsft_connections_total",
            "counter",
            "Clients that ever connected.",
            self.connections_total,
        )
        number("qsft_strangers", "gauge", "Connections in their handshakes now.", self.strangers)
        number("qsft_waiting_requests", "gauge", "Requests in the queue now.", self.waiting)
        add(
            "qsft_requests_total",
            "counter",
            "Requests by what became of them.",
            [f'qsft_requests_total{{outcome="{k}"}} {n}' for k, n in self.requests.items()],
        )
        add(
            "qsft_refused_handshakes_total",
            "counter",
            "Connections refused before any policy work, by reason.",
            [f'qsft_refused_handshakes_total{{reason="{k}"}} {n}' for k, n in self.refused.items()],
        )
        add(
            "qsft_cut_off_total",
            "counter",
            "Clients that were disconnected, by reason.",
            [f'qsft_cut_off_total{{reason="{k}"}} {n}' for k, n in self.cut_off.items()],
        )
        number(
            "qsft_unknown_instructions_total",
            "counter",
            "Requests with an instruction that the policy was not trained on.",
            self.unknown_instructions,
        )
        add(
            "qsft_far_readings_total",
            "counter",
            "Requests whose reading was far from the logs, by state key.",
            [f'qsft_far_readings_total{{key="{_quoted(k)}"}} {n}' for k, n in far.items()],
        )
        for name, text in (
            ("queue_seconds", "Time of a request in the queue."),
            ("inference_seconds", "Time of one batch in the policy."),
            ("request_seconds", "Time from a whole request to its answer."),
            ("batch_size", "Requests of one batch."),
        ):
            add(f"qsft_{name}", "histogram", text, getattr(self, name).lines(f"qsft_{name}"))
        resident = resident_bytes()
        if resident is not None:
            number("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", resident)
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A label's value."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system has no /proc."""
    if sys.platform != "linux":
        return None
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    return None
