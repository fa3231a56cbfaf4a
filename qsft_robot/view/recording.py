"""Logs as a recording that rerun's viewer opens: cameras, actions, rewards, V and advantages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.files import atomic_file
from qsft_robot.labeling.frame_labels import FrameLabels, label_frames
from qsft_robot.logs.checks import (
    ANY_SCALE,
    env_args_of,
    open_demonstrations,
    select_demos,
)
from qsft_robot.logs.reader import iter_episodes
from qsft_robot.names import no_such
from qsft_robot.policy.description import LoadedPolicy, PolicyDescription
from qsft_robot.rollouts.value_ranking import NoValue
from qsft_robot.types import Episode, is_image

# Timelines: control steps, and seconds where the file tells its rate.
STEP, TIME = "step", "time"
_QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class ViewReport:
    """What a recording holds."""

    path: Path
    logs: tuple[str, ...]
    cameras: tuple[str, ...]
    has_value: bool

    def __str__(self) -> str:
        seen = ", ".join(self.cameras) or "no cameras"
        value = (
            "V and advantages" if self.has_value else "no V (give a policy with values: --policy)"
        )
        return f"{self.path}: {len(self.logs)} logs ({seen}; {value}). Open it: rerun {self.path}"


def chosen_logs(path: Path, names: Sequence[str], count: int) -> list[str]:
    """The logs that are named, else the first `count`; ValueError on a name that is not there."""
    with open_demonstrations(path) as file:
        there = select_demos(file, None)
    for name in names:
        if name not in there:
            raise ValueError(f"{path}: {no_such('demonstration', name, there)}")
    return list(names) or there[:count]


def write_recording(
    path: Path,
    out: Path,
    names: Sequence[str],
    policy: LoadedPolicy | None = None,
    *,
    steps: int = 10,
    success_reward: bool = False,
    value_needed: bool = True,
    tell: Callable[[int, int], None] | None = None,
) -> ViewReport:
    """Write the named logs of an HDF5 file to an .rrd file, which appears whole or not at all.

    Each log has its own branch: camera/<key>, action/<i> (with the policy's limits), reward, and
    with a `policy` V and the advantage over `steps` steps of the action that was taken. Where it
    carries no value: NoValue if `value_needed`, else these are left out. `tell(done, of)` is called
    after each log.
    """
    import rerun as rr

    with open_demonstrations(path) as file:
        hz = env_args_of(file).get("control_hz")
    labels = {}
    if policy is not None:
        try:
            told = label_frames(path, [policy], steps, success_reward=success_reward, names=names)
            labels = {log.name: log for log in told}
        except NoValue:
            if value_needed:
                raise
    limits = None if policy is None else _limits(policy.description)
    cameras: dict[str, list[str]] = {}
    with atomic_file(out) as temporary:
        recording = rr.RecordingStream("qsft-robot", recording_id=path.name)
        recording.save(str(temporary))
        episodes = iter_episodes(path, names=names, action_scale=ANY_SCALE)
        for done, episode in enumerate(episodes, 1):
            cameras[episode.name] = _cameras(episode)
            _log(recording, episode, labels.get(episode.name), limits, hz)
            if tell is not None:
                tell(done, len(names))
        recording.send_blueprint(_blueprint(cameras, bool(labels)))
        recording.flush()
        recording.disconnect()
    shown = dict.fromkeys(camera for each in cameras.values() for camera in each)
    return ViewReport(out, tuple(cameras), tuple(shown), bool(labels))


def _limits(description: PolicyDescription) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest action that a policy gives, float [d] each."""
    action = description.action
    return np.asarray(action.low, float), np.asarray(action.high, float)


def _cameras(episode: Episode) -> list[str]:
    return [key for key, rows in episode.observations.items() if is_image(rows[0])]


def _log(
    recording: Any,
    episode: Episode,
    labels: FrameLabels | None,
    limits: tuple[np.ndarray, np.ndarray] | None,
    hz: float | None,
) -> None:
    import rerun as rr

    root = f"logs/{episode.name}"
    outcome = "success" if episode.success else "no success"
    about = rr.TextDocument(f"{episode.instruction or '(no instruction)'}\n\n{outcome}")
    recording.log(f"{root}/instruction", about, static=True)
    for camera in _cameras(episode):
        for step, image in enumerate(episode.observations[camera]):
            recording.set_time(STEP, sequence=step)
            if hz:
                recording.set_time(TIME, duration=step / hz)
            picture = rr.Image(image).compress(jpeg_quality=_QUALITY)
            recording.log(f"{root}/camera/{camera}", picture)
    for name, values in _curves(episode, labels, limits):
        steps = np.arange(len(values))
        times = [rr.TimeColumn(STEP, sequence=steps)]
        if hz:
            times.append(rr.TimeColumn(TIME, duration=steps / hz))
        columns = rr.Scalars.columns(scalars=np.asarray(values, np.float64))
        recording.send_columns(f"{root}/{name}", times, columns)


def _curves(
    episode: Episode,
    labels: FrameLabels | None,
    limits: tuple[np.ndarray, np.ndarray] | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Branch of a log -> one number a step."""
    yield "reward", episode.rewards
    if not episode.has_commands:
        for i, column in enumerate(episode.actions.T):
            yield f"action/{i}", column
            for end, bound in zip(("low", "high"), limits or (), strict=False):
                if i < len(bound):
                    yield f"action/{i}/{end}", np.full(len(episode), bound[i])
    if labels is not None:
        yield "value", labels.value
        yield "advantage", labels.advantage


def _blueprint(cameras: Mapping[str, Sequence[str]], has_value: bool) -> Any:
    """One tab a log: its cameras beside its curves on one time axis."""
    import rerun.blueprint as rrb

    tabs = []
    for name, keys in cameras.items():
        root = f"logs/{name}"
        curves = [
            rrb.TimeSeriesView(origin=f"{root}/action", name="actions and their limits"),
            rrb.TimeSeriesView(origin=f"{root}/reward", name="reward"),
        ]
        if has_value:
            contents = [f"{root}/value", f"{root}/advantage"]
            both = rrb.TimeSeriesView(origin=root, contents=contents, name="V and advantage")
            curves.insert(0, both)
        seen = [rrb.Spatial2DView(origin=f"{root}/camera/{key}", name=key) for key in keys]
        text = rrb.TextDocumentView(origin=f"{root}/instruction", name="instruction")
        tabs.append(rrb.Horizontal(rrb.Vertical(*seen, text), rrb.Vertical(*curves), name=name))
    return rrb.Blueprint(rrb.Tabs(*tabs))
