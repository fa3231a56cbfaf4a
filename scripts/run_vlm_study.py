"""Tests that a pretrained VLM needs nothing re-initialized: the rows of docs/results.json whose
setting begins with vlm."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsft_robot.captions.language_kept import captions_of_base, captions_of_run
from qsft_robot.captions.scores import held_out
from qsft_robot.files import atomic_file
from qsft_robot.report.study_rows import merge_rows, on_ray, result_row, row_text, run_verb

SCRIPT = Path(__file__).resolve()
ROOT = SCRIPT.parent.parent
RESULTS = ROOT / "docs" / "results.json"
TASK, OBSERVATIONS = "tabletop/place", "pixels"
LOGS, TENTH = 1500, 150
_SCRATCH, _NEW_HEAD = "--pretrained-weights none", "--pretrained-weights body"


@dataclass(frozen=True)
class Method:
    """A row: words of `train`, and whose behavior stage it goes on from."""

    train: str
    behavior_from: str | None = None
    # Whether the language of the base is measured after it.
    language: bool = False
    # It acts by phi, which then has to be good: the longer stage is the behavior's.
    phi_acts: bool = False


METHODS = {
    "qsft": Method("--method qsft", language=True),
    "sft": Method("--method sft", "qsft", language=True),
    "qsft new head": Method(f"--method qsft {_NEW_HEAD}"),
    "sft new head": Method(f"--method sft {_NEW_HEAD}", "qsft new head"),
    "qsft from scratch": Method(f"--method qsft {_SCRATCH}"),
    "sft from scratch": Method(f"--method sft {_SCRATCH}", "qsft from scratch"),
    "ilql value heads": Method("--method ilql", phi_acts=True),
    "qsft lora": Method("--method qsft --model.lora-rank 16", language=True),
    "sft lora": Method("--method sft --model.lora-rank 16", "qsft lora", language=True),
}


@dataclass(frozen=True)
class Setting:
    """A share of the logs."""

    name: str
    masked: bool  # a tenth of the logs, another one for each seed
    seeds: int
    # Updates of the two stages; the longer one is the value's where it acts.
    updates: tuple[int, int]


SETTINGS = {
    "vlm-tenth": Setting("vlm-tenth", masked=True, seeds=3, updates=(300, 450)),
    "vlm-all": Setting("vlm-all", masked=False, seeds=1, updates=(600, 900)),
}


class VLMStudy:
    """Runs what is missing under `out`; finished pieces are kept between runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out.resolve()
        self.base = options.base.resolve()

    def logs(self) -> Path:
        """Collect the logs, with one mask for each seed's tenth; the tenths have no log in common.

        A seed changes these logs, the initial weights and the batches.
        """
        path = self.out / "logs.hdf5"
        if not path.exists():
            with atomic_file(path) as whole:
                words = f"collect {TASK} --episodes {self.options.logs} --seed 1 --out {whole}"
                run_verb(on_ray(words, self.options.ray), self.out / "logs.log", ROOT)
                add_tenths(whole, self.options.tenth)
        return path

    def train(self, setting: Setting, name: str, seed: int) -> Path:
        """Train one method unless it is there."""
        run = self.folder(setting, name, seed)
        method = METHODS[name]
        if not (run / "policy").is_dir():
            words = f"train --preset tabletop/vlm --model.pretrained {self.base} {method.train}"
            words += f" --data.path {self.logs()} --seed {seed} --out {run}"
            words += " --log-every 50 --checkpoint-every 100000"
            behavior, value = sorted(setting.updates, reverse=method.phi_acts)
            words += f" --optim.behavior-steps {behavior} --optim.value-steps {value}"
            if setting.masked:
                words += f" --data.filter-key tenth_{seed}"
            if method.behavior_from is not None:
                words += f" --behavior-from {self.train(setting, method.behavior_from, seed)}"
            run_verb(f"{words} {self.options.train}", run.with_suffix(".log"), ROOT)
        return run

    def folder(self, setting: Setting, name: str, seed: int) -> Path:
        """Where one training run lives."""
        return self.out / setting.name / name.replace(" ", "_") / str(seed)

    def evaluate(self, setting: Setting, name: str, seed: int) -> dict[str, Any]:
        """Train and evaluate one method unless that was done; returns its summary."""
        run = self.train(setting, name, seed)
        summary = run / "evaluation" / "study" / "summary.json"
        if not summary.exists():
            words = f"evaluate {run} --name study --episodes {self.options.episodes} --workers 1 "
            words = on_ray(f"{words}--envs-per-worker 16", self.options.ray)
            run_verb(words, run.with_suffix(".log"), ROOT)
        return json.loads(summary.read_text())

    def rows(self, setting: Setting) -> Iterator[dict[str, Any]]:
        """Finished rows of a setting, seeds side by side."""
        seeds = range(min(setting.seeds, self.options.seeds))
        names = self.options.methods
        # A method that goes on from another's behavior waits for that one.
        first = [name for name in names if METHODS[name].behavior_from is None]
        waves = [first, [name for name in names if name not in first]]
        with ThreadPoolExecutor(self.options.processes) as pool:
            for wave in waves:
                tasks = {
                    (name, seed): pool.submit(self.evaluate, setting, name, seed)
                    for name in wave
                    for seed in seeds
                }
                for name in wave:
                    found = [tasks[name, seed].result() for seed in seeds]
                    row = result_row(TASK, OBSERVATIONS, setting.name, name, found, SCRIPT)
                    yield row | self.language(setting, name, len(seeds))

    def language(self, setting: Setting, name: str, seeds: int) -> dict[str, Any]:
        """Caption loss (nats a token) and share of right answers that need the image, of the base
        and after fine-tuning (mean of the seeds)."""
        if not METHODS[name].language:
            return {}
        examples = held_out(self.options.captions, 0, 8)
        before = captions_of_base(self.base, examples)
        runs = [self.folder(setting, name, seed) for seed in range(seeds)]
        after = [captions_of_run(run, examples) for run in runs]
        return {
            f"{what}_{when}": round(float(np.mean([each[key] for each in found])), 4)
            for what, key in (("caption_loss", "loss/answers"), ("looking", "exact/looking"))
            for when, found in (("before", [before]), ("after", after))
        }


