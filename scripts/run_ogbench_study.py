"""Rows of OGBench in docs/results.json: play data of one scene, every method on tasks of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from run_study import Setting, Study, asked_for, parsed, run_all, study_parser

from qsft_robot.report.study_rows import result_row

SCRIPT = Path(__file__).resolve()
# Episodes of 1,001 steps; the published sets have 1,000.
EPISODES = 300
SETTINGS = {
    f"ogbench/{task}": Setting(
        f"ogbench/{task}",
        "low_dim",
        f"play-{EPISODES}",
        f"ogbench/{task.partition('-task')[0]} --episodes {EPISODES} --seed 0",
        "--preset ogbench/states",
        episodes=100,
    )
    for task in (
        "cube-single",
        *(f"cube-single-task{number}" for number in (1, 3, 4, 5)),
        "cube-double",
        "scene",
        "puzzle-3x3",
    )
}
_ONE, _BEST = "candidates=1", "candidates=32"
_ALONE = "--critic.updates 0 --acting.candidates 1"
# Another critic beside the same candidates: the behavior is tuned no further.
_CRITIC = "--method sft --optim.value-steps 1"


@dataclass(frozen=True)
class Run:
    """One training run and the rows that its networks give."""

    # Words of `train`.
    train: str
    # Method of a row -> words of `evaluate --acting`.
    rows: Mapping[str, str]
    # Whether its behavior is that of the run `sft` (the same settings and seed).
    shares_behavior: bool = True


RUNS = {
    "sft": Run(f"--method sft {_ALONE}", {"sft": _ONE}, shares_behavior=False),
    "qsft": Run(
        "--method qsft",
        {"qsft": _ONE, f"qsft {_BEST}": _BEST, f"sft {_BEST}": f"rule=behavior {_BEST}"},
    ),
    # The same candidates, judged by the return of the log itself: no bootstrapping.
    "critic lam=1": Run(f"{_CRITIC} --critic.lam 1", {f"sft {_BEST} critic lam=1": _BEST}),
    # The value of the behavior, with bootstrapping: no improvement by the expectile.
    "critic expectile=0.5": Run(
        f"{_CRITIC} --critic.expectile 0.5", {f"sft {_BEST} critic expectile=0.5": _BEST}
    ),
    "filtered_sft": Run(
        f"--method filtered_sft {_ALONE}", {"filtered_sft": _ONE}, shares_behavior=False
    ),
    # As many updates of its critic as the one that judges candidates has.
    "advantage_weighted": Run(
        f"--method advantage_weighted {_ALONE} --optim.value-steps 10000",
        {"advantage_weighted": _ONE},
    ),
}


class PlayStudy(Study):
    """A study whose seeds share one set of play data, as the published results do."""

    def logs(self, setting: Setting, seed: int) -> Path:
        """Record a scene's play data and cut it for the task, unless it is there."""
        folder = self.out / "play"
        stream = folder / f"{setting.collect.split()[0].replace('/', '-')}.npz"
        cut = folder / f"{setting.task.replace('/', '-')}.hdf5"
        with self.collecting[stream]:
            if not stream.exists():
                words = f"collect {setting.collect} --out {stream}"
                self.verb(words, stream.with_suffix(".log"))
            if not cut.exists():
                words = f"import-npz {stream} --env {setting.task} --out {cut}"
                self.verb(words, cut.with_suffix(".log"))
        return cut


def rows(study: Study, setting: Setting, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train and evaluate the asked runs, seeds side by side; yields finished rows."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    with ThreadPoolExecutor(options.processes) as pool:
        for name in options.methods:
            one = partial(summaries, study, setting, name, options.train)
            found = list(pool.map(one, seeds))
            for method in RUNS[name].rows:
                of_seeds = [each[method] for each in found]
                yield result_row(
                    setting.task, setting.observations, setting.name, method, of_seeds, SCRIPT
                )


def summaries(
    study: Study, setting: Setting, name: str, extra: str, seed: int
) -> dict[str, Mapping[str, Any]]:
    """Method of a row -> the summary of its evaluation, of one seed."""
    run = RUNS[name]
    if run.shares_behavior:
        behavior = study.train(setting, "sft", RUNS["sft"].train, seed, extra)
        extra = f"{extra} --behavior-from {behavior}"
    folder = study.train(setting, name, run.train, seed, extra)
    return {
        method: study.evaluate(
            setting, folder, method.replace(" ", "_").replace("=", ""), f"--acting {acting}"
        )
        for method, acting in run.rows.items()
    }


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; sys.argv's where `words` is None."""
    return parsed(study_parser(__doc__, list(RUNS), "ogbench"), words, SETTINGS, asked_for)


def main() -> None:
    """Run the chosen tasks and write docs/results.json."""
    run_all(options_of(), rows, PlayStudy)


if __name__ == "__main__":
    main()
