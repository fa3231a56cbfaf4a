"""Labels of frames as Parquet files that LeRobot's and RLinf's training read beside a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qsft_robot.files import atomic_file, parse_json, read_text
from qsft_robot.json_kinds import check_kinds
from qsft_robot.labeling.frame_labels import FrameLabels

# LeRobot looks for this one by itself.
_LEROBOT_FILE = "sarm_progress.parquet"
_OURS = b"qsft_robot"


def lerobot_target(target: Path) -> Path:
    """The file of `--lerobot`: itself where it ends in .parquet, else the data set's own."""
    path = target if target.suffix == ".parquet" else target / _LEROBOT_FILE
    _check_target(path, target)
    return path


def rlinf_target(folder: Path, tag: str) -> Path:
    """meta/advantages_<tag>.parquet of a data set."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", tag) or tag.startswith("."):
        raise ValueError(f"--tag {tag!r}: letters, digits, '.', '_' and '-' make the file's name.")
    path = folder / "meta" / f"advantages_{tag}.parquet"
    _check_target(path, folder)
    return path


def _check_target(path: Path, target: Path) -> None:
    """ValueError where the file is another program's; FileNotFoundError without a data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if target.suffix != ".parquet":
        _lengths(target)
    if not path.exists():
        return
    try:
        ours = _OURS in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        ours = False
    if not ours:
        raise ValueError(
            f"{path}: is there, and was not written by `qsft-robot label`, so it is not replaced. "
            "Move it away, or name another file or tag."
        )


def check_same_frames(folder: Path, labels: Sequence[FrameLabels]) -> None:
    """ValueError unless a data set has one episode a log, as long as it."""
    lengths = _lengths(folder)
    how = "Label the logs that it was made of, with the same --filter-key"
    if len(lengths) != len(labels):
        raise ValueError(f"{folder}: {len(lengths)} episodes, but {len(labels)} logs. {how}.")
    for (number, length), log in zip(sorted(lengths.items()), labels, strict=True):
        if length != len(log.value):
            raise ValueError(
                f"{folder}: episode {number} has {length} frames, but {log.name} has "
                f"{len(log.value)}. {how}."
            )


def _lengths(folder: Path) -> dict[int, int]:
    """Episode -> frames of a data set of LeRobot's v3, or of v2, which RLinf reads."""
    earlier = folder / "meta" / "episodes.jsonl"
    if not earlier.is_file():
        from qsft_robot.lerobot.format import read_data_set

        return {row["episode_index"]: row["length"] for row in read_data_set(folder).episodes}
    lengths = {}
    for number, line in enumerate(read_text(earlier).splitlines(), 1):
        where = f"{earlier}, line {number}"
        row = parse_json(line, where)
        check_kinds(row, {"episode_index": int, "length": int}, where)
        lengths[row["episode_index"]] = row["length"]
    return lengths


def write_lerobot(path: Path, labels: Sequence[FrameLabels], about: Mapping[str, str]) -> None:
    """V as `progress_sparse`, by which RA-BC weights frames (V after a chunk less V now)."""
    columns = {
        "index": np.arange(sum(len(log.value) for log in labels)),
        **_numbers(labels),
        "progress_sparse": _joined(labels, "value"),
    }
    _write(path, columns, {**about, "reward_model_path": about["policy"]})


def write_rlinf(
    path: Path, labels: Sequence[FrameLabels], share: float, about: Mapping[str, str]
) -> float:
    """Advantages as RECAP's, `advantage` true for the highest `share`; returns the threshold."""
    advantage = np.concatenate([log.advantage for log in labels])
    threshold = float(np.quantile(advantage, 1 - share))
    columns = {
        **_numbers(labels),
        "advantage": advantage >= threshold,
        "advantage_continuous": advantage,
        "return": _joined(labels, "returns"),
        "value_current": _joined(labels, "value"),
        "value_next": _joined(labels, "next_value"),
        "reward_sum": _joined(labels, "reward_sum"),
        "reward_sum_raw": _joined(labels, "rewards_ahead"),
        "num_valid_rewards": np.concatenate([log.steps_ahead for log in labels]),
    }
    _write(path, columns, {**about, "threshold": repr(threshold)})
    return threshold


def _numbers(labels: Sequence[FrameLabels]) -> dict[str, np.ndarray]:
    lengths = [len(log.value) for log in labels]
    return {
        "episode_index": np.repeat(np.arange(len(labels)), lengths),
        "frame_index": np.concatenate([np.arange(length) for length in lengths]),
    }


def _joined(labels: Sequence[FrameLabels], name: str) -> np.ndarray:
    return np.concatenate([getattr(log, name) for log in labels]).astype(np.float32)


def _write(path: Path, columns: Mapping[str, np.ndarray], about: Mapping[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    told = {key.encode(): value.encode("utf-8", "backslashreplace") for key, value in about.items()}
    table = pa.table(dict(columns)).replace_schema_metadata({_OURS: b"label", **told})
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary)
