"""LaMo's claims: trunks of a Decision Transformer on shares of the logs, beside SFT and Q-SFT."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from run_study import Setting, Study, asked_for, parsed, run_all, study_parser

from qsft_robot.report.study_rows import MEAN_RETURN, result_row

SCRIPT = Path(__file__).resolve()
# Settings are chosen on seeds from here on, and on these episodes (docs/protocol.md).
DEVELOPMENT_SEED, DEVELOPMENT_EPISODES = 101, 5000
# Frames of a Decision Transformer's window.
HISTORY = 20
# Share of the updates that Q-SFT's behavior stage has.
BEHAVIOR_SHARE = 0.2


@dataclass(frozen=True)
class Task:
    """A recipe, and what every method is told on its logs."""

    name: str
    recipe: str
    logs: int
    # Words of `train` that all methods get.
    train: str
    # Words of filtered SFT: a success says little where every step pays.
    filtered: str = ""
    episodes: int = 100
    # Whether its logs are of trained agents.
    agents: bool = False


TASKS = (
    Task("reacher2d", "reacher2d/medium", 1000, "--preset reacher2d/states", "--filtered-share .1"),
    Task("tabletop/place", "tabletop/place-uncut", 1000, "--preset tabletop/low_dim"),
    Task(
        "gymnasium/Hopper",
        "hopper/medium",
        1000,
        "--preset hopper/states",
        "--filtered-share .1",
        episodes=30,  # of up to 1,000 steps
        agents=True,
    ),
)
SHARES = (1, 10, 100)  # per cent of the logs, the first so many of one file
# The present trunk's layers, all of whose weights learn, so that pretrained and reinitialized
# differ in their first weights alone.
_TRUNK = "--lamo.embeddings mlp --optim.learning-rate 3e-4"
_WHOLE = f"{_TRUNK} --model.lora-rank 0"
# Trunk (with what is changed at a tenth of the logs) -> words of `train`.
TRUNKS = {
    "scratch": "--lamo.embeddings mlp --model.width 128 --model.depth 3",
    "pretrained": _WHOLE,
    "reinitialized": f"{_WHOLE} --pretrained-weights none",
}
AT_A_TENTH = {
    "pretrained-10-text": _WHOLE,
    "pretrained-10-linear": f"{_WHOLE} --lamo.embeddings linear",
    "pretrained-10-lora": f"{_TRUNK} --optim.learning-rate 1e-3 --model.lora-rank 16",
    "pretrained-10-lora-text": f"{_TRUNK} --optim.learning-rate 1e-3 --model.lora-rank 16",
}
LAMO, LOGS = "lamo", "logs"
# Method of a row -> words of `train`, for the settings of this name.
BASELINES = {
    "sft": "--method sft",
    "filtered_sft": "--method filtered_sft",
    "qsft": "--method qsft",
}
METHODS = (LAMO, *BASELINES)


def _settings() -> Iterator[tuple[str, Setting]]:
    for task in TASKS:
        trunks = {f"{t}-{share}": TRUNKS[t] for share in SHARES for t in TRUNKS} | AT_A_TENTH
        for name, words in [*trunks.items(), *((f"{LOGS}-{share}", "") for share in SHARES)]:
            kept = task.logs * int(name.split("-")[1]) // 100
            yield (
                f"{task.name}:{name}",
                Setting(
                    task.name,
                    "low_dim",
                    name,
                    f"{task.recipe} --episodes {task.logs}",
                    f"{task.train} --data.max-episodes {kept} {words}",
                    episodes=task.episodes,
                ),
            )


SETTINGS = dict(_settings())
_FILTERED = {task.name: task.filtered for task in TASKS}
_BY_AGENTS = {task.name for task in TASKS if task.agents}


def methods_of(setting: Setting) -> Sequence[str]:
    """The methods that a setting is for."""
    return tuple(BASELINES) if setting.name.startswith(LOGS) else (LAMO,)


def train_words(setting: Setting, method: str, options: argparse.Namespace) -> str:
    """Words of `train` for a method, at the budget of the options: so many updates in all, each of
    as many decisions, whose window of a Decision Transformer has HISTORY of them."""
    updates, windows = options.updates, options.batch
    behavior = max(1, round(BEHAVIOR_SHARE * updates))
    words = [f"--optim.behavior-steps {behavior} --optim.value-steps {updates - behavior}"]
    if method != LAMO:
        words.append(f"{BASELINES[method]} --optim.batch-size {windows * HISTORY}")
        return " ".join([*words, _FILTERED[setting.task] if method == "filtered_sft" else ""])
    words.append(f"--method lamo --model.history {HISTORY} --optim.batch-size {windows}")
    if not setting.name.startswith("scratch"):
        words.append(f"--model.trunk {shlex.quote(options.trunk)} --model.layers {options.layers}")
    if setting.name.endswith("-text"):
        words.append(f"--lamo.text {shlex.quote(str(options.text.resolve()))}")
    return " ".join(words)


def run_name(setting: Setting, method: str, options: argparse.Namespace) -> str:
    """The folder of a method's runs, another for another budget or trunk."""
    name = f"{method}-{options.updates}x{options.batch}"
    if method == LAMO and not setting.name.startswith("scratch"):
        name += f"-{Path(options.trunk).name}-{options.layers}"
    return name


