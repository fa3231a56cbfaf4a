"""Environments that installed packages, or modules a caller trusts, register with gymnasium."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import entry_points
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from sim.argument_kinds import checked_arguments, kinds_of

# Where packages register their environments, for gymnasium to load them by itself.
_PLUGINS = "gymnasium.envs"


def build_registered(
    name: str, kwargs: dict[str, Any], imports: Collection[str] = ()
) -> gymnasium.Env:
    """An installed environment, its module imported where `check_import` allows it. A step limit
    that it does not take itself is gymnasium's own; ValueError for another argument that it does
    not take, and for a name that nobody registered."""
    check_import(name, imports)
    kwargs = checked_arguments(f"env_kwargs of gymnasium:{name}", _kinds(name), kwargs)
    try:
        return gymnasium.make(name, **kwargs)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        if "'max_steps'" in str(error):
            rest = {key: x for key, x in kwargs.items() if key != "max_steps"}
            limited = {**rest, "max_episode_steps": kwargs["max_steps"]}
            return build_registered(name, limited, imports)
        flag = " (--run-to-limit)" if "'terminate_on_success'" in str(error) else ""
        raise ValueError(f"gymnasium:{name}: {error}{flag}") from error
    except gymnasium.error.Error as error:
        raise ValueError(f"gymnasium:{name}: {error}") from error


def _kinds(name: str) -> dict[str, Any]:
    """Kinds of the arguments of a registered environment; none where gymnasium does not know it."""
    try:
        entry = gymnasium.spec(name).entry_point
        built = load_env_creator(entry) if isinstance(entry, str) else entry
    except (gymnasium.error.Error, ImportError, AttributeError):
        return {}  # gymnasium.make says what is wrong
    return {} if built is None else kinds_of(built)


def check_import(name: str, imports: Collection[str]) -> None:
    """ValueError where gymnasium would import a module for the environment `name` that neither
    `imports` names nor an installed package offers as its plugin."""
    module, colon, _ = name.rpartition(":")
    if not colon or module in imports:
        return
    plugins = {each.value.split(":")[0].split(".")[0] for each in entry_points(group=_PLUGINS)}
    if module.split(".")[0] not in plugins:
        raise ValueError(
            f"the environment gymnasium:{name} imports the module {module!r}, which runs its code. "
            f"If you trust it, say so with --import-env {module} (imports=[{module!r}])."
        )
