"""A fitted tokenizer as a file of its own: what `fit-tokenizer` writes and `train` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.files import read_json, write_json
from qsft_robot.json_kinds import check_kinds
from qsft_robot.normalize import NormStats
from qsft_robot.parts.tokenizers import load_tokenizer
from qsft_robot.types import Episode
from qsft_robot.versions import refused_format
from tokenizers_action.protocol import ActionTokenizer, ChunkTokenizer, action_chunks

FORMAT = "qsft-robot tokenizer 1"
_KIND: dict[str, Any] = {
    "format": str,
    "tokenizer": {"kind": str},
    "actions": {"low": [float], "high": [float]},
}
# Actions whose scale differs by more than this share of its width are of another action space.
_SAME = 1e-6
# More chunks than this share beyond a code's range in a dimension are another robot's, or task's.
_BEYOND = 0.1

Scale = tuple[np.ndarray, np.ndarray]


def write_tokenizer(
    path: Path, tokenizer: ActionTokenizer, norm_stats: NormStats, about: Mapping[str, Any]
) -> None:
    """Write a tokenizer with the declared scale of its actions, and what there is to say of it."""
    low, high = norm_stats.action_low.tolist(), norm_stats.action_high.tolist()
    actions = {"low": low, "high": high}
    write_json(
        path,
        {"format": FORMAT, "tokenizer": tokenizer.to_json(), "actions": actions, **about},
    )


def read_tokenizer(path: Path) -> tuple[ActionTokenizer, Scale]:
    """The tokenizer of a file, and low and high of the action scale that it was fit under;
    ValueError, naming the file, where it is none."""
    if not path.is_file():
        raise FileNotFoundError(
            f"--tokenizer.from {path}: no such file; qsft-robot fit-tokenizer LOGS writes one."
        )
    value = read_json(path)
    told = value.get("format") if isinstance(value, dict) else None
    if told != FORMAT:
        if isinstance(told, str) and told.startswith(FORMAT.rpartition(" ")[0]):
            raise refused_format(str(path), told, (FORMAT,))
        raise ValueError(
            f"{path}: no tokenizer that qsft-robot fit-tokenizer LOGS wrote (its format is not "
            f"{FORMAT!r})."
        )
    check_kinds(value, _KIND, str(path))
    try:
        tokenizer = load_tokenizer(value["tokenizer"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its tokenizer can't be read: {error}") from error
    low, high = (np.asarray(value["actions"][name], np.float64) for name in ("low", "high"))
    return tokenizer, (low, high)


def check_fits(
    path: Path, tokenizer: ActionTokenizer, scale: Scale, norm_stats: NormStats, horizon: int
) -> None:
    """ValueError unless a tokenizer was fit on the action space of these logs, and its chunks are
    as long as asked (1 asks for nothing)."""
    low, high = scale
    dimensions = len(norm_stats.action_low)
    if tokenizer.action_dim != dimensions or len(low) != dimensions or len(high) != dimensions:
        raise ValueError(
            f"--tokenizer.from {path}: its actions have {tokenizer.action_dim} dimensions, those "
            f"of the logs {dimensions}; fit one on these logs (qsft-robot fit-tokenizer)."
        )
    width = norm_stats.action_high - norm_stats.action_low
    off = np.maximum(abs(low - norm_stats.action_low), abs(high - norm_stats.action_high))
    if (off > _SAME * width).any():
        j = int(np.argmax(off / width))
        raise ValueError(
            f"--tokenizer.from {path}: it was fit on actions of {low[j]:g} to {high[j]:g} in "
            f"dimension {j}, the logs have {norm_stats.action_low[j]:g} to "
            f"{norm_stats.action_high[j]:g}: give the same --data.action-low and "
            "--data.action-high, or fit one on these logs."
        )
    if horizon not in (1, tokenizer.horizon):
        raise ValueError(
            f"--tokenizer.horizon {horizon}: the chunks of --tokenizer.from {path} have "
            f"{tokenizer.horizon} actions; leave the flag out or fit another."
        )


def check_reaches(
    path: Path, tokenizer: ActionTokenizer, norm_stats: NormStats, episodes: Sequence[Episode]
) -> None:
    """ValueError where what the logs do lies beyond the range that a code was fit on."""
    if not isinstance(tokenizer, ChunkTokenizer):
        return
    h = tokenizer.horizon
    chunks = [action_chunks(norm_stats.normalize_actions(e.actions), h)[0] for e in episodes]
    beyond = tokenizer.clipped(np.concatenate(chunks)).mean(0)
    if beyond.max() > _BEYOND:
        j = int(beyond.argmax())
        raise ValueError(
            f"--tokenizer.from {path}: {100 * beyond[j]:.0f} % of the chunks of these logs lie "
            f"beyond its range in dimension {j}: it was fit on other motion; fit one on these logs "
            "(qsft-robot fit-tokenizer)."
        )
