"""The embedded shop: products with options and near-duplicates, and goals that don't name what they
want, made from catalogue.json by a fixed seed."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sim.webshop.products import Goal, Product, Shop, split_goals

CATALOGUE = Path(__file__).with_name("catalogue.json")
_SEED = 7
# Of each category: families of products that share maker, name and description, and the members of
# a family, which differ in attributes, options and price.
_FAMILIES, _MEMBERS = 6, 8
_GOALS, _TEST, _EVAL = 2400, 400, 400


@lru_cache(maxsize=1)  # environments of one process share it
def own_shop() -> Shop:
    """The shop; the same on every machine."""
    told = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    rng = np.random.default_rng(_SEED)
    products = [
        product
        for number, name in enumerate(told["categories"])
        for product in _category(told, name, number, rng)
    ]
    goals: list[Goal] = []
    while len(goals) < _GOALS:
        goals.append(_goal(told, products[int(rng.integers(len(products)))], rng))
    return Shop("embedded", tuple(products), split_goals(goals, _TEST, _EVAL))


def _category(told: Any, name: str, number: int, rng: np.random.Generator) -> list[Product]:
    kind = told["categories"][name]
    found = []
    for family in range(_FAMILIES):
        brand = str(rng.choice(told["brands"]))
        noun = kind["names"][family % len(kind["names"])]
        base = [str(x) for x in rng.choice(kind["attributes"], 4, replace=False)]
        low, high = kind["prices"]
        price = float(rng.uniform(low, high))
        for member in range(_MEMBERS):
            # One of the four attributes is another one, which the title may or may not say.
            others = [x for x in kind["attributes"] if x not in base]
            own = list(base)
            if member:
                own[int(rng.integers(4))] = str(rng.choice(others))
            shown = [own[i] for i in sorted(rng.choice(4, 2, replace=False))]
            options = {
                option: tuple(x for x in values if len(values) < 3 or rng.random() < 0.75)
                for option, values in kind["options"].items()
            }
            if name not in told["uncolored"]:
                options["color"] = tuple(
                    str(x) for x in rng.choice(told["colors"], 4, replace=False)
                )
            found.append(
                Product(
                    asin=f"b{number:02d}{family:02d}{member:02d}{int(rng.integers(1000)):03d}",
                    title=f"{brand} {noun} {' '.join(shown)}",
                    query=name,
                    category=f"{told['departments'][kind['department']]} › {name.title()}",
                    price=round(price * float(rng.uniform(0.8, 1.25)), 2),
                    attributes=tuple(own),
                    features=tuple(f"{x}: this {noun} is {x}." for x in own),
                    description=f"a {noun} by {brand} for every day.",
                    options={option: values for option, values in options.items() if values},
                )
            )
    return found


def _goal(told: Any, product: Product, rng: np.random.Generator) -> Goal:
    """A goal that a product fulfills: its type by what it is for, two or three of its attributes,
    most of them by other words, a value of each option, a price."""
    attributes = [
        str(x) for x in rng.choice(product.attributes, 2 + int(rng.random() < 0.5), False)
    ]
    said = [x if rng.random() < 0.2 else str(rng.choice(told["attributes"][x])) for x in attributes]
    chosen = {name: str(rng.choice(values)) for name, values in product.options.items()}
    # One of the next four tens above the price, as the paper draws it.
    limit = 10.0 * (int(product.price // 10) + 1 + int(rng.integers(1, 4)))
    need = str(rng.choice(told["categories"][product.query]["needs"]))
    wanted = ", ".join([need, *said, *(f"{name}: {value}" for name, value in chosen.items())])
    return Goal(
        product,
        f"{wanted}, and price lower than {limit:.2f} dollars",
        tuple(attributes),
        tuple(chosen.values()),
        limit,
    )
