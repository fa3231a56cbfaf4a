"""Honest clients of a policy server under floods: latency, late answers, memory, open files."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from server_floods import TOKEN, floods
from server_process import ServerProcess, server_process

from qsft_robot.policy.folder import PolicySpec
from qsft_robot.policy.open import open_policy
from qsft_robot.server.remote_policy import PolicyUnavailable, RemotePolicy
from qsft_robot.server.requests import message_limit
from qsft_robot.types import Observation

PERIOD_S = 0.05  # 20 Hz
LATE_S = 1.0  # the time limit of `qsft-robot run`
COLUMNS = (
    "answers", "wrong", "p50 ms", "p99 ms", "slowest ms", "late", "newcomers", "kept out",
    "slowest to come in ms", "MiB", "files",
)  # fmt: skip


@dataclass
class Seen:
    """Measurements of the clients and the process table during one flood."""

    seconds: list[float] = field(default_factory=list)
    came_in: list[float] = field(default_factory=list)
    wrong: int = 0
    late: int = 0
    kept_out: int = 0
    mib: float = 0.0
    files: int = 0

    def row(self) -> dict[str, Any]:
        """The columns of the table."""
        ms = 1000 * np.array(self.seconds or [0.0])
        came = 1000 * np.array(self.came_in or [0.0])
        cells = (
            len(self.seconds), self.wrong, round(float(np.median(ms)), 1),
            round(float(np.quantile(ms, 0.99)), 1), round(float(ms.max())), self.late,
            len(self.came_in), self.kept_out, round(float(came.max())), round(self.mib),
            self.files,
        )  # fmt: skip
        return dict(zip(COLUMNS, cells, strict=True))


class Watch:
    """Honest robots at 20 Hz, a newcomer every second, and a look at memory and files."""

    def __init__(
        self, server: ServerProcess, ca_file: Path | None, observation: Observation, expected: Any
    ) -> None:
        self._server, self._ca_file = server, ca_file
        self._observation, self._expected = observation, expected
        self.seen = Seen()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._robot, args=(i,)) for i in range(4)]
        self._threads += [threading.Thread(target=x) for x in (self._newcomers, self._look)]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _policy(self, patience_s: float) -> RemotePolicy:
        return RemotePolicy(
            self._server.url, TOKEN, LATE_S, connect_timeout_s=patience_s, ca_file=self._ca_file
        )

    def _robot(self, number: int) -> None:
        with self._policy(60) as policy:
            at = time.monotonic() + PERIOD_S * number / 4
            while not self._over.is_set():
                time.sleep(max(0.0, at - time.monotonic()))
                at = max(at + PERIOD_S, time.monotonic())
                seen, began = self.seen, time.perf_counter()
                policy.reset(0)
                try:
                    actions = policy.infer(self._observation)
                except PolicyUnavailable:
                    seen.late += 1
                    continue
                seen.seconds.append(time.perf_counter() - began)
                seen.wrong += not np.array_equal(actions, self._expected)

    def _newcomers(self) -> None:
        while not self._over.wait(1.0):
            seen, began = self.seen, time.perf_counter()
            try:
                with self._policy(LATE_S) as policy:
                    policy.infer(self._observation)
                seen.came_in.append(time.perf_counter() - began)
            except (PolicyUnavailable, OSError):
                seen.kept_out += 1

    def _look(self) -> None:
        while not self._over.wait(0.1):
            with suppress(OSError):
                self.seen.mib = max(self.seen.mib, self._server.resident_mib())
                self.seen.files = max(self.seen.files, self._server.open_files())


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of one's own for 127.0.0.1, and its key."""
    files = folder / "certificate.pem", folder / "key.pem"
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0],
         "-keyout", files[1]], check=True, capture_output=True,
    )  # fmt: skip
    return files


def soak(
    run: Path, tls: bool, each_s: float, total_s: float, kinds: list[str], code: Path | None
) -> list[dict[str, Any]]:
    """Flood after flood until the time is over (each once where it is 0); a row for each kind."""
    policy = open_policy(run)
    spec = PolicySpec.of(policy.description)
    limit = message_limit(spec)
    observation = Observation(
        {key: np.zeros((*size, 3), np.uint8) for key, size in spec.cameras.items()},
        {
            key: np.asarray(policy.description.norm_stats.mean[key], np.float32)
            for key in spec.state
        },
        spec.instructions[0] if spec.instructions else "",
    )
    policy.reset(0)
    expected = policy.infer(observation)
    by_kind = {kind: Seen() for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        flags, ca_file = [], None
        if tls:
            ca_file, key = certificate(Path(folder))
            flags = ["--certificate", str(ca_file), "--key", str(key)]
        until = time.monotonic() + total_s
        # Alone, each flood meets a server of its own; in a soak one server meets them all.
        for together in [kinds] if total_s else [[kind] for kind in kinds]:
            with (
                server_process(run, flags, TOKEN, code) as server,
                Watch(server, ca_file, observation, expected) as watch,
            ):
                while True:
                    for kind in together:
                        watch.seen = by_kind[kind]
                        _flood(kind, server, each_s, limit)
                    if time.monotonic() > until:
                        break
                watch.seen = Seen()
    return [{"flood": kind, **seen.row()} for kind, seen in by_kind.items()]


def _flood(kind: str, server: ServerProcess, seconds: float, limit: int) -> None:
    if kind == "none":
        time.sleep(seconds)
        return
    here = Path(__file__).with_name("server_floods.py")
    words = [kind, server.url, str(seconds), "--limit", str(limit)]
    done = subprocess.run([sys.executable, here, *words], check=True, capture_output=True)
    print(f"{kind}: {done.stdout.decode().strip()}", flush=True)


def main() -> None:
    """Run the soak, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder or exported policy")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--each", type=float, default=10.0, help="seconds of one flood")
    parser.add_argument("--seconds", type=float, default=0.0, help="0: every flood once")
    parser.add_argument("--kinds", nargs="*", help="floods; all when not given")
    parser.add_argument("--code", type=Path, help="checkout whose server runs; this one's if none")
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    options = parser.parse_args()
    kinds = options.kinds or ["none", *floods(1 << 16)]
    rows = soak(options.run, options.tls, options.each, options.seconds, kinds, options.code)
    print("\n| flood | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row.values()) + " |")
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
