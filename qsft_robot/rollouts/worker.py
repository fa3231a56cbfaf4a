"""The worker process of an evaluation: owns several environments and steps them as asked."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.simulators import OBSERVATION_KEYS, SUCCESS_KEY, build_env
from qsft_robot.parts.told_success import either, told_success
from qsft_robot.rollouts.action_range import action_range
from qsft_robot.rollouts.video import VideoFile, check_video, draw_overlay
from qsft_robot.rollouts.worker_channel import STARTUP_S, WorkerChannel
from qsft_robot.types import split_texts, stack_rows
from qsft_robot.versions import VERSIONS, simulator_versions


def env_description(env: Any, env_args: Mapping[str, Any]) -> dict[str, Any]:
    """The `env_args` that rebuild `env`, its own or those it was built from, with the versions of
    what simulates it here."""
    described = dict(getattr(env.unwrapped, "env_args", env_args))
    read_as = {key: env_args[key] for key in (SUCCESS_KEY, OBSERVATION_KEYS) if key in env_args}
    return {**described, **read_as, VERSIONS: simulator_versions(env)}


def render_backend() -> dict[str, str | None]:
    """Which GL this process renders with; the renderer's name once an image has been drawn."""
    name = None
    # Imported by MuJoCo's own GL context, which has chosen the platform by then.
    if "OpenGL" in sys.modules:
        try:
            from OpenGL import GL

            found = GL.glGetString(GL.GL_RENDERER)
            name = found.decode() if found else None
        except Exception:  # without a context PyOpenGL raises whatever its platform does
            name = None
    return {"mujoco_gl": os.environ.get("MUJOCO_GL"), "gl_renderer": name}


