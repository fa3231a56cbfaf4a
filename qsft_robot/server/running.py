"""Running the policy server: until a signal in this process, or in a thread beside other work."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qsft_robot.policy.description import LoadedPolicy
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.server import PolicyServer


async def run_until_signal(server: PolicyServer, tell: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends the process at once.

    `tell` gets "listening" and "ready" when they are true. RuntimeError when the warm-up fails.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def first() -> None:
        stop.set()
        for each in signals:
            loop.remove_signal_handler(each)

    for each in signals:
        loop.add_signal_handler(each, first)
    await server.start()
    tell("listening")
    ready, stopped = loop.create_task(server.wait_ready()), loop.create_task(stop.wait())
    try:
        await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            tell("ready")
            # What is here now stays: collections look at what clients leave, a millisecond's work.
            gc.collect()
            gc.freeze()
        await stopped
    finally:
        await server.stop()


@contextmanager
def serving(
    policy: LoadedPolicy, config: ServerConfig, wait: bool = True
) -> Iterator[PolicyServer]:
    """A server in a thread of this process until the block ends; `wait` for its warm-up, or let
    it go on while clients connect."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    found: list[PolicyServer | BaseException] = []
    over = asyncio.Event()

    async def run() -> None:
        try:
            server = PolicyServer(policy, config)
            await server.start()
            warming_up = loop.create_task(server.wait_ready())
            if wait:
                await warming_up
        except BaseException as error:
            found.append(error)
            started.set()
            return
        found.append(server)
        started.set()
        await over.wait()
        await server.stop()
        await warming_up

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), name="server")
    thread.start()
    started.wait()
    try:
        if isinstance(found[0], BaseException):
            raise found[0]
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
