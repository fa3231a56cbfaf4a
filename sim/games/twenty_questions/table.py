"""Tables of answers: objects x questions, from the shipped file, a .csv or a .npz."""

from __future__ import annotations

import csv
import hashlib
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.games.text_lines import lines_of

OWN_TABLE = Path(__file__).with_name("table.csv")
# Names that the arrays of a .npz may have.
_ARRAYS = {
    "objects": ("objects", "stimuli"),
    "questions": ("questions", "features"),
    "answers": ("answers", "vectors"),
}
NO, YES, UNSURE = range(3)
# What a guess begins with; no question may.
GUESS = "guess"


@dataclass(frozen=True)
class AnswerTable:
    """Who is who: `answers[object, question]` is NO, YES or UNSURE."""

    objects: tuple[str, ...]
    questions: tuple[str, ...]
    answers: np.ndarray  # uint8

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names and answers, by which logs tell which table they were played with."""
        names = "\n".join([*self.objects, "", *self.questions])
        return hashlib.sha256(names.encode() + self.answers.tobytes()).hexdigest()


def plain(text: str) -> str:
    """A name or question as it is said: small letters and digits, single spaces."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def read_table(path: str | None) -> AnswerTable:
    """The table of a file; the shipped one for None. Answers are 1 (no) to 5 (yes), people's mean
    rounded: 4 and 5 are YES, 3 is UNSURE. Columns of a .npz whose names end in no question mark
    are no questions. OSError where it can't be read, ValueError on what is no such table."""
    file = OWN_TABLE if path is None else Path(path).expanduser()
    names, questions, answers = _read_npz(file) if file.suffix == ".npz" else _read_csv(file)
    wanted = (len(names), len(questions))
    if answers.shape != wanted:
        raise ValueError(
            f"{file}: answers of shape {list(answers.shape)} for {wanted[0]} objects and "
            f"{wanted[1]} questions."
        )
    if answers.dtype.kind not in "iuf" or not np.isin(answers, (1, 2, 3, 4, 5)).all():
        raise ValueError(f"{file}: answers are whole numbers 1 (no) to 5 (yes); some are others.")
    for kind, said in (("object", names), ("question", questions)):
        if len(said) < 2:
            raise ValueError(f"{file}: {len(said)} {kind}s; a game needs at least 2.")
        seen: dict[str, str] = {}
        for name in said:
            word = plain(name)
            if not word or word.split()[0] == GUESS:
                raise ValueError(
                    f"{file}: the {kind} {name!r} has no words a to z, or begins with {GUESS!r}."
                )
            if word in seen:
                raise ValueError(f"{file}: the {kind}s {seen[word]!r} and {name!r} are one.")
            seen[word] = name
    codes = np.where(answers >= 4, YES, np.where(answers == 3, UNSURE, NO)).astype(np.uint8)
    return AnswerTable(tuple(map(plain, names)), tuple(map(plain, questions)), codes)


def read_names(path: str, table: AnswerTable) -> np.ndarray:
    """Numbers of the objects that a text file names, one a line; ValueError names a line that is no
    object of the table, or stands twice."""
    file = Path(path).expanduser()
    number = {name: i for i, name in enumerate(table.objects)}
    found: dict[int, int] = {}
    for line, text in enumerate(lines_of(file, "one object a line"), 1):
        name = plain(text)
        if not name:
            continue
        if name not in number or number[name] in found:
            again = "stands there twice" if name in number else "is no object of the table"
            raise ValueError(f"{file}: line {line}: {text.strip()!r} {again}.")
        found[number[name]] = line
    if len(found) < 2:
        raise ValueError(f"{file}: {len(found)} objects; a game needs at least 2, one a line.")
    return np.array(sorted(found))


def _read_csv(file: Path) -> tuple[Sequence[str], Sequence[str], np.ndarray]:
    rows = [row for row in csv.reader(lines_of(file, "a table of answers")) if row]
    if len(rows) < 2 or len(rows[0]) < 2:
        raise ValueError(
            f"{file}: a table has a line of questions and a line an object, comma-separated: its "
            "name, then an answer 1 (no) to 5 (yes) a question."
        )
    answers = []
    for row in rows[1:]:
        if len(row) != len(rows[0]) or not all(x.strip().isdigit() for x in row[1:]):
            raise ValueError(
                f"{file}: the line of {row[0]!r} has {len(row) - 1} answers, of which some are no "
                f"numbers or missing; the first line has {len(rows[0]) - 1} questions."
            )
        answers.append([int(x) for x in row[1:]])
    return [row[0] for row in rows[1:]], rows[0][1:], np.array(answers)


def _read_npz(file: Path) -> tuple[Sequence[str], Sequence[str], np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {
                kind: next((arrays[name] for name in names if name in arrays), None)
                for kind, names in _ARRAYS.items()
            }
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: no .npz of plain arrays ({reason}).") from error
    for kind, array in found.items():
        if array is None:
            names = " or ".join(_ARRAYS[kind])
            raise ValueError(f"{file}: no array {names}: a table has objects, questions, answers.")
    objects, questions, answers = (found[kind] for kind in _ARRAYS)
    assert objects is not None and questions is not None and answers is not None  # noqa: PT018
    for kind, array in (("objects", objects), ("questions", questions)):
        if array.ndim != 1 or array.dtype.kind != "U":
            raise ValueError(
                f"{file}: {kind} are {array.dtype} of shape {list(array.shape)}, "
                "where a row of texts is expected."
            )
    if answers.ndim != 2 or answers.shape[1] != len(questions):
        raise ValueError(
            f"{file}: answers of shape {list(answers.shape)} for {len(objects)} objects and "
            f"{len(questions)} questions."
        )
    asked = np.array([text.rstrip().endswith("?") for text in questions], bool)
    return objects.tolist(), questions[asked].tolist(), answers[:, asked]
