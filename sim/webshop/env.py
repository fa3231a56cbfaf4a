"""WebShop as a gymnasium.Env: searches and clicks in, pages out."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sim.argument_kinds import checked_arguments
from sim.webshop.original import read_shop
from sim.webshop.overlap import OVERLAP_SIZE, overlap
from sim.webshop.own_shop import own_shop
from sim.webshop.pages import BUY, LINKS, Page
from sim.webshop.products import SPLITS, Goal, Product
from sim.webshop.score import Score, score
from sim.webshop.search import Search
from sim.webshop.words import own_words

ENV_NAME = "webshop"
ENV_TYPE = 2  # robomimic's number for "some gym environment"
MAX_STEPS = 20
_ACTION = re.compile(r"\s*(search|click)\s*\[(.*)\]\s*", re.IGNORECASE | re.DOTALL)
_CHARACTERS = frozenset(string.printable) | {"›"}
_TEXT_LENGTH = 100_000


class WebShopEnv(gymnasium.Env[dict[str, Any], str]):
    """One goal an episode: find a product, choose its options, buy it.

    Action, str: `search[keywords]` or `click[name]`, spaces around the brackets or not.
    Observation: `page`, str, what the page says; `overlap`, float32 [84], how the page agrees with
    the goal (see overlap.py); `admissible_commands`, str, what can be clicked, and on the page of
    the search bar a search for the goal's own words. Reward: the score of what is bought, in
    [0, 1] (score.py), else 0. Anything else than these actions changes nothing, takes a step and is
    told (info["invalid_command"]). The episode ends with a purchase or after `max_steps`.
    `data`: folder with WebShop's own files; None for the embedded shop. `split`: which goals, see
    products.SPLITS. `links`: how products are clicked, see pages.LINKS.
    The seed of a reset alone determines the goal. Reset option: `goal`, its number in the split.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 (gymnasium's own)
    control_hz = 1.0  # how fast videos play
    packages = ("bm25s",)  # orders what is found

    def __init__(
        self,
        data: str | None = None,
        *,
        split: str = "train",
        links: str = "asin",
        max_steps: int = MAX_STEPS,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps {max_steps} must be at least 1.")
        for name, word, known in (("split", split, SPLITS), ("links", links, LINKS)):
            if word not in known:
                raise ValueError(f"WebShop has no {name} {word!r}; there are: {', '.join(known)}.")
        folder = None if data is None else str(Path(data).expanduser().resolve())
        self.shop = own_shop() if folder is None else read_shop(folder)
        self.goals = self.shop.goals[split]
        if not self.goals:
            raise ValueError(f"split {split}: the folder has too few goals for it ({folder}).")
        self.search = _search(folder)
        self.links, self.max_steps = links, int(max_steps)
        self.terminate_on_success, self.render_mode = terminate_on_success, render_mode
        self.env_args: dict[str, Any] = {
            "env_name": ENV_NAME,
            "type": ENV_TYPE,
            "env_kwargs": {
                "data": folder,
                "split": split,
                "links": links,
                "max_steps": self.max_steps,
            },
            # Where the logs were made; not needed to build the environment.
            "shop": {
                "kind": self.shop.kind,
                "products": len(self.shop.products),
                "goals": len(self.goals),
                "sha256": self.shop.fingerprint,
            },
        }
        self.goal: Goal = self.goals[0]
        self.page = Page()
        self.seen: set[str] = set()  # products that were looked at
        self.bought: Score | None = None
        self._steps, self._playing = 0, False
        self.action_space = spaces.Text(_TEXT_LENGTH, charset=_CHARACTERS)
        texts = {
            key: spaces.Text(_TEXT_LENGTH, min_length=0, charset=_CHARACTERS)
            for key in ("page", "admissible_commands")
        }
        self.observation_space = spaces.Dict(
            {**texts, "overlap": spaces.Box(0.0, 1.0, (OVERLAP_SIZE,), np.float32)}
        )

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Open the shop for the goal of the seed, or of the option `goal`; ValueError on others."""
        super().reset(seed=seed)
        options = dict(options or {})
        if unknown := sorted(set(options) - {"goal"}):
            raise ValueError(f"Unknown reset options {unknown} of webshop; there is: goal.")
        options = checked_arguments("reset options of webshop", {"goal": int}, options)
        drawn = int(self.np_random.integers(len(self.goals)))
        number = options.get("goal", drawn)
        if not 0 <= number < len(self.goals):
            raise ValueError(f"No goal {number}; the split has 0 to {len(self.goals) - 1}.")
        self.goal, self.page, self.seen = self.goals[number], Page(), set()
        self.bought, self._steps, self._playing = None, 0, True
        return self._observation(), self._info(False)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Search or click."""
        if not self._playing:
            raise RuntimeError("No shopping is going on; call reset first.")
        self._steps += 1
        reward, invalid = 0.0, False
        if self.bought is None:  # after the purchase nothing happens any more
            invalid = not self._act(str(action))
            reward = 0.0 if self.bought is None else self.bought.total
        over = self.bought is not None
        terminated = over and (self.terminate_on_success or not self._succeeded)
        truncated = not terminated and self._steps >= self.max_steps
        self._playing = not (terminated or truncated)
        return self._observation(), reward, terminated, truncated, self._info(invalid)

    def render(self) -> np.ndarray:
        """The goal and the page, uint8 [256, 256, 3]."""
        from sim.webshop.page_image import draw_page

        return draw_page(self.goal.instruction, self.page.text(self.links))

    def hits(self, keywords: str) -> tuple[Product, ...]:
        """What a search finds, best first."""
        return tuple(self.shop.products[i] for i in self.search(keywords))

    def _act(self, action: str) -> bool:
        """Whether an action could be done."""
        said = _ACTION.fullmatch(action)
        what = " ".join(said[2].lower().split()) if said else ""
        if not said or not what:
            return False
        if said[1].lower() == "search":
            self.page = Page(query=what, hits=self.hits(what))
            return True
        if what not in self.page.clickable(self.links):
            return False
        if what == BUY:
            assert self.page.product is not None
            self.bought = score(self.page.product, self.page.chosen, self.goal)
            return True
        self.page = self.page.after(what, self.links)
        if self.page.product is not None:
            self.seen.add(self.page.product.asin)
        return True

    @property
    def _succeeded(self) -> bool:
        return self.bought is not None and self.bought.total >= 1.0

    @property
    def commands(self) -> list[str]:
        """What can be done on the page, as `admissible_commands` lists it."""
        if self.page.query is None:
            return [f"search [ {' '.join(own_words(self.goal.instruction))} ]"]
        return [f"click [ {name} ]" for name in self.page.clickable(self.links)]

    def _observation(self) -> dict[str, Any]:
        return {
            "page": self.page.text(self.links),
            "overlap": overlap(self.page, self.goal.instruction, self.seen),
            "admissible_commands": "\n".join(self.commands),
        }

    def _info(self, invalid: bool) -> dict[str, Any]:
        told = {} if self.bought is None else dict(self.bought._asdict())
        return {
            "instruction": self.goal.instruction,
            "success": self._succeeded,
            "score": told,
            "invalid_command": invalid,
        }


@lru_cache(maxsize=2)  # environments of one process share the index
def _search(folder: str | None) -> Search:
    return Search((own_shop() if folder is None else read_shop(folder)).products)


ENVIRONMENT = WebShopEnv
