"""The error for a name that does not exist, with the nearest that does."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: what was asked, the nearest, and all there are."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {name!r}.{guess} There are: {', '.join(names)}.")


def no_such(what: str, name: str, there: Iterable[str]) -> str:
    """One sentence for a name that is not there: the nearest names, then all."""
    there = sorted(there)
    near = get_close_matches(name, there, n=3, cutoff=0.5)
    near = near or [x for x in there if name in x or x in name]
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"no {what} '{name}'.{guess} There are: {', '.join(there) or 'none'}."
