"""Shoppers for logs: one that knows what the goal's words mean, and careless ones."""

from __future__ import annotations

import numpy as np

from sim.webshop.env import WebShopEnv
from sim.webshop.pages import BACK, BUY, NEXT
from sim.webshop.products import Product
from sim.webshop.score import score
from sim.webshop.words import content_words, own_words

# name -> what goes wrong, in plain words
FAILURE_MODES: dict[str, str] = {
    "own_words": "searches for the goal's own words, whatever products are called",
    "first_hit": "searches for the goal's own words and takes the first product that comes",
    "cheapest": "takes the cheapest product of the first page",
    "no_options": "finds the product and buys it as it comes, no option chosen",
}
_PAGES = 2  # of results that are looked at


class Shopper:
    """Plays one episode. `noise` is the share of steps at which anything that stands on the page is
    clicked (but for buying)."""

    done = False  # it never ends a log early

    def __init__(
        self, env: WebShopEnv, failure: str | None, noise: float, rng: np.random.Generator
    ) -> None:
        self.env, self.failure, self.noise, self.rng = env, failure, noise, rng
        self._searches = 0

    def act(self) -> str:
        """The next search or click."""
        env = self.env
        if env.page.query is not None and self.rng.random() < self.noise:
            names = [name for name in env.page.clickable(env.links) if name != BUY]
            return _click(names[int(self.rng.integers(len(names)))])
        if env.page.query is None:
            self._searches += 1
            return f"search [ {' '.join(self._keywords())} ]"
        return _click(self._choice())

    def _keywords(self) -> tuple[str, ...]:
        goal = self.env.goal
        own = self.failure in ("own_words", "first_hit")
        if own and self._searches == 1:
            return own_words(goal.instruction)
        told = " ".join((goal.product.query, *(goal.attributes if self._searches < 3 else ())))
        return content_words(told) or own_words(goal.instruction)

    def _choice(self) -> str:
        env, page = self.env, self.env.page
        if page.product is None:
            return self._product()
        if page.detail is not None:
            return BACK if self.rng.random() < 0.1 else "< prev"
        if self.failure != "no_options":
            for name, value in self._options(page.product).items():
                if page.chosen.get(name) != value:
                    return value
        return BUY if BUY in page.clickable(env.links) else BACK

    def _product(self) -> str:
        page = self.env.page
        links = page.links(self.env.links)
        if not links:
            return BACK
        names = list(links)
        if self.failure == "first_hit":
            return names[0]
        if self.failure == "cheapest":
            return min(names, key=lambda name: links[name].price)
        worth = [score(each, self._options(each), self.env.goal).total for each in links.values()]
        clickable = page.clickable(self.env.links)
        if max(worth) < 1.0 and page.number < _PAGES and NEXT in clickable:
            return NEXT
        return names[int(np.argmax(worth))]

    def _options(self, product: Product) -> dict[str, str]:
        """The options that the goal wants and a product has."""
        wanted = self.env.goal.options
        found = {
            name: next((value for value in values if value in wanted), None)
            for name, values in product.options.items()
        }
        return {name: value for name, value in found.items() if value is not None}


def _click(name: str) -> str:
    return f"click [ {name} ]"


def build_expert(
    env: WebShopEnv, failure: str | None, noise: float, rng: np.random.Generator
) -> Shopper:
    """The shopper of the episode that `env` has just started; `noise` in [0, 1] is the share of
    clicks at random."""
    if failure is not None and failure not in FAILURE_MODES:
        raise ValueError(
            f"WebShop has no failure mode {failure!r}; it has: {', '.join(FAILURE_MODES)}."
        )
    if not 0 <= noise <= 1:
        raise ValueError(f"noise {noise} is the share of random clicks; it lies in [0, 1].")
    return Shopper(env, failure, noise, rng)
