"""Reproduces docs/results.md: collects logs, trains every method, evaluates, writes the rows."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from qsft_robot.report.study_rows import merge_rows, on_ray, result_row, row_text, run_verb

SCRIPT, ROOT = Path(__file__).resolve(), Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results.json"


@dataclass(frozen=True)
class Setting:
    """One data set and the settings that all methods share on it."""

    task: str
    observations: str  # "low_dim", "pixels", "text+image" or "image"
    name: str
    # Words after `qsft-robot collect`; the seed is added.
    collect: str
    # Words after `qsft-robot train` that every method gets.
    train: str
    episodes: int = 200
    # Words of `train` for the run whose frozen image encoder every method takes; "" for none.
    encoder: str = ""
    # Splits of a benchmark -> seeds that are evaluated on each. All seeds then train on one set of
    # logs, by one image encoder, and a row is written for each kind of task and for their average.
    splits: Mapping[str, int] = field(default_factory=dict)


_LOW_DIM = "--preset tabletop/low_dim"
_PIXELS = "--preset tabletop/pixels"
# Image tokens learn from the logs as in the preset; then both stages of every method train on them
# as on states, so that all see alike and no method's policy goes on from another's.
_ENCODER = f"{_PIXELS} --method sft --optim.behavior-steps 1499 --optim.value-steps 1"
_ON_FEATURES = (
    f"{_PIXELS} --optim.learning-rate 2e-3 --optim.value-learning-rate 2e-3 "
    "--optim.batch-size 256 --optim.precision float32"
)
# Many updates on few logs leave every method too sure of itself.
_OF_FEW = f"{_ON_FEATURES} --optim.behavior-steps 200 --optim.value-steps 400 --model.dropout 0.3"
_OF_MANY = f"{_ON_FEATURES} --optim.behavior-steps 400 --optim.value-steps 800 --model.dropout 0.1"
# One for both settings: taught from images and commands alone.
_ALFWORLD_ENCODER = (
    "--preset alfworld/image --method sft --optim.behavior-steps 1499 --optim.value-steps 1 "
    "--optim.learning-rate 1.5e-3"
)
_LIFT = "robosuite/Lift"
# Of each split: every one of its games once.
ALFWORLD_GAMES = 120
SETTINGS = [
    Setting("tabletop/place", "low_dim", "few", "tabletop/place --episodes 200", _LOW_DIM),
    Setting("tabletop/place", "low_dim", "rare", "tabletop/place-rare --episodes 600", _LOW_DIM),
    Setting(
        "tabletop/place",
        "low_dim",
        "few-uncut",
        "tabletop/place-uncut --episodes 200",
        _LOW_DIM,
    ),
    Setting(
        "tabletop/place",
        "low_dim",
        "rare-uncut",
        "tabletop/place-rare-uncut --episodes 1500",
        _LOW_DIM,
    ),
    Setting(
        "tabletop/drawer",
        "low_dim",
        "drawer",
        "tabletop/drawer --episodes 1500",
        f"{_LOW_DIM} --preset tabletop/drawer",
    ),
    Setting(
        "tabletop/place",
        "pixels",
        "plenty",
        "tabletop/place --episodes 1500",
        _OF_MANY,
        encoder=_ENCODER,
    ),
    Setting(
        "tabletop/place",
        "pixels",
        "few",
        "tabletop/place --episodes 200",
        _OF_FEW,
        encoder=_ENCODER,
    ),
    Setting(
        "tabletop/drawer",
        "pixels",
        "drawer",
        "tabletop/drawer --episodes 1500",
        f"{_OF_MANY} --preset tabletop/drawer",
        encoder=_ENCODER,
    ),
    *(
        Setting(
            f"robosuite/{task}",
            "low_dim",
            "mixed",
            f"robosuite/{task} --episodes 600",
            flags,
            70,
        )
        for task, flags in (
            ("Lift", "--preset robosuite/low_dim"),
            ("PickPlaceCan", "--preset robosuite/low_dim --preset robosuite/long"),
            ("Stack", "--preset robosuite/low_dim --preset robosuite/long"),
            ("NutAssemblySquare", "--preset robosuite/low_dim --preset robosuite/long"),
        )
    ),
    *(
        Setting(
            "alfworld",
            observations,
            "mixed",
            "alfworld",
            f"--preset {preset}",
            episodes=ALFWORLD_GAMES,
            encoder=_ALFWORLD_ENCODER,
            splits={"valid_unseen": 3, "valid_seen": 1},
        )
        for observations, preset in (
            ("text+image", "alfworld/text_image"),
            ("image", "alfworld/image"),
        )
    ),
    Setting(_LIFT, "pixels", "mixed", f"{_LIFT} --episodes 600", "--preset robosuite/pixels", 70),
]
# The same number of updates in all, split for methods that act by phi, whose phi has to be good.
_PHI_ACTS = "--optim.behavior-steps 900 --optim.value-steps 600"
# Method of a row -> words of `train`.
METHODS = {
    "sft": "--method sft",
    "filtered_sft": "--method filtered_sft",
    "nonfailing_sft": "--method nonfailing_sft",
    "filtered_sft_by_value": "--method filtered_sft_by_value",
    "advantage_weighted": "--method advantage_weighted",
    "advantage_conditioned": "--method advantage_conditioned",
    "cql": "--method cql",
    "q_transformer": "--method q_transformer",
    "return_conditioned": "--method return_conditioned",
    "qsft": "--method qsft",
    "ilql": f"--method ilql {_PHI_ACTS}",
    "qsft_paper": f"--preset paper --method qsft {_PHI_ACTS}",
    "qsft_free": "--method qsft --tokenizer.free",
}
# A method of text commands alone: any words, not only those of admissible commands.
FREE = "qsft_free"
# Method -> the method whose behavior stage it takes (the same settings and seed), where the
# image tokens are learnt in that stage or serve several settings.
SHARED = {
    "low_dim": {"qsft_paper": "ilql"},
    "pixels": {"sft": "qsft", "filtered_sft": "qsft"},
    "text+image": {"sft": "qsft", "filtered_sft": "qsft"},
    "image": {"sft": "qsft", "filtered_sft": "qsft"},
    "text": {"qsft_paper": "qsft", "ilql": "qsft", "monte_carlo": "qsft"},
}
# Sweep around the defaults of Q-SFT: name -> words of `train`.
SWEEP = {
    "qsft lam=0.9": "--qsft.lam 0.9",
    "qsft lam=0.5": "--qsft.lam 0.5",
    "qsft lam=0": "--qsft.lam 0",
    "qsft lam=1 gamma=1": "--discount 1",
    "qsft balance=weighted": "--qsft.balance weighted",
    "qsft value_weight=1 policy_share=0.5": "--qsft.value-weight 1 --qsft.policy-share 0.5",
    "qsft backup=soft lam=0.9": "--qsft.backup soft --qsft.lam 0.9",
    "qsft backup=max lam=0.9": "--qsft.backup max --qsft.lam 0.9",
}
# Acting rules evaluated on the trained Q-SFT checkpoint: name -> words of `evaluate`.
ACTING = {
    "qsft k=2": "k=2",
    "qsft k=4": "k=4",
    "qsft k=4 support=0.2": "k=4 support=0.2",
    "qsft min_p=0": "min_p=0",
    "qsft min_p=0.1": "min_p=0.1",
    "qsft ratio beta=16": "rule=ratio beta=16",
    "behavior": "rule=behavior",
    "behavior min_p=0": "rule=behavior min_p=0",
}


class Study:
    """Runs what is missing under `out`; what is finished is kept, what was interrupted resumed."""

    def __init__(self, out: Path, seeds: int, ray: str | None = None) -> None:
        self.out, self.seeds, self.ray = out, seeds, ray
        self.collecting: defaultdict[Path, Lock] = defaultdict(Lock)  # seeds may share their logs

    def verb(self, words: str, log: Path) -> None:
        """Run one `qsft-robot` command, on the study's cluster where it takes one."""
        run_verb(on_ray(words, self.ray), log, ROOT)

    def logs(self, setting: Setting, seed: int) -> Path:
        """Collect a setting's logs for one seed; those of a benchmark with splits serve all."""
        cameras = " --cameras" if setting.observations == "low_dim" else ""
        kind = "all" if setting.splits else setting.observations
        seed = 0 if setting.splits else seed
        words = f"{setting.collect}{cameras} --seed {seed + 1}"
        name = setting.collect.replace(" --episodes ", "-").translate(str.maketrans("/ =", "---"))
        path = self.out / "logs" / f"{name}-{kind}-{seed}.hdf5"
        with self.collecting[path]:
            if not path.exists():
                self.verb(f"collect {words} --out {path}", path.with_suffix(".log"))
        return path

    def folder(self, setting: Setting, method: str, seed: int) -> Path:
        """Where one training run lives."""
        part = f"{setting.task}/{setting.observations}/{setting.name}".replace(" ", "_")
        return self.out / part / method.replace(" ", "_") / str(seed)

    def encoder(self, setting: Setting, seed: int) -> Path:
        """The run whose image encoder one seed takes; with splits all seeds take one."""
        if setting.splits:
            return self.out / setting.task / "encoder" / "0"
        return self.folder(setting, "encoder", seed)

    def train(self, setting: Setting, method: str, words: str, seed: int, extra: str) -> Path:
        """Train one method unless it is there."""
        is_encoder = method == "encoder"
        run = self.encoder(setting, seed) if is_encoder else self.folder(setting, method, seed)
        if not (run / "policy").is_dir():
            shared = ""
            source = "qsft" if method in SWEEP else behaviors(setting).get(method)
            settings = setting.encoder if is_encoder else setting.train
            if source is not None:  # it brings its image encoder
                shared = f" --behavior-from {self.folder(setting, source, seed)}"
            elif setting.encoder and not is_encoder:
                shared = f" --features-from {self.encoder(setting, seed)}"
            asked = (
                f"{settings} {words} {extra} --data.path {self.logs(setting, seed)} --seed {seed} "
                f"--out {run}{shared} --log-every 100 --checkpoint-every 500"
            )
            asked = f"--resume {run}" if (run / "checkpoint").is_dir() else asked
            self.verb(f"train {asked}", run.with_suffix(".log"))
        return run

    def evaluate(self, setting: Setting, run: Path, name: str, flags: str = "") -> dict[str, Any]:
        """Evaluate a run unless it was; returns its summary."""
        summary = run / "evaluation" / name / "summary.json"
        if not summary.exists():
            words = f"evaluate {run} --name {name} --episodes {setting.episodes} --workers 1 "
            self.verb(f"{words}--envs-per-worker 16 {flags}", run.with_suffix(".log"))
        return json.loads(summary.read_text())


