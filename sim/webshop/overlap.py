"""How a page agrees with a goal, in numbers, for models that read a text as a bag of words."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from sim.webshop.pages import HITS, Page
from sim.webshop.words import content_words, price_limit, without_price, words_of

# A product of the results: there, share of the goal's words in its title, within the price, seen.
_HIT, _ITEM, _OPTION, _OPTIONS = 4, 4, 2, 20
OVERLAP_SIZE = HITS * _HIT + _ITEM + _OPTION * _OPTIONS


def overlap(page: Page, instruction: str, seen: Collection[str]) -> np.ndarray:
    """Float32 [84], from what the page and the goal say alone: for each of ten results 1 if it is
    there, the share of the goal's words that its title has, 1 if its price is within the goal's, 1
    if it was looked at; the same share of what the page of a product says, 1 if that is such a
    page, 1 if its price will do, the share of options that are chosen; for each of twenty values of
    options 1 if the goal names it, 1 if it is chosen."""
    wanted = set(content_words(without_price(instruction)))
    limit = price_limit(instruction)

    def share(text: str) -> float:
        return len(wanted & set(words_of(text))) / max(1, len(wanted))

    hits = np.zeros((HITS, _HIT), np.float32)
    for i, each in enumerate(page.shown):
        fits = limit is None or each.price <= limit
        hits[i] = 1.0, share(each.title), fits, each.asin in seen
    item, options = np.zeros(_ITEM, np.float32), np.zeros((_OPTIONS, _OPTION), np.float32)
    product = page.product
    if product is not None:
        told = " ".join(product.features) if page.detail == "features" else product.title
        fits = limit is None or product.price <= limit
        item[:] = share(told), 1.0, fits, len(page.chosen) / max(1, len(product.options))
        values = [(name, x) for name, all_of in product.options.items() for x in all_of]
        for i, (name, value) in enumerate(values[:_OPTIONS]):
            options[i] = value in instruction.lower(), page.chosen.get(name) == value
    return np.concatenate([hits.ravel(), item, options.ravel()])
