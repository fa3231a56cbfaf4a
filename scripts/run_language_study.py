"""Language games: collects logs, trains every method, evaluates, writes rows of mean returns."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from run_study import ROOT, Setting, Study, behaviors, parsed, run_all, study_parser

from qsft_robot.files import read_json
from qsft_robot.report.study_rows import MEAN_RETURN, result_row, run_verb

SCRIPT = Path(__file__).resolve()
# Settings are chosen on seeds from here on, and on these episodes (docs/protocol.md).
DEVELOPMENT_SEED, DEVELOPMENT_EPISODES = 101, 5000


@dataclass(frozen=True)
class World:
    """A recipe and the preset of its name, and what its settings are called."""

    task: str
    # Data of a setting's name -> words of `collect` after the recipe.
    data: Mapping[str, str]
    # What may be said -> words of `train`.
    decodings: Mapping[str, str]
    episodes: int = 1000
    # Data whose policies are evaluated elsewhere -> words of `evaluate`.
    evaluate: Mapping[str, str] = field(default_factory=dict)


# Stands for the file of `--words` in the words of a setting.
_WORDS = "{words}"
WORLDS = (
    World(
        "games/wordle",
        {
            "full": "--episodes 20000",
            "tenth": "--episodes 2000",
            # A list that is not shipped.
            "own-list": f"--episodes 20000 --env-kwargs words={_WORDS}",
        },
        {"letters": "", "closed": "--preset games/wordle_closed"},
    ),
    World(
        "games/twenty_questions",
        {
            "full": "--episodes 20000",
            "tenth": "--episodes 2000",
            # Objects that no log hid.
            "held-out": "--episodes 20000 --env-kwargs split=train",
        },
        {"words": "", "closed": "--tokenizer.closed"},
        evaluate={"held-out": "--env-kwargs split=held_out"},
    ),
    World(
        "games/chess_endgames",
        {"full": "--episodes 10000", "tenth": "--episodes 1000"},
        {"letters": "", "legal": "--tokenizer.no-free"},
        episodes=300,
    ),
    World(
        "webshop",
        {"full": "--episodes 10000", "tenth": "--episodes 1000"},
        {"words": ""},
        episodes=400,
        evaluate=dict.fromkeys(("full", "tenth"), "--env-kwargs split=test"),
    ),
)
SETTINGS = [
    Setting(
        world.task,
        "text",
        f"{data} {decoding} scratch",
        f"{world.task} {collect}",
        f"--preset {world.task} {words}",
        episodes=world.episodes,
    )
    for world in WORLDS
    for data, collect in world.data.items()
    for decoding, words in world.decodings.items()
]
# Task and data -> words of `evaluate`.
EVALUATE = {(w.task, data): words for w in WORLDS for data, words in w.evaluate.items()}
SETTING_NAMES = {f"{s.task}:{s.name}": s for s in SETTINGS}
# Method of a row -> words of `train`. All of a setting share the preset's model, batch and number
# of updates; those of two stages take one behavior stage, that of `qsft`.
METHODS = {
    "qsft": "--method qsft",
    "qsft_paper": "--preset paper --method qsft",
    "ilql": "--method ilql",
    "monte_carlo": "--method monte_carlo",
    "return_conditioned": "--method return_conditioned",
    "filtered_sft": "--method filtered_sft",
    "sft": "--method sft",
}
# Method of a row that trains nothing -> words of `prompt`.
PROMPTED = {"prompt": "", "react": "--prompt.thoughts"}


def rows(study: Study, setting: Setting, options: argparse.Namespace) -> Iterator[dict]:
    """Every method of a setting, seeds side by side; yields each row as soon as it is there."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)

    def one(method: str, seed: int) -> Mapping[str, Any]:
        if method in PROMPTED:
            return prompted(study, setting, method, seed, options)
        run = study.train(setting, method, METHODS[method], seed, options.train)
        episodes = f" --seed {DEVELOPMENT_EPISODES}" if seed >= DEVELOPMENT_SEED else ""
        elsewhere = EVALUATE.get((setting.task, setting.name.split()[0]), "")
        flags = f"{options.evaluate} {elsewhere}".strip() + episodes
        return study.evaluate(setting, run, options.name, flags)

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(lambda seed: study.logs(setting, seed), seeds))
        # A method whose behavior stage others take comes first.
        for method in sorted(options.methods, key=lambda name: name in behaviors(setting)):
            found = list(pool.map(lambda seed, method=method: one(method, seed), seeds))
            yield result_row(
                setting.task, setting.observations, setting.name, method, found, SCRIPT, MEAN_RETURN
            )


def prompted(
    study: Study, setting: Setting, method: str, seed: int, options: argparse.Namespace
) -> Mapping[str, Any]:
    """The summary of a prompted language model, shown the best logs of one seed."""
    run = study.folder(setting, method, seed)
    summary = run / "evaluation" / options.name / "summary.json"
    if not summary.exists():
        elsewhere = EVALUATE.get((setting.task, setting.name.split()[0]), "")
        run_verb(
            f"prompt {setting.task} {options.prompt} {PROMPTED[method]} {elsewhere} --out {run} "
            f"--prompt.examples {study.logs(setting, seed)} --name {options.name} "
            f"--episodes {options.prompt_episodes or setting.episodes}"
            + (f" --seed {DEVELOPMENT_EPISODES}" if seed >= DEVELOPMENT_SEED else ""),
            run.with_suffix(".log"),
            ROOT,
        )
    return read_json(summary)


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; sys.argv's where `words` is None."""
    parser = study_parser(__doc__, [*METHODS, *PROMPTED], "language")
    parser.set_defaults(methods=list(METHODS))
    parser.add_argument("--evaluate", default="", help="further words for every `evaluate`")
    parser.add_argument("--words", type=Path, help="file of games/wordle:own-list, a word a line")
    parser.add_argument("--name", default="policy", help="name of the evaluations")
    parser.add_argument(
        "--prompt", default="", help="words of `prompt` that name a model, for prompt and react"
    )
    parser.add_argument("--prompt-episodes", type=int, help="fewer episodes for these two")
    options = parsed(parser, words, SETTING_NAMES, begins)
    lists = [setting for setting in options.chosen if _WORDS in setting.collect]
    if lists and options.words is None:
        parser.error(f"{lists[0].task}:{lists[0].name}: name the list, --words FILE")
    options.chosen = [
        replace(setting, collect=setting.collect.replace(_WORDS, str(options.words)))
        for setting in options.chosen
    ]
    if not options.prompt and (asked := [x for x in options.methods if x in PROMPTED]):
        parser.error(f"{', '.join(asked)}: name the model, --prompt '--prompt.model MODEL'")
    return options


def begins(name: str, words: Sequence[str]) -> bool:
    """Whether a setting's name begins with one of the words."""
    return name.startswith(tuple(words))


def main() -> None:
    """Run the chosen settings and put their rows into the file of results."""
    run_all(options_of(), rows)


if __name__ == "__main__":
    main()
