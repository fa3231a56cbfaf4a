"""The instruction of a log, wherever its recorder wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from qsft_robot.files import parse_json
from qsft_robot.logs.checks import attribute_text
from qsft_robot.logs.hdf5_members import attribute, has, member, place
from qsft_robot.logs.hdf5_rows import kind_of, read_rows

# Names that say in words what a log, or every log of a file, does.
_WORDS = ("lang", "language_instruction", "task_description")
# Others go by this name, too, but not all of them with words.
_PERHAPS = "instruction"
# Attributes whose JSON may hold the words; LIBERO's files have theirs in problem_info.
_JSON = ("ep_meta", "problem_info")
DATA_WORDS = (*_WORDS, _PERHAPS, *_JSON)
# Entries of env_args and its env_kwargs.
ENV_WORDS = ("language", *_WORDS)


def language_of(demo: h5py.Group, env_args: Mapping[str, Any]) -> str:
    """The instruction of one log: its own words, else those of the file's data, else the
    environment's, else ""; a log whose own are empty has none. ValueError on what is no text."""
    own = [*_attributes_of(demo), *_arrays_of(demo)]
    if own:
        return next((words for words in own if words.strip()), "")
    around = [*_attributes_of(demo.parent), *_environments(env_args)]
    return next((words for words in around if words.strip()), "")


def _attributes_of(item: h5py.Group) -> Iterator[str]:
    """Every text of the attributes of a log or of `data` that says what to do."""
    for name in _WORDS:
        if (words := attribute_text(item, name)) is not None:
            yield words
    if isinstance(words := attribute(item, _PERHAPS), str):
        yield words
    for name in _JSON:
        if (text := attribute_text(item, name)) is not None:
            yield from _inside(item, name, text)


def _inside(item: h5py.Group, attribute_name: str, text: str) -> Iterator[str]:
    """The words in an attribute that is JSON; empty ones say nothing there."""
    try:
        value = parse_json(text, "")
    except ValueError:
        return
    for key in _WORDS if isinstance(value, dict) else ():
        words = value.get(key)
        if words is None or words == "":
            continue
        if not isinstance(words, str):
            raise ValueError(
                f"{place(item)}: {key} of {attribute_name} is {words!r}, where text is expected."
            )
        yield words.strip('"')


def _arrays_of(demo: h5py.Group) -> Iterator[str]:
    """The words that stand in a log as a dataset: one text, or the same one at every step."""
    for name in (*_WORDS, _PERHAPS):
        found = member(demo, name) if has(demo, name) else None
        if not isinstance(found, h5py.Dataset) or kind_of(found) != "text":
            continue
        told = {str(words) for words in np.ravel(read_rows(found)).tolist()}
        if len(told) > 1:
            raise ValueError(
                f"{place(found)}: {len(told)} different texts, where a log has one instruction; "
                "cut the log where its task changes, or say one (attribute lang)."
            )
        yield from told


def _environments(env_args: Mapping[str, Any]) -> Iterator[str]:
    inside = env_args.get("env_kwargs") or {}
    for name in ENV_WORDS:
        for entries in (env_args, inside):
            if isinstance(entries.get(name), str):
                yield entries[name]
