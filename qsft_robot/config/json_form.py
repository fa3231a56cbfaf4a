"""Settings as JSON and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any


def to_json(config: Any) -> dict[str, Any]:
    """A config as JSON types (paths as strings, tuples as lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, tuple | list):
            return [plain(x) for x in value]
        return value

    return plain(config)


def from_json(kind: type, values: dict[str, Any]) -> Any:
    """Rebuild a config from `to_json`; ValueError names an entry that is unknown or of another kind
    than it must be."""
    hints = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} is {values!r}, where an object of settings is expected.")
    for name in values:
        if name not in hints:
            raise ValueError(f"{kind.__name__} has no setting {name!r}. There are: {list(hints)}.")
    return kind(**{name: _typed(hints[name], value, name) for name, value in values.items()})


def _typed(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        some = next(a for a in inner if a is not type(None))
        return None if value is None else _typed(some, value, name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {value!r}, where a list is expected.")
        return tuple(_typed(inner[0], each, name) for each in value)
    if origin is typing.Literal:
        if value not in inner:
            raise ValueError(f"{name} is {value!r}; it can be: {', '.join(map(str, inner))}.")
        return value
    # JSON writes a whole number where a float is meant, and truth values are numbers in Python.
    kinds: tuple[type, ...] = {float: (int, float), Path: (str,)}.get(hint, (hint,))
    if not isinstance(value, kinds) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} is {value!r}, where {hint.__name__} is expected.")
    return hint(value) if hint in (Path, float) else value
