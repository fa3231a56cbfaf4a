"""Plays language games by their scripted players: mean returns, speed, and games to read."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from qsft_robot.intervals import mean_interval
from qsft_robot.parts.simulators import build_env, build_expert
from qsft_robot.rollouts.collect import env_seed


def main() -> None:
    """Play and print."""
    options = options_of()
    kwargs = dict(word.split("=", 1) for word in options.env_kwargs)
    env = build_env({"env_name": options.game, "env_kwargs": kwargs})
    print(f"{options.game} {kwargs}: {best_return(env.unwrapped)}")
    player = None if options.player == "expert" else options.player
    for noise in options.noise:
        began, returns = time.monotonic(), list[float]()
        for index in range(options.games):
            lines = []
            total = 0.0
            for action, said, reward in game(env, player, noise, options.seed, index):
                total += reward
                lines.append(f"  {action:<34} {said}")
            returns.append(total)
            if index < options.show:
                print("\n".join([f"game {index}, return {total:g}:", *lines]))
        seconds = time.monotonic() - began
        mean = float(np.mean(returns))
        low, high = mean_interval(mean, float(np.std(returns, ddof=1)), len(returns))
        print(
            f"{options.player}, noise {noise:g}: mean return {mean:.3f} [{low:.3f}, {high:.3f}] "
            f"(n={len(returns)}), {len(returns) / seconds:.0f} games/s"
        )


def best_return(env: Any) -> str:
    """The reference of a game, exact over all that may be hidden where that is possible."""
    if hasattr(env, "table") and hasattr(env.table, "best_return"):
        return f"the most informative word that fits has {env.table.best_return():.3f}"
    if not hasattr(env, "knowledge"):
        return "the reference is the expert's mean"
    if env.knowledge.unsure == "coin":
        return "with coins the reference is the expert's mean"
    return f"halving has {env.knowledge.best_return():.3f}"


def game(
    env: Any, player: str | None, noise: float, seed: int, index: int
) -> Iterator[tuple[str, str, float]]:
    """One game as (action, what was said to it, reward), as `collect` plays number `index`."""
    env.reset(seed=env_seed(seed, index))
    actor = build_expert(env, player, noise, np.random.default_rng([seed, index, 1]))
    over = False
    while not over and not actor.done:
        action = actor.act()
        observation, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        said = next(observation[x] for x in ("feedback", "fen", "page") if x in observation)
        yield action, said, float(reward)


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; sys.argv's where `words` is None."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("game", help="a game of the table of simulators, e.g. wordle")
    parser.add_argument("--player", default="expert", help="expert, or a failure mode")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="share at random")
    parser.add_argument("--games", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, help="games to print")
    parser.add_argument("--env-kwargs", nargs="*", default=[], help="e.g. words=FILE")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
