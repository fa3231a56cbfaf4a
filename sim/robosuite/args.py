"""Arguments of robosuite environments in robomimic files, mapped to robosuite 1.5."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.argument_kinds import checked_arguments, kinds_of

# Our settings are written under env_kwargs["renderer_config"]["qsft_robot"]: robosuite.make takes
# that keyword and ignores it with the renderer "mujoco", and refuses any name that it doesn't know,
# so that robosuite and robomimic rebuild the environment from our files, too.
OWN_SECTION = "qsft_robot"
GL_HELP = (
    "Set MUJOCO_GL=egl before the program starts. On a machine without a GPU install Mesa's EGL "
    "(Debian, Ubuntu: `apt-get install libegl1 libgl1-mesa-dri`); with an NVIDIA GPU its vendor "
    "file /usr/share/glvnd/egl_vendor.d/10_nvidia.json must be there (in a container: "
    "NVIDIA_DRIVER_CAPABILITIES=all). State observations (no cameras) need no GL: unset MUJOCO_GL."
)
LOW_DIM_KEYS = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object")
DEFAULT_MAX_STEPS = {"Lift": 100, "PickPlaceCan": 200, "Stack": 200, "NutAssemblySquare": 250}
# What robomimic evaluates its own files with, whatever the task.
ROBOMIMIC_MAX_STEPS = 400
INSTRUCTIONS = {
    "Lift": "lift the red cube",
    "PickPlaceCan": "put the can in the bin",
    "Stack": "stack the red cube on the green cube",
    "NutAssemblySquare": "put the square nut on the square peg",
}
RENDER_QUALITIES = ("fast", "full")
# Decided by the adapter, whatever a file says: it renders by itself, ends episodes by itself and
# never compiles the model anew at a reset.
_DECIDED = {
    "has_renderer", "has_offscreen_renderer", "use_camera_obs", "use_object_obs", "ignore_done",
    "hard_reset", "camera_names", "camera_heights", "camera_widths", "camera_depths",
    "camera_segmentations", "render_camera", "render_gpu_device_id", "render_collision_mesh",
    "render_visual_mesh", "renderer", "renderer_config", "reward_shaping", "reward_scale", "seed",
    "horizon", "lang", "language", "postprocess_visual_obs", "render", "render_offscreen",
    "use_image_obs",
}  # fmt: skip
_OWN = ("max_steps", "terminate_on_success", "keys", "render_quality", "cameras", "image_size")
_KINDS: dict[str, Any] = {
    "max_steps": int | None, "terminate_on_success": bool | None, "keys": Sequence[str] | None,
    "render_quality": str | None, "instruction": str | None,
    "cameras": str | Sequence[str] | None, "image_size": int | Sequence[int] | None,
    "camera_names": str | Sequence[str], "camera_heights": int | Sequence[int],
    "camera_widths": int | Sequence[int], "use_camera_obs": bool, "robots": str | Sequence[str],
    "control_freq": float, "lite_physics": bool, "language": str | None, "lang": str | None,
}  # fmt: skip
# robosuite 1.0-1.4 names -> 1.5 names, inside a controller's own dictionary
_RENAMED = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}
_OSC_POSE = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping_ratio": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_ratio_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "input_type": "delta",
    "input_ref_frame": "base",
    "interpolation": None,
    "ramp_ratio": 0.2,
}


@dataclass(frozen=True)
class RobosuiteSettings:
    """One environment, every default filled in."""

    env_name: str
    env_version: str
    # What robosuite.make gets beside the adapter's own decisions
    make_kwargs: dict[str, Any]
    # camera name -> (height, width)
    cameras: dict[str, tuple[int, int]]
    # low-dimensional observation keys, in order
    keys: tuple[str, ...]
    control_hz: float
    max_steps: int
    terminate_on_success: bool
    # "full" renders as robosuite does; "fast" leaves out shadows, reflections, multisampling
    render_quality: str
    instruction: str

    def env_args(self) -> dict[str, Any]:
        """The form that robomimic keeps in `data.attrs["env_args"]`; its `env_kwargs` are the
        arguments of robosuite.make."""
        sizes = list(self.cameras.values())
        env_kwargs: dict[str, Any] = {
            **copy.deepcopy(self.make_kwargs),
            "has_renderer": False,
            "has_offscreen_renderer": bool(sizes),
            "use_object_obs": True,
            "use_camera_obs": bool(sizes),
            "ignore_done": True,
            "reward_shaping": False,
            "renderer": "mujoco",
            "renderer_config": {
                OWN_SECTION: {
                    "max_steps": self.max_steps,
                    "terminate_on_success": self.terminate_on_success,
                    "keys": list(self.keys),
                    "render_quality": self.render_quality,
                    "instruction": self.instruction,
                }
            },
        }
        if sizes:
            env_kwargs |= {
                "camera_names": list(self.cameras),
                "camera_heights": [h for h, _ in sizes],
                "camera_widths": [w for _, w in sizes],
                "camera_depths": False,
            }
        return {
            "env_name": self.env_name,
            "env_version": self.env_version,
            "type": 1,
            "env_kwargs": env_kwargs,
            "language": self.instruction,
        }


def read_settings(
    env_name: str,
    env_version: str | None,
    env_kwargs: Mapping[str, Any],
    known: Mapping[str, Any],
    robosuite_version: str,
) -> RobosuiteSettings:
    """Read `env_kwargs`, of ours or of robomimic with robosuite 1.2-1.5, into settings.

    `env_version` is the robosuite that the file was made with (None: unknown), `known` are the
    arguments that the task's class takes, with their kinds where they are known (else None).
    Names that nothing understands are dropped with one warning. Raises ValueError for what cannot
    be mapped.
    """
    where = f"env_kwargs of {env_name}"
    told = {k: kind for k, kind in known.items() if kind is not None and k not in _DECIDED}
    kinds = told | _KINDS
    name, written = env_name, checked_arguments(where, kinds, env_kwargs)
    section = _own_section(written)
    own = dict(section or {}) | {key: written.pop(key) for key in _OWN if key in written}
    own = {key: value for key, value in own.items() if value is not None}
    own = checked_arguments(where, _KINDS, own)
    # robomimic's files were rendered by robosuite's own settings, with older physics before 1.5
    foreign = section is None and written.get("controller_configs") is not None
    language = written.get("language") or written.get("lang") or own.get("instruction")
    cameras = _read_cameras(written, own)
    make_kwargs: dict[str, Any] = {"robots": _read_robots(written.pop("robots", "Panda"))}
    controllers = written.pop("controller_configs", None)
    make_kwargs["controller_configs"] = composite_controller(controllers)
    make_kwargs["control_freq"] = float(written.pop("control_freq", 20))
    # robosuite's own advice for logs that 1.4 and earlier made
    older = _is_older(env_version or "", (1, 5)) or (foreign and "body_parts" not in controllers)
    make_kwargs["lite_physics"] = bool(written.pop("lite_physics", not older))
    dropped = []
    for key, value in written.items():
        if key in _DECIDED:
            continue
        if key in known:
            make_kwargs[key] = copy.deepcopy(value)
        else:
            dropped.append(key)
    if dropped:
        warnings.warn(
            f"{name}: env_kwargs that robosuite {robosuite_version} does not know were dropped: "
            f"{', '.join(sorted(dropped))}.",
            stacklevel=3,
        )
    quality = str(own.get("render_quality", "full" if foreign else "fast"))
    if quality not in RENDER_QUALITIES:
        raise ValueError(
            f"render_quality is {quality!r}; it can be: {', '.join(RENDER_QUALITIES)}."
        )
    limit = ROBOMIMIC_MAX_STEPS if foreign else DEFAULT_MAX_STEPS.get(name, 200)
    max_steps = int(own.get("max_steps") or limit)
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; an episode has at least 1 step.")
    keys = own.get("keys")
    if keys is None:
        keys = LOW_DIM_KEYS
    camera_keys = {f"{camera}_image" for camera in cameras}
    missing = [key for key in keys if key.endswith("_image") and key not in camera_keys]
    if missing:
        raise ValueError(
            f"{name}: the observation keys {missing} need their cameras; rendered are: "
            f"{sorted(camera_keys) or 'none'}. Name the cameras, such as cameras=['agentview']."
        )
    return RobosuiteSettings(
        env_name=name,
        env_version=robosuite_version,
        make_kwargs=make_kwargs,
        cameras=cameras,
        keys=tuple(key for key in keys if key not in camera_keys),
        control_hz=make_kwargs["control_freq"],
        max_steps=max_steps,
        terminate_on_success=bool(own.get("terminate_on_success", True)),
        render_quality=quality,
        instruction=str(language or INSTRUCTIONS.get(name, "")),
    )


def _own_section(env_kwargs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Our own settings, where the environment has them; ValueError where they are no object."""
    section = env_kwargs.get("renderer_config")
    for key in ("renderer_config", OWN_SECTION):
        if section is None:
            return None
        if not isinstance(section, Mapping):
            raise ValueError(f"env_kwargs: {key} is {section!r}, where an object is expected.")
        if key != OWN_SECTION:
            section = section.get(OWN_SECTION)
    return section


