"""Times of a LeRobot data set: where episodes stand in their videos, and when frames were taken."""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qsft_robot.lerobot.format import DataSet

# Share of a frame's time that rounding may move a time by.
_HALF = 0.5
# Frames apart, in frames, from which on a gap is told.
_GAP = 1.5


def check_video_ranges(data: DataSet, cameras: Sequence[str], fps: float) -> None:
    """ValueError where the description places an episode's frames at another's, or at more or fewer
    frames than it has: the frames would be those of another moment.

    In each file of a camera the ranges [from, to) must not overlap; each is as long as its episode,
    and those that follow each other stay in step with the frames between them, all within half a
    frame.
    """
    for camera in cameras:
        files: dict[tuple[Any, Any], list[Mapping[str, Any]]] = defaultdict(list)
        at = f"videos/{camera}/"
        for row in data.episodes:
            if f"{at}from_timestamp" not in row or f"{at}to_timestamp" not in row:
                raise ValueError(
                    f"{_where(data)}: no column {at}from_timestamp or to_timestamp, so no frame of "
                    f"{camera} can be found."
                )
            files[row.get(f"{at}chunk_index"), row.get(f"{at}file_index")].append(row)
        for rows in files.values():
            _check_file(data, camera, rows, fps)


def _check_file(data: DataSet, camera: str, rows: Sequence[Mapping[str, Any]], fps: float) -> None:
    at = f"videos/{camera}/"
    spans: list[tuple[float, float, int, int]] = []
    for row in rows:
        number, length = row["episode_index"], row["length"]
        begin, end = (_seconds(data, row, f"{at}{x}_timestamp") for x in ("from", "to"))
        if begin * fps < -_HALF or abs((end - begin) * fps - length) > _HALF:
            raise ValueError(
                f"{_where(data)}: episode {number} has {length} frames at {fps:g} a second, but "
                f"{camera} is placed from {begin:.4g} to {end:.4g} s of its video, which is "
                f"{(end - begin) * fps:.4g} frames. {_MEND}"
            )
        spans.append((begin, end, number, length))
    spans.sort()
    numbers = [span[2] for span in spans]
    if numbers != sorted(numbers):
        i = next(i for i in range(1, len(numbers)) if numbers[i] < numbers[i - 1])
        warnings.warn(
            f"{_where(data)}: episode {numbers[i]} stands behind episode {numbers[i - 1]} in the "
            f"video of {camera}, where LeRobot writes them in the order of their numbers: see that "
            "each has its own images.",
            stacklevel=4,
        )
    expected = spans[0][0]
    for (_, before, earlier, length), (begin, _, number, _) in itertools.pairwise(spans):
        expected += length / fps
        off = (begin - before) * fps
        if off < -_HALF:
            raise ValueError(
                f"{_where(data)}: episodes {earlier} and {number} overlap in the video of {camera}:"
                f" {number} begins at {begin:.4g} s, {earlier} ends at {before:.4g} s. {_MEND}"
            )
        if off > _HALF:  # frames of no episode: one was taken out
            expected = begin
        elif abs(begin - expected) * fps > _HALF:
            raise ValueError(
                f"{_where(data)}: the places in the video of {camera} drift: episode {number} "
                f"begins at {begin:.5g} s, {abs(begin - expected) * fps:.2g} frames off from the "
                f"frames before it. {_MEND}"
            )


_MEND = (
    "Its images would be those of other moments. Mend the offsets (each episode's from_timestamp "
    "is the frames before it in the file, divided by fps), or download or convert the set again."
)


def _where(data: DataSet) -> str:
    return str(data.folder / "meta/episodes")


def _seconds(data: DataSet, row: Mapping[str, Any], name: str) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(
            f"{_where(data)}: {name} of episode {row['episode_index']} is {value!r}, no time in "
            "seconds."
        )
    return float(value)


def odd_times(timestamps: np.ndarray, fps: float) -> list[str]:
    """In words, where the times [t] of one episode's frames step back, stand still, leave a gap, or
    run at another rate than `fps`; [] where they don't."""
    if not np.isfinite(timestamps).all():
        step = int(np.flatnonzero(~np.isfinite(timestamps))[0])
        return [f"no time at frame {step}"]
    apart = np.diff(np.asarray(timestamps, np.float64))
    if not len(apart):
        return []
    found = []
    usual = float(np.median(apart)) * fps
    if usual > 0 and abs(usual - 1) > 0.1:
        found.append(f"{fps / usual:.4g} frames a second, not {fps:g}")
    # Half of the usual step: what the clock of float32 leaves of long episodes is no fault.
    for wrong, words in (
        (apart <= 0, "steps back or stands still"),
        (apart * fps > _GAP * max(1.0, usual), "leaves a gap"),
    ):
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            times = "" if wrong.sum() == 1 else f", {int(wrong.sum())} times"
            found.append(
                f"{words} at frame {i + 1} ({timestamps[i]:.4g} to {timestamps[i + 1]:.4g} s"
                f"{times})"
            )
    return found
