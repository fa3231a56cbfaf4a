"""Our simulators as a vla-eval benchmark, for any of that harness' model servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.render import configure_mujoco_render
from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec

from qsft_robot.harness.observations import IMAGES, PAID, STATES, TASK, TEXTS, Shown
from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.simulators import build_env
from qsft_robot.parts.told_success import either, told_success
from qsft_robot.presets.look_up import EVALUATION_SEED, recipe
from qsft_robot.rollouts.action_range import action_range
from qsft_robot.rollouts.worker import env_description
from qsft_robot.types import is_image

# Where neither the simulator nor its registration tells a limit.
_STEPS = 1000


class SimulatorBenchmark(StepBenchmark):
    """Episode i is that of `qsft-robot evaluate` with the seed `seed` + i."""

    render_backends = frozenset({"gpu", "cpu"})

    @classmethod
    def configure_render(cls, mode: str) -> dict[str, str]:
        return configure_mujoco_render(mode)

    def __init__(
        self,
        env: str = "tabletop/place",
        cameras: Sequence[str] = (),
        image_size: int = 64,
        state_keys: Sequence[str] = (),
        env_kwargs: Mapping[str, Any] | None = None,
        env_args: Mapping[str, Any] | None = None,
        seed: int = EVALUATION_SEED,
        send_state: bool = True,
        send_wrist_image: bool = True,
    ) -> None:
        """`env`: a recipe (`qsft-robot info recipes`), with `cameras` and `image_size`, or the
        simulator of `env_args` (the form of our logs) in its place; `env_kwargs` are changes of its
        arguments. `state_keys`: what `states` holds, in order; all arrays of one dimension when
        none are named. ValueError names what the simulator does not show."""
        super().__init__()
        self._name = env if env_args is None else str(env_args["env_name"])
        if env_args is None:
            chosen = recipe(env)
            seen = {"cameras": list(cameras), "image_size": image_size} if cameras else {}
            hidden: dict[str, Any] = {"cameras": []} if not cameras and chosen.cameras else {}
            kwargs = {**chosen.env_kwargs, **hidden, **seen}
            env_args = {"env_name": chosen.env_name, "env_kwargs": kwargs}
        self._env_args = dict(env_args)
        self._env = build_env(self._env_args, **dict(env_kwargs or {}))
        self._seed, self._keys, self._sends_state = seed, list(state_keys), send_state
        if self._env.action_space.shape is None or len(self._env.action_space.shape) != 1:
            self._env.close()
            raise ValueError(f"{self._name}: its actions are no row of numbers.")
        self._observation: Any = None
        self._begin("")

    def _begin(self, instruction: str) -> None:
        self._instruction = instruction
        self._any: bool | None = None
        self._last: bool | None = None
        self._paid = 0.0
        self._end: str | None = None

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": self._name, "suite": "qsft-robot"}]

    def reset(self, task: Mapping[str, Any]) -> Any:
        seed = self._seed + int(task.get("episode_idx", 0))
        self._observation, info = self._env.reset(seed=seed)
        self._begin(str(info.get("instruction", "")))
        return self._observation

    def step(self, action: Mapping[str, Any]) -> StepResult:
        numbers = np.asarray(action["actions"], np.float32)
        shape = self._env.action_space.shape
        if numbers.shape != shape:
            raise ValueError(
                f"{self._name} takes actions of shape {shape}; the model gave {numbers.shape}."
            )
        if not np.isfinite(numbers).all():
            raise ValueError("the model gave an action that is NaN or infinite.")
        self._observation, reward, terminated, truncated, info = self._env.step(numbers)
        self._last = told_success(info)
        self._any = either(self._any, self._last)
        self._paid += float(reward)
        self._instruction = str(info.get("instruction", self._instruction))
        over = bool(terminated or truncated)
        self._end = "terminated" if terminated else "step_limit" if truncated else None
        return StepResult(obs=self._observation, reward=float(reward), done=over, info={})

    def make_obs(self, raw_obs: Any, task: Mapping[str, Any]) -> dict[str, Any]:
        seen = as_mapping(raw_obs)
        texts = {key: x for key, x in seen.items() if isinstance(x, str)}
        arrays = {key: x for key, x in seen.items() if not isinstance(x, str)}
        images = {key: x for key, x in arrays.items() if is_image(x)}
        numbers = {key: x for key, x in arrays.items() if key not in images}
        for key, x in numbers.items():
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise ValueError(f"the observation {key!r} of {self._name} holds NaN or infinity")
        message = {IMAGES: images, TASK: self._instruction, PAID: self._paid}
        if texts:
            message[TEXTS] = texts
        if numbers and self._sends_state:
            message["state"] = numbers
            message[STATES] = self._states(numbers)
        return message

    def _states(self, numbers: Mapping[str, np.ndarray]) -> np.ndarray:
        keys = self._keys or [key for key, x in numbers.items() if x.ndim == 1]
        if missing := [key for key in keys if key not in numbers]:
            raise ValueError(
                f"{self._name} shows no {', '.join(missing)}; it shows: {', '.join(numbers)}."
            )
        parts = [np.asarray(numbers[key], np.float32).reshape(-1) for key in keys]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        """success and success_last are those of `qsft-robot evaluate`; told is whether the
        simulator tells any."""
        return {
            "success": bool(self._any),
            "success_last": bool(self._last),
            "told": self._any is not None,
            "return": self._paid,
            "end": self._end or "step_limit",
        }

    def shown(self) -> Shown:
        """What its first episode shows, and the size of its actions."""
        message = self.make_obs(self.reset({}), {})
        sizes = {key: (x.shape[0], x.shape[1]) for key, x in message[IMAGES].items()}
        numbers = {key: int(x.size) for key, x in message.get("state", {}).items()}
        if numbers:
            numbers[STATES] = int(message[STATES].size)
        return Shown(sizes, numbers, self._env.action_space.shape[0])  # type: ignore[index]

    def described(self) -> dict[str, Any]:
        """The env_args that rebuild its simulator, with the versions of what simulates it."""
        return env_description(self._env, self._env_args)

    def action_range(self) -> dict[str, np.ndarray] | None:
        """Lowest and highest action, float64 [d]."""
        return action_range(self._env.action_space)

    def get_action_spec(self) -> dict[str, DimSpec]:
        space: Any = self._env.action_space
        ends = (float(np.min(space.low)), float(np.max(space.high)))
        return {"actions": DimSpec("actions", space.shape[0], "raw", ends)}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        shown = self.shown()
        found = {"image": IMAGE_RGB} if shown.images else {}
        if STATES in shown.numbers:
            found["state"] = DimSpec("state", shown.numbers[STATES], "raw")
        return found | {"language": LANGUAGE}

    def get_metadata(self) -> dict[str, Any]:
        spec = self._env.spec
        limit = getattr(self._env.unwrapped, "max_steps", None)
        return {"max_steps": limit or (spec and spec.max_episode_steps) or _STEPS}

    def render(self) -> np.ndarray | None:
        shown = self._env.render()
        return None if shown is None else np.asarray(shown)

    def cleanup(self) -> None:
        self._env.close()