def composite_controller(config: Any) -> dict[str, Any]:
    """A robosuite 1.5 composite controller from None (OSC pose), a 1.0-1.4 controller dictionary,
    a list of one of them, or a composite dictionary."""
    if isinstance(config, list | tuple):
        if len(config) != 1:
            raise ValueError(f"controller_configs holds {len(config)} robots; one is supported.")
        config = config[0]
    if config is None:
        config = _OSC_POSE
    if not isinstance(config, Mapping):
        raise ValueError(f"controller_configs is {config!r}; expected robosuite's dictionary.")
    if "body_parts" in config:
        return _flat_parts(config)
    part = _part(config)
    kind = part.get("type")
    if kind not in ("OSC_POSE", "OSC_POSITION"):
        raise ValueError(
            f"controller_configs has the type {kind!r}; supported are OSC_POSE and OSC_POSITION."
        )
    if part.get("damping_ratio") is None:
        part["damping_ratio"] = 1
    part["gripper"] = {"type": "GRIP"}
    return {"type": "BASIC", "body_parts": {"right": part}}


def _flat_parts(config: Mapping[str, Any]) -> dict[str, Any]:
    """A composite dictionary with its arms beside the other parts, as robosuite's tasks take it:
    its files of defaults have them one level deeper, {"arms": {"right": ...}}."""
    parts = config["body_parts"]
    if not isinstance(parts, Mapping) or not isinstance(parts.get("arms", {}), Mapping):
        raise ValueError(
            f"controller_configs: body_parts is {parts!r}, not robosuite's dictionary."
        )
    flat = {key: part for key, part in parts.items() if key != "arms"} | dict(parts.get("arms", {}))
    if not isinstance(flat.get("right"), Mapping):
        raise ValueError(
            f"controller_configs: body_parts has no controller of the arm 'right'; it has: "
            f"{', '.join(flat) or 'nothing'}."
        )
    return {**copy.deepcopy(dict(config)), "body_parts": {k: _part(x) for k, x in flat.items()}}


