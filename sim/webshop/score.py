"""The score of a purchase, as WebShop (arXiv 2207.01206) defines it: type, attributes, options and
price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sim.webshop.products import Goal, Product
from sim.webshop.words import content_words, token_set_ratio

# Texts that are more alike than this are one attribute or option.
_ALIKE = 85
# Options that have to be equal, not alike: 6 is not 16.
_EXACT = ("size",)


class Score(NamedTuple):
    """`total` = type * (attributes + options + price) / (their number wanted, and 1)."""

    total: float
    type: float  # 0, .1, .5 or 1
    attributes: int  # of those that the goal has
    options: int
    price: bool


def score(product: Product, chosen: Mapping[str, str], goal: Goal) -> Score:
    """What buying a product with the options chosen (name -> value) is worth, in [0, 1]."""
    kind = type_score(product, goal.product)
    attributes = sum(_has_attribute(product, each) for each in goal.attributes)
    options = sum(_is_wanted(name, value, product, goal) for name, value in chosen.items())
    options = min(options, len(goal.options))  # one more than was wanted makes up for nothing
    price = goal.price_limit is None or product.price <= goal.price_limit
    wanted = len(goal.attributes) + len(goal.options) + 1
    return Score(kind * (attributes + options + price) / wanted, kind, attributes, options, price)


def type_score(product: Product, wanted: Product) -> float:
    """1 where search, two categories or a fifth of the title's words agree, else .5; .1 with less
    than a tenth of the words, 0 with none of them. (The paper counts nouns, which takes a tagger;
    here all words that may tell a product.)"""
    ours, theirs = set(content_words(product.title)), set(content_words(wanted.title))
    shared = len(ours & theirs) / len(theirs) if theirs else 0.2
    if shared == 0:
        return 0.0
    if shared < 0.1:
        return 0.1
    same = product.query == wanted.query or len(_path(product) & _path(wanted)) >= 2
    return 1.0 if same or shared > 0.2 else 0.5


def _path(product: Product) -> set[str]:
    return {part.strip() for part in product.category.split("›") if part.strip()}


def _has_attribute(product: Product, attribute: str) -> bool:
    alike = any(token_set_ratio(each, attribute) > _ALIKE for each in product.attributes)
    return alike or attribute.lower() in product.told


def _is_wanted(name: str, value: str, product: Product, goal: Goal) -> bool:
    if name.lower() in _EXACT:
        found = value in goal.options
    else:
        found = any(token_set_ratio(each, value) > _ALIKE for each in goal.options)
    return found or (bool(goal.options) and value in product.told)
