"""Rows of a .npy file, read one by one, by number."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np


class RowFile:
    """One array on disk whose rows are read, not mapped.

    Read rows stay in the operating system's own cache, which all processes share and which it takes
    back when it must; mapped, they would count as memory of each process. The file is opened at the
    first `read` of a process, so a RowFile may be sent to workers by fork or spawn alike.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(file)
            self._begin = file.tell()
        self._descriptor: int | None = None

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, [*rows, ...]; IndexError past the end, OSError on a file cut short."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
        rows = np.asarray(rows)
        if rows.size and not (rows.min() >= 0 and rows.max() < self.shape[0]):
            raise IndexError(
                f"{self.path}: {self.shape[0]} rows, asked for {rows.min()} to {rows.max()}."
            )
        out = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        flat = out.reshape(rows.size, -1)
        for line, row in zip(flat, rows.ravel().tolist(), strict=True):
            if os.preadv(self._descriptor, [line], self._begin + row * line.nbytes) != line.nbytes:
                raise OSError(f"{self.path} is cut short; remove the folder.")
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}
