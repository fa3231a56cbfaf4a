"""A writer of `Episode`s: a robomimic-schema HDF5 file that appears whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from qsft_robot.files import atomic_file
from qsft_robot.logs.checks import check_finite
from qsft_robot.logs.ends import OUTCOME, UNTOLD
from qsft_robot.types import Episode

_TEXT = h5py.string_dtype()
# Higher levels take longer and save little of a simulated image.
_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": False}


class DemonstrationWriter:
    """A context manager: `append` episodes, `set_mask` filter keys; on a clean exit the file
    replaces `path`, and on an error, a full disk or a kill an earlier file stays as it was.

    `compress_images`: without loss, one image a chunk; readers of HDF5 need nothing to know of it.
    """

    def __init__(
        self, path: str | Path, env_args: Mapping[str, Any], compress_images: bool = False
    ) -> None:
        self.path = Path(path)
        self._compress_images = compress_images
        self._env_args = json.dumps(dict(env_args), allow_nan=False)
        self._masks: dict[str, list[str]] = {}
        self._total = 0
        self._stack = ExitStack()
        self._file: h5py.File | None = None

    def __enter__(self) -> Self:
        temporary = self._stack.enter_context(atomic_file(self.path))
        self._file = h5py.File(temporary, "w")
        data = self._file.create_group("data")
        data.attrs["env_args"] = self._env_args
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The stack's own exit decides what becomes of the temporary file; it must see every error.
        with self._stack:
            try:
                self._finish(complete=error is None)
            except (OSError, RuntimeError) as problem:  # RuntimeError: a flush that failed
                raise write_error(self.path, problem) from problem
            if error is not None:
                raise error

    def append(self, episode: Episode, masks: Iterable[str] = ()) -> str:
        """Write one episode and return its name, `demo_<number>` ("" takes the next number).

        ValueError on a repeated or other name, unequal lengths, or an end that is not exactly one
        of terminated and truncated; OSError when the disk is full.
        """
        if self._file is None:
            raise ValueError("DemonstrationWriter is a context manager: use it inside `with`.")
        data = self._file["data"]
        name = episode.name or f"demo_{len(data)}"
        _check(episode, name, data)
        try:
            self._write(data.create_group(name), episode)
        except (OSError, RuntimeError) as problem:
            raise write_error(self.path, problem) from problem
        self._total += len(episode)
        for mask in masks:
            self._masks.setdefault(mask, []).append(name)
        return name

    def set_mask(self, filter_key: str, names: Sequence[str]) -> None:
        """Set what `mask/<filter_key>` lists; ValueError when a name was not written."""
        if self._file is None:
            raise ValueError("DemonstrationWriter is a context manager: use it inside `with`.")
        for name in names:
            if name not in self._file["data"]:
                raise ValueError(f"mask/{filter_key} names '{name}', which was not written.")
        self._masks[filter_key] = list(names)

    def _write(self, demo: h5py.Group, episode: Episode) -> None:
        steps = len(episode)
        last = np.arange(steps) == steps - 1
        demo.attrs["num_samples"] = steps
        if episode.has_commands:
            demo.create_dataset("actions", data=episode.actions, dtype=_TEXT)
        else:
            demo["actions"] = np.asarray(episode.actions, np.float32)
        demo["rewards"] = np.asarray(episode.rewards, np.float32)
        # robomimic's done_mode 2: set at the end of every log
        demo["dones"] = last.astype(np.int64)
        demo["terminated"] = last & episode.terminated
        demo["truncated"] = last & episode.truncated
        for key, rows in episode.observations.items():
            stored: dict[str, Any] = {}
            if self._compress_images and rows.ndim == 4 and rows.dtype == np.uint8:
                stored = {"chunks": (1, *rows.shape[1:]), **_COMPRESSION}
            demo.create_dataset(f"obs/{key}", data=rows[:-1], **stored)
            demo.create_dataset(f"next_obs/{key}", data=rows[1:], **stored)
        for key, texts in episode.texts.items():
            demo.create_dataset(f"obs/{key}", data=texts[:-1], dtype=_TEXT)
            demo.create_dataset(f"next_obs/{key}", data=texts[1:], dtype=_TEXT)
        if episode.attributes.get(OUTCOME) != UNTOLD:
            demo.attrs["success"] = bool(episode.success)
        if episode.instruction:
            demo.attrs["lang"] = episode.instruction
        for key, value in episode.attributes.items():
            if isinstance(value, dict | list | tuple):
                value = json.dumps(value, allow_nan=False)  # noqa: PLW2901
            if value is not None:
                demo.attrs[key] = value

    def _finish(self, complete: bool) -> None:
        file, self._file = self._file, None
        assert file is not None
        try:
            if complete:
                if not self._total:
                    raise ValueError(f"{self.path}: no episode was appended; nothing was written.")
                file["data"].attrs["total"] = self._total
                for mask, names in self._masks.items():
                    file[f"mask/{mask}"] = np.array(names, dtype="S")
        finally:
            file.close()


def write_error(path: Path, problem: Exception) -> OSError:
    """The one-line error for what HDF5 raised while it wrote `path`."""
    # HDF5's text runs over several lines; the system's own words stand inside.
    said = re.search(r"error message = '([^']+)'", str(problem))
    reason = said[1] if said else " ".join(str(problem).split())
    return OSError(
        f"{path}: could not be written ({reason}); is the disk full? "
        "An earlier file of this name is as it was."
    )


def write_demonstrations(
    path: str | Path,
    episodes: Iterable[Episode],
    env_args: Mapping[str, Any],
    masks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write episodes and masks (filter key -> names) in one call; errors as the writer's."""
    with DemonstrationWriter(path, env_args) as writer:
        for episode in episodes:
            writer.append(episode)
        for mask, names in (masks or {}).items():
            writer.set_mask(mask, names)