def behaviors(setting: Setting) -> dict[str, str]:
    """Method -> the method whose behavior stage it takes."""
    own = setting.encoder and not setting.splits
    return {} if own else SHARED[setting.observations]


def jobs(study: Study, setting: Setting, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train and evaluate every method of a setting, seeds side by side; yields finished rows."""

    def one(method: str, words: str, seed: int, wanted: dict[str, str]) -> dict[str, Any]:
        run = study.train(setting, method, words, seed, options.train)
        return {
            name: study.evaluate(setting, run, name.replace(" ", "_").replace("=", ""), flags)
            for name, flags in wanted.items()
        }

    seeds = range(options.first_seed, options.first_seed + options.seeds)
    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(lambda seed: study.logs(setting, seed), seeds))
        if setting.encoder:
            taught = seeds[:1] if setting.splits else seeds
            list(pool.map(lambda seed: study.train(setting, "encoder", "", seed, ""), taught))
        methods = [m for m in options.methods if m != FREE or setting.splits]
        later = behaviors(setting)
        waves = [[m for m in methods if m not in later], [m for m in methods if m in later]]
        if options.sweep:
            waves.append(list(SWEEP))
        for wave in waves:
            tasks = {}
            for method in wave:
                words = METHODS.get(method) or f"--method qsft {SWEEP[method]}"
                for seed in seeds:
                    wanted = evaluations(setting, method, seed, options.sweep)
                    tasks[method, seed] = pool.submit(one, method, words, seed, wanted)
            for method in wave:
                found = [tasks[method, seed].result() for seed in seeds]
                yield from rows_of(setting, method, found)


def evaluations(setting: Setting, method: str, seed: int, sweep: bool) -> dict[str, str]:
    """Name of an evaluation -> words of `evaluate`; with splits the name is the split."""
    if setting.splits:
        return {
            split: f"--env-kwargs split={split}"
            for split, seeds in list(setting.splits.items())[: 1 if method == FREE else None]
            if seed < seeds
        }
    acting = {name: f"--acting {words}" for name, words in ACTING.items()}
    return {method: ""} | (acting if sweep and method == "qsft" else {})


def rows_of(
    setting: Setting, method: str, found: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The rows of one method from its evaluations, one mapping a seed."""
    for name in found[0]:
        summaries = [each[name] for each in found if name in each]
        if not setting.splits:
            yield result_row(
                setting.task, setting.observations, setting.name, name, summaries, SCRIPT
            )
            continue
        kinds = sorted({kind for summary in summaries for kind in summary["tasks"]})
        of_kind = {
            kind: [
                {"n": rate["n"], "success_rate": rate["rate"]}
                for summary in summaries
                if (rate := summary["tasks"].get(kind)) is not None
            ]
            for kind in kinds
        }
        for kind, part in {"average": summaries, **of_kind}.items():
            task = f"{setting.task}/{kind}"
            yield result_row(task, setting.observations, name, method, part, SCRIPT)


def asked_for(name: str, words: Sequence[str]) -> bool:
    """Whether a setting's name is one of the words, or goes on from one after a colon."""
    return any(name == word or name.startswith(f"{word}:") for word in words)


SETTING_NAMES = {f"{s.task}:{s.observations}:{s.name}": s for s in SETTINGS}


def study_parser(about: str | None, methods: Sequence[str], out: str) -> argparse.ArgumentParser:
    """The options of every study; runs go to runs/<out>."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("settings", nargs="+", help="the name of a setting, or its beginning")
    parser.add_argument("--methods", nargs="+", default=list(methods), choices=list(methods))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--train", default="", help="further words for every `train`")
    parser.add_argument("--processes", type=int, default=2, help="seeds side by side, a core each")
    parser.add_argument("--ray", help="collect and evaluate on a Ray cluster: auto, host:port")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / out)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def parsed(
    parser: argparse.ArgumentParser,
    words: Sequence[str] | None,
    settings: Mapping[str, Setting],
    is_asked: Callable[[str, Sequence[str]], bool],
) -> argparse.Namespace:
    """The options of a command line with the settings that it names as `chosen`."""
    options = parser.parse_args(words)
    options.chosen = [s for name, s in settings.items() if is_asked(name, options.settings)]
    if not options.chosen:
        parser.error(f"no setting matches {options.settings}; there are: {', '.join(settings)}")
    return options


def run_all(
    options: argparse.Namespace,
    rows: Callable[[Study, Setting, argparse.Namespace], Iterator[dict[str, Any]]],
    kind: type[Study] = Study,
) -> None:
    """Run the chosen settings and put their rows into the file of results as they come."""
    study = kind(options.out.resolve(), options.seeds, options.ray)
    began = time.monotonic()
    for setting in options.chosen:
        for row in rows(study, setting, options):
            merge_rows(options.results, [row])
            print(f"{time.monotonic() - began:6.0f} s  {row_text(row)}", flush=True)


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; sys.argv's where `words` is None."""
    parser = study_parser(__doc__, list(METHODS), "study")
    parser.add_argument("--sweep", action="store_true", help="lambda, backup, balance, k, support")
    return parsed(parser, words, SETTING_NAMES, asked_for)


def main() -> None:
    """Run the chosen settings and write docs/results.json."""
    run_all(options_of(), jobs)


if __name__ == "__main__":
    main()
