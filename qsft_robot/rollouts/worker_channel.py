"""The worker's end of a process pool: messages to and from the main process, and what it is at."""

from __future__ import annotations

import faulthandler
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from qsft_robot.rollouts.array_messages import pack, unpack

IDLE = -1
# What a worker may take to import a simulator and to compile its model, on a busy machine.
STARTUP_S = 300.0
_MARK = struct.Struct("<qd")


def write_mark(descriptor: int, task: int, deadline: float) -> None:
    """Note in the shared file which task is under way and until when (`time.monotonic`)."""
    os.pwrite(descriptor, _MARK.pack(task, deadline), 0)


def read_mark(descriptor: int) -> tuple[int, float]:
    """The task under way (IDLE when none) and its deadline."""
    return _MARK.unpack(os.pread(descriptor, _MARK.size, 0))


class WorkerChannel:
    """Receives and sends messages; marks the task at hand, so that a death has a culprit."""

    def __init__(self, connection: Connection, mark: int) -> None:
        self._connection = connection
        self._mark = mark

    def receive(self) -> Any | None:
        """The next message, or None when the main process has gone."""
        try:
            return unpack(self._connection.recv_bytes())
        except (EOFError, OSError):
            return None

    def send(self, message: Any) -> None:
        self._connection.send_bytes(pack(message))

    def begin(self, task: int, seconds: float) -> None:
        """From here until `end`, dying or running past `seconds` is the fault of `task`."""
        write_mark(self._mark, task, time.monotonic() + seconds)

    def end(self) -> None:
        write_mark(self._mark, IDLE, float("inf"))


def serve(connection: int, mark: int, service: str) -> None:
    """Run `service` ("module:function") over inherited file descriptors until it returns.

    The function gets the channel and the settings (the first message). An exception that leaves it
    is reported to the main process, which raises it there.
    """
    # Ctrl-C reaches the whole terminal group; the main process alone decides and closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Both write into the worker's output, which is told with the episode that it lost.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    channel = WorkerChannel(Connection(connection), mark)
    settings = channel.receive()
    module, function = service.split(":")
    try:
        getattr(import_module(module), function)(channel, settings)
    except BrokenPipeError:
        sys.exit(1)  # the main process has gone
    except Exception as error:
        channel.send(failure(error))
        sys.exit(1)


def failure(error: Exception) -> dict[str, str]:
    """An exception that is being handled as a message, which `error_of` undoes."""
    kinds = (ImportError, ValueError, OSError)
    kind = next((k.__name__ for k in kinds if isinstance(error, k)), "RuntimeError")
    return {
        "failed": type(error).__name__,
        "message": str(error),
        "kind": kind,
        "traceback": traceback.format_exc(),
    }


def error_of(content: Mapping[str, str]) -> Exception:
    """The error that `failure` told."""
    kinds = {"ImportError": ImportError, "ValueError": ValueError, "OSError": OSError}
    if content["kind"] in kinds:
        return kinds[content["kind"]](content["message"])
    # No plain mistake of the user: show where it happened.
    return RuntimeError(
        f"a worker process failed: {content['failed']}: {content['message']}\n"
        f"{content['traceback']}"
    )