def add_tenths(path: Path, size: int) -> None:
    """Add the masks tenth_0, tenth_1 and tenth_2 of `size` logs each, drawn at random."""
    with h5py.File(path, "r+") as file:
        names = np.array(sorted(file["data"], key=lambda name: int(name.rpartition("_")[2])))
        order = np.random.default_rng(0).permutation(len(names))
        for i in range(3):
            chosen = names[np.sort(order[i * size : (i + 1) * size])]
            file[f"mask/tenth_{i}"] = chosen.astype("S")


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; sys.argv's where `words` is None."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), help=", ".join(SETTINGS))
    parser.add_argument("--base", type=Path, default=ROOT / "runs" / "vlm_base")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="at most so many")
    parser.add_argument("--logs", type=int, default=LOGS)
    parser.add_argument("--tenth", type=int, default=TENTH, help="logs of a seed's tenth")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--captions", type=int, default=128, help="scenes of the caption loss")
    parser.add_argument("--train", default="", help="further words for every `train`")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ray", help="collect and evaluate on a Ray cluster: auto, host:port")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "vlm_study")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(words)
    unknown = [name for name in options.settings if name not in SETTINGS]
    if unknown:
        parser.error(f"no setting {unknown}; there are: {', '.join(SETTINGS)}")
    return options


def main() -> None:
    """Run the chosen settings and methods, and put their rows into docs/results.json."""
    options = options_of()
    if not (options.base / "config.json").exists():
        raise SystemExit(f"{options.base} holds no model; run scripts/pretrain_captions.py first")
    study = VLMStudy(options)
    began = time.monotonic()
    study.logs()
    for name in options.settings:
        for row in study.rows(SETTINGS[name]):
            merge_rows(options.results, [row])
            kept = [f"{key} {row[key]}" for key in row if key.startswith(("caption", "looking"))]
            print(
                f"{time.monotonic() - began:6.0f} s  {row_text(row)} {' '.join(kept)}", flush=True
            )


if __name__ == "__main__":
    main()
