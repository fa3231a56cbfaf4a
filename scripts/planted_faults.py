"""Recordings of a six-joint arm as a recorder leaves them, and 18 faults that recorders make.

The arm follows a leader by hand: smooth reaches, tremor, pauses, encoder ticks, a servo's lag, two
noisy cameras. `scripts/bench_doctor.py` writes them as LeRobot data sets; the tests of the checks
use them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

HZ = 30.0
LIMIT = 130  # steps of an episode that does not succeed
TASKS = ("put the cube in the bowl", "put the cube on the plate", "stack the cups")
_TICK = 2 * np.pi / 4096
_HEIGHT, _WIDTH = 24, 32


@dataclass
class Recording:
    """One episode of t steps; names and shapes as LeRobot has them."""

    task: str
    state: np.ndarray  # float32 [t, 6], radians
    actions: np.ndarray  # float32 [t, 6], commanded radians
    frames: dict[str, np.ndarray]  # camera -> uint8 [t, 24, 32, 3]
    rewards: np.ndarray  # float32 [t]
    success: np.ndarray  # bool [t], next.success
    truncated: np.ndarray  # bool [t], next.truncated
    done: np.ndarray  # bool [t], next.done
    timestamps: np.ndarray = field(default_factory=lambda: np.zeros(0))  # seconds [t]

    def __len__(self) -> int:
        return len(self.actions)

    def rows(self, kept: slice | np.ndarray) -> Recording:
        """Some of its steps; ends, rewards and times as they stand there."""
        taken = {
            name: getattr(self, name)[kept]
            for name in ("state", "actions", "rewards", "success", "truncated", "done")
        }
        frames = {camera: x[kept] for camera, x in self.frames.items()}
        times = np.arange(len(taken["actions"])) / HZ
        return replace(self, frames=frames, timestamps=times, **taken)


def record(episodes: int = 28, seed: int = 0) -> list[Recording]:
    """Clean recordings, tasks in turn, about three in four successful."""
    rng = np.random.default_rng(seed)
    room = rng.integers(40, 200, (2, _HEIGHT // 4, _WIDTH // 4, 3)).repeat(4, 1).repeat(4, 2)
    return [_episode(rng, TASKS[i % len(TASKS)], bool(i % 4), room) for i in range(episodes)]


def _episode(rng: np.random.Generator, task: str, succeeds: bool, room: np.ndarray) -> Recording:
    steps = int(rng.integers(90, 120)) if succeeds else LIMIT
    wanted = _reaches(rng, steps + 1)
    actions = np.round(wanted / _TICK) * _TICK
    state = np.empty_like(actions)
    at = actions[0].copy()
    for i, command in enumerate(actions):
        state[i] = at
        at += 0.45 * (command - at) + rng.normal(0, 3e-4, 6)
    state = np.round(state / _TICK) * _TICK
    last = np.arange(steps) == steps - 1
    return Recording(
        task,
        state[:-1].astype(np.float32),
        actions[:-1].astype(np.float32),
        {"front": _front(rng, state[:-1], room[0]), "wrist": _wrist(rng, state[:-1], room[1])},
        (last & succeeds).astype(np.float32),
        last & succeeds,
        np.zeros(steps, bool),
        last,
        np.arange(steps) / HZ,
    )


def _reaches(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Joint angles [t, 6] of a hand that reaches from pose to pose, rests, and trembles."""
    pose, rows = rng.normal(0, 0.15, 6), []
    while sum(map(len, rows)) < steps:
        goal = rng.uniform(-1.0, 1.0, 6)
        s = np.linspace(0, 1, int(rng.integers(16, 40)))[:, None]
        rows.append(pose + (goal - pose) * (10 * s**3 - 15 * s**4 + 6 * s**5))
        pose = goal
        if rng.random() < 0.5:
            rows.append(np.repeat(pose[None], int(rng.integers(4, 14)), 0))
    path = np.concatenate(rows)[:steps]
    speed = np.abs(np.gradient(path, axis=0)).max(axis=1, keepdims=True)
    tremor = rng.normal(0, 4e-3, path.shape) * np.minimum(1, speed / 0.01)
    return path + tremor


def _front(rng: np.random.Generator, state: np.ndarray, room: np.ndarray) -> np.ndarray:
    """A camera beside the table: two links before the room."""
    angles = np.stack([state[:, 0] + 1.5, state[:, 0] + state[:, 1] + 1.5], 1)
    joints = np.array([20.0, 16.0]) - 8 * np.cumsum(
        np.stack([np.sin(angles), np.cos(angles)], -1), 1
    )
    points = np.concatenate([np.tile([[[20.0, 16.0]]], (len(state), 1, 1)), joints], 1).astype(
        np.float32
    )
    grid = np.stack(np.mgrid[:_HEIGHT, :_WIDTH], -1).astype(np.float32)
    seen = np.repeat(room[None].astype(np.float32), len(state), 0)
    for a, b in ((0, 1), (1, 2)):
        first, link = points[:, a, None, None], (points[:, b] - points[:, a])[:, None, None]
        along = ((grid - first) * link).sum(-1) / (link**2).sum(-1)
        off = grid - first - along.clip(0, 1)[..., None] * link
        seen[(off**2).sum(-1) < 2] = (230, 90, 40)
    return _noisy(rng, seen)


def _wrist(rng: np.random.Generator, state: np.ndarray, room: np.ndarray) -> np.ndarray:
    """A camera in the hand: the room passes by."""
    shift = np.round(state[:, :2] * 10).astype(int)
    seen = [np.roll(room, tuple(by), (0, 1)) for by in shift]
    return _noisy(rng, np.stack(seen).astype(np.float32))


