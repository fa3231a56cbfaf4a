"""The connection to a Ray cluster: made within seconds, or refused in one line."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from qsft_robot.extras import require_packages
from qsft_robot.printed_text import one_line

_CONNECT_S = 5.0
# A port that something else answers keeps Ray's own client waiting for minutes.
_ANSWER_S = 30.0
_PROBE = "import sys, ray; ray._raylet.GcsClient(address=sys.argv[1])"
_MEND = (
    "Start one (`ray start --head`, on the other machines `ray start --address=HOST:6379`) and run "
    "this on one of its nodes."
)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Ray's connection to the cluster at `address` (host:port, or "auto" for the one that this
    machine is part of); one that is open already is used and left open.

    ImportError with the install line where ray is missing, ValueError on an address that is none,
    ConnectionError where no cluster answers. Ray's usage statistics are off.
    """
    require_packages("--ray", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    found = _found(address)
    _check_answer(found)
    # Ray takes SIGTERM for itself, and keeps it after its end.
    handled = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=found,
            namespace="qsft-robot",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError, AssertionError) as error:
        raise ConnectionError(f"--ray {address}: {one_line(error)[:300]} {_MEND}") from error
    try:
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread() and handled is not None:
            signal.signal(signal.SIGTERM, handled)


def _found(address: str) -> str:
    """The address as host:port."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in address:
            raise ValueError(
                f"--ray {address}: give auto, or host:port of the head node, as `ray start` "
                "printed it, e.g. 10.0.0.1:6379."
            )
        return address
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        return str(canonicalize_bootstrap_address_or_die("auto"))
    except (ConnectionError, OSError, ValueError) as error:
        raise ConnectionError(f"--ray auto: no Ray cluster runs here. {_MEND}") from error


def _check_answer(address: str) -> None:
    """ConnectionError unless a Ray head node answers at host:port within seconds."""
    host, _, port = address.rpartition(":")
    refused = ConnectionError(f"--ray {address}: no Ray cluster answers there. {_MEND}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        raise refused from error
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_ANSWER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise refused from None
    if probe.returncode:
        raise refused
