"""Pages of a shop: what stands on each, and what can be clicked there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sim.webshop.products import Product

HITS = 10  # on a page of results
BACK, NEXT, PREVIOUS, BUY = "back to search", "next >", "< prev", "buy now"
DETAILS = ("description", "features")
BETWEEN = " [SEP] "  # WebShop's own mark between the texts of a page
# asin: products are clicked by their numbers, as in WebShop; rank: by their places, "item 3".
LINKS = ("asin", "rank")


@dataclass(frozen=True)
class Page:
    """Where a shopper is: a search, its results, a product, or one of a product's details."""

    query: str | None = None  # None: the page of the search bar
    hits: tuple[Product, ...] = ()
    number: int = 1  # of the page of results
    product: Product | None = None
    detail: str | None = None
    chosen: dict[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[Product, ...]:
        """The products of this page of results; none on other pages."""
        if self.query is None or self.product is not None:
            return ()
        return self.hits[HITS * (self.number - 1) : HITS * self.number]

    def links(self, kind: str) -> dict[str, Product]:
        """What is clicked for each product that is shown."""
        names = (p.asin if kind == "asin" else f"item {i}" for i, p in enumerate(self.shown, 1))
        return dict(zip(names, self.shown, strict=True))

    def clickable(self, kind: str) -> tuple[str, ...]:
        """Everything that can be clicked, in the order in which it stands there."""
        if self.query is None:
            return ()
        if self.product is None:
            more = [NEXT] * (len(self.hits) > HITS * self.number)
            return (BACK, *more, *[PREVIOUS] * (self.number > 1), *self.links(kind))
        if self.detail is not None:
            return (BACK, PREVIOUS)
        values = [value for values in self.product.options.values() for value in values]
        return (BACK, PREVIOUS, *dict.fromkeys(values), *DETAILS, BUY)

    def after(self, name: str, kind: str) -> Page:
        """The page behind a clickable name other than BUY."""
        links = self.links(kind)
        if name in links:
            return replace(self, product=links[name], detail=None, chosen={})
        if name == BACK:
            return Page()
        if name in (NEXT, PREVIOUS) and self.product is None:
            return replace(self, number=self.number + (1 if name == NEXT else -1))
        if name == PREVIOUS:
            if self.detail is not None:
                return replace(self, detail=None)
            return replace(self, product=None, chosen={})
        if name in DETAILS:
            return replace(self, detail=name)
        assert self.product is not None
        option = next(o for o, values in self.product.options.items() if name in values)
        return replace(self, chosen={**self.chosen, option: name})

    def text(self, kind: str) -> str:
        """What the page says, without the goal, parts separated by BETWEEN."""
        if self.query is None:
            return BETWEEN.join(("WebShop", "Search"))
        if self.product is None:
            parts = [f"Page {self.number} (Total results: {len(self.hits)})"]
            for name, each in self.links(kind).items():
                parts += [name, each.title, f"${each.price:.2f}"]
            return BETWEEN.join(parts)
        if self.detail is not None:
            told = (
                self.product.features if self.detail == "features" else [self.product.description]
            )
            return BETWEEN.join((self.detail, *told))
        parts = []
        for option, values in self.product.options.items():
            marked = (f"{x} (chosen)" if self.chosen.get(option) == x else x for x in values)
            parts += [option, *marked]
        price = f"Price: ${self.product.price:.2f}"
        return BETWEEN.join((*parts, self.product.title, price, *DETAILS, BUY))
