"""Kinds of simulator arguments: a word is no truth value and half a step no count."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def checked_arguments(
    where: str, kinds: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """`given` with every value of the kind that its name has in `kinds`; a number that is whole
    counts as one (50.0), 0 and 1 as false and true. ValueError names the argument."""
    checked = dict(given)
    for name, value in given.items():
        if name in kinds:
            fits, checked[name] = _read(value, kinds[name])
            if not fits:
                raise ValueError(
                    f"{where}: {name} is {value!r}, where {_words(kinds[name])} is expected."
                )
    return checked


def kinds_of(built: Callable[..., Any]) -> dict[str, Any]:
    """Name of an argument -> the kind that its annotation names, or, without one, that its default
    is of, where that is a truth value or a number."""
    kinds: dict[str, Any] = {}
    makers = (
        [vars(c)["__init__"] for c in built.__mro__ if "__init__" in vars(c)]
        if isinstance(built, type)
        else [built]
    )
    for maker in reversed(makers):
        try:
            signature, hints = inspect.signature(maker), _hints(maker)
        except (TypeError, ValueError):  # a class in C
            continue
        for name, each in signature.parameters.items():
            if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) or name == "self":
                continue
            kinds.pop(name, None)
            if name in hints:
                kinds[name] = hints[name]
            elif isinstance(each.default, bool):
                kinds[name] = bool
            elif isinstance(each.default, int | float):
                kinds[name] = float | None
    return kinds


def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(maker)
    except Exception:  # names that only a type checker imports
        return {}


def _read(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether a value is of a kind, and as which value it is read."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        read = [_read(value, each) for each in inside]
        return next((each for each in read if each[0]), (False, value))
    if kind in (None, type(None)):
        return value is None, value
    number = isinstance(value, Real) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool) or (number and value in (0, 1)), value == 1
    if kind is int:
        whole = number and (isinstance(value, Integral) or float(value).is_integer())
        return whole, int(value) if whole else value
    if kind is float:
        return number, value
    if kind is str:
        return isinstance(value, str), value
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        read = [_read(each, inside[0]) for each in value] if listed and len(inside) == 1 else []
        return listed and all(fits for fits, _ in read), [x for _, x in read] if read else value
    return True, value


def _words(kind: Any) -> str:
    inside = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_words(each) for each in inside if each is not type(None))
    if inside:
        return f"a list (each {_words(inside[0])})"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
