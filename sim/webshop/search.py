"""The search of a shop: BM25 over titles, features and descriptions."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np

from sim.webshop.products import Product
from sim.webshop.words import content_words, words_of

# The parameters that Lucene's searchers of Pyserini have, as WebShop's own.
_K1, _B = 0.9, 0.4
FOUND = 50  # products a search gives, at most


class Search:
    """An index of products."""

    def __init__(self, products: Sequence[Product]) -> None:
        self._index = bm25s.BM25(k1=_K1, b=_B, method="lucene")
        texts = [
            " ".join((each.told, *(value for values in each.options.values() for value in values)))
            for each in products
        ]
        self._index.index([list(words_of(text)) for text in texts], show_progress=False)

    def __call__(self, keywords: str) -> list[int]:
        """Numbers of the products that fit best, best first, the first of equals before the others;
        none where no product has any of the words."""
        words = list(content_words(keywords)) or list(words_of(keywords))
        if not words:
            return []
        scores = self._index.get_scores(words)
        best = np.argsort(-scores, kind="stable")[:FOUND]
        return [int(i) for i in best if scores[i] > 0]
