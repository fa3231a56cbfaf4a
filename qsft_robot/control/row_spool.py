"""Rows of an episode on disk as they come: one file a sensor, written beside the loop."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

# Bytes that may wait for the disk, and rows.
WAITING_BYTES, WAITING_ROWS = 256 << 20, 10_000
# Seconds for which the end of an episode waits for the disk to take no byte at all.
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Found:
    """Rows of an episode in a spool."""

    # key -> [t, ...], images mapped from the disk
    rows: dict[str, np.ndarray]
    # Keys that not every row had in one shape.
    left_out: list[str]
    # Readings of NaN that became the finite one before, or after at the start.
    mended: int


class RowSpool:
    """Takes rows (key -> array) without waiting for the disk. `full` once it can't keep up: a row
    that was left out would tear the episode, so later ones are refused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] | None = None
        self._torn: set[str] = set()
        self._files: dict[str, BinaryIO] = {}
        self._rows: queue.Queue[dict[str, np.ndarray] | None] = queue.Queue(WAITING_ROWS)
        self._bytes = self._written = 0
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self.full = False

    def put(self, row: Mapping[str, np.ndarray]) -> bool:
        """Hand a row over; whether it was taken."""
        if self.full or self._error is not None:
            self.full = True
            return False
        if self._kinds is None:
            self._kinds = {key: (x.dtype, x.shape) for key, x in row.items()}
            self._thread = threading.Thread(target=self._write, name="rows", daemon=True)
            self._thread.start()
        for key, kind in self._kinds.items():
            if key not in row and key.startswith("<"):
                continue  # the last observation has no action
            if key not in row or (row[key].dtype, row[key].shape) != kind:
                self._torn.add(key)
        self._torn |= row.keys() - self._kinds.keys()
        kept = {key: x for key, x in row.items() if key not in self._torn}
        size = sum(x.nbytes for x in kept.values())
        with self._lock:
            self.full = self._bytes + size > WAITING_BYTES or self._rows.full()
            if not self.full:
                self._bytes += size
        if not self.full:
            self._rows.put_nowait(kept)
        return not self.full

    def close(self) -> None:
        """Wait until the disk has all rows; OSError where it does not take them."""
        if self._thread is None:
            return
        with suppress(queue.Full):  # where the thread has ended, or the disk hangs
            self._rows.put(None, timeout=PATIENCE_S if self._thread.is_alive() else 0.0)
        before = -1
        while self._thread.is_alive():
            if before == self._written and self._error is None:
                self._error = OSError(f"the disk took nothing for {PATIENCE_S:g} s")
                break
            before = self._written
            self._thread.join(PATIENCE_S)
        if isinstance(self._error, OSError):
            raise OSError(
                f"{self._folder}: the rows of the episode could not be written ({self._error}); is "
                "the disk full?"
            ) from self._error
        if self._error is not None:
            raise self._error

    def rows(self, n: int, but: Collection[str] = ()) -> Found:
        """The first `n` rows of every whole key."""
        assert self._kinds is not None
        found, mended = {}, 0
        for key in self._kinds:
            if key in self._torn or key in but:
                continue
            x = self.column(key, n)
            if x.dtype != np.uint8:
                finite = np.isfinite(x).reshape(len(x), -1).all(1)
                if not finite.all() and finite.any():
                    at = np.maximum.accumulate(np.where(finite, np.arange(len(x)), -1))
                    x = x[np.where(at < 0, finite.argmax(), at)]
                    mended += int((~finite).sum())
            found[key] = x
        return Found(found, sorted(self._torn), mended)

    def column(self, key: str, n: int) -> np.ndarray:
        """The first `n` rows of a key, [n, ...]."""
        assert self._kinds is not None
        dtype, shape = self._kinds[key]
        if not np.prod(shape):
            return np.zeros((n, *shape), dtype)
        return np.memmap(self._file_of(key), dtype, "r", shape=(n, *shape))

    def remove(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file_of(self, key: str) -> Path:
        assert self._kinds is not None
        return self._folder / f"{list(self._kinds).index(key)}.bin"

    def _write(self) -> None:
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            while (row := self._rows.get()) is not None:
                for key, x in row.items():
                    if key not in self._files:
                        self._files[key] = self._file_of(key).open("wb")
                    self._files[key].write(np.ascontiguousarray(x).data)
                with self._lock:
                    self._bytes -= sum(x.nbytes for x in row.values())
                self._written += 1
        except Exception as error:  # told when the episode is over
            self._error = error
        finally:
            for file in self._files.values():
                try:
                    file.close()
                except OSError as error:
                    self._error = self._error or error
