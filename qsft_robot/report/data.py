"""Data of the report, read from the JSON files of a run folder; a missing part stays empty."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.files import contained, inside, read_json, read_text
from qsft_robot.json_kinds import check_kinds, is_number

METRICS, CALIBRATION, CONFIG = "metrics.jsonl", "calibration.json", "config.json"
EVALUATION, EPISODES = "evaluation", "episodes.jsonl"


@dataclass(frozen=True)
class Evaluation:
    """One method's closed-loop result."""

    name: str
    folder: Path
    summary: dict[str, Any]  # n, success_rate, low, high, and what else the evaluation wrote
    episodes: list[dict[str, Any]]


@dataclass(frozen=True)
class Training:
    """One training run: its settings, its metrics and its calibration on the logs."""

    name: str  # "" where the run folder is the training run itself
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    value: np.ndarray  # float64 [t], V predicted at steps of the logs
    outcome: np.ndarray  # float64 [t], the logs' own return at the same steps
    success: np.ndarray | None  # bool [t], whether each step's log succeeded
    split: str  # which logs the two are of: "held out" or "training"

    def stages(self) -> list[str]:
        """Names of the stages, in the order of the metrics."""
        return list(dict.fromkeys(str(row.get("stage", "training")) for row in self.metrics))

    def series(self, stage: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(step [p], value [p]) of one metric within one stage."""
        rows = [
            (row["step"], row[key])
            for row in self.metrics
            if str(row.get("stage", "training")) == stage
            and all(is_number(row.get(name)) for name in ("step", key))
        ]
        table = np.array(rows, dtype=float).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def keys(self, stage: str) -> list[str]:
        """Names of the metrics that one stage wrote, namespaced ones only."""
        rows = [row for row in self.metrics if str(row.get("stage", "training")) == stage]
        return list(dict.fromkeys(k for row in rows for k in row if "/" in k))


@dataclass(frozen=True)
class Run:
    """Everything that the page shows."""

    folder: Path
    trainings: list[Training]
    evaluations: list[Evaluation]  # highest success rate first


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; a last line that is still being written is left out.

    ValueError names the file and the line when another one is not JSON.
    """
    if not path.is_file():
        return []
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
        if rows and not isinstance(rows[-1], dict):
            raise ValueError(f"{path}, line {number}: not a JSON object.")
    return rows


def _folders(run: Path) -> Iterator[tuple[str, Path]]:
    """The run folder itself and those right below it (a run that compares methods)."""
    yield "", run
    for folder in sorted(run.iterdir()):
        if folder.is_dir() and folder.name != EVALUATION and not folder.name.startswith("."):
            yield folder.name, folder


def _read_training(run: Path, name: str, folder: Path) -> Training | None:
    # The page shows these files in full: none may be another's, by way of a link.
    config, calibration, metrics = (
        contained(run, folder / file) for file in (CONFIG, CALIBRATION, METRICS)
    )
    # An exported policy also has a config, but neither metrics nor calibration.
    if not metrics.is_file() and (name or not config.is_file()):
        return None
    pairs = read_json(calibration) if calibration.is_file() else {}
    kinds = {"value?": [float], "return?": [float], "success?": [bool], "split?": str}
    check_kinds(pairs, kinds, str(calibration))
    value = np.asarray(pairs.get("value", []), dtype=float)
    outcome = np.asarray(pairs.get("return", []), dtype=float)
    success = np.asarray(pairs["success"], dtype=bool) if "success" in pairs else None
    lengths = {len(x) for x in (value, outcome, success) if x is not None}
    if len(lengths) > 1:
        raise ValueError(
            f"{calibration}: 'value' and 'return' (and 'success') need one entry each a step, they "
            f"have {len(value)}, {len(outcome)} and {'none' if success is None else len(success)}."
        )
    settings = read_json(config) if config.is_file() else {}
    check_kinds(settings, {}, str(config))
    split = str(pairs.get("split", ""))
    return Training(name, settings, read_lines(metrics), value, outcome, success, split)


def read_evaluation(run: Path, name: str, folder: Path) -> Evaluation:
    """One folder as `evaluate` writes it; ValueError names the file and the entry that is wrong."""
    path = contained(run, folder / "summary.json")
    summary = read_json(path)
    if not isinstance(summary, dict):
        raise ValueError(f"{path}: not a JSON object. Evaluate again to fix it.")
    missing = {"n", "success_rate", "low", "high"} - set(summary)
    if missing:
        raise ValueError(
            f"{path}: no {sorted(missing)}; it has {sorted(summary)}. Evaluate again to fix it."
        )
    if all(summary[key] is None for key in ("success_rate", "low", "high")):
        _number(path, "n", summary["n"])  # the environment tells no success
    else:
        _check_rate(path, "", summary, "success_rate")
    for key in ("success_last", "refused_commands"):
        if isinstance(summary.get(key), dict):
            _check_rate(path, f"{key}.", summary[key], "rate")
    for kind, rate in _mapping(path, summary, "tasks").items():
        _check_rate(path, f"tasks.{kind}.", _mapping(path, summary["tasks"], kind), "rate")
        _number(path, f"tasks.{kind}.successes", rate.get("successes"))
    for key in ("mean_steps", "median_decision_ms"):
        if summary.get(key) is not None:
            _number(path, key, summary[key])
    for key in ("failure_reasons", "versions"):
        _mapping(path, summary, key)
    return Evaluation(name, folder, summary, read_lines(contained(run, folder / EPISODES)))


def _check_rate(path: Path, at: str, rate: Mapping[str, Any], name: str) -> None:
    """ValueError unless the rate and its interval, where there are such, are numbers."""
    for key in (name, "low", "high", "n"):
        if key in rate or (key == name):
            _number(path, f"{at}{key}", rate.get(key))


def _number(path: Path, key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(
            f"{path}: {key} is {str(value)[:80]!r}, no number. Evaluate again to fix it."
        )


def _mapping(path: Path, holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = holder.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: {key} is no table of names. Evaluate again to fix it.")
    return value


def read_run(folder: str | Path) -> Run:
    """Read what a run folder holds.

    FileNotFoundError when there is no such folder; ValueError when nothing in it belongs to a run
    or when a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder.")
    trainings, evaluations = [], []
    for name, part in _folders(folder):
        training = _read_training(folder, name, part)
        if training is not None:
            trainings.append(training)
        for path in sorted((part / EVALUATION).glob("*/summary.json")):
            # In a comparison the run's folder names the method, "policy" is what each exports.
            parts = [name, path.parent.name]
            label = (
                name if name and path.parent.name == "policy" else " / ".join(filter(None, parts))
            )
            evaluations.append(read_evaluation(folder, label, path.parent))
    if not trainings and not evaluations:
        raise ValueError(
            f"{folder}: nothing to report: no {METRICS}, {CONFIG} or "
            f"{EVALUATION}/<name>/summary.json. "
            f"It holds: {sorted(path.name for path in folder.iterdir())}."
        )
    evaluations.sort(key=lambda e: -(e.summary["success_rate"] or 0.0))
    return Run(folder, trainings, evaluations)


def choose_videos(
    evaluations: Sequence[Evaluation], count: int, budget: int
) -> list[tuple[Evaluation, dict[str, Any], Path]]:
    """At most `count` filmed episodes within `budget` bytes, the methods taking turns; within a
    method successes and failures take turns."""
    queues = []
    for evaluation in evaluations:
        filmed = [e for e in evaluation.episodes if e.get("video")]
        good = [e for e in filmed if e.get("success_any") is True]
        bad = [e for e in filmed if e.get("success_any") is not True]
        both = [e for pair in zip(good, bad, strict=False) for e in pair]
        rest = good[len(both) // 2 :] + bad[len(both) // 2 :]
        videos, where = evaluation.folder / "videos", str(evaluation.folder / EPISODES)
        paths = [(e, inside(videos, e["video"], f"{where}: video")) for e in both + rest]
        # The folder of the videos may itself be a link.
        paths = [(e, contained(evaluation.folder, path)) for e, path in paths]
        queues.append([(evaluation, e, path) for e, path in paths if path.is_file()])
    chosen: list[tuple[Evaluation, dict[str, Any], Path]] = []
    longest = max(map(len, queues), default=0)
    for turn in range(longest):
        for queue in queues:
            if turn >= len(queue) or len(chosen) == count:
                continue
            size = queue[turn][2].stat().st_size
            if size <= budget:
                budget -= size
                chosen.append(queue[turn])
    return chosen
