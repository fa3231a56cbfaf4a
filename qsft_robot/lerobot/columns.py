"""Columns of a LeRobot data set as numbers: their kind and size are checked, never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def numbers(where: str, column: Any) -> np.ndarray:
    """A column of Arrow (numbers, or lists of them of one length) as numpy [t, s].

    ValueError, beginning with `where`, on text and other types, empty entries, and lists that
    differ in length: put side by side they would be other rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = len(column)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    while any(is_list(column.type) for is_list in lists):
        if column.null_count:
            raise ValueError(f"{where} has empty entries.")
        sizes = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(sizes) != 1:
            raise ValueError(f"{where} has rows of {min(sizes)} to {max(sizes)} numbers.")
        column = column.flatten()
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"{where} holds {kind}, where numbers are expected.")
    if column.null_count:
        raise ValueError(f"{where} has empty entries.")
    return column.to_numpy(zero_copy_only=False).reshape(rows, -1)


def finite(where: str, rows: np.ndarray) -> np.ndarray:
    """Rows [t, s] as float32; ValueError, naming the first frame, on NaN and infinity."""
    with np.errstate(over="ignore"):
        rows = np.asarray(rows, np.float32)
    if not np.isfinite(rows).all():
        frame = int(np.argwhere(~np.isfinite(rows))[0][0])
        raise ValueError(
            f"{where}: NaN or infinity at frame {frame}. Take the episode out of the set, or fix "
            "the number."
        )
    return rows


def single(where: str, rows: np.ndarray) -> np.ndarray:
    """One number a frame, [t] from [t, 1]; ValueError on more."""
    if rows.shape[1] != 1:
        raise ValueError(f"{where} has {rows.shape[1]} numbers a frame, where one is expected.")
    return rows[:, 0]


def marks(where: str, rows: np.ndarray) -> np.ndarray:
    """One truth value a frame, bool [t]; ValueError on what is neither true nor false (1 or 0)."""
    values = single(where, rows)
    if not np.isin(values, (0, 1)).all():
        wrong = values[~np.isin(values, (0, 1))][0]
        raise ValueError(f"{where} holds {wrong}, where true or false (1 or 0) is expected.")
    return values.astype(bool)


def whole(where: str, rows: np.ndarray) -> np.ndarray:
    """One whole number a frame, int64 [t]."""
    values = single(where, rows)
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise ValueError(f"{where} holds numbers that are not whole.")
    return values.astype(np.int64)


def check_order(where: str, rows: np.ndarray) -> None:
    """ValueError where the numbers of an episode's frames do not count up by one: its rows would
    stand beside the images of other moments."""
    frames = whole(where, rows)
    if len(odd := np.flatnonzero(np.diff(frames) != 1)):
        at = int(odd[0])
        raise ValueError(
            f"{where} goes from {frames[at]} to {frames[at + 1]}, where each row is the next "
            "frame: rows are missing, twice or out of order. Sort them, or download the set again."
        )


def place(file: Path | str, name: str, episode: Any) -> str:
    """A column of one episode, for messages."""
    return f"{file}: {name} of episode {episode}"
