"""A policy behind vla-eval's protocol until a signal, for runs of that harness elsewhere."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vla_eval.api import serve_background

from qsft_robot.harness.deciders import Decider
from qsft_robot.harness.key_map import KeyMap
from qsft_robot.harness.model_server import HarnessModelServer
from qsft_robot.server.config import ServerConfig, bind

HOST = "127.0.0.1"


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, in place of what they did before."""
    stop = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in signals}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def serve_until_signal(
    decider: Decider,
    key_map: KeyMap,
    *,
    port: int,
    first_seed: int,
    max_batch: int,
    tell: Callable[[str], None],
) -> None:
    """Serve on loopback, since the protocol knows no token, until SIGINT or SIGTERM; `tell` gets
    the address. OSError in one line when the port is in use."""
    bind(ServerConfig(host=HOST, port=port)).close()
    logging.getLogger("vla_eval").setLevel(logging.WARNING)
    server = HarnessModelServer(decider, key_map, first_seed=first_seed, max_batch_size=max_batch)
    with stopped_by_signals() as stop, serve_background(server, host=HOST, port=port) as served:
        tell(served.url)
        stop.wait()
