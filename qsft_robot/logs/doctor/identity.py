"""Checks of what a log is: refused by the reader, recorded twice, without a real instruction."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict

import numpy as np

from qsft_robot.logs.doctor.finding import Finding, whole
from qsft_robot.logs.doctor.log import Log, LogSet

# What people type where they have to type something.
_PLACEHOLDERS = {
    "asdf", "asdfasdf", "qwerty", "test", "tests", "testing", "test task", "todo", "to do", "tbd",
    "tba", "na", "n a", "none", "null", "nan", "nil", "undefined", "unknown", "untitled", "task",
    "task name", "my task", "placeholder", "instruction", "description", "default", "dummy", "foo",
    "bar", "foobar", "foo bar", "hello", "hello world", "xxx", "abc", "aaa", "temp", "tmp",
    "new task", "lorem ipsum", "episode", "demo", "debug", "string", "text", "fill me", "fixme",
}  # fmt: skip
# Rows of a keyboard, and how much of one nobody means as a word ("were" and "poi" are some).
_KEYS, _RUN = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "azertyuiop"), 5
# Steps that two logs share only where they are one recording.
_SAME_STEPS = 5


def refused(logs: LogSet) -> list[Finding]:
    """The reader refuses the log: NaN, unequal lengths, missing keys and the like."""
    return [Finding("refused", "error", x.refusal, whole([x.name])) for x in logs.logs if x.refusal]


def duplicated_log(logs: LogSet) -> list[Finding]:
    """Logs of the same states, actions and words, to the bit."""
    groups: dict[str, list[str]] = defaultdict(list)
    for log in logs.readable:
        # Commands are few: the same ones are given again in the same game, of another seed or not.
        if len(log) >= _SAME_STEPS and not (log.has_commands and not log.state):
            groups[_digest(log)].append(log.name)
    found = []
    twins = [names for names in groups.values() if len(names) > 1]
    if twins:
        pairs = "; ".join(" = ".join(names[:4]) for names in twins[:4])
        more = f"; and {len(twins) - 4} more" if len(twins) > 4 else ""
        message = f"the same recording more than once ({pairs}{more}). Leave the copies out."
        copies = whole(name for names in twins for name in names[1:])
        found.append(Finding("duplicated-log", "warning", message, copies))
    return found


def _digest(log: Log) -> str:
    told = hashlib.blake2b(digest_size=16)
    for key in sorted(log.state):
        told.update(key.encode() + np.ascontiguousarray(log.state[key]).tobytes())
    told.update(np.ascontiguousarray(log.actions).tobytes() + log.words.encode())
    if not log.state:  # images are all there is
        for camera in sorted(log.frames):
            told.update(camera.encode() + log.frames[camera].hashes.tobytes())
    return told.hexdigest()


def junk_instruction(logs: LogSet) -> list[Finding]:
    """An instruction is empty where others are not, a placeholder, or no words."""
    there = logs.readable
    some = logs.wants_instructions or any(log.instruction.strip() for log in there)
    empty = whole(x.name for x in there if some and not x.instruction.strip())
    junk = whole(x.name for x in there if x.instruction.strip() and is_junk(x.instruction))
    found = []
    if empty:
        message = "no instruction. Say what was asked for (attribute lang, or --task at import)."
        found.append(Finding("junk-instruction", "warning", message, empty))
    if junk:
        texts = sorted({x.instruction for x in there if x.name in junk})
        listed = ", ".join(repr(text[:40]) for text in texts[:4])
        message = f"{listed}: a placeholder, or no words."
        found.append(Finding("junk-instruction", "warning", message, junk))
    return found


def is_junk(text: str) -> bool:
    """Whether an instruction is a placeholder or holds no words, in any script."""
    if any(unicodedata.category(c) in ("Cc", "Co", "Cn") and c not in "\t\n\r" for c in text):
        return True
    if "\ufffd" in text:
        return True
    words = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFKC", text).lower())
    letters = "".join(words)
    if not letters:
        return True
    if " ".join(words) in _PLACEHOLDERS or re.fullmatch(r"\s*(<[^<>\s]+>\s*)+", text):
        return True
    if len(words) == 1 and len(letters) >= _RUN and any(letters in row for row in _KEYS):
        return True
    # One letter again and again, or a single letter of an alphabet; a Chinese word may be one.
    return len(set(letters)) == 1 and letters.isascii()
