"""Flags that take name=value words: their values, checked."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsft_robot.config.acting import ActingConfig
from qsft_robot.hardware import choose_device
from qsft_robot.logs.image_convention import ENTRY, upside_down_note
from qsft_robot.names import unknown
from qsft_robot.parts.simulators import (
    GYMNASIUM_PREFIX,
    OBSERVATION_KEYS,
    SUCCESS_KEY,
    environment_names,
    has_cameras,
)
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.presets.look_up import RECIPES, find_recipe
from qsft_robot.printed_text import printable, say

# A path joins the slashes of an address.
_ADDRESS = re.compile(r"(wss?):/+(.+)")


def server_address(run: Path) -> str | None:
    """The address (ws://...) that a RUN is; None where it is a path or an id."""
    found = _ADDRESS.fullmatch(str(run))
    return None if found is None else f"{found[1]}://{found[2]}"


def _number(word: str, flag: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{flag}: {word!r} is not a number.") from None
    finite({flag: value})
    return value


def finite(flags: Mapping[str, float | Sequence[float] | None]) -> None:
    """ValueError names the flag that is inf or nan, which Python reads as numbers."""
    for flag, value in flags.items():
        for number in () if value is None else (value,) if isinstance(value, float) else value:
            if not math.isfinite(number):
                raise ValueError(f"{flag}: {number} is no finite number.")


def _pairs(words: Sequence[str], flag: str) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{flag} {word!r}: give name=value.")
        found[name] = value
    return found


def shares(words: Sequence[str]) -> dict[str, float]:
    """The words of --mixture, e.g. expert=0.5; ValueError names the one that is wrong."""
    pairs = _pairs(words, "--mixture")
    return {name: _number(value, f"--mixture {name}") for name, value in pairs.items()}


def env_changes(words: Sequence[str]) -> dict[str, Any]:
    """The words of --env-kwargs, e.g. split=valid_unseen: values are JSON, or text where they are
    not."""
    changes: dict[str, Any] = {}
    for name, value in _pairs(words, "--env-kwargs").items():
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes


def acting_changes(words: Sequence[str]) -> dict[str, Any]:
    """The words of --acting, e.g. k=4; ValueError names the one that is wrong, with a guess."""
    known = vars(ActingConfig())
    changes: dict[str, Any] = {}
    for name, value in _pairs(words, "--acting").items():
        if name not in known:
            raise unknown("acting setting", name, known)
        number = value if isinstance(known[name], str) else _number(value, f"--acting {name}")
        whole = isinstance(known[name], int) or name == "execute"
        if whole and number != int(number):
            raise ValueError(f"--acting {name}={value}: give a whole number.")
        changes[name] = int(number) if whole else number
    return changes


def named_env(name: str) -> dict[str, Any]:
    """env_args of what --env names: a recipe, one of our simulators or a package's, or any
    gymnasium environment (gymnasium:<module>:<id>), whose module is trusted by being named there
    (`imports_of`)."""
    if (chosen := find_recipe(name)) is not None:
        return {"env_name": chosen.env_name, "env_kwargs": dict(chosen.env_kwargs)}
    if name.startswith(GYMNASIUM_PREFIX) or name in environment_names():
        return {"env_name": name, "env_kwargs": {}}
    raise unknown("recipe or environment", name, [*RECIPES, *environment_names()])


def imports_of(name: str | None) -> list[str]:
    """The module that gymnasium:<module>:<id> on the command line has imported."""
    if name is None or not name.startswith(GYMNASIUM_PREFIX):
        return []
    module, colon, _ = name.removeprefix(GYMNASIUM_PREFIX).rpartition(":")
    return [module] if colon else []


def read_as(
    env_args: Mapping[str, Any], success_key: str | None, keys: Sequence[str]
) -> dict[str, Any]:
    """env_args with what --env-success-key and the words of --env-keys say of the environment."""
    told: dict[str, Any] = {} if success_key is None else {SUCCESS_KEY: success_key}
    if keys:
        told[OBSERVATION_KEYS] = _pairs(keys, "--env-keys")
    return {**env_args, **told}


def env_of_recipe(name: str, description: PolicyDescription) -> dict[str, Any]:
    """env_args of what --env names; a recipe's with the policy's cameras and image size, where the
    simulator takes any."""
    chosen, cameras = find_recipe(name), description.cameras
    if chosen is None or not has_cameras(chosen.env_name):
        return named_env(name)
    kwargs = {**chosen.env_kwargs, "cameras": [key.removesuffix("_image") for key in cameras]}
    for size in cameras.values():
        kwargs["image_size"] = list(size)
    return {"env_name": chosen.env_name, "env_kwargs": kwargs}


def say_device(asked: str, policy: Any) -> None:
    """Say in one line where a policy runs, and why there."""
    if getattr(policy, "device", None) is None:
        say("device: cpu (its ONNX graphs)", sys.stderr)
    else:
        say(f"device: {policy.device} ({choose_device(asked)[1]})", sys.stderr)


def say_upside_down(name: str, description: PolicyDescription) -> None:
    """Say that a policy learned from images that stand on their heads, where its logs tell that."""
    told = upside_down_note(description.env_args.get(ENTRY))
    if description.cameras and told:
        say(f"note: in the logs of {printable(name)} {told}", sys.stderr)


def use_threads(count: int) -> None:
    """Threads of torch's arithmetic, where the policy that was opened runs on torch."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
