"""An environment whose observations and whose success stand under other keys than a policy's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from qsft_robot.names import no_such
from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.told_success import truth


class KeyedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Renames observations and tells success under the key that the project reads.

    `success_key` is looked for in a step's info, where dots lead into its dictionaries, then among
    the environment's attributes and methods without arguments. ValueError names what there is where
    an observation is missing, or where an episode ended without a word of success.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], success_key: str | None, keys: Mapping[str, str]
    ) -> None:
        super().__init__(env)
        self._success_key, self._keys = success_key, dict(keys)
        self._told = False

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self._told = False
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._success_key is not None:
            info = self._with_success(info, bool(terminated or truncated))
        return self._seen(observation), reward, terminated, truncated, info

    def _seen(self, observation: Any) -> dict[str, Any]:
        found = as_mapping(observation)
        for source in self._keys.values():
            if source not in found:
                said = no_such("observation", source, found)
                raise ValueError(f"--env-keys: the environment has {said}")
        renamed = {key: found[source] for key, source in self._keys.items()}
        sources = set(self._keys.values())
        return {key: x for key, x in found.items() if key not in sources} | renamed

    def _with_success(self, info: Mapping[str, Any], over: bool) -> dict[str, Any]:
        key = str(self._success_key)
        value = _looked_up(info, key)
        if value is None:
            value = getattr(self.env.unwrapped, key, None)
            value = value() if callable(value) else value
        if value is not None:
            self._told = True
            return {**info, "success": truth(key, value)}
        if over and not self._told:
            raise ValueError(
                f"--env-success-key: an episode ended, and neither its info (it has "
                f"{', '.join(info) or 'nothing'}) nor an attribute of the environment told {key!r}."
            )
        return dict(info)


def _looked_up(info: Any, key: str) -> Any:
    """info["a.b"], or info["a"]["b"]; None where there is neither."""
    if not isinstance(info, Mapping):
        return None
    if info.get(key) is not None:
        return info[key]
    first, dot, rest = key.partition(".")
    return _looked_up(info.get(first), rest) if dot else None
