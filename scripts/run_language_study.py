"""Language games: collects logs, trains every method, evaluates, writes rows of mean returns."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from run_study import Setting, Study, behaviors, parsed, run_all, study_parser

from qsft_robot.report.study_rows import MEAN_RETURN, result_row

SCRIPT = Path(__file__).resolve()
# Settings are chosen on seeds from here on, and on these episodes (docs/protocol.md).
DEVELOPMENT_SEED, DEVELOPMENT_EPISODES = 101, 5000
# Games of the data of a setting's name.
GAMES = {"full": 20_000, "tenth": 2_000}
# What may be said: any letters, or the words of the logs alone.
DECODINGS = {"letters": "", "closed": " --tokenizer.closed"}
SETTINGS = [
    Setting(
        f"games/{game}",
        "text",
        f"{data} {decoding} scratch",
        f"games/{game} --episodes {games}",
        f"--preset games/{game}{words}",
        episodes=1000,
    )
    for game in ("wordle",)
    for data, games in GAMES.items()
    for decoding, words in DECODINGS.items()
]
SETTING_NAMES = {f"{s.task}:{s.name}": s for s in SETTINGS}
# Method of a row -> words of `train`. All of a setting share the preset's model, batch and number
# of updates; those of two stages take one behavior stage, that of `qsft`.
METHODS = {
    "qsft": "--method qsft",
    "qsft_paper": "--preset paper --method qsft",
    "ilql": "--method ilql",
    "return_conditioned": "--method return_conditioned",
    "filtered_sft": "--method filtered_sft",
    "sft": "--method sft",
}


def rows(study: Study, setting: Setting, options: argparse.Namespace) -> Iterator[dict]:
    """Every method of a setting, seeds side by side; yields each row as soon as it is there."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)

    def one(method: str, seed: int) -> Mapping[str, Any]:
        run = study.train(setting, method, METHODS[method], seed, options.train)
        episodes = f" --seed {DEVELOPMENT_EPISODES}" if seed >= DEVELOPMENT_SEED else ""
        return study.evaluate(setting, run, options.name, options.evaluate + episodes)

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(lambda seed: study.logs(setting, seed), seeds))
        # A method whose behavior stage others take comes first.
        for method in sorted(options.methods, key=lambda name: name in behaviors(setting)):
            found = list(pool.map(lambda seed, method=method: one(method, seed), seeds))
            yield result_row(
                setting.task, setting.observations, setting.name, method, found, SCRIPT, MEAN_RETURN
            )


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; sys.argv's where `words` is None."""
    parser = study_parser(__doc__, list(METHODS), "language")
    parser.add_argument("--evaluate", default="", help="further words for every `evaluate`")
    parser.add_argument("--name", default="policy", help="name of the evaluations")
    return parsed(parser, words, SETTING_NAMES, begins)


def begins(name: str, words: Sequence[str]) -> bool:
    """Whether a setting's name begins with one of the words."""
    return name.startswith(tuple(words))


def main() -> None:
    """Run the chosen settings and put their rows into the file of results."""
    run_all(options_of(), rows)


if __name__ == "__main__":
    main()
