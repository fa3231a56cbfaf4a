"""Checks of cameras: frozen, black, changed for one another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from qsft_robot.logs.doctor.finding import Finding, whole
from qsft_robot.logs.doctor.log import Log, LogSet
from qsft_robot.logs.doctor.motion import action_motion, state_motion, state_scales
from qsft_robot.logs.doctor.runs import Signal, frozen, stretches

# Share of a camera's usual change below which two frames are the same picture, encoded twice.
_SAME = 0.02
# Grey levels: a picture of less contrast shows nothing, one of less brightness is black.
_FLAT, _BLACK = 3, 6.0
# Brightness that a camera has where a black frame is an interruption.
_BRIGHT = 20.0
# Frames without contrast that are a fault of the camera and not a hand before it.
_LONG = 3


def camera_names(logs: Sequence[Log]) -> list[str]:
    """Cameras of any log."""
    return list(dict.fromkeys(camera for log in logs for camera in log.frames))


def frozen_camera(logs: LogSet) -> list[Finding]:
    """A camera shows the same picture while the robot moves."""
    found = []
    there = logs.readable
    moving = state_motion(there, state_scales(there))
    if not any(x.any() for x in moving.values()):
        moving = action_motion(there)
    for camera in camera_names(there):
        have = [log for log in there if camera in log.frames and not _dead(log, camera)]
        changes = [x.frames[camera].change[1:][moving[x.name]] for x in have]
        rising = np.concatenate(changes) if changes else np.zeros(0)
        rising = rising[rising > 0]
        least = _SAME * float(np.median(rising)) if len(rising) else 0.0
        signals = [
            Signal(log.name, _changed(log, camera, least, logs.videos), moving[log.name])
            for log in have
        ]
        always, steps = frozen(signals)
        if always:
            message = f"{camera}: every frame is the same although the robot moves."
            found.append(Finding("frozen-camera", "error", message))
        elif steps:
            message = (
                f"{camera}: the picture stands still while the robot moves. Leave these logs out, "
                "or the camera (--data.cameras)."
            )
            found.append(Finding("frozen-camera", "warning", message, steps))
    return found


def _changed(log: Log, camera: str, least: float, videos: bool) -> np.ndarray:
    digests = log.frames[camera]
    changed = (np.diff(digests.hashes.astype(np.int64)) != 0) & (digests.change[1:] > least)
    if videos:
        # LeRobot's videos have a key frame every second frame; the one between often repeats it.
        changed[1:] |= changed[:-1].copy()
    return changed


def _dead(log: Log, camera: str) -> bool:
    """Whether it shows nothing all through a log, which is a finding of its own."""
    return bool(_shows_nothing(log, camera).all())


def _shows_nothing(log: Log, camera: str) -> np.ndarray:
    frames = log.frames[camera]
    contrast = frames.high.astype(int) - frames.low
    return (contrast <= _FLAT) | ((frames.mean <= _BLACK) & (frames.high <= 4 * _BLACK))


def black_camera(logs: LogSet) -> list[Finding]:
    """Frames are black, or of one color."""
    found = []
    there = logs.readable
    for camera in camera_names(there):
        steps: dict[str, list[tuple[int, int]]] = {}
        have = [log for log in there if camera in log.frames]
        for log in have:
            dark, frames = _shows_nothing(log, camera), log.frames[camera]
            # A single frame counts where it is black between bright ones.
            bright = float(np.median(frames.mean)) > _BRIGHT
            at = [
                (a, b)
                for a, b in stretches(dark)
                if b - a + 1 >= min(_LONG, len(dark))
                or (bright and (frames.mean[a : b + 1] <= _BLACK).all())
            ]
            if at:
                steps[log.name] = at
        if not steps:
            continue
        if len(steps) == len(have) and all(_dead(log, camera) for log in have):
            low = min(int(log.frames[camera].low.min()) for log in have)
            high = max(int(log.frames[camera].high.max()) for log in have)
            message = f"{camera}: every pixel of every frame is {low}."
            if low != high:
                message = f"{camera}: no frame of any log shows anything ({low} to {high} of 255)."
            found.append(Finding("black-camera", "error", message))
            continue
        message = (
            f"{camera}: frames are black or of one color. Leave these logs, or the camera, out."
        )
        found.append(Finding("black-camera", "warning", message, steps))
    return found


def swapped_cameras(logs: LogSet) -> list[Finding]:
    """Two cameras have changed places in some logs, or show the same picture in all."""
    found = []
    there = logs.readable
    for a, b in combinations(camera_names(there), 2):
        have = [
            log
            for log in there
            if a in log.frames and b in log.frames and not (_dead(log, a) or _dead(log, b))
        ]
        same = whole(
            log.name
            for log in have
            if (log.frames[a].hashes == log.frames[b].hashes).all() and len(log) > 1
        )
        if same:
            message = f"{a} and {b} show the same pictures: one device was opened twice."
            found.append(Finding("swapped-cameras", "warning", message, same))
            continue
        if len(have) < 4 or have[0].frames[a].shape != have[0].frames[b].shape:
            continue
        first = np.stack([log.frames[a].coarse for log in have])
        second = np.stack([log.frames[b].coarse for log in have])
        usual_a, usual_b = np.median(first, axis=0), np.median(second, axis=0)
        straight = _distance(first, usual_a) + _distance(second, usual_b)
        crossed = _distance(first, usual_b) + _distance(second, usual_a)
        swapped = whole(
            log.name for log, x, y in zip(have, straight, crossed, strict=True) if y < 0.5 * x
        )
        if swapped and len(swapped) < len(have) / 2:
            message = f"{a} and {b} have changed places. Change them back, or leave the logs out."
            found.append(Finding("swapped-cameras", "warning", message, swapped))
    return found


def _distance(pictures: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Mean difference of each picture [n, 8, 8, 3] from one, [n]."""
    return np.abs(pictures - usual).mean(axis=(1, 2, 3))
