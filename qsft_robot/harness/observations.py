"""A benchmark's observations as a policy's: images and numbers by the key map, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qsft_robot.harness.key_map import OWN_SIZE, KeyMap, Part
from qsft_robot.logs.image_convention import ENTRY, OPENGL
from qsft_robot.observations import check_state
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.types import Observation, is_image

# Names of harness messages.
IMAGES, TASK, TEXTS, PAID = "images", "task_description", "texts", "paid"
# The arrays of all state keys side by side, in which the harness' model servers look for the state.
STATES = "states"


@dataclass(frozen=True)
class Wanted:
    """What a policy has to be shown; sizes are None where nobody tells them."""

    # camera -> (height, width)
    cameras: Mapping[str, tuple[int, int] | None]
    # state key -> how many numbers
    state: Mapping[str, int | None]
    # Numbers of one action.
    action_dim: int | None
    follows_instructions: bool = False

    @classmethod
    def of(cls, spec: PolicySpec) -> Wanted:
        """The needs of one of our policies."""
        return cls(spec.cameras, spec.state, spec.action_dim, spec.follows_instructions)


@dataclass(frozen=True)
class Shown:
    """What a benchmark shows and takes, as far as it is known before it runs."""

    # image -> (height, width); None where only the benchmark itself tells it
    images: Mapping[str, tuple[int, int] | None] = field(default_factory=dict)
    # array -> how many numbers
    numbers: Mapping[str, int] = field(default_factory=dict)
    action_dim: int | None = None

    def __str__(self) -> str:
        images = [
            name if size is None else f"{name} ({size[0]}x{size[1]})"
            for name, size in self.images.items()
        ]
        numbers = [f"{name} ({size} numbers)" for name, size in self.numbers.items()]
        return ", ".join([*images, *numbers]) or "neither images nor numbers"


def raw_turn(key_map: KeyMap, description: PolicyDescription, turn: str | None) -> KeyMap:
    """The key map for a policy whose logs hold images as their renderer made them (image convention
    opengl): `turn` makes such images of the benchmark's, which are upright."""
    told = description.env_args.get(ENTRY)
    raw = turn is not None and key_map.turn == "none" and told == OPENGL
    return replace(key_map, turn=turn) if raw and turn is not None else key_map


def fitted(key_map: KeyMap, wanted: Wanted, shown: Shown, name: str) -> KeyMap:
    """The key map with an entry for every camera and state key of a policy: as named, else of the
    same name, else the only one there is. ValueError says what the benchmark `name` shows and what
    to write where one is missing, of another size, or where actions are of another size."""
    cameras = {
        key: _one(key, key_map.cameras.get(key), shown.images, len(wanted.cameras))
        for key in wanted.cameras
    }
    state = {
        key: _part(key, key_map.state.get(key), shown.numbers, len(wanted.state))
        for key in wanted.state
    }
    for key, image in cameras.items():
        if image not in shown.images:
            raise _missing("camera", key, image, name, shown, "cameras", "an image's name")
    for key, part in state.items():
        if part.name not in shown.numbers:
            raise _missing("state key", key, part.name, name, shown, "state", "states[0:3]")
        size, needed = part.numbers.count(shown.numbers[part.name]), wanted.state[key]
        if needed is not None and size != needed:
            raise ValueError(
                f"{name} shows {size} numbers of {part}, but the policy's {key!r} has {needed}: "
                f"name the part in --key-map FILE, e.g. state: {{{key}: '{part.name}[0:{needed}]'}}"
            )
    found = replace(key_map, cameras=cameras, state=state)
    for key, image in cameras.items():
        check_size(key, shown.images[image], wanted.cameras[key], found)
    check_action(wanted.action_dim, shown.action_dim, found, name)
    return found


def check_action(ours: int | None, taken: int | None, key_map: KeyMap, name: str) -> None:
    """ValueError unless the benchmark takes as many numbers as the policy's action has."""
    if ours is None or taken is None:
        return
    numbers = key_map.actions.count(ours)
    if numbers != taken:
        raise ValueError(
            f"{name} takes actions of {taken} numbers, but the policy's have {numbers}: a policy "
            "of another robot, unless some are to be left out (--key-map FILE with actions: "
            f"'[0:{taken}]')."
        )


def check_size(
    key: str, shown: tuple[int, int] | None, wanted: tuple[int, int] | None, key_map: KeyMap
) -> None:
    """ValueError where images have another size than the policy's, and nobody resizes them."""
    size = shown if key_map.image_size is None else key_map.image_size
    if size is None or wanted is None or size == OWN_SIZE or tuple(size) == tuple(wanted):
        return
    what = "the benchmark shows" if key_map.image_size is None else "--key-map's image_size is"
    raise ValueError(
        f"{what} {size[0]}x{size[1]} pixels, but the policy's camera {key!r} has "
        f"{wanted[0]}x{wanted[1]}: let them be resized (--key-map FILE with image_size: "
        f"{OWN_SIZE})."
    )


