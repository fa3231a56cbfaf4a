"""Text of strangers as it may be printed: control characters shown, never sent to a terminal."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.text import Text

# C0, DEL and C1 (a terminal acts on them), line and paragraph separators, marks that turn the
# direction of writing (text could look like other text), and surrogates (bytes of a file name that
# are no UTF-8, which can't be printed at all).
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
# Longest error in characters: a name in a file may have 64 KiB.
_LONGEST = 4000


def printable(text: object, keep: str = "") -> str:
    r"""`text` with every control character as its escape (ESC becomes \x1b), but for those in
    `keep`; words of any language stay as they are."""

    def shown(found: re.Match[str]) -> str:
        return found[0] if found[0] in keep else found[0].encode("unicode_escape").decode()

    return _UNPRINTABLE.sub(shown, str(text))


def one_line(text: object) -> str:
    """`text` for an error or a note: its lines joined, printable, the middle of a very long one
    left out."""
    line = printable(re.sub(r"\s*[\r\n]+\s*", " ", str(text).strip()))
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST * 3 // 4]} [...] {line[-_LONGEST // 4 :]}"
    return line


def command(*words: object) -> str:
    """A command of ours to copy into a shell: by the path of the program where no search path
    leads to it, words that a shell would split or read quoted."""
    program = "qsft-robot"
    if shutil.which(program) is None:
        here = Path(sys.argv[0]).name == program
        program = sys.argv[0] if here else f"{shlex.quote(sys.executable)} -m qsft_robot.cli"
    return printable(f"{program} {shlex.join(map(str, words))}")


def cell(text: object, style: str = "") -> Text:
    """`text` for a table or a title of rich: neither markup nor emoji codes are read in it."""
    from rich.text import Text

    return Text(printable(text, keep="\n"), style)


class PrintableLines(logging.Formatter):
    """Lines of a log in which what clients sent is shown, not obeyed; a traceback keeps its
    lines."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


def say(text: object, file: TextIO | None = None, end: str = "\n") -> None:
    """Print `text`, of as many lines as it has, at once."""
    print(printable(text, keep="\n"), file=file or sys.stdout, end=end, flush=True)