def _check(episode: Episode, name: str, data: h5py.Group) -> None:
    if not re.fullmatch(r"demo_\d+", name):
        raise ValueError(
            f"An episode is named demo_<number> (robomimic sorts by it), got '{name}'."
        )
    if name in data:
        raise ValueError(f"Two episodes are named '{name}'.")
    steps = len(episode)
    axes = 1 if episode.has_commands else 2
    if not steps or np.ndim(episode.actions) < axes or np.shape(episode.rewards) != (steps,):
        raise ValueError(
            f"{name}: actions are [t, d] (text commands [t]) and rewards [t] with t >= 1, got "
            f"{np.shape(episode.actions)} and {np.shape(episode.rewards)}."
        )
    if not episode.observations and not episode.texts:
        raise ValueError(f"{name}: has no observations.")
    both = episode.observations.keys() & episode.texts.keys()
    if both:
        raise ValueError(f"{name}: {sorted(both)[0]!r} is a text and another observation at once.")
    texts = {"actions": episode.actions} if episode.has_commands else {}
    for key, rows in {**episode.texts, **texts}.items():
        if wrong := [x for x in np.ravel(rows) if not isinstance(x, str)]:
            raise ValueError(f"{name}: '{key}' is text, but one entry is {wrong[0]!r}.")
    numbers = {} if episode.has_commands else {"actions": episode.actions}
    for key, rows in {**numbers, "rewards": episode.rewards}.items():
        check_finite(f"{name}: {key}", np.asarray(rows))
    for key, rows in {**episode.observations, **episode.texts}.items():
        if len(rows) != steps + 1:
            raise ValueError(
                f"{name}: observation '{key}' has {len(rows)} rows, but {steps} actions need "
                f"{steps + 1} (the last is what was seen after the last action)."
            )
    if bool(episode.terminated) == bool(episode.truncated):
        raise ValueError(
            f"{name}: exactly one of terminated and truncated ends a log, got both "
            f"{bool(episode.terminated)}."
        )
    if episode.success and episode.truncated:
        raise ValueError(
            f"{name}: a success is an outcome, so its log is terminated, not truncated."
        )