class ObservationReader:
    """Messages of a harness, as observations of one policy."""

    def __init__(self, wanted: Wanted, key_map: KeyMap) -> None:
        self._wanted, self._map = wanted, key_map

    def read(self, message: Mapping[str, Any], step: int) -> Observation:
        """The observation at a control step. ValueError names what is missing or misshapen."""
        shown, arrays = message.get(IMAGES) or {}, numbers_of(message)
        images = {key: self._image(key, size, shown) for key, size in self._wanted.cameras.items()}
        state = {key: self._state(key, size, arrays) for key, size in self._wanted.state.items()}
        instruction = str(message.get(TASK) or "")
        if self._wanted.follows_instructions and not instruction.strip():
            raise ValueError(f"the policy acts by an instruction, and {TASK!r} holds none.")
        texts = {key: str(x) for key, x in (message.get(TEXTS) or {}).items()}
        paid = message.get(PAID)
        return Observation(
            images, state, instruction, texts, step, None if paid is None else float(paid)
        )

    def _image(
        self, key: str, size: tuple[int, int] | None, shown: Mapping[str, Any]
    ) -> np.ndarray:
        name = self._map.cameras.get(key, key)
        if name not in shown:
            raise ValueError(
                f"the policy needs the camera {key!r}, but the benchmark sent no image {name!r}; "
                f"it sent: {', '.join(shown) or 'none'}. Say which it is: --key-map FILE with "
                f"cameras: {{{key}: NAME}}."
            )
        image = np.asarray(shown[name])
        if not is_image(image):
            raise ValueError(
                f"the image {name!r} is {image.dtype} of shape {image.shape}, no uint8 "
                "[height, width, 3]."
            )
        if self._map.turn == "half":
            image = image[::-1, ::-1]
        elif self._map.turn == "flip":
            image = image[::-1]
        wanted = self._map.image_size
        target = size if wanted == OWN_SIZE else wanted
        if target is not None:
            image = resized(image, tuple(target))  # type: ignore[arg-type]
        if size is not None and image.shape[:2] != tuple(size):
            check_size(key, (image.shape[0], image.shape[1]), size, self._map)
        return np.ascontiguousarray(image)

    def _state(self, key: str, size: int | None, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        part = self._map.state.get(key, Part(key))
        if part.name not in arrays:
            there = [f"{name} ({x.size} numbers)" for name, x in arrays.items()]
            raise ValueError(
                f"the policy needs the state key {key!r}, but the benchmark sent no {part.name!r}; "
                f"it sent: {', '.join(there) or 'no numbers'}. Say which it is: --key-map FILE "
                f"with state: {{{key}: NAME}}."
            )
        value = part.numbers.of(np.asarray(arrays[part.name], np.float32).reshape(-1))
        if size is not None and value.size != size:
            raise ValueError(
                f"{part} of the benchmark holds {value.size} numbers, but the policy's {key!r} has "
                f"{size}: name the part in --key-map FILE, e.g. state: {{{key}: "
                f"'{part.name}[0:{size}]'}}."
            )
        check_state(key, value)
        return value


def numbers_of(message: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of numbers in a message, by name; those of inner mappings by their own names."""
    found: dict[str, np.ndarray] = {}
    for name, value in message.items():
        if name in (IMAGES, TEXTS, PAID):
            continue
        if isinstance(value, Mapping):
            found |= numbers_of(value)
        elif not isinstance(value, str | bytes | bool) and value is not None:
            array = np.asarray(value)
            if array.dtype.kind in "biuf" and not is_image(array):
                found[str(name)] = array
    return found


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at (height, width), by bilinear averages; itself where it has that size."""
    if image.shape[:2] == size:
        return image
    from PIL import Image

    shown = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(shown.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _one(key: str, named: str | None, there: Mapping[str, Any], wanted: int) -> str:
    """The image of a camera: as named, of its own name, or the only one of both."""
    if named is not None:
        return named
    for name in (key, key.removesuffix("_image")):
        if name in there:
            return name
    return next(iter(there)) if len(there) == wanted == 1 else key


def _part(key: str, named: Part | None, there: Mapping[str, Any], wanted: int) -> Part:
    return named or Part(_one(key, None, there, wanted))


def _missing(
    kind: str, key: str, asked: str, name: str, shown: Shown, entry: str, example: str
) -> ValueError:
    what = f"no {asked!r}" if asked == key else f"no {asked!r} (for {key!r})"
    return ValueError(
        f"the policy needs the {kind} {key!r}, but {name} shows {what}; it shows: {shown}. Say "
        f"which it is: --key-map FILE with {entry}: {{{key}: {example}}}."
    )
