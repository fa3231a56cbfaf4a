"""Words of shops: what a text is about, how alike texts are, and the price that a goal names."""

from __future__ import annotations

import re
from functools import lru_cache

# Words that say nothing of a product, in goals and in titles.
_EMPTY_WORDS = (
    "a about all also am an and any are as at be both buy by can could do each fit find for "
    "from get give go had has have he help her here hers him his how i if im in into is it "
    "its just like ll look looking lower made may me more must my need needs new no not of "
    "off on one only or our out please price prefer s set she should show so some something t "
    "than that the their them then there these they thing this to under up us ve very want "
    "was we were what which who with would you your dollar dollars less cheaper below "
)
_EMPTY = frozenset(_EMPTY_WORDS.split())
_PRICE = re.compile(
    r"\b(?:(?:lower|less|cheaper)\s+than|under|below)\s+\$?\s?(\d{1,6}(?:\.\d{1,2})?)\b(?![\w-])"
    r"(?:\s*(?:dollars?|usd)\b)?",
    re.IGNORECASE,
)


@lru_cache(maxsize=50_000)
def words_of(text: str) -> tuple[str, ...]:
    """Words and numbers of a text, folded, without the s of a plural, in order."""
    found = re.findall(r"[a-z]+|\d+(?:\.\d+)?", text.lower())
    return tuple(_singular(word) for word in found)


@lru_cache(maxsize=50_000)
def content_words(text: str) -> tuple[str, ...]:
    """Those of its words that may tell a product, each once."""
    return tuple(dict.fromkeys(word for word in words_of(text) if word not in _EMPTY))


def price_limit(instruction: str) -> float | None:
    """The price that a goal wants to stay below, in dollars; None where it names none."""
    found = _PRICE.findall(instruction)
    return float(found[-1]) if found else None


def without_price(instruction: str) -> str:
    """A goal's text without its words on the price."""
    return _PRICE.sub(" ", instruction)


def own_words(instruction: str) -> tuple[str, ...]:
    """The words of a goal to search for; all of them where none tells a product."""
    return content_words(without_price(instruction)) or words_of(instruction)


@lru_cache(maxsize=100_000)
def token_set_ratio(one: str, other: str) -> int:
    """How alike two texts are as sets of words, 0 to 100: the best of comparing the shared words
    with either text and the two with each other, where two strings score twice their longest common
    subsequence over their lengths (what the packages of this name compute)."""
    left, right = (set(re.findall(r"\w+", text.lower())) for text in (one, other))
    if not left or not right:
        return 0
    shared = " ".join(sorted(left & right))
    whole = [
        " ".join(filter(None, (shared, " ".join(sorted(rest)))))
        for rest in (left - right, right - left)
    ]
    if shared and shared in whole:
        return 100
    pairs = [(shared, whole[0]), (shared, whole[1])] if shared else []
    return round(100 * max(_ratio(a, b) for a, b in [*pairs, (whole[0], whole[1])]))


def _ratio(one: str, other: str) -> float:
    row = [0] * (len(other) + 1)
    for x in one:
        before = 0
        for i, y in enumerate(other, 1):
            before, row[i] = row[i], before + 1 if x == y else max(row[i], row[i - 1])
    return 2 * row[-1] / (len(one) + len(other))


def _singular(word: str) -> str:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if plural else word
