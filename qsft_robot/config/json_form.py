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
    """Rebuild a config from `to_json`; an unknown entry is an error that names it."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise ValueError(f"{kind.__name__} has no setting {name!r}. There are: {list(hints)}.")

    def typed(hint: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_json(typing.cast(type, hint), value)
        if typing.get_origin(hint) is tuple:
            return tuple(value)
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            inner = next(a for a in typing.get_args(hint) if a is not type(None))
            return None if value is None else typed(inner, value)
        return hint(value) if hint in (Path, float) else value

    return kind(**{name: typed(hints[name], value) for name, value in values.items()})