def rows(study: Study, setting: Setting, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every method of a setting, seeds side by side; yields each row as soon as it is there."""
    setting = replace(setting, episodes=options.episodes or setting.episodes)
    if setting.task in _BY_AGENTS:
        agents = shlex.quote(str(options.agents.resolve()))
        setting = replace(setting, collect=f"{setting.collect} --agents {agents}")
    seeds = range(options.first_seed, options.first_seed + options.seeds)

    def one(method: str, seed: int) -> Mapping[str, Any]:
        words = train_words(setting, method, options)
        run = study.train(setting, run_name(setting, method, options), words, seed, options.train)
        flags = f"--seed {DEVELOPMENT_EPISODES}" if seed >= DEVELOPMENT_SEED else ""
        return study.evaluate(setting, run, f"first-{setting.episodes}", flags)

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(lambda seed: study.logs(setting, seed), seeds))
        for method in [name for name in methods_of(setting) if name in options.methods]:
            found = list(pool.map(lambda seed, method=method: one(method, seed), seeds))
            where = (setting.task, setting.observations, setting.name, method)
            yield result_row(*where, found, SCRIPT, MEAN_RETURN)


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; sys.argv's where `words` is None."""
    parser = study_parser(__doc__, METHODS, "lamo")
    parser.add_argument("--trunk", help="folder, GGUF file or Hub id of a causal language model")
    parser.add_argument("--layers", type=int, default=6, help="layers of it that are kept")
    parser.add_argument("--text", type=Path, help="text of the auxiliary task")
    parser.add_argument("--agents", type=Path, help="folder of trained agents (hopper/medium)")
    parser.add_argument("--updates", type=int, default=2000, help="updates of every method")
    parser.add_argument("--batch", type=int, default=8, help=f"windows of {HISTORY} decisions")
    parser.add_argument("--episodes", type=int, help="episodes of an evaluation")
    options = parsed(parser, words, SETTINGS, asked_for)
    if options.updates < 2 or options.batch < 2:
        parser.error("--updates and --batch are at least 2.")
    if options.trunk is not None and Path(options.trunk).exists():
        options.trunk = str(Path(options.trunk).resolve())
    names = [each.name for each in options.chosen if LAMO in options.methods]
    for flag, asked in (
        ("trunk", [n for n in names if n.startswith(("pretrained", "reinitialized"))]),
        ("text", [n for n in names if n.endswith("-text")]),
        ("agents", [each.task for each in options.chosen if each.task in _BY_AGENTS]),
    ):
        if asked and getattr(options, flag) is None:
            parser.error(f"{asked[0]} needs --{flag}.")
    return options


def main() -> None:
    """Run the chosen settings and put their rows into the file of results."""
    run_all(options_of(), rows)


if __name__ == "__main__":
    main()