def seeing(env_kwargs: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """`env_kwargs` of an environment that shows these low-dimensional keys beside its own."""
    section = _own_section(env_kwargs) or {}
    own = env_kwargs.get("keys") or section.get("keys") or LOW_DIM_KEYS
    return {**env_kwargs, "keys": [*dict.fromkeys([*own, *keys])]}


def _part(config: Any) -> Any:
    """One part's controller in the words of robosuite 1.5, which passes over those of 1.0-1.4: an
    absolute controller would take displacements."""
    if not isinstance(config, Mapping):
        return config
    part = {_RENAMED.get(key, key): copy.deepcopy(value) for key, value in config.items()}
    if "control_delta" in part and str(part.get("type", "")).startswith("OSC"):
        delta = part.pop("control_delta")
        if "input_type" not in part:
            if delta not in (True, False):
                raise ValueError(
                    f"controller_configs: control_delta is {delta!r}, not true or false."
                )
            part["input_type"] = "delta" if delta else "absolute"
            # 1.0-1.4 took both in the world's frame
            part.setdefault("input_ref_frame", "world")
    return part


def arguments_taken(environment_class: type) -> dict[str, Any]:
    """Keyword names that a robosuite task takes, its base classes' included, with their kinds
    where their defaults tell them."""
    names: list[str] = []
    for base in environment_class.__mro__:
        if "__init__" in vars(base) and base is not object:
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            names += [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    kinds = kinds_of(environment_class)
    return {name: kinds.get(name) for name in names}


def _read_robots(robots: Any) -> list[str]:
    names = [robots] if isinstance(robots, str) else list(robots)
    if len(names) != 1:
        raise ValueError(f"robots is {names}; environments with one robot are supported.")
    return names


def _read_cameras(written: dict[str, Any], own: dict[str, Any]) -> dict[str, tuple[int, int]]:
    names = own.get("cameras")
    if names is None:
        wanted = written.get("use_camera_obs", "camera_names" in written)
        names = written.get("camera_names", "agentview") if wanted else ()
    names = [names] if isinstance(names, str) else list(names)
    size = own.get("image_size")
    heights = size if size is not None else written.get("camera_heights", 84)
    widths = size if size is not None else written.get("camera_widths", heights)

    def spread(value: Any) -> list[int]:
        return [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)] * 99

    if isinstance(size, list | tuple):
        heights, widths = int(size[0]), int(size[1])
    sizes = list(zip(spread(heights), spread(widths), strict=False))
    if len(sizes) < len(names):
        raise ValueError(f"{len(names)} cameras {names} but {len(sizes)} image sizes.")
    return dict(zip(names, sizes, strict=False))


def _is_older(version: str, than: tuple[int, int]) -> bool:
    parts = version.split(".")
    try:
        return (int(parts[0]), int(parts[1])) < than
    except (ValueError, IndexError):
        return False
