"""Parts that other people's packages add, by entry points."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

METHODS, SIMULATORS, TOKENIZERS = (
    f"qsft_robot.{kind}" for kind in ("methods", "simulators", "tokenizers")
)


def plugin_names(group: str) -> list[str]:
    """Names that installed packages register in a group; nothing is imported."""
    return sorted({point.name for point in entry_points(group=group)})


def load_plugin(group: str, name: str) -> Any:
    """The module or object that a package registers; None where none does.

    ValueError where it is registered twice, or where importing it fails.
    """
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if not points:
        return None
    if len(points) > 1:
        raise ValueError(f"{name!r} is registered twice in {group}: {', '.join(sorted(points))}.")
    (point,) = points.values()
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{group}: {name!r} is registered as {point.value}, which can't be loaded ({error})."
        ) from error


def load_part(place: str) -> Any:
    """A module, or with "module:name" an object in it, of our own tables."""
    module, _, name = place.partition(":")
    found = import_module(module)
    return getattr(found, name) if name else found
