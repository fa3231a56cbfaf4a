"""Products and goals of a shop."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Product:
    """What a shop sells. `query` and `category` ("Beauty › Skin › Lotion") tell its type."""

    asin: str
    title: str
    query: str
    category: str
    price: float
    attributes: tuple[str, ...]
    features: tuple[str, ...]
    description: str = ""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """All that its pages say, in small letters."""
        return " ".join((self.title, *self.features, self.description)).lower()


@dataclass(frozen=True)
class Goal:
    """What to buy: a product of the type of `product`, with attributes, options and below a price
    (None: any)."""

    product: Product
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    price_limit: float | None


@dataclass(frozen=True)
class Shop:
    """Products, and goals by split."""

    kind: str  # "embedded", or the folder's name
    products: tuple[Product, ...]
    goals: Mapping[str, Sequence[Goal]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that is sold and wanted, by which logs tell where they were made."""
        sold = [f"{p.asin} {p.title} {p.price} {sorted(p.options)}" for p in self.products]
        wanted = [
            f"{name} {g.instruction}" for name in sorted(self.goals) for g in self.goals[name]
        ]
        return hashlib.sha256("\n".join([*sold, *wanted]).encode()).hexdigest()


# Splits of goals, by the first number of a shuffled list on; the rest is `train`.
SPLITS = ("train", "eval", "test")


def split_goals(goals: Sequence[Goal], test: int, validation: int) -> dict[str, Sequence[Goal]]:
    """The first goals as `test`, the next as `eval`, the rest as `train`."""
    return {
        "test": goals[:test],
        "eval": goals[test : test + validation],
        "train": goals[test + validation :],
    }
