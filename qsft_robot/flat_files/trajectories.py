"""Trajectories of a flat file of steps: where they end, what they hold, and what comes after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsft_robot.flat_files.columns import Column, open_columns
from qsft_robot.names import no_such

OBSERVATIONS, NEXT, ACTIONS, REWARDS = "observations", "next_observations", "actions", "rewards"
TERMINALS, TIMEOUTS = "terminals", "timeouts"
# Other names that are read as these.
_ALIASES = {"dones": TERMINALS, "truncations": TIMEOUTS, "terminations": TERMINALS}
# Steps after which a trajectory without a mark is read as cut, so that memory stays bounded.
LONGEST = 50_000


@dataclass(frozen=True)
class FlatFile:
    """The columns of a file, and of its trajectories (first row, rows, ended by an outcome)."""

    path: Path
    # column -> shape of one row
    rows: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    trajectories: tuple[tuple[int, int, bool], ...]
    # The levels of its rewards, where these are at most two; None where they are more.
    levels: tuple[float, ...] | None

    def require(self, column: str, why: str) -> None:
        """ValueError unless the column is there, and as long as the actions."""
        if column not in self.rows:
            raise ValueError(f"{self.path}: {no_such('column', column, self.rows)} {why}")


@dataclass(frozen=True)
class Trajectory:
    """Consecutive rows of a file; row i of an observation is what was seen before action i."""

    columns: Mapping[str, np.ndarray]
    # What was seen after the last action, where the file has it.
    last: np.ndarray | None
    # The last action led to an outcome, as the file tells it.
    terminal: bool
    first_row: int

    def __len__(self) -> int:
        return len(self.columns[ACTIONS])


def read_flat_file(path: Path) -> FlatFile:
    """The columns of a file. ValueError names the file and the column that is missing or odd."""
    with open_columns(path) as raw:
        columns = _by_our_names(raw)
        total = _check(path, columns)
        ends = _flags(path, TERMINALS, columns, total)
        cuts = _flags(path, TIMEOUTS, columns, total) if TIMEOUTS in columns else None
        if cuts is None:
            _check_marked(path, columns, ends)
        levels: tuple[float, ...] | None = None
        if REWARDS in columns:
            found = np.unique(columns[REWARDS].whole())
            levels = tuple(float(x) for x in found) if len(found) <= 2 else None
        return FlatFile(
            path,
            {name: column.shape[1:] for name, column in columns.items()},
            {name: column.dtype for name, column in columns.items()},
            tuple(_split(ends, cuts)),
            levels=levels,
        )


def iterate(file: FlatFile, wanted: Sequence[str]) -> Iterator[Trajectory]:
    """The trajectories of a file in order, one in memory at a time."""
    with open_columns(file.path) as raw:
        columns = _by_our_names(raw)
        for first, rows, terminal in file.trajectories:
            read = {name: columns[name].read(rows) for name in wanted}
            after = columns[NEXT].read(rows)[-1] if NEXT in columns else None
            yield Trajectory(read, after, terminal, first)


def _by_our_names(columns: Mapping[str, Column]) -> dict[str, Column]:
    renamed = {_ALIASES[name]: x for name, x in columns.items() if name in _ALIASES}
    return {**renamed, **columns}


def _check(path: Path, columns: Mapping[str, Column]) -> int:
    """The number of rows, the same of all columns that have any; others are no columns."""
    for name in (OBSERVATIONS, ACTIONS, TERMINALS):
        if name not in columns:
            raise ValueError(
                f"{path}: has no {name!r}. It holds {', '.join(columns) or 'nothing'}. A flat file "
                "of steps, as OGBench and D4RL have them, holds observations, actions, terminals."
            )
    shape = columns[ACTIONS].shape
    if len(shape) != 2 or not shape[0]:
        raise ValueError(f"{path}: 'actions' has shape {list(shape)}; expected [t, d] with t >= 1.")
    for name in (OBSERVATIONS, NEXT, REWARDS, TERMINALS, TIMEOUTS):
        if name in columns and columns[name].shape[:1] != shape[:1]:
            raise ValueError(
                f"{path}: {name!r} has {columns[name].shape[:1]} rows, 'actions' has {shape[0]}."
            )
    return shape[0]


def _flags(path: Path, name: str, columns: Mapping[str, Column], total: int) -> np.ndarray:
    flags = columns[name].whole().reshape(total, -1)
    if flags.shape[1] != 1 or not np.isin(flags, (0, 1)).all():
        raise ValueError(f"{path}: {name!r} marks the ends of trajectories by 0 and 1, [t].")
    return flags[:, 0].astype(bool)


def _check_marked(path: Path, columns: Mapping[str, Column], ends: np.ndarray) -> None:
    """ValueError where episodes that a time limit cut run into each other: the observation after a
    row that ends nothing is not the next row's."""
    seen, after = columns[OBSERVATIONS], columns.get(NEXT)
    if after is None or seen.shape != after.shape or len(seen.shape) != 2:
        return
    last: np.ndarray | None = None
    torn = at = 0
    while at < len(ends):
        count = min(LONGEST, len(ends) - at)
        rows, following = seen.read(count), after.read(count)
        before = following[:-1] if last is None else np.concatenate([last, following[:-1]])
        begun = rows[1:] if last is None else rows
        first = at + len(rows) - len(begun) - 1
        differs = ~np.isclose(before, begun, rtol=1e-4, atol=1e-5, equal_nan=True).all(1)
        torn += int((differs & ~ends[first : first + len(differs)]).sum())
        last, at = following[-1:], at + count
    if torn:
        raise ValueError(
            f"{path}: has no {TIMEOUTS!r}, and {torn} rows that {TERMINALS!r} does not mark are "
            f"not followed by their {NEXT}: episodes that a time limit cut run into each other. "
            f"Add {TIMEOUTS!r} [t], 1 at the last row of each of them."
        )


def _split(ends: np.ndarray, cuts: np.ndarray | None) -> Iterator[tuple[int, int, bool]]:
    both = ends if cuts is None else ends | cuts
    first = 0
    for row in [*np.flatnonzero(both).tolist(), len(both) - 1]:
        while first <= row:
            rows = min(row + 1 - first, LONGEST)
            last = first + rows - 1
            # Where both are marked the limit came with the outcome.
            yield first, rows, bool(cuts is not None and ends[last])
            first += rows