class _Slot:
    """One environment and the episode that runs in it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.env: Any = None
        self.clear(0)

    def build(self) -> None:
        self.start_time_s = 0.0  # what its first reset may take besides, seconds
        if self.env is None:
            self.env = build_env(self._settings["env_args"], **self._settings["env_overrides"])
            self.start_time_s = float(getattr(self.env.unwrapped, "start_time_s", 0.0))

    def clear(self, seed: int) -> None:
        """Forget the last episode."""
        self._seed = seed
        self._instruction = ""
        self._steps = 0
        self._return = 0.0
        # Success at any step and at the last one; None while the environment has told none.
        self._any: bool | None = None
        self._last: bool | None = None
        self._task: str | None = None
        # Text commands that the environment didn't take; None where actions are numbers.
        self._refused: int | None = None
        self._values: list[float | None] = []
        self.seconds = 0.0
        self._video: VideoFile | None = None
        # The newest frame, the outcome, the command that led to it and whether it was refused; its
        # own value is known at the next decision.
        self._frame: tuple[np.ndarray, bool | None, str | None, bool] | None = None
        # What is logged, where logs are asked for: observation rows, actions, rewards.
        self._rows: dict[str, list[Any]] = {}
        self._actions: list[np.ndarray | str] = []
        self._rewards: list[float] = []

    def begin(self, record: bool, timed: bool = True) -> dict[str, Any]:
        """Reset to the seed that `clear` was given; return the first observation. `timed`: count
        the reset among the seconds of the episode."""
        started = time.monotonic()
        options = self._settings["reset_options"]
        observation, info = self.env.reset(seed=self._seed, options=options)
        self._instruction = str(info.get("instruction", ""))
        self._task = info.get("task_type")
        if record:
            fps = float(getattr(self.env.unwrapped, "control_hz", 20.0))
            self._video = VideoFile(self._settings["video_folder"], fps)
        if timed:
            self.seconds += time.monotonic() - started
        self._log(observation)
        return self._seen(observation)

    def act(self, actions: np.ndarray, value: float | None) -> dict[str, Any]:
        """Execute actions [h, d]; return the last observation, or how the episode ended."""
        started = time.monotonic()
        limit = self._settings["episode_timeout_s"]
        if self._video is not None and not self._steps:
            self._film(None, "" if isinstance(actions[0], str) else None, False)
        over, refused = None, False
        for action in actions:
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._steps += 1
            self._return += float(reward)
            self._log(observation, action, float(reward))
            self._last = told_success(info)
            self._any = either(self._any, self._last)
            if isinstance(action, str):
                refused = bool(info.get("invalid_command", False))
                self._refused = (self._refused or 0) + refused
            self._instruction = str(info.get("instruction", self._instruction))
            if terminated or truncated:
                over = "terminated" if terminated else "step_limit"
            elif self.seconds + time.monotonic() - started > limit:
                over = "timeout"
            if self._video is not None:
                self._append(value)
                command = action if isinstance(action, str) else None
                self._film(self._any or (None if over is None else self._any), command, refused)
            if over is not None:
                break
        self.seconds += time.monotonic() - started
        if over is None:
            return self._seen(observation)
        return self._end(None if self._any and over != "timeout" else over, None)

    def _seen(self, observation: Any) -> dict[str, Any]:
        """The observation to decide on; ValueError, which ends this episode alone, on NaN or
        infinity."""
        seen = as_mapping(observation)
        for key, x in seen.items():
            if not isinstance(x, str) and x.dtype.kind == "f" and not np.isfinite(x).all():
                raise ValueError(f"the environment's observation {key!r} holds NaN or infinity")
        return {"observation": seen, "instruction": self._instruction, "paid": self._return}

    def fail(self, error: str) -> dict[str, Any]:
        """End the episode after an exception; the environment is built anew for the next one."""
        self.drop()
        return self._end("error", error)

    def drop(self) -> None:
        """Close the environment, whatever state it is in."""
        env, self.env = self.env, None
        if env is not None:
            try:
                env.close()
            except Exception:
                traceback.print_exc()

    def _log(
        self, observation: Any, action: np.ndarray | str | None = None, reward: float = 0.0
    ) -> None:
        if not self._settings.get("log"):
            return
        for key, row in as_mapping(observation).items():
            self._rows.setdefault(key, []).append(row if isinstance(row, str) else row.copy())
        if action is not None:
            is_command = isinstance(action, str)
            self._actions.append(action if is_command else np.array(action, np.float32))
            self._rewards.append(reward)

    def _logged(self, over: str) -> dict[str, Any]:
        """The fields of `types.Episode`, as arrays. Where the environment tells no success a reward
        marks one, as it does in files without marks, and a step limit says nothing of the task."""
        told = self._any is not None
        success = bool(self._any) if told else any(reward > 0 for reward in self._rewards)
        cut = over == "timeout" or (over == "step_limit" and not told)
        observations, texts = split_texts(self._rows)
        return {
            "observations": observations,
            "texts": texts,
            "actions": stack_rows(self._actions),
            "rewards": np.array(self._rewards, np.float32),
            "terminated": success or not cut,
            "truncated": cut and not success,
            "success": success,
            "instruction": self._instruction,
        }

    def _film(self, outcome: bool | None, command: str | None, refused: bool) -> None:
        self._frame = np.asarray(self.env.render()), outcome, command, refused

    def _append(self, value: float | None) -> None:
        """Put the newest frame into the video, with the value of the decision that it led to (the
        last one led to none: with that of the decision before)."""
        if self._video is None or self._frame is None:
            return
        frame, outcome, command, refused = self._frame
        self._values.append(value)
        self._video.append(
            draw_overlay(frame, self._instruction, self._values, outcome, command, refused)
        )
        self._frame = None

    def _end(self, failure_reason: str | None, error: str | None) -> dict[str, Any]:
        path = None
        if self._video is not None:
            self._append(self._values[-1] if self._values else None)
            video, self._video = self._video, None
            if video.frames:
                word = {None: "end", True: "success", False: "fail"}[self._any]
                path = video.keep(f"seed_{self._seed}_{word}.mp4").name
            video.discard()
        result = {
            "steps": self._steps,
            "return": self._return,
            "success_any": self._any and failure_reason is None,
            "success_last": None if self._any is None else bool(self._last and not failure_reason),
            "failure_reason": failure_reason,
            "error": error,
            "instruction": self._instruction,
            "env_seconds": round(self.seconds, 4),
            "video": path,
            "task": self._task,
            "refused_commands": self._refused,
        }
        if self._actions and failure_reason != "error":
            return {"result": result, "episode": self._logged(failure_reason or "")}
        return {"result": result}


def serve_rollouts(channel: WorkerChannel, settings: Mapping[str, Any]) -> None:
    """Answer messages {"commands": [...]} with {"replies": {slot: reply}}.

    A command is {"slot", "seed", "record"} to begin an episode or {"slot", "actions", "value"}; a
    reply holds "observation" and "instruction", or "result" when the episode is over, and with it
    "episode", every step of it, where the settings ask for a "log".
    """
    if settings["video_folder"] is not None:
        check_video()
    slots = [_Slot(settings) for _ in range(settings["slots"])]
    slots[0].build()
    env = slots[0].env
    if settings["env_args"].get(OBSERVATION_KEYS):
        env.reset(seed=0)  # a key that is not there has to stop the evaluation
    if settings["video_folder"] is not None:
        # A GL context that can't be made has to stop the evaluation, not fail each episode.
        env.reset(seed=0)
        env.render()
    channel.send(
        {
            "env_args": env_description(env, settings["env_args"]),
            # None where actions are text commands
            "action_shape": None if (shape := env.action_space.shape) is None else list(shape),
            "action_range": action_range(env.action_space),
        }
    )
    channel.end()
    limit = float(settings["episode_timeout_s"])
    backend = render_backend()
    while (message := channel.receive()) is not None:
        replies = {
            command["slot"]: _answer(channel, slots[command["slot"]], command, limit)
            for command in message["commands"]
        }
        if backend["gl_renderer"] is None and any("result" in r for r in replies.values()):
            backend = render_backend()
        channel.send({"group": message["group"], "replies": replies, "backend": backend})
    for slot in slots:
        slot.drop()


def _answer(
    channel: WorkerChannel, slot: _Slot, command: Mapping[str, Any], limit: float
) -> dict[str, Any]:
    try:
        if "seed" in command:
            slot.clear(command["seed"])
            channel.begin(command["slot"], STARTUP_S)
            slot.build()
            # AI2-THOR starts at its first reset, which is no time of the episode.
            start = slot.start_time_s
            channel.begin(command["slot"], limit + start)
            return slot.begin(command["record"], timed=not start)
        channel.begin(command["slot"], limit - slot.seconds)
        return slot.act(command["actions"], command["value"])
    except Exception:
        return slot.fail(traceback.format_exc())
    finally:
        channel.end()
