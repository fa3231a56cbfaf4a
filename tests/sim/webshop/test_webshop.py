"""WebShop: the score, the embedded shop, pages, shoppers, and folders of the original files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("bm25s", reason="bm25s is not installed: pip install 'qsft-robot[webshop]'")

from qsft_robot.parts.simulators import build_env, build_expert
from sim.webshop.env import WebShopEnv
from sim.webshop.expert import FAILURE_MODES
from sim.webshop.own_shop import CATALOGUE, own_shop
from sim.webshop.products import Goal, Product
from sim.webshop.score import score, type_score
from sim.webshop.words import (
    content_words,
    price_limit,
    token_set_ratio,
    without_price,
    words_of,
)

SHOP = own_shop()
TOLD = json.loads(CATALOGUE.read_text())
SOAP = Product(
    "b1", "Lumo Soap Bar", "soap", "Beauty › Bath › Soaps", 12.0, ("tea tree", "vegan"),
    ("made with essential oils",), "", {"size": ("3 oz", "13 oz"), "scent": ("mint leaf", "rose")},
)  # fmt: skip
GOAL = Goal(SOAP, "soap", ("tea tree", "essential oils"), ("3 oz", "mint leaf"), 20.0)


def changed(product, **changes):
    return Product(**{**product.__dict__, **changes})


@pytest.mark.parametrize(
    ("product", "chosen", "total"),
    [
        (SOAP, {"size": "3 oz", "scent": "mint leaf"}, 1.0),
        (SOAP, {"size": "3 oz"}, 4 / 5),
        (SOAP, {"size": "13 oz", "scent": "mint leaf"}, 4 / 5),  # sizes are equal or they are not
        (SOAP, {"size": "3 oz", "scent": "leaf mint"}, 1.0),  # others alike
        (changed(SOAP, price=20.01), {"size": "3 oz", "scent": "mint leaf"}, 4 / 5),
        (changed(SOAP, attributes=()), {"size": "3 oz", "scent": "mint leaf"}, 4 / 5),
        (changed(SOAP, attributes=("tea trees",)), {}, 3 / 5),  # alike, the other in its features
        # Another type: half of what there is, where a word of the title in ten agrees; else none.
        (changed(SOAP, query="pan", category="x", title="Lumo"), {}, 3 / 5),
        (changed(SOAP, query="pan", category="x", title="Frying Pan"), {}, 0.0),
    ],
)
def test_the_score_counts_type_attributes_options_and_price(product, chosen, total):
    assert score(product, chosen, GOAL).total == pytest.approx(total)


def test_the_type_is_told_by_search_two_categories_or_the_title():
    wanted = changed(SOAP, title="alpha beta gamma delta epsilon soap", category="a › b")
    bought = changed(SOAP, title="alpha", query="other", category="b › c")
    assert type_score(bought, wanted) == 0.5  # one word of six
    assert type_score(changed(bought, title="alpha soap"), wanted) == 1.0
    assert type_score(changed(bought, category="b › a"), wanted) == 1.0
    assert type_score(changed(bought, query="soap"), wanted) == 1.0
    eleven = " ".join(f"word{letter}" for letter in "abcdefghijk")
    assert type_score(bought, changed(wanted, title=f"alpha {eleven}")) == 0.1
    assert type_score(changed(bought, title="other"), wanted) == 0.0


@given(st.text("ab c", max_size=12), st.text("ab c", max_size=12))
def test_texts_are_alike_as_sets_of_words(one, other):
    ratio = token_set_ratio(one, other)
    assert 0 <= ratio <= 100
    assert ratio == token_set_ratio(other, one)
    if set(one.split()) & set(other.split()) and set(one.split()) <= set(other.split()):
        assert ratio == 100


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    # Values of the published definition, computed by hand from common subsequences.
    [("essential oils", "essential oil", 96), ("fuzzy was a bear", "fuzzy bear", 100),
     ("red", "blue", 29), ("", "red", 0)],
)  # fmt: skip
def test_the_ratio_of_known_texts(one, other, ratio):
    assert token_set_ratio(one, other) == ratio


@pytest.mark.parametrize(
    ("text", "limit", "left"),
    [
        ("a red hat, and price lower than 40.00 dollars", 40.0, ("red", "hat")),
        ("hats under $12", 12.0, ("hat",)),
        ("i need a size 8 hat less than 25.50 dollars please", 25.5, ("size", "8", "hat")),
        ("a 7.5 wide shoe", None, ("7.5", "wide", "shoe")),
        ("a wireless mini 1080p camera", None, ("wireless", "mini", "1080", "p", "camera")),
        ("a bezel-less 43-inch tv", None, ("bezel", "43", "inch", "tv")),
        ("shoes under 3-inch heels", None, ("shoe", "3", "inch", "heel")),
    ],
)
def test_a_goal_is_read_as_words_and_a_price(text, limit, left):
    assert price_limit(text) == limit
    assert content_words(without_price(text)) == left


def test_no_goal_of_the_embedded_shop_names_what_it_wants():
    for kind in TOLD["categories"].values():
        named = {word for name in kind["names"] for word in words_of(name)}
        assert not named & {word for need in kind["needs"] for word in words_of(need)}
        assert set(kind["attributes"]) <= set(TOLD["attributes"])
    goals = [goal for split in SHOP.goals.values() for goal in split]
    assert len({goal.instruction for goal in goals}) > 0.99 * len(goals)
    for goal in goals:  # and each can be fulfilled, under its price
        chosen = {
            name: next(x for x in values if x in goal.options)
            for name, values in goal.product.options.items()
        }
        assert score(goal.product, chosen, goal).total == 1.0
        assert price_limit(goal.instruction) == goal.price_limit


def shop(env, failure, noise, seed):
    said, info = env.reset(seed=seed)
    actor = build_expert(env, failure, noise, np.random.default_rng([seed, 1]))
    rewards, over, done = [], False, []
    while not over:
        done.append(actor.act())
        assert done[-1] in said["admissible_commands"].split("\n") or done[-1].startswith("search")
        said, reward, ended, cut, info = env.step(done[-1])
        rewards.append(reward)
        over = ended or cut
        assert not info["invalid_command"]
    return rewards, done, info


def test_the_first_hit_succeeds_in_less_than_a_third_and_knowing_the_words_in_most():
    env = build_env({"env_name": "webshop", "env_kwargs": {"split": "test"}})
    found = {
        mode: [shop(env, mode, 0.0, seed) for seed in range(150)]
        for mode in (None, "first_hit", "no_options")
    }
    won = {
        mode: np.mean([info["success"] for *_, info in all_of]) for mode, all_of in found.items()
    }
    assert won["first_hit"] < 1 / 3
    assert won[None] > 0.8
    assert won["no_options"] == 0
    for rewards, _, info in found[None]:
        assert sum(rewards) == rewards[-1] == info["score"]["total"] <= 1
        assert info["success"] == (rewards[-1] == 1)


@pytest.mark.parametrize("links", ["asin", "rank"])
def test_shoppers_of_every_kind_only_do_what_stands_on_the_page_and_repeat(links):
    env = WebShopEnv(links=links)
    for mode in (None, *FAILURE_MODES):
        games = [shop(env, mode, 0.3, seed)[:2] for seed in range(4)]
        assert games == [shop(env, mode, 0.3, seed)[:2] for seed in range(4)]
        assert (links == "rank") == any("item" in x for _, done in games for x in done)


def test_pages_lead_to_each_other_and_back():
    env = WebShopEnv(links="rank")
    env.reset(seed=0)

    def do(action, invalid=False):
        said, reward, ended, _, info = env.step(action)
        assert (reward, ended, info["invalid_command"]) == (0.0, False, invalid)
        return said

    do("click[buy now]", invalid=True)
    do("buy it", invalid=True)
    do("search[ ]", invalid=True)
    first = do("search[travel mug]")
    assert first["page"].startswith("Page 1 (Total results: ")
    assert first["overlap"][:40].reshape(10, 4)[:, 0].sum() == 10
    assert "click [ < prev ]" not in first["admissible_commands"]
    second = do("Click[ Next > ]")
    assert do("click[< prev]")["page"] == first["page"] != second["page"]
    item = do("click[item 2]")
    value = next(iter(env.page.product.options.values()))[0]
    assert f"{value} (chosen)" in do(f"click[{value}]")["page"]
    assert env.page.product.features[0] in do("click[features]")["page"]
    assert f"{value} (chosen)" in do("click[< prev]")["page"]  # is kept
    back = do("click[< prev]")
    assert back["page"] == first["page"]
    assert back["overlap"][:40].reshape(10, 4)[:, 3].tolist() == [0, 1] + [0] * 8  # looked at
    assert do("click[item 2]")["page"] == item["page"]  # and no longer chosen
    assert do("click[back to search]")["page"] == "WebShop [SEP] Search"
    assert do("search[xyzzy]")["page"] == "Page 1 (Total results: 0)"
    assert env.render().shape == (256, 256, 3)


def test_a_purchase_ends_the_episode_unless_it_runs_to_its_limit():
    env = WebShopEnv(terminate_on_success=False, split="test", max_steps=8)
    won = [shop(env, None, 0.0, seed) for seed in range(3)]
    for rewards, _, info in won:
        assert len(rewards) == 8 if info["success"] else len(rewards) < 8
        assert sum(rewards) == info["score"]["total"]
    env = WebShopEnv(max_steps=1)
    env.reset(options={"goal": 3})
    assert env.step("search[mug]")[2:4] == (False, True)
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("search[mug]")


PRODUCTS = [
    {
        "asin": f"B{i}", "name": f"Acme Soap {name}", "query": "Soap ", "pricing": price,
        "category": "beauty", "product_category": "Beauty › Bath › Soaps",
        "small_description": ["with oil"], "full_description": "a soap",
        "customization_options": {"Size": [{"value": "3/4 OZ"}, {"value": "2 oz"}]},
    }
    for i, (name, price) in enumerate([("Mint", "$12.50"), ("Rose", "$9.00 to $11.00"), ("", None)])
]  # fmt: skip
ATTRIBUTES = {"B0": {"attributes": ["tea tree"]}, "B1": {"attributes": ["vegan"]}}
HUMAN = {
    "B0": [
        {"instruction": "mint soap.", "instruction_attributes": ["tea tree"],
         "instruction_options": ["3 | 4 oz"]},
        {"instruction": "i am looking for", "instruction_attributes": ["tea tree"]},
        {"instruction": "skipped", "instruction_attributes": [], "instruction_options": []},
    ]
}  # fmt: skip
NAMES = ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json")


def write(folder, products=PRODUCTS, attributes=ATTRIBUTES, human=HUMAN):
    for name, told in zip(NAMES, (products, attributes, human), strict=True):
        (folder / name).write_text(told if isinstance(told, str) else json.dumps(told))
    return str(folder)


def test_the_original_files_are_a_shop(tmp_path):
    env = WebShopEnv(data=write(tmp_path), split="test")
    assert len(env.goals) == 2
    number, goal = next((i, g) for i, g in enumerate(env.goals) if "mint" in g.instruction)
    said, _ = env.reset(options={"goal": 1 - number})
    assert said["admissible_commands"].startswith("search [ i am looking for ")
    said, info = env.reset(options={"goal": number})
    assert info["instruction"].startswith("mint soap, and price lower than ")
    assert 20 <= goal.price_limit <= 50
    assert [p.price for p in env.shop.products][::2] == [12.5, 100.0]
    assert 9 <= env.shop.products[1].price <= 11
    for action in ("search[mint]", "click[b0]", "click[3 | 4 oz]", "click[buy now]"):
        said, reward, ended, *_ = env.step(action)
    assert (reward, ended) == (1.0, True)
    assert "Acme Soap Mint" in said["page"]
    with pytest.raises(ValueError, match="split train: the folder has too few goals"):
        WebShopEnv(data=str(tmp_path))


@pytest.mark.parametrize("missing", NAMES)
def test_a_partial_folder_is_answered_with_what_it_lacks(tmp_path, missing):
    write(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(OSError, match=f"no {missing}") as error:
        WebShopEnv(data=str(tmp_path))
    assert not any(name in str(error.value) for name in NAMES if name != missing)
    with pytest.raises(OSError, match="no folder"):
        WebShopEnv(data=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"products": "{"}, r"shuffle_1000.json: no JSON .*fetched whole"),
        ({"products": {}}, "dict, where a list is expected"),
        ({"products": [{"asin": "B0"}]}, "product 0 has no text 'name'"),
        ({"products": []}, "no product"),
        ({"products": [{**PRODUCTS[0], "customization_options": {"a": ["b"]}}]}, "option 'a'"),
        ({"human": {}}, "none of its goals wants a product"),
        ({"human": {"B0": [{"instruction_attributes": ["x"]}]}}, "B0 has no text 'instruction'"),
    ],
)
def test_broken_files_are_answered_with_file_and_entry(tmp_path, changes, said):
    folder = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=said) as error:
        WebShopEnv(data=folder)
    assert str(error.value).startswith(folder)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"split": "all"}, "train, eval, test"),
        ({"links": "name"}, "asin, rank"),
        ({"max_steps": 0}, "at least 1"),
        ({"dat": "x"}, "Did you mean 'data'"),
    ],
)
def test_bad_arguments_are_answered(kwargs, said):
    with pytest.raises(ValueError, match=said):
        build_env({"env_name": "webshop", "env_kwargs": kwargs})
    env = WebShopEnv()
    with pytest.raises(ValueError, match="0 to 1599"):
        env.reset(options={"goal": 1600})
    with pytest.raises(ValueError, match="there is: goal"):
        env.reset(options={"asin": "b"})
