"""Word lists: the one that is shipped, or any text file with one word of five letters a line."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sim.games.text_lines import lines_of

LETTERS = 5
OWN_LIST = Path(__file__).with_name("words.txt")
_WORD = re.compile(f"[a-z]{{{LETTERS}}}")


def read_words(path: str | None) -> tuple[str, ...]:
    """The words of a file, in its order; the shipped ones for None. OSError where it can't be read,
    ValueError, naming the line, on anything but different words of five letters a to z."""
    file = OWN_LIST if path is None else Path(path).expanduser()
    lines = lines_of(file, "one word a line")
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        word = line.strip()
        if not word:
            continue
        if not _WORD.fullmatch(word):
            raise ValueError(
                f"{file}: line {number} is {word[:40]!r}; a word list has one word of {LETTERS} "
                "letters a to z a line, in small letters."
            )
        if word in first_line:
            raise ValueError(
                f"{file}: line {number} has {word!r} again, which stands in line "
                f"{first_line[word]}: leave one out (it would be hidden twice as often)."
            )
        first_line[word] = number
    if len(first_line) < 2:
        raise ValueError(f"{file}: {len(first_line)} words; a game needs at least 2, one a line.")
    return tuple(first_line)


def fingerprint(words: tuple[str, ...]) -> str:
    """SHA-256 of a list, by which logs tell which words they were played with."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()
