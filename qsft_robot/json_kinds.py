"""The kinds that entries of a stranger's JSON must have, checked before any entry is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def check_kinds(value: Any, kind: Any, where: str, at: str = "") -> None:
    """ValueError, naming `where` and the entry, unless a value of JSON is of a kind.

    A kind is a type, [kind] a list, {"": kind} an object with any names, {"a": kind} one with these
    (a name that ends in ? may be missing), and (kind, None) what may be null.
    """
    if isinstance(kind, tuple):
        if value is None and None in kind:
            return
        kind = kind[0]
    place = f"{where}: {at}" if at else where
    if isinstance(kind, list):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{place} is {_shown(value)}, where a list is expected.")
        for inner in value:
            check_kinds(inner, kind[0], where, at)
    elif isinstance(kind, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} is {_shown(value)}, where an object is expected.")
        _check_entries(value, kind, where, at)
    elif not _is(value, kind):
        raise ValueError(f"{place} is {_shown(value)}, where {kind.__name__} is expected.")


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number, no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _check_entries(value: Mapping[str, Any], kinds: Mapping[str, Any], where: str, at: str) -> None:
    if "" in kinds:
        kinds = dict.fromkeys(value, kinds[""])
        missing = ""
    else:
        missing = "?"
    for name, kind in kinds.items():
        key = name.removesuffix("?") if missing else name
        if key in value:
            check_kinds(value[key], kind, where, f"{at}.{key}" if at else key)
        elif key == name:
            raise ValueError(f"{where}: no {at}.{key}." if at else f"{where}: no {key}.")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return is_number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
