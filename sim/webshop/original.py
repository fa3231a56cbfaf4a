"""WebShop's own files: products, their attributes, and the goals that people wrote."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sim.webshop.products import Goal, Product, Shop, split_goals

# What each file is -> the names it may have, the first that is there taken.
FILES = {
    "products": ("items_shuffle_1000.json", "items_shuffle.json"),
    "attributes": ("items_ins_v2_1000.json", "items_ins_v2.json"),
    "goals": ("items_human_ins.json",),
}
# WebShop's own order of goals, and its numbers of goals for testing and for validation.
_SHUFFLE_SEED, _TEST, _EVAL = 233, 500, 1000
_NO_PRICE = 100.0  # what it takes for a product without one


@lru_cache(maxsize=2)  # environments of one process share it
def read_shop(folder: str) -> Shop:
    """The shop of a folder; FileNotFoundError where it lacks a file, ValueError naming file and
    entry where one is no such file."""
    root = Path(folder).expanduser()
    files = {kind: _file(root, kind) for kind in FILES}
    attributes = _json(files["attributes"], dict)
    drawn = random.Random(_SHUFFLE_SEED)
    products: dict[str, Product] = {}
    for number, entry in enumerate(_json(files["products"], list)):
        where = f"{files['products']}: product {number}"
        product = _product(where, entry, attributes, drawn)
        if product is not None and product.asin not in products:
            products[product.asin] = product
    if not products:
        raise ValueError(f"{files['products']}: no product with an asin of ten letters or fewer.")
    goals = []
    for asin, told in _json(files["goals"], dict).items():
        for entry in told if isinstance(told, list) else [told]:
            if asin.lower() in products:
                goal = _goal(f"{files['goals']}: {asin}", entry, products[asin.lower()], drawn)
                goals += [goal] if goal.attributes else []
    if not goals:
        raise ValueError(
            f"{files['goals']}: none of its goals wants a product of {files['products'].name}; "
            "both have to come from the same release."
        )
    random.Random(_SHUFFLE_SEED).shuffle(goals)
    return Shop(root.name, tuple(products.values()), split_goals(goals, _TEST, _EVAL))


def _file(root: Path, kind: str) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no folder; data= takes one with WebShop's files.")
    for name in FILES[kind]:
        if (root / name).is_file():
            return root / name
    missing = [" or ".join(names) for names in FILES.values() if not _any(root, names)]
    raise FileNotFoundError(
        f"{root}: no {', no '.join(missing)}. WebShop's folder holds its products, their "
        "attributes and the goals (the setup.sh of its repository fetches them)."
    )


def _any(root: Path, names: tuple[str, ...]) -> bool:
    return any((root / name).is_file() for name in names)


def _json(file: Path, kind: type) -> Any:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: no JSON ({error}); was it fetched whole?") from error
    if not isinstance(told, kind):
        what = "a list" if kind is list else "an object by asin"
        raise ValueError(f"{file}: {type(told).__name__}, where {what} is expected.")
    return told


def _product(
    where: str, entry: Any, attributes: Mapping[str, Any], drawn: random.Random
) -> Product | None:
    asin = _text(where, entry, "asin")
    if asin == "nan" or len(asin) > 10:  # as WebShop leaves them out
        return None
    features = entry.get("small_description") or []
    own = attributes.get(asin) or {}
    return Product(
        asin=asin.lower(),
        title=_text(where, entry, "name"),
        query=_text(where, entry, "query").lower().strip(),
        category=_text(where, entry, "product_category"),
        price=_price(entry.get("pricing"), drawn),
        attributes=tuple(map(str, own.get("attributes") or ())) if isinstance(own, dict) else (),
        features=tuple(map(str, features if isinstance(features, list) else [features])),
        description=str(entry.get("full_description") or ""),
        options=_options(where, entry.get("customization_options") or {}),
    )


def _text(where: str, entry: Any, key: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
        raise ValueError(f"{where} has no text {key!r}.")
    return entry[key]


def _price(text: Any, drawn: random.Random) -> float:
    """A price of a text such as "$12.99", one of the range for "$10.00 to $20.00"."""
    found = [float(x.replace(",", "")) for x in re.findall(r"\$\s*([\d,]*\d(?:\.\d+)?)", str(text))]
    if not found:
        return _NO_PRICE
    return found[0] if len(found) == 1 else drawn.uniform(*found[:2])


def _options(where: str, told: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(told, dict):
        raise ValueError(f"{where}: 'customization_options' is no object of options.")
    found = {}
    for name, values in told.items():
        if values:
            if not isinstance(values, list) or not all(isinstance(x, dict) for x in values):
                raise ValueError(f"{where}: the option {name!r} is no list of values.")
            said = [str(x.get("value", "")).strip().replace("/", " | ").lower() for x in values]
            found[name.lower()] = tuple(dict.fromkeys(x for x in said if x))
    return found


def _goal(where: str, entry: Any, product: Product, drawn: random.Random) -> Goal:
    instruction = _text(where, entry, "instruction").strip(".")
    attributes = entry.get("instruction_attributes") or []
    options = entry.get("instruction_options") or []
    if isinstance(options, dict):
        options = list(options.values())
    if not isinstance(attributes, list) or not isinstance(options, list):
        raise ValueError(f"{where}: attributes and options of a goal are lists.")
    # The next tens of dollars, up to 990: the larger of two of the first four.
    tens = [10.0 * n for n in range(1, 100) if 10.0 * n > product.price][:4]
    limit = max(drawn.sample(tens, 2)) if len(tens) >= 2 else None
    priced = f", and price lower than {limit:.2f} dollars" if limit else ""
    return Goal(
        product,
        instruction + priced,
        tuple(map(str, attributes)),
        tuple(str(x).lower() for x in options),
        limit,
    )
