"""ALFWorld: its engine against the package's own, views, games made, and two processes for one."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from bench_rows import Row, compare, seconds_of, worker_row

GROUP, SPLIT = "alfworld", "train"
ASKED_VIEWS = 200  # a second on one core, at 128x128


@dataclass(frozen=True)
class Played:
    """One episode in our environment: what was played, and how long what took."""

    game: str
    commands: list[str]
    start_s: float  # of the reset, which opens the game
    step_s: list[float]
    view_s: list[float]  # processor time


def play(env: Any, seed: int, steps: int, warm: bool) -> Played:
    """The expert's commands, and any admissible ones once it is done."""
    from qsft_robot.parts.simulators import build_expert

    rng = np.random.default_rng(seed)
    start_s = seconds_of(lambda: env.reset(seed=seed))
    expert = build_expert(env, None, 0.1, rng)
    played = Played(str(env.game.file), [], start_s, [], [])
    for _ in range(steps):
        words = expert.act()
        played.commands.append(words)
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(words)
        played.step_s.append(time.perf_counter() - start)
        if warm:
            env.view()
        start = time.process_time()
        env.view()
        played.view_s.append(time.process_time() - start)
        if terminated or truncated:
            break
    return played


def stock_engine(connection: Connection) -> None:
    """In a process of its own: repeat each episode in the engine as the package runs it; answers
    the seconds of the start and of each step, until None comes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # it prints
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

    infos = textworld.EnvInfos(won=True, admissible_commands=True)
    connection.send(None)
    while (order := connection.recv()) is not None:
        game, commands = order
        start = time.perf_counter()
        env = textworld.start(game, infos, wrappers=[AlfredDemangler(shuffle=False)])
        env.reset()
        start_s = time.perf_counter() - start
        connection.send((start_s, [seconds_of(lambda c=c, env=env: env.step(c)) for c in commands]))
        env.close()


def engine_rows(episodes: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Our engine process against the package's engine on the same commands, and the views."""
    from qsft_robot.parts.simulators import build_env

    env = build_env({"env_name": "alfworld", "env_kwargs": {"split": SPLIT, "cameras": []}})
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=stock_engine, args=(theirs,), daemon=True
    )
    process.start()
    theirs.close()
    ours.recv()
    played, starts, steps = [], [], []
    try:
        play(env, 0, 3, warm=True)
        for seed in range(1, episodes + 1):
            played.append(play(env, seed, 50, warm=False))
            ours.send((played[-1].game, played[-1].commands))
            start_s, step_s = ours.recv()
            starts.append(start_s)
            steps += step_s
        ours.send(None)
        process.join(30)
    finally:
        process.kill()
        env.close()
    say(f"{len(played)} episodes of {len(steps)} steps played in both engines")
    yield compare(
        GROUP,
        "alfworld_engine_steps_vs_package",
        1 / statistics.mean(s for x in played for s in x.step_s),
        1 / statistics.mean(steps),
        "commands/s, the facts told after each by ours alone",
        None,
        "higher",
    )
    yield compare(
        GROUP,
        "alfworld_start_of_a_game_vs_package",
        statistics.mean(x.start_s for x in played),
        statistics.mean(starts),
        "s to open a game",
        None,
        "higher",
        ratio="peer / ours",
    )
    views = [s for x in played for s in x.view_s]
    yield compare(
        GROUP,
        "alfworld_views_vs_what_was_asked",
        len(views) / sum(views),
        ASKED_VIEWS,
        "views/s of one core, 128x128, in episodes of all six task types",
        1,
        "higher",
    )


def train_policy(folder: Path, logs: Path) -> Path:
    """A policy after two updates a stage: it hardly ever succeeds, so every evaluation plays the
    same number of steps, nearly."""
    from qsft_robot.config.train import TrainConfig
    from qsft_robot.presets.look_up import apply_presets, with_settings
    from qsft_robot.training.train import train

    os.environ["QSFT_CACHE"] = str(folder / "cache")
    settings = {
        "data.path": logs,
        "data.state_keys": (),
        "out": folder / "run",
        "optim.behavior_steps": 2,
        "optim.value_steps": 2,
        "optim.batch_size": 8,
    }
    return train(with_settings(apply_presets(TrainConfig(), ["alfworld/text_image"]), settings))


def process_rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Collection and evaluation with one process and with two."""
    import torch

    from qsft_robot.policy.token_policy import load_policy
    from qsft_robot.presets.look_up import recipe
    from qsft_robot.rollouts.collect import CollectPart, collect
    from qsft_robot.rollouts.evaluate import evaluate

    torch.set_num_threads(1)
    episodes, limit, repeats = (4, 5, 1) if quick else (32, 30, 2)
    chosen = recipe("alfworld")
    env_args = {"env_name": "alfworld", "env_kwargs": chosen.env_kwargs}
    parts = [CollectPart(episodes, part.mixture, part.noise) for part in chosen.parts]
    if quick:  # so few logs of the mixture may hold no success to train on
        parts = [CollectPart(episodes)]
    logs = folder / "logs.hdf5"

    def collected(workers: int) -> float:
        logs.unlink(missing_ok=True)
        report = collect(env_args, logs, parts, workers=workers, progress=False)
        say(f"collect, {workers}: {report.steps} steps in {report.seconds:.1f} s")
        return report.steps / report.seconds

    yield worker_row(
        GROUP,
        "alfworld_collect_two_workers_vs_one",
        "transitions/s, images and text",
        1.6,
        collected,
        repeats,
    )
    policy = load_policy(train_policy(folder, logs))

    def evaluated(workers: int) -> float:
        taken = seconds_of(
            lambda: evaluate(
                policy,
                env_args,
                range(episodes),
                workers=workers,
                env_overrides={"max_steps": limit},
                progress=False,
            )
        )
        say(f"evaluate, {workers}: {taken:.1f} s")
        return episodes / taken * 60

    yield worker_row(
        GROUP,
        "alfworld_evaluation_two_workers_vs_one",
        f"episodes/min of {limit} steps, images and text, one policy thread",
        1.6,
        evaluated,
        repeats,
    )


def game_row(folder: Path, quick: bool, say: Callable[[str], None]) -> Row:
    """Games made a minute; those of the last round are what the other rows play."""
    from qsft_robot.parts.simulators import generate_games

    count = 6 if quick else 18

    def made(workers: int) -> float:
        # Another folder each time: a game that is there is not made again.
        root = folder / f"{workers}-{len(list(folder.iterdir()))}"
        taken = seconds_of(
            lambda: generate_games(
                "alfworld", root / "generated", {SPLIT: count}, seed=0, workers=workers
            )
        )
        os.environ["ALFWORLD_DATA"] = str(root)
        say(f"generate, {workers}: {count} games in {taken:.1f} s")
        return count / taken * 60

    return worker_row(
        "alfworld_games_made_two_workers_vs_one", "games/min", 1.6, made, 1 if quick else 2
    )


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """All rows, or none where the package is missing."""
    if find_spec("alfworld") is None:
        say("left out: it needs pip install 'qsft-robot[alfworld]'")
        return
    before = os.environ.get("ALFWORLD_DATA")
    games = folder / "games"
    games.mkdir()
    try:
        yield game_row(games, quick, say)
        yield from engine_rows(2 if quick else 18, say)
        yield from process_rows(folder, quick, say)
    finally:
        if before is None:
            os.environ.pop("ALFWORLD_DATA", None)
        else:
            os.environ["ALFWORLD_DATA"] = before
