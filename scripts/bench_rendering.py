"""Rendered control steps a second: the tabletop against robosuite, each in its own process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from bench_rows import Row, compare, in_turns, seconds_of

GROUP, SIZE = "rendering", 84
UNIT = "control steps/s, one 84x84 camera rendered each step, resets left out"


def tabletop() -> tuple[Any, int]:
    """Our embedded simulator and its number of action dimensions."""
    from qsft_robot.parts.simulators import build_env

    kwargs = {"task": "place", "cameras": ["front"], "image_size": SIZE, "max_steps": 10**9}
    return build_env({"env_name": "tabletop", "env_kwargs": kwargs}), 4


def our_lift() -> tuple[Any, int]:
    """robosuite's Lift behind our face, rendered without shadows and reflections."""
    from qsft_robot.parts.simulators import build_env

    kwargs = {"cameras": ["agentview"], "image_size": SIZE, "max_steps": 10**9}
    return build_env({"env_name": "Lift", "env_kwargs": kwargs}), 7


def robosuite_lift() -> tuple[Any, int]:
    """Lift as robosuite.make builds it for images, without its own window."""
    import robosuite

    env = robosuite.make(
        "Lift",
        robots="Panda",
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names="agentview",
        camera_heights=SIZE,
        camera_widths=SIZE,
        control_freq=20,
        ignore_done=True,
        hard_reset=False,
    )
    return env, 7


CONTESTANTS = {"tabletop": tabletop, "our Lift": our_lift, "robosuite Lift": robosuite_lift}


def serve(name: str, connection: Connection) -> None:
    """In a process of its own: build one simulator, and answer each number of steps with the
    seconds that they took, until 0 comes."""
    env, dimensions = CONTESTANTS[name]()
    rng = np.random.default_rng(0)
    env.reset()

    def run(steps: int) -> None:
        for _ in range(steps):
            env.step(rng.uniform(-1, 1, dimensions).astype(np.float32))

    run(3)
    connection.send(0.0)
    while steps := connection.recv():
        env.reset()
        connection.send(seconds_of(lambda steps=steps: run(steps)))
    env.close()


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """The tabletop against robosuite.make, and robosuite behind our face for information."""
    spawn = multiprocessing.get_context("spawn")
    repeats = 2 if quick else 7
    steps = dict.fromkeys(CONTESTANTS, 5)
    if not quick:
        steps = {"tabletop": 1000, "our Lift": 100, "robosuite Lift": 50}
    connections: dict[str, Connection] = {}
    processes = []
    try:
        for name in CONTESTANTS:
            say(f"opening: {name}")
            connections[name], theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(name, theirs), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections[name].recv()  # EOFError when it could not be built

        def speed(name: str) -> float:
            connections[name].send(steps[name])
            return steps[name] / connections[name].recv()

        say("timing")
        found = in_turns({n: lambda n=n: speed(n) for n in CONTESTANTS}, repeats)
        for connection in connections.values():
            connection.send(0)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()
    say(", ".join(f"{name} {x:.1f}/s" for name, x in found.items()))
    peer = found["robosuite Lift"]
    for name, ours, aim in (
        ("tabletop_rendered_steps_vs_robosuite", found["tabletop"], 20),
        ("our_lift_rendered_steps_vs_robosuite", found["our Lift"], None),
    ):
        yield compare(GROUP, name, ours, peer, UNIT, aim, "higher")
