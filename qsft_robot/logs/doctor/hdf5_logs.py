"""Logs of a demonstration file for the checks, one at a time; frames come in blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from qsft_robot.logs.checks import (
    ANY_SCALE,
    check_demo,
    data_of,
    demo_group,
    env_args_of,
    masks_of,
    open_demonstrations,
    select_demos,
)
from qsft_robot.logs.doctor.frames import FrameDigests, digest_frames
from qsft_robot.logs.doctor.log import Log, LogSource
from qsft_robot.logs.ends import LogEnd, marks_of, read_steps
from qsft_robot.logs.hdf5_members import arrays, attribute, member, place
from qsft_robot.logs.hdf5_rows import kind_of, read_rows
from qsft_robot.logs.image_convention import image_convention, upside_down_note
from qsft_robot.logs.images import Images, images_in, is_camera, is_depth, why_no_images
from qsft_robot.logs.log_reader import LogReader, is_state_or_text
from qsft_robot.logs.reader import unread_keys
from qsft_robot.types import Episode

# Names that clocks go by, beside the actions or among the observations.
CLOCKS = ("timestamp", "timestamps", "time", "times", "stamp", "time_stamp")


def hdf5_source(
    path: str | Path,
    *,
    filter_key: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
) -> LogSource:
    """The logs of a demonstration file; arguments as in `iter_episodes`."""
    with open_demonstrations(path) as file:
        env_args, demo = env_args_of(file), demo_group(file, select_demos(file, filter_key)[0])
        masks, there = masks_of(file), set(data_of(file) or ())
        absent = {key: [x for x in names if x not in there] for key, names in masks.items()}
        only_dones = "terminated" not in demo and "truncated" not in demo
        no_next = "next_obs" not in demo
        seen = any(map(is_camera, arrays(demo, "obs").values()))
        note = upside_down_note(image_convention(file, env_args)) if seen else None
        depth = [key for key, x in arrays(demo, "obs").items() if is_depth(x)]
    hz = (env_args.get("env_kwargs") or {}).get("control_freq", env_args.get("control_hz"))
    return LogSource(
        path=str(path),
        environment=str(env_args.get("env_name", "")),
        logs=iter_hdf5_logs(
            path, filter_key=filter_key, log_end=log_end, success_reward=success_reward
        ),
        control_hz=float(hz) if isinstance(hz, int | float) and hz > 0 else None,
        masks=masks,
        absent=absent,
        only_dones=only_dones and log_end is None,
        no_next=no_next,
        unread=unread_keys(path, filter_key),
        depth=depth,
        upside_down=note,
    )


def iter_hdf5_logs(
    path: str | Path,
    *,
    filter_key: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
) -> Iterator[tuple[Episode | None, Log]]:
    """Each log as an `Episode` without images and as the checks see it; None where the reader
    refuses the log, which is then why. ValueError where it refuses the file."""
    with open_demonstrations(path) as file:
        names = select_demos(file, filter_key)
        cameras, reader, first = list[str](), None, True
        for at, name in enumerate(names):
            try:
                # Anew until a first log can be read: it says what the others are compared with.
                if reader is None or first:
                    obs = arrays(demo_group(file, name), "obs")
                    cameras = [key for key, x in obs.items() if is_camera(x)]
                    reader = LogReader(
                        file,
                        names[at:],
                        keys=[key for key, x in obs.items() if is_state_or_text(x)],
                        log_end=log_end,
                        success_reward=success_reward,
                        action_scale=ANY_SCALE,
                    )
                demo, episode = reader.read(name)
                frames = read_frames(demo, cameras)
                for camera, digests in frames.items():
                    reader.compare(f"obs/{camera}", digests.shape, name)
                found: tuple[Episode | None, Log] = episode, log_of(episode, demo, frames)
                first = False
            except ValueError as error:
                if name not in str(error):
                    raise
                found = None, Log(name, refusal=str(error))
            yield found


def log_of(episode: Episode, demo: h5py.Group, frames: Mapping[str, FrameDigests]) -> Log:
    """One log as the checks see it; rewards and marks are those of the file."""
    steps = check_demo(demo)
    marks = marks_of(demo)
    told = attribute(demo, "success")
    success = None if told is None else bool(told)
    if success is None and "success" in marks:
        success = bool(marks["success"].any())
    numbers = {
        key: rows[:steps]
        for key, rows in episode.observations.items()
        if rows.ndim == 2 and key not in CLOCKS
    }
    return Log(
        name=episode.name,
        instruction=episode.instruction,
        state=numbers,
        actions=np.zeros((steps, 0), np.float32) if episode.has_commands else episode.actions,
        frames=frames,
        rewards=read_steps(demo, "rewards").astype(np.float32),
        success=success,
        marks=marks,
        timestamps=_timestamps(demo),
        words=words_digest(episode),
    )


def words_digest(episode: Episode) -> str:
    """Hash of all texts and text commands of a log, "" without any."""
    texts = dict(episode.texts) | ({"actions": episode.actions} if episode.has_commands else {})
    if not texts:
        return ""
    told = hashlib.blake2b(digest_size=16)
    for key in sorted(texts):
        told.update("\0".join([key, *texts[key]]).encode(errors="surrogatepass"))
    return told.hexdigest()


def _timestamps(demo: h5py.Group) -> np.ndarray | None:
    for key in CLOCKS:
        found = member(demo, f"obs/{key}") or member(demo, key)
        if isinstance(found, h5py.Dataset) and kind_of(found) == "number" and found.ndim:
            values = np.asarray(read_rows(found), np.float64).reshape(len(found), -1)
            # Of a clock that failed at some steps these are told; one that never ran is none.
            if values.shape == (check_demo(demo), 1) and np.isfinite(values).any():
                return values[:, 0]
    return None


def read_frames(demo: h5py.Group, cameras: list[str]) -> dict[str, FrameDigests]:
    """Camera -> digests of its frames, read a few at a time."""
    found = dict[str, FrameDigests]()
    obs = arrays(demo, "obs") if cameras else {}
    for camera in cameras:
        images = images_in(obs[camera]) if camera in obs else None
        if images is None:
            why = why_no_images(obs[camera]) if camera in obs else ""
            why = why or "no images, which other logs have there."
            raise ValueError(f"{place(demo)}/obs/{camera}: {why}")
        digests = digest_frames(_blocks(images))
        if digests is not None:
            found[camera] = digests
    return found


def _blocks(images: Images) -> Iterator[np.ndarray]:
    for at in range(0, len(images), images.block):
        yield from images.read(at, min(at + images.block, len(images)))
