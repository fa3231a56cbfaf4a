"""Words of the command line to settings, and what the parser has to say of them as plain text."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

import tyro

from qsft_robot.printed_text import printable


def parsed(target: Callable[..., Any], words: Sequence[str], prog: str, **options: Any) -> Any:
    """`tyro.cli`: `target` called with what the words say. The parser's errors repeat the words,
    in which control characters are shown, not sent to the terminal."""
    stderr, said = sys.stderr, StringIO()
    run = target
    if not isinstance(target, type):  # a verb works for long, and has a say of its own

        @functools.wraps(target)
        def run(*args: Any, **kwargs: Any) -> Any:
            sys.stderr = stderr
            return target(*args, **kwargs)

    sys.stderr = said
    try:
        return tyro.cli(run, args=list(words), prog=prog, **options)
    finally:
        sys.stderr = stderr
        if text := said.getvalue():
            print(printable(text, keep="\n"), file=stderr, end="", flush=True)
