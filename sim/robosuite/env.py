"""robosuite's Lift, PickPlaceCan, Stack and NutAssemblySquare as gymnasium environments."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sim.robosuite.args import GL_HELP, RobosuiteSettings, arguments_taken, read_settings

TASKS = ("Lift", "PickPlaceCan", "Stack", "NutAssemblySquare")
_INSTALL = "robosuite is not installed; run: pip install 'qsft-robot[robosuite]'"
# The model is compiled once, with this seed: Lift's cube has one size, drawn by it.
_MODEL_SEED = 0
_VIDEO_SIZE = 256
_VIDEO_CAMERA = "agentview"


class _ImportNoise(logging.Filter):
    """Keeps robosuite's remarks on optional files and packages out of the console."""

    _NOISE = ("private macro", "setup_macros", "robosuite_models", "mink-based")

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return record.levelno >= logging.WARNING and not any(n in text for n in self._NOISE)


def _import_robosuite() -> Any:
    logger = logging.getLogger("robosuite_logs")
    if not any(isinstance(f, _ImportNoise) for f in logger.filters):
        logger.addFilter(_ImportNoise())
    try:
        import mujoco  # noqa: F401 - loads the GL library that MUJOCO_GL names
    except ModuleNotFoundError as error:
        raise ImportError(_INSTALL) from error
    except Exception as error:  # ImportError, AttributeError: it differs by GL library
        raise RuntimeError(
            f"MuJoCo cannot load OpenGL ({type(error).__name__}: {error}). {GL_HELP}"
        ) from error
    try:
        import robosuite
        from robosuite.environments.base import REGISTERED_ENVS
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "robosuite":
            raise ImportError(_INSTALL) from error
        raise
    return robosuite.__version__, REGISTERED_ENVS


