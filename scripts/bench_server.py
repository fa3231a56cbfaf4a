"""Requests a second of the policy server, batched against one by one, and its round trip."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import torch
from bench_policy import train_demo_policy
from bench_rows import Row, compare, in_turns, seconds_of
from server_process import server_process
from websockets.asyncio.client import ClientConnection, connect

from qsft_robot.parts.simulators import build_env
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.policy.open import open_policy
from qsft_robot.server.remote_policy import RemotePolicy
from qsft_robot.server.requests import request_message
from qsft_robot.server.wire import pack
from qsft_robot.types import Observation

GROUP = "server"
CLIENTS = (1, 8, 32)
WHAT = "tiny RT model, two 64x64 images, one thread"


async def requests_per_second(url: str, frame: bytes, clients: int, seconds: float) -> float:
    """Answers a second to `clients` connections, each asking again once it was answered."""

    async def ask(connection: ClientConnection, until: float) -> int:
        answers = 0
        while time.perf_counter() < until:
            await connection.send(frame)
            if isinstance(await connection.recv(), str):
                raise RuntimeError("the server refused the benchmark's observation")
            answers += 1
        return answers

    async with AsyncExitStack() as stack:
        connections: Sequence[ClientConnection] = [
            await stack.enter_async_context(connect(url, compression=None)) for _ in range(clients)
        ]
        for connection in connections:
            await connection.recv()
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(c, began + seconds) for c in connections))
        return sum(answers) / (time.perf_counter() - began)


def first_observation(env_args: dict) -> Observation:
    """The observation at the start of an episode."""
    env = build_env(env_args)
    raw, info = env.reset(seed=0)
    env.close()
    return Observation.from_env(raw, info["instruction"])


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Throughput with 1, 8 and 32 clients, then one client's latency against the local call."""
    repeats, seconds, calls = (1, 0.2, 3) if quick else (5, 3.0, 300)
    say("a policy to serve")
    torch.set_num_threads(1)
    _, run = train_demo_policy(folder)
    policy = open_policy(run)
    seen = first_observation(policy.description.env_args)
    frame = pack(request_message(seen, PolicySpec.of(policy.description), None, 0))
    flags = {"batched": ["--max-batch", "32"], "one by one": ["--max-batch", "1"]}
    with (
        server_process(run, flags["batched"]) as batched,
        server_process(run, flags["one by one"]) as unbatched,
    ):
        servers = {"batched": batched, "one by one": unbatched}
        for clients in CLIENTS:
            found = in_turns(
                {
                    name: lambda server=server, clients=clients: asyncio.run(
                        requests_per_second(server.url, frame, clients, seconds)
                    )
                    for name, server in servers.items()
                },
                repeats,
            )
            say(f"{clients} clients: " + ", ".join(f"{k} {x:.0f}/s" for k, x in found.items()))
            yield compare(
                GROUP,
                f"server_{clients}_clients_batched_vs_one_by_one",
                found["batched"],
                found["one by one"],
                f"requests/s ({WHAT})",
                {1: 0.9, 8: 1.5, 32: 2.0}[clients],
                "higher",
            )
        with RemotePolicy(batched.url, timeout_s=30) as remote:
            contestants = {"round trip": remote.infer, "local call": policy.infer}
            for infer in contestants.values():
                for _ in range(2 if quick else 20):
                    infer(seen)
            found = in_turns(
                {
                    name: lambda infer=infer: 1e3 * seconds_of(lambda: infer(seen))
                    for name, infer in contestants.items()
                },
                calls,
            )
    say(", ".join(f"{name} {x:.2f} ms" for name, x in found.items()))
    yield compare(
        GROUP,
        "server_round_trip_vs_local_call",
        found["round trip"],
        found["local call"],
        f"ms a decision ({WHAT}, loopback)",
        1.5,
        "lower",
    )