def _noisy(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    grain = rng.normal(0, 2, (2 * _HEIGHT, 2 * _WIDTH, 3)).astype(np.float32)
    for k, (i, j) in enumerate(rng.integers(0, _HEIGHT, (len(frames), 2))):
        frames[k] += grain[i : i + _HEIGHT, j : j + _WIDTH]
    return np.clip(frames, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Fault:
    """One fault: how it comes in, the check of `inspect` that is to find it, and the words, of
    any tool, in which it counts as named."""

    name: str
    check: str
    words: str
    plant: Callable[[list[Recording]], Sequence[int]]


def _hold(rows: np.ndarray, first: int, last: int) -> None:
    rows[first : last + 1] = rows[first]


def _frozen_state(logs: list[Recording]) -> Sequence[int]:
    for i in (5, 17):
        _hold(logs[i].state, 40, 68)
    return 5, 17


def _frozen_camera(logs: list[Recording]) -> Sequence[int]:
    _hold(logs[7].frames["front"], 0, len(logs[7]) - 1)
    return (7,)


def _camera_stalls(logs: list[Recording]) -> Sequence[int]:
    _hold(logs[9].frames["wrist"], 50, 85)
    return (9,)


def _black_camera(logs: list[Recording]) -> Sequence[int]:
    logs[10].frames["front"][:] = 0
    return (10,)


def _camera_drops(logs: list[Recording]) -> Sequence[int]:
    logs[11].frames["wrist"][60:72] = 0
    return (11,)


def _frozen_action(logs: list[Recording]) -> Sequence[int]:
    _hold(logs[6].actions, 45, 80)
    return (6,)


def _state_jump(logs: list[Recording]) -> Sequence[int]:
    logs[13].state[62, 2] += 1.4
    return (13,)


def _action_offset(logs: list[Recording]) -> Sequence[int]:
    for i in (3, 14):
        logs[i].actions[3:] = logs[i].actions[:-3].copy()
    return 3, 14


def _saturated(logs: list[Recording]) -> Sequence[int]:
    low, high = np.quantile(logs[15].actions, [0.4, 0.6], axis=0)
    logs[15].actions = logs[15].actions.clip(low, high).astype(np.float32)
    return (15,)


def _duplicate(logs: list[Recording]) -> Sequence[int]:
    logs[22] = logs[2].rows(slice(None))
    return (22,)


def _short(logs: list[Recording]) -> Sequence[int]:
    logs[18] = logs[18].rows(slice(-5, None))
    return (18,)


def _junk(logs: list[Recording]) -> Sequence[int]:
    logs[19].task = "asdf"
    return (19,)


def _gap(logs: list[Recording]) -> Sequence[int]:
    logs[21].timestamps[70:] += 0.4
    return (21,)


def _back(logs: list[Recording]) -> Sequence[int]:
    logs[23].timestamps[[50, 51]] = logs[23].timestamps[[51, 50]]
    return (23,)


def _paid_late(logs: list[Recording]) -> Sequence[int]:
    logs[25].done[60] = logs[25].success[60] = True
    logs[25].rewards[60] = 1
    return (25,)


def _unpaid(logs: list[Recording]) -> Sequence[int]:
    logs[26].rewards[:] = 0
    return (26,)


def _cut(logs: list[Recording]) -> Sequence[int]:
    logs[8] = logs[8].rows(slice(0, 60))
    logs[8].done[-1] = True
    return (8,)


def _never(logs: list[Recording]) -> Sequence[int]:
    changed = [i for i, log in enumerate(logs) if log.task == TASKS[2]]
    for log in (logs[i] for i in changed):
        log.rewards[:], log.success[:] = 0, False
        log.truncated[-1] = len(log) < LIMIT
    return changed


_STILL = "froz|identical|stuck|same"
_CAMERA = "camera|video|image|front|wrist"
_TIME = "offset|lag|late|shift|diverg|correl"
_END = "satur|clip|pinned|minimum|maximum|limit|largest"
_OFF = "jump|discontin|spike|outlier|off|veloc"

FAULTS = (
    Fault("state frozen for a second", "frozen-state", _STILL, _frozen_state),
    Fault("camera frozen all along", "frozen-camera", _CAMERA, _frozen_camera),
    Fault("camera stalls for a second", "frozen-camera", _CAMERA, _camera_stalls),
    Fault("camera black all along", "black-camera", _CAMERA, _black_camera),
    Fault("camera drops out", "black-camera", _CAMERA, _camera_drops),
    Fault("actions frozen", "frozen-action", _STILL, _frozen_action),
    Fault("one frame of the state off", "state-jump", _OFF, _state_jump),
    Fault("actions 3 steps late", "action-offset", _TIME, _action_offset),
    Fault("actions clipped", "saturated-action", _END, _saturated),
    Fault("log recorded twice", "duplicated-log", "duplic|more than once", _duplicate),
    Fault("log of 5 steps", "short-log", "short|few|length|duration", _short),
    Fault("instruction 'asdf'", "junk-instruction", "placeholder|junk|instruction", _junk),
    Fault("0.4 s missing", "timestamp-gap", "gap|drop|interval|period", _gap),
    Fault("two timestamps changed over", "timestamp-back", "monoton|back|order", _back),
    Fault("reward after the end", "reward-after-end", "reward|done|terminal", _paid_late),
    Fault("success without reward", "success-against-rewards", "success|reward", _unpaid),
    Fault("a cut log called terminal", "cut-against-terminal", "terminal|truncat|cut", _cut),
    Fault("a task without success", "coverage", "success", _never),
)
