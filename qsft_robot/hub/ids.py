"""Hub ids: owner/name or owner/name@revision in a folder's place, where nothing is on disk."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

# Where commands write by default: a mistyped run must not open a stranger's policy.
_OURS = "runs"
_PART = r"[A-Za-z0-9_][\w.-]*"
_FORM = re.compile(rf"({_PART})/({_PART})(?:@([\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class HubId:
    """A repository of the Hub, at a branch, tag or commit; None is its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def file_name(self) -> str:
        """The id as one part of a path."""
        return str(self).replace("/", "--")


def parse_hub_id(text: str) -> HubId:
    """The id that a text is; ValueError says what one looks like."""
    found = _FORM.fullmatch(text)
    if found is None or re.search(r"--|\.\.|[.-](/|@|$)|\.git(@|$)", text.partition("@")[0]):
        raise ValueError(
            f"{text}: no such folder, and no id of a Hub repository either, which is owner/name or "
            "owner/name@revision: letters, digits, '-', '_' and '.', no '--' or '..', no '.git'."
        )
    return HubId(f"{found[1]}/{found[2]}", found[3])


def hub_id(path: str | Path) -> HubId | None:
    """The Hub id that a path is, None where it is a path: something is there, it has another form,
    or its first part is a folder here or `runs`, so that it is a mistyped path. A revision says
    that an id is meant. ValueError on a name of the form that no repository can have."""
    text = os.fspath(path)
    found = _FORM.fullmatch(text)
    if found is None or os.path.lexists(text):
        return None
    if found[3] is None and (found[1] == _OURS or os.path.isdir(found[1])):
        return None
    return parse_hub_id(text)


def mistaken_owner(path: str | Path) -> str | None:
    """The folder here that keeps a path of the form of an id, at which nothing is, from being
    looked up on the Hub; None where there is no such folder, or it is `runs`."""
    text = os.fspath(path)
    found = _FORM.fullmatch(text)
    if found is None or found[3] is not None or os.path.lexists(text) or found[1] == _OURS:
        return None
    return found[1] if os.path.isdir(found[1]) else None
