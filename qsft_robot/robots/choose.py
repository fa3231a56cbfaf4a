"""From the words of the command line to a robot and a policy, each named in one place."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from qsft_robot.control.robot import Robot
from qsft_robot.files import SUMS, sha256_of
from qsft_robot.hub.repository import local_folder
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.trust import NOTHING, Trust
from qsft_robot.types import Policy

RobotKind = Literal["mujoco", "robosuite", "env", "replay", "lerobot", "own"]
SERVED = ("ws://", "wss://")


def open_local_or_remote(
    name: str,
    *,
    acting: Mapping[str, Any],
    token: str | None,
    timeout_s: float,
    device: str = "auto",
    trust: Trust = NOTHING,
    ca_file: Path | None = None,
    token_in_clear: bool = False,
) -> tuple[Policy, PolicyDescription]:
    """The policy of a folder or of a server's address, and its description; `ca_file` and
    `token_in_clear` as in RemotePolicy.

    FileNotFoundError and ValueError are the folder's, ConnectionError the server's.
    """
    if name.startswith(SERVED):
        from qsft_robot.server.remote_policy import RemotePolicy

        if acting:
            raise ValueError("--acting: the acting rule of a served policy is set where it runs.")
        remote = RemotePolicy(
            name, token, timeout_s, ca_file=ca_file, token_in_clear=token_in_clear
        )
        return remote, remote.description
    if ca_file is not None or token_in_clear:
        raise ValueError("--ca-file and --token-in-clear are for a server's policy, ws(s)://...")
    from qsft_robot.policy.open import open_policy

    folder = local_folder(name)
    policy = open_policy(
        folder, acting, device, trust_remote_code=trust.remote_code, allow_downloads=trust.downloads
    )
    if "torch" in sys.modules:
        # More threads wait for each other in busy loops, beside the robot's own work.
        sys.modules["torch"].set_num_threads(1)
    inner = folder / ("checkpoint" if acting else "policy")
    sums = (inner if inner.is_dir() else folder) / SUMS
    return policy, replace(policy.description, policy_sha256=sha256_of(sums))


def open_robot(
    kind: RobotKind,
    description: PolicyDescription,
    control_hz: float,
    *,
    env: Mapping[str, Any] | None = None,
    log: Path | None = None,
    filter_key: str | None = None,
    source: str | None = None,
    settings: Mapping[str, str] | None = None,
    imports: Collection[str] = (),
) -> Robot:
    """Build a robot, not yet connected.

    `env` (env_args) replaces the environment that the policy's logs name; `log` and `filter_key`
    are the recording of replay; `source` is FILE.py:NAME or module:NAME of one's own robot or
    LeRobot robot, `settings` are handed to it (or to LeRobot's configuration) by name; `imports`
    are modules that the environment's name may have imported.
    """
    env_args = dict(env or description.env_args)
    if kind in ("mujoco", "robosuite", "env") and "env_name" not in env_args:
        raise ValueError(f"--robot {kind}: the policy names no environment; give --env RECIPE.")
    if kind == "mujoco":
        from qsft_robot.robots.mujoco import MujocoRobot

        return MujocoRobot(env_args, control_hz)
    if kind in ("robosuite", "env"):
        from qsft_robot.parts.simulators import ROBOSUITE_TASKS, showing
        from qsft_robot.robots.gym import GymRobot

        if kind == "robosuite" and env_args["env_name"] not in ROBOSUITE_TASKS:
            raise ValueError(
                f"--robot robosuite: the policy's logs come from {env_args['env_name']!r}, which "
                f"is none of {', '.join(ROBOSUITE_TASKS)}; give --env, or use --robot env."
            )
        return GymRobot(showing(env_args, description.state_keys), imports=imports)
    if kind == "replay":
        if log is None:
            raise ValueError("--robot replay needs the recording: --log FILE.hdf5.")
        from qsft_robot.robots.replay import ReplayRobot

        keys = (*description.cameras, *description.state_keys)
        return ReplayRobot(log, filter_key, keys)
    if kind == "lerobot":
        from qsft_robot.robots.lerobot import LeRobotAdapter, build_lerobot

        given = dict(settings or {})
        if source is not None:
            arm = _made(source, given)
        elif "type" in given:
            arm = build_lerobot(given.pop("type"), given)
        else:
            raise ValueError(
                "--robot lerobot needs --robot-from FILE.py:FUNCTION (which returns a LeRobot "
                "robot), or --robot-settings type=so101_follower port=/dev/ttyACM0 ..."
            )
        return LeRobotAdapter(arm, control_hz=control_hz, **_lerobot_names(description))
    if source is None:
        raise ValueError("--robot own needs --robot-from FILE.py:NAME or module:NAME.")
    return cast(Robot, _made(source, dict(settings or {})))


def _lerobot_names(description: PolicyDescription) -> dict[str, Any]:
    """State key, camera prefix and suffix as the policy's logs have them (those of an imported
    data set are state and <camera>_image), else LeRobot's own."""
    state, cameras = description.state_keys, description.cameras
    names = {"state_key": state[0]} if len(state) == 1 else {}
    if cameras and all("." not in key and key.endswith("image") for key in cameras):
        return {**names, "camera_prefix": "", "camera_suffix": "_image"}
    prefixes = {key[: len(key) - len(key.split(".")[-1])] for key in cameras}
    return {**names, "camera_prefix": prefixes.pop()} if len(prefixes) == 1 else names


def _module(where: str) -> ModuleType:
    """The module that a file FILE.py is, or that is named."""
    if not where.endswith(".py"):
        return importlib.import_module(where)
    # A name of its own: json.py must not take the place of the library's json.
    own = f"robot_file_{Path(where).stem}"
    spec = importlib.util.spec_from_file_location(own, where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _made(source: str, settings: Mapping[str, str]) -> Any:
    """Call what `source` names, with `settings` as keyword arguments; ValueError where it can't be
    imported or made."""
    where, colon, name = source.rpartition(":")
    if not colon or not where or not name:
        raise ValueError(f"--robot-from {source!r}: give FILE.py:NAME or module:NAME.")
    if where.endswith(".py") and not Path(where).is_file():
        raise FileNotFoundError(f"--robot-from {source}: there is no file {where}.")
    try:
        module = _module(where)
    except Exception as error:
        raise ValueError(f"--robot-from {source}: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        there = [x for x in vars(module) if not x.startswith("_")]
        raise ValueError(f"--robot-from {source}: {where} has no {name!r}; it has: {there}.")
    try:
        return getattr(module, name)(**settings)
    except (ValueError, OSError, RuntimeError, ImportError):
        raise
    except Exception as error:
        given = " ".join(f"{key}={value}" for key, value in settings.items())
        raise ValueError(
            f"--robot-from {source} --robot-settings {given or '(none)'}: "
            f"{type(error).__name__}: {error}"
        ) from error
