"""Two evaluations, or several of each side, compared on the same episodes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from qsft_robot.compare.recorded import Recorded, read_recorded
from qsft_robot.compare.same_conditions import check_same_environment, common_seeds
from qsft_robot.intervals import (
    Rate,
    RunsApart,
    mcnemar,
    paired_difference,
    pairs_to_decide,
    probability_of_improvement,
    runs_apart,
    wilson,
)


@dataclass(frozen=True)
class DifferingEpisode:
    """One episode seed on which the sides came out differently."""

    seed: int
    first: int  # runs of the first side that succeeded
    second: int


@dataclass(frozen=True)
class Comparison:
    """The first side against the second; positive differences are in favor of the first."""

    first: tuple[Recorded, ...]  # one evaluation a training run
    second: tuple[Recorded, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def paired(self) -> bool:
        """Whether one run stands on each side, so that episodes are what is drawn."""
        return len(self.first) == len(self.second) == 1

    def rates(self, side: Sequence[Recorded]) -> list[float]:
        """The success rate of each run on the common episodes."""
        return [k / len(self.seeds) for k in self.successes(side)]

    def successes(self, side: Sequence[Recorded]) -> list[int]:
        """Successes of each run on the common episodes."""
        return [sum(map(run.succeeded, self.seeds)) for run in side]

    def pooled(self, side: Sequence[Recorded]) -> Rate:
        """The rate over all episodes of all runs; its interval is Wilson's and knows no runs."""
        return wilson(sum(self.successes(side)), len(side) * len(self.seeds))

    @property
    def difference(self) -> float:
        """Mean rate of the first side minus that of the second."""
        return fmean(self.rates(self.first)) - fmean(self.rates(self.second))

    @property
    def only_first(self) -> int:
        """Pairs of one run each in which the first alone succeeded."""
        a, b = self.first[0], self.second[0]
        return sum(a.succeeded(s) and not b.succeeded(s) for s in self.seeds)

    @property
    def only_second(self) -> int:
        a, b = self.first[0], self.second[0]
        return sum(b.succeeded(s) and not a.succeeded(s) for s in self.seeds)

    @property
    def apart(self) -> RunsApart:
        """The difference over training runs, where one side has several."""
        return runs_apart(self.rates(self.first), self.rates(self.second), len(self.seeds))

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference: Tango's over paired episodes where one run stands on
        each side, else Student's over training runs."""
        if self.paired:
            return paired_difference(self.only_first, self.only_second, len(self.seeds))
        return self.apart.low, self.apart.high

    def p_value(self) -> float:
        """McNemar's exact p over paired episodes, or Student's over training runs."""
        return mcnemar(self.only_first, self.only_second) if self.paired else self.apart.p

    def more(self) -> int | None:
        """Paired episodes (or training runs a side) beyond these that would show a difference as
        large as this one, with power .8; 0 where these suffice, None where none was seen."""
        if not self.paired:
            return self.apart.more_runs
        needed = pairs_to_decide(self.only_first, self.only_second, len(self.seeds))
        return None if needed is None else max(0, needed - len(self.seeds))

    def differing(self) -> list[DifferingEpisode]:
        """Episodes that came out differently, the farthest apart first."""
        rows = [
            DifferingEpisode(
                seed,
                sum(run.succeeded(seed) for run in self.first),
                sum(run.succeeded(seed) for run in self.second),
            )
            for seed in self.seeds
        ]
        a, b = len(self.first), len(self.second)
        apart = [row for row in rows if row.first * b != row.second * a]
        return sorted(apart, key=lambda row: (-abs(row.first / a - row.second / b), row.seed))

    def to_json(self) -> dict[str, Any]:
        """Plain types, for `compare --json`."""
        low, high = self.interval()
        told: dict[str, Any] = {
            "episodes": len(self.seeds),
            "success": "last step" if self.first[0].at_last_step else "any step",
            "first": self._side(self.first),
            "second": self._side(self.second),
            "difference": self.difference,
            "low": low,
            "high": high,
            "p": self.p_value(),
        }
        if self.paired:
            told |= {
                "interval": "Tango, 95 %, paired episodes",
                "test": "McNemar, exact",
                "only_first": self.only_first,
                "only_second": self.only_second,
                "more_episodes": self.more(),
            }
        else:
            told |= {
                "interval": "Student's t over training runs, 95 %",
                "test": "Student's t",
                "probability_of_improvement": probability_of_improvement(
                    self.rates(self.first), self.rates(self.second)
                ),
                "more_runs": self.more(),
            }
        return told | {
            "differing": [asdict(row) for row in self.differing()],
            "notes": list(self.notes),
        }

    def _side(self, side: Sequence[Recorded]) -> dict[str, Any]:
        rate = self.pooled(side)
        return {
            "folders": [str(run.folder) for run in side],
            "rates": self.rates(side),
            "successes": rate.successes,
            "n": rate.n,
            "low": rate.low,
            "high": rate.high,
        }


def compare(
    first: Sequence[Path],
    second: Sequence[Path],
    *,
    name: str = "policy",
    at_last_step: bool = False,
    accept: Collection[str] = (),
    strict_versions: bool = False,
) -> Comparison:
    """Read and pair evaluations of one or several training runs a side.

    ValueError where they can't be compared: other seeds, simulators or arguments (`accept` takes
    "seeds", for the common ones alone, and "environment"), or one evaluation on both sides.
    """
    a, b = (
        tuple(read_recorded(path, name, at_last_step) for path in paths)
        for paths in (first, second)
    )
    everything = [*a, *b]
    places = [run.folder.resolve() for run in everything]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise ValueError(f"{everything[i].folder}: named twice; a comparison needs two.")
    seeds = common_seeds(everything, accept)
    notes = check_same_environment(everything, seeds, accept, strict_versions)
    for run in everything:
        if broken := run.summary.get("broken"):
            notes.append(f"{run.folder}: {broken} episodes broke off and count as failures")
    if (left := max(len(run.episodes) for run in everything) - len(seeds)) > 0:
        notes.append(f"{len(seeds)} common episodes are compared, up to {left} are left out")
    return Comparison(a, b, tuple(seeds), tuple(notes))
