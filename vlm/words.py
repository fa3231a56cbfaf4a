"""Instructions as word ids: no vocabulary file, no network, the same ids on every machine."""

from __future__ import annotations

import re
import unicodedata
import zlib
from itertools import zip_longest

import numpy as np

# How a text is taken apart and numbered. A trained model names the scheme that it was trained with.
# 1: words of a-z, 0-9 and apostrophes, one of `buckets` ids each; other letters are left out.
# 2: words of every script, `(buckets - 1) ** 2` ids; see `WordEmbedding`, which reads both.
ASCII_WORDS, UNICODE_WORDS = 1, 2
SCHEMES = (ASCII_WORDS, UNICODE_WORDS)

_ASCII_WORD = re.compile(r"[a-z0-9']+")
# What `split_words` finds in ASCII: words, the minus of a number, and signs.
_WORD = re.compile(r"[a-z0-9']+|(?<![a-z0-9])-(?=[0-9])|[$+<=>^`|~]")
# Scripts that put no space between words; there each character is a word.
_UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)
_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc\u2212", "'''-")


def hash_words(
    instruction: str, length: int = 16, buckets: int = 4096, scheme: int = ASCII_WORDS
) -> np.ndarray:
    """Word ids of an instruction, int64 [l]: crc32 of each word, modulo the ids of the scheme.

    Case and punctuation make no difference. 0 is padding, so ids of words begin with 1. An empty
    instruction is all padding. ValueError where the instruction has more than `length` words.
    """
    words = split_words(instruction, scheme)
    if len(words) > length:
        raise ValueError(
            f"the instruction {instruction!r} has {len(words)} words and the model reads {length}: "
            "shorten it. A model reads as many words as the longest instruction of its logs has, "
            "and 16 at least."
        )
    return _padded(words, length, buckets, scheme)


def count_words(instruction: str, scheme: int = ASCII_WORDS) -> int:
    """Words of an instruction as `hash_words` takes them apart."""
    return len(split_words(instruction, scheme))


def hash_text(text: str, length: int, buckets: int, scheme: int = ASCII_WORDS) -> np.ndarray:
    """Word ids of a text, int64 [l], as `hash_words`, but cut to its first `length` words."""
    return _padded(split_words(text, scheme)[:length], length, buckets, scheme)


def split_words(text: str, scheme: int = UNICODE_WORDS) -> list[str]:
    """The words of a text, folded: those that differ in case or width alone are one word."""
    if scheme == ASCII_WORDS:
        return _ASCII_WORD.findall(text.lower())
    if text.isascii():  # the same words, found faster
        return _WORD.findall(text.lower())
    # Folding may take a composed character apart, and the other way round.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words: list[str] = []
    touches = grows = False  # the last word ends here; the next letter belongs to it
    before = ""
    for character, after in zip_longest(text.translate(_APOSTROPHES), text[1:], fillvalue=""):
        kind = unicodedata.category(character)
        if kind == "Cf":  # joiners and soft hyphens are no part of a word, and end none
            continue
        if kind[0] in "LMN" or character == "'":
            alone = kind[0] != "M" and _is_unspaced(character)
            if (grows and not alone) or (touches and kind[0] == "M"):
                words[-1] += character
            else:
                words.append(character)
            touches, grows = True, not alone and (grows or kind[0] != "M")
        else:
            if kind[0] == "S" or _is_minus(before, character, after):
                words.append(character)
            touches = grows = False
        before = character
    return words


def _is_minus(before: str, character: str, after: str) -> bool:
    """Whether a hyphen makes a number negative; between words it means nothing."""
    return character == "-" and after.isdecimal() and not before.isalnum()


def alike(one: str, other: str) -> bool:
    """Whether two instructions differ at most in case, spaces and punctuation."""
    return _bare(one) == _bare(other)


def _bare(text: str) -> str:
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return "".join(split_words(text)) or folded


def _is_unspaced(character: str) -> bool:
    return not character.isascii() and unicodedata.name(character, "").startswith(_UNSPACED)


def _padded(words: list[str], length: int, buckets: int, scheme: int) -> np.ndarray:
    count = buckets - 1 if scheme == ASCII_WORDS else (buckets - 1) ** 2
    ids = np.zeros(length, np.int64)
    ids[: len(words)] = [1 + zlib.crc32(word.encode()) % count for word in words]
    return ids