class RobosuiteEnv(gymnasium.Env):
    """One robosuite task with a Panda arm under operational space control.

    Observations: a dict of the requested keys, named as robomimic names them; state float32 [s],
    `<camera>_image` uint8 [h, w, 3] with row 0 at the top. Actions: float32 [7] in [-1, 1]: change
    of position (x, y, z; 1 is 5 cm), of rotation (axis-angle; 1 is .5 rad), both in the robot's
    base frame, and the gripper (-1 open, 1 close); under an absolute controller the place itself
    (metres, axis-angle in radians), which has no bounds. Reward 1 at the first success, else 0.

    Low-dimensional observations need no GL. Raises ImportError with the install line without
    robosuite, RuntimeError saying what to set without a GL context for cameras, ValueError for
    settings that no environment fits.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - gymnasium's form
    # What makes its physics and its pixels.
    packages = ("robosuite", "mujoco")

    def __init__(
        self,
        env_name: str = "Lift",
        *,
        env_version: str | None = None,
        render_mode: str | None = "rgb_array",
        **env_kwargs: Any,
    ) -> None:
        """Build a task from the name, version and env_kwargs of a file's env_args, or from ours.

        env_kwargs: cameras (names), image_size (int or (h, w)), keys (low-dimensional observation
        keys), max_steps, terminate_on_success, render_quality ("fast" or "full"), and any keyword
        of the robosuite task.
        """
        version, registered = _import_robosuite()
        if env_name not in registered:
            raise ValueError(
                f"{env_name!r} is no robosuite environment; supported here: {', '.join(TASKS)}."
            )
        task = registered[env_name]
        self.settings: RobosuiteSettings = read_settings(
            env_name, env_version, env_kwargs, arguments_taken(task), version
        )
        self.env_args = self.settings.env_args()
        self.control_hz = self.settings.control_hz
        self.max_steps = self.settings.max_steps
        self.render_mode = render_mode
        from sim.robosuite.control import ControlLoop

        try:
            self.simulator = task(
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                use_object_obs=True,
                ignore_done=True,
                hard_reset=False,
                renderer="mujoco",
                seed=_MODEL_SEED,
                **self.settings.make_kwargs,
            )
        except Exception as error:  # AssertionError, KeyError, ...: it differs by argument
            raise ValueError(
                f"{env_name}: robosuite {version} can't build it from these env_kwargs "
                f"({type(error).__name__}: {error}): {self.settings.make_kwargs}."
            ) from error
        self._own_sim = self.simulator.sim
        self._control = ControlLoop(self.simulator)
        self._renderer: Any = None
        self._steps = 0
        self._succeeded = False
        self._set_spaces()

    def _set_spaces(self) -> None:
        from sim.robosuite.control import absolute_dimensions, action_limits

        self._low, self._high = action_limits(self.simulator)
        # Whether actions are places (metres, axis-angles) and no changes of them.
        self.absolute_actions = bool(absolute_dimensions(self.simulator))
        self.action_space = spaces.Box(
            self._low.astype(np.float32), self._high.astype(np.float32), dtype=np.float32
        )
        read = self._read_state()
        entries: dict[str, spaces.Space[Any]] = {}
        for key in self.settings.keys:
            if key not in read:
                raise ValueError(
                    f"{self.settings.env_name}: no observation key {key!r}; there are: "
                    f"{', '.join(sorted(read))}."
                )
            shape = np.atleast_1d(read[key]).shape
            entries[key] = spaces.Box(-np.inf, np.inf, shape, np.float32)
        cameras = self.simulator.sim.model.camera_names
        for camera, size in self.settings.cameras.items():
            if camera not in cameras:
                raise ValueError(
                    f"{self.settings.env_name}: no camera {camera!r}; there are: "
                    f"{', '.join(cameras)}."
                )
            entries[f"{camera}_image"] = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(entries)
        self._keep_observables()

    def _keep_observables(self) -> None:
        """Turn off what nobody asked for: each observable costs time at every step."""
        wanted = set(self.settings.keys)
        for name, observable in self.simulator._observables.items():
            base = name.removesuffix("_cos").removesuffix("_sin")
            needed = name in wanted or any(k in wanted for k in (f"{base}_cos", f"{base}_sin"))
            relative = name in ("robot0_eef_pos", "robot0_eef_quat")
            if observable.modality != "object" and not (needed or relative):
                observable.set_enabled(False)

    def _read_state(self) -> dict[str, np.ndarray]:
        state = self.simulator._get_observations()
        if "object-state" in state:
            state["object"] = state.pop("object-state")
        return {k: v for k, v in state.items() if not k.endswith("-state")}

    def _observe(self) -> dict[str, np.ndarray]:
        state = self._read_state()
        observation = {
            key: np.atleast_1d(np.asarray(state[key], np.float32)) for key in self.settings.keys
        }
        for camera, (height, width) in self.settings.cameras.items():
            observation[f"{camera}_image"] = self._render(camera, height, width)
        return observation

    def _info(self, success: bool) -> dict[str, Any]:
        return {"instruction": self.settings.instruction, "success": success}

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; the same seed gives the same episode to the bit, whatever ran before.

        options: `states` (a list: time, qpos, qvel as robomimic stores them) puts the simulator
        there, `model_file` (MuJoCo XML, robomimic's attribute of a demo) first loads that model.
        A model that robosuite 1.5 cannot load is set aside with a warning, and the states are
        tried on the task's own model; ValueError when they do not fit.
        """
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        options = dict(options or {})
        states, model_file = options.pop("states", None), options.pop("model_file", None)
        if options:
            raise ValueError(
                f"reset options {sorted(options)} are unknown; there are: states, model_file."
            )
        self._swap_simulation(None)
        if model_file is not None:
            self._load_model_file(str(model_file))
        else:
            # robosuite keeps its generator: assigning a new one is ignored by the samplers
            generator = np.random.default_rng(seed)
            self.simulator.rng.bit_generator.state = generator.bit_generator.state
            self.simulator.reset()
        if states is not None:
            self._set_states(np.asarray(states, np.float64))
            self._hold_still()
        self._control.begin_episode()
        # Twice: relative poses are computed from the sample before.
        self.simulator._update_observables(force=True)
        self.simulator._update_observables(force=True)
        self._steps = 0
        self._succeeded = False
        return self._observe(), self._info(self.is_success())

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Act for one control step (1 / control_hz seconds)."""
        action = np.clip(np.asarray(action, np.float64), self._low, self._high)
        self._control.step(action)
        self.simulator._update_observables(force=True)
        self._steps += 1
        success = self.is_success()
        reward = float(success and not self._succeeded)
        self._succeeded = self._succeeded or success
        terminated = success and self.settings.terminate_on_success
        truncated = not terminated and self._steps >= self.max_steps
        return self._observe(), reward, terminated, truncated, self._info(success)

    def is_success(self) -> bool:
        """Whether robosuite's own test of the task holds now."""
        return bool(self.simulator._check_success())

    def states(self) -> np.ndarray:
        """The simulator's state, float64 [1 + q + v]: time, qpos, qvel, as robomimic stores it."""
        return np.asarray(self.simulator.sim.get_state().flatten())

    def model_file(self) -> str:
        """The model as MuJoCo XML, as robomimic stores it with a demo."""
        return str(self.simulator.sim.model.get_xml())

    def render(self) -> np.ndarray:
        """The scene for videos, uint8 [256, 256, 3]."""
        return self._render(_VIDEO_CAMERA, _VIDEO_SIZE, _VIDEO_SIZE)

    def _render(self, camera: str, height: int, width: int) -> np.ndarray:
        sim = self.simulator.sim
        if self._renderer is None:
            from sim.robosuite.camera import CameraRenderer

            sizes = [*self.settings.cameras.values(), (_VIDEO_SIZE, _VIDEO_SIZE)]
            largest = (max(h for h, _ in sizes), max(w for _, w in sizes))
            self._renderer = CameraRenderer(
                sim.model._model, sim.data._data, self.settings.render_quality, largest
            )
        return self._renderer.render(camera, height, width)

    def close(self) -> None:
        """Free the renderer and the simulator."""
        self._close_renderer()
        super().close()

    def _close_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _swap_simulation(self, sim: Any) -> None:
        """Put another compiled model in (None: the task's own one)."""
        sim = sim or self._own_sim
        if self.simulator.sim is not sim:
            self._close_renderer()
            self.simulator.sim = sim

    def _load_model_file(self, xml: str) -> None:
        simulator = self.simulator
        self._close_renderer()
        simulator.sim = None  # or robosuite frees the task's own model
        try:
            simulator.reset_from_xml_string(simulator.edit_model_xml(xml))
            simulator.sim.reset()
        except Exception as error:  # XML errors, missing meshes, names that 1.5 changed
            simulator.deterministic_reset = False
            self._swap_simulation(None)
            simulator.reset()
            warnings.warn(
                f"{self.settings.env_name}: robosuite {self.settings.env_version} cannot load the "
                f"demo's model_file ({type(error).__name__}: {error}); the task's own model stands "
                "in, so sizes and looks may differ from the log's.",
                stacklevel=3,
            )

    def _set_states(self, states: np.ndarray) -> None:
        sim = self.simulator.sim
        expected = 1 + sim.model.nq + sim.model.nv
        if states.shape != (expected,):
            raise ValueError(
                f"{self.settings.env_name}: states has shape {list(states.shape)}, but this model "
                f"takes [{expected}] (time, {sim.model.nq} qpos, {sim.model.nv} qvel)."
            )
        sim.set_state_from_flattened(states)
        sim.forward()

    def _hold_still(self) -> None:
        """Set the controllers' goals and rest posture to where the robot is now, as a reset leaves
        them: a reset's own come from its own random draw of the joints."""
        for part in self.simulator.robots[0].part_controllers.values():
            part.update(force=True)
            if getattr(part, "ref_name", None) is not None:  # the arm: it has a grip site
                part.update_initial_joints(part.joint_pos)
            part.reset_goal()


def build_env(env_args: Mapping[str, Any], **overrides: Any) -> RobosuiteEnv:
    """Rebuild the environment that a file's `env_args` describe; `overrides` win over the file."""
    env_kwargs = {**(env_args.get("env_kwargs") or {}), **overrides}
    if env_args.get("language"):
        env_kwargs.setdefault("language", env_args["language"])
    return RobosuiteEnv(
        str(env_args["env_name"]), env_version=env_args.get("env_version"), **env_kwargs
    )
