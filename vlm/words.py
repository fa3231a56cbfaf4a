"""Instructions as word ids: no vocabulary file, no network, the same ids on every machine."""

from __future__ import annotations

import re
import zlib

import numpy as np

_WORD = re.compile(r"[a-z0-9']+")


def hash_words(instruction: str, length: int = 16, buckets: int = 4096) -> np.ndarray:
    """Word ids of an instruction, int64 [l]: crc32 of each lower-cased word, modulo the buckets.

    Punctuation separates words. 0 is padding, so ids of words lie in 1 ... buckets - 1. An empty
    instruction is all padding. ValueError where the instruction has more than `length` words.
    """
    words = _words(instruction)
    if len(words) > length:
        raise ValueError(
            f"the instruction {instruction!r} has {len(words)} words and the model reads {length}: "
            "shorten it. A model reads as many words as the longest instruction of its logs has, "
            "and 16 at least."
        )
    return _padded(words, length, buckets)


def count_words(instruction: str) -> int:
    """Words of an instruction as `hash_words` takes them apart."""
    return len(_words(instruction))


def hash_text(text: str, length: int, buckets: int) -> np.ndarray:
    """Word ids of a text, int64 [l], as `hash_words`, but cut to its first `length` words."""
    return _padded(_words(text)[:length], length, buckets)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _padded(words: list[str], length: int, buckets: int) -> np.ndarray:
    ids = np.zeros(length, np.int64)
    ids[: len(words)] = [1 + zlib.crc32(word.encode()) % (buckets - 1) for word in words]
    return ids
