"""A limit on what building a model may allocate, so that a small file can't ask for all memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GIB = 1 << 30
# No size of a model, a tokenizer or an image here comes near.
LARGEST_NUMBER = 10_000_000
# No network has more layers, whatever its weights; and what a description calls their number.
MOST_LAYERS = 1000
_LAYERS = frozenset(
    ("depth", "layers", "n_layer", "n_layers", "num_layers", "num_hidden_layers", "depths")
)
# Entries whose numbers are no sizes but ids of hashed words.
_IDS = frozenset({"action_words"})
# Operations that make memory of numbers alone.
_FACTORIES = frozenset(
    (
        "empty", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "new_zeros",
        "new_ones", "new_full", "zeros", "ones", "full", "rand", "randn", "randint", "randperm",
        "normal", "arange", "linspace", "logspace", "eye",
    )
)  # fmt: skip
_COUNTS = ("end", "n", "steps", "m")


def check_numbers(value: Any, where: str) -> None:
    """ValueError on a whole number in a description that no real one has, beginning with `where`:
    arrays of that size are made before they could be compared with the weights."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _IDS:
                check_numbers(inner, f"{where}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            check_numbers(inner, where)
    elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{where} is {value}, more than {LARGEST_NUMBER:,}: no model is so large.")


def check_layers(value: Any, where: str) -> None:
    """ValueError on a number of layers that no network has, beginning with `where`: millions of
    small layers take minutes to make before their memory shows."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in _LAYERS and _largest(inner) > MOST_LAYERS:
                raise ValueError(
                    f"{where}.{key} is {str(inner)[:80]}, more than {MOST_LAYERS:,} layers: no "
                    "model is so deep."
                )
            check_layers(inner, f"{where}.{key}")


def _largest(value: Any) -> float:
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int | float) else 0


class AllocationLimit(TorchDispatchMode):
    """Inside, ValueError before a new tensor that, with those before it, passes `limit` bytes, or
    is one of more than `count`; weights that are read from a file are not new."""

    def __init__(self, where: str, limit: int, count: int) -> None:
        super().__init__()
        self._where, self._limit, self._count = where, limit, count
        self._bytes = self._made = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func._opname in _FACTORIES:
            self._add(func, args, given)
        return func(*args, **given)

    def _add(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
        named.update(kwargs)
        if torch.device(named.get("device") or "cpu").type == "meta":
            return
        shape = named.get("size")
        if shape is None:
            shape = [named[key] for key in _COUNTS if isinstance(named.get(key), int | float)]
        width = (named.get("dtype") or torch.get_default_dtype()).itemsize
        self._bytes += math.prod(max(0, int(n)) for n in shape) * width
        self._made += 1
        if self._bytes > self._limit or self._made > self._count:
            raise ValueError(
                f"{self._where}: the model that it describes takes more than "
                f"{self._limit / GIB:.1f} GiB, or {self._count} tensors, which the weights beside "
                "it do not have: the description does not belong to them."
            )
