"""Lines of the text files that games are given: words, names, answers, positions."""

from __future__ import annotations

from pathlib import Path


def lines_of(file: Path, wanted: str) -> list[str]:
    """The lines of a UTF-8 file. OSError where it can't be read, ValueError, with what is `wanted`
    of it, where it is no text."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: not a text file (byte {error.start} is no UTF-8); give {wanted}."
        ) from error
