"""Rows of the benchmark table, and contestants timed in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower"]
COMMAND = "python scripts/run_benchmarks.py --only {group}"


@dataclass(frozen=True)
class Row:
    """One comparison. `better` says which ratio is the better one; `aim` is the ratio hoped for,
    None for a row that only informs."""

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str
    aim: float | None
    better: Better
    command: str

    @property
    def reached(self) -> bool | None:
        """Whether the ratio is at the aim or beyond it; None without an aim."""
        if self.aim is None:
            return None
        return self.ratio >= self.aim if self.better == "higher" else self.ratio <= self.aim

    def to_json(self) -> dict[str, Any]:
        """The row as written to docs/benchmarks.json."""
        return asdict(self)


def compare(
    group: str,
    name: str,
    ours: float,
    peer: float,
    unit: str,
    aim: float | None,
    better: Better,
    *,
    ratio: Literal["ours / peer", "peer / ours"] = "ours / peer",
) -> Row:
    """A row with its ratio; four digits are kept."""
    value = ours / peer if ratio == "ours / peer" else peer / ours
    return Row(name, _four(ours), _four(peer), _four(value), unit, aim, better, command(group))


def command(group: str) -> str:
    """The words that repeat a group of rows."""
    return COMMAND.format(group=group)


def in_turns(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median of what each call returns; they take turns, so that a slow spell meets them all."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats):
        # The order changes, so that nobody always follows the one that empties the caches.
        order = list(calls) if i % 2 == 0 else list(calls)[::-1]
        for name in order:
            found[name].append(calls[name]())
    return {name: statistics.median(values) for name, values in found.items()}


def worker_row(
    group: str,
    name: str,
    unit: str,
    aim: float | None,
    speed: Callable[[int], float],
    repeats: int,
) -> Row:
    """Two processes against one; `speed` takes their number."""
    found = in_turns({f"{n}": lambda n=n: speed(n) for n in (1, 2)}, repeats)
    return compare(group, name, found["2"], found["1"], unit, aim, "higher")


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _four(x: float) -> float:
    return 0.0 if x == 0 else round(x, 3 - math.floor(math.log10(abs(x))))
