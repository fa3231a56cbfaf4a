"""The key map: which of a benchmark's images and numbers a policy's cameras and state keys are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.json_kinds import check_kinds
from qsft_robot.names import unknown

# Images as the benchmark shows them, turned half around, or their rows in reverse order.
TURNS = ("none", "half", "flip")
# The word for `image_size` that stands for the policy's own size.
OWN_SIZE = "policy"
_PART = re.compile(r"([^\[\]]+?)(?:\[(\d*):(\d*)\])?")
_SLICE = re.compile(r"\[?(\d*):(\d*)\]?")
_MAPS = ("cameras", "state")
_ENTRIES: dict[str, Any] = {
    "cameras?": {"": str},
    "state?": {"": str},
    "image_size?": object,
    "turn?": object,
    "actions?": str,
}


@dataclass(frozen=True)
class Numbers:
    """Some of a row of numbers: from `start` up to `stop`, to the ends where these are None."""

    start: int | None = None
    stop: int | None = None

    def of(self, row: np.ndarray) -> np.ndarray:
        """These numbers of an array [..., n]."""
        return row[..., self.start : self.stop]

    def count(self, size: int) -> int:
        """How many there are of a row of `size`."""
        return len(range(size)[self.start : self.stop])


@dataclass(frozen=True)
class Part:
    """A benchmark's array of numbers, or a part of it: `states` or `states[0:3]`."""

    name: str
    numbers: Numbers = Numbers()

    @classmethod
    def parse(cls, text: str, where: str) -> Part:
        """The part that a text names; ValueError where it is no such."""
        found = _PART.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{where}: {text!r} is neither a name nor a part, e.g. states[0:3].")
        return cls(found[1], _numbers(found[2], found[3]))

    def __str__(self) -> str:
        if self.numbers == Numbers():
            return self.name
        ends = ("" if x is None else str(x) for x in (self.numbers.start, self.numbers.stop))
        return f"{self.name}[{':'.join(ends)}]"


@dataclass(frozen=True)
class KeyMap:
    """What of a benchmark a policy sees and answers; a key that is not named is its own name."""

    # policy's camera -> benchmark's image
    cameras: Mapping[str, str] = field(default_factory=dict)
    # policy's state key -> benchmark's numbers
    state: Mapping[str, Part] = field(default_factory=dict)
    # (height, width) to which images are resized; OWN_SIZE: the policy's. None: they have it.
    image_size: tuple[int, int] | str | None = None
    # One of TURNS.
    turn: str = "none"
    # The numbers of the policy's action that the benchmark takes.
    actions: Numbers = Numbers()

    @classmethod
    def from_json(cls, value: Any, where: str, base: KeyMap | None = None) -> KeyMap:
        """The map that a file's mapping tells, its entries before those of `base`. ValueError names
        `where` and the entry that is wrong."""
        value = {} if value is None else value
        check_kinds(value, {}, where)
        for name in value:
            if f"{name}?" not in _ENTRIES:
                raise unknown(f"entry of {where}", str(name), [x[:-1] for x in _ENTRIES])
        for name in _MAPS:
            if value.get(name, {}) is None:
                value = {key: x for key, x in value.items() if key != name}
        check_kinds(value, _ENTRIES, where)
        base = cls() if base is None else base
        parts = {
            key: Part.parse(text, f"{where}: state: {key}")
            for key, text in value.get("state", {}).items()
        }
        found = replace(
            base,
            cameras={**base.cameras, **value.get("cameras", {})},
            state={**base.state, **parts},
        )
        if "image_size" in value:
            found = replace(found, image_size=_size(value["image_size"], where))
        if "turn" in value:
            turn = str(value["turn"]).lower()
            if turn not in TURNS:
                raise unknown(f"turn of {where}", turn, TURNS)
            found = replace(found, turn=turn)
        if "actions" in value:
            numbers = _SLICE.fullmatch(value["actions"].strip())
            if numbers is None:
                raise ValueError(f"{where}: actions: {value['actions']!r}: give e.g. '[0:7]'.")
            found = replace(found, actions=_numbers(numbers[1], numbers[2]))
        return found


def read_key_map(path: Path, base: KeyMap | None = None) -> KeyMap:
    """The key map of a YAML file, its entries before those of `base`. FileNotFoundError or
    ValueError names the file."""
    return KeyMap.from_json(read_yaml(path), str(path), base)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; ValueError names the file that is none."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no YAML: {error}") from None


def _numbers(start: str | None, stop: str | None) -> Numbers:
    return Numbers(int(start) if start else None, int(stop) if stop else None)


def _size(value: Any, where: str) -> tuple[int, int] | str | None:
    if value is None or value == OWN_SIZE:
        return value
    sizes = [value, value] if isinstance(value, int) else value
    good = isinstance(sizes, list) and len(sizes) == 2
    if not good or not all(type(x) is int and 0 < x <= 4096 for x in sizes):
        raise ValueError(
            f"{where}: image_size is {value!r}: give one number of pixels, [height, width], or "
            f"{OWN_SIZE}."
        )
    return sizes[0], sizes[1]
