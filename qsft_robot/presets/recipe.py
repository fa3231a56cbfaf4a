"""Recipes: demonstrations that can be collected by name, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RecipePart:
    """A share of a recipe's logs; the fields are those of `collect.CollectPart`."""

    share: float
    mixture: Mapping[str, float]
    noise: float
    reset_options: Mapping[str, Any] | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Logs that can be collected by name."""

    description: str
    env_name: str
    env_kwargs: Mapping[str, Any]
    parts: tuple[RecipePart, ...]
    episodes: int = 1500
    # Cameras collected when none are asked for.
    cameras: tuple[str, ...] = ()
    # Height and width of their images, in pixels.
    image_size: int = 64
    # Recorded with no task in mind and cut into logs afterwards; `parts` is empty.
    play: bool = False


def mixture_of(
    expert: float, sloppy: float, failures: Iterable[str], cut_short: float = 0.0
) -> dict[str, float]:
    """Shares of the expert, the sloppy one and the logs cut short; the named failures share the
    rest evenly."""
    names = tuple(failures)
    rest = {name: (1.0 - expert - sloppy - cut_short) / len(names) for name in names}
    cut = {"cut_short": cut_short} if cut_short else {}
    return {"expert": expert, "sloppy": sloppy, **cut, **rest}
