"""The engine's process seen from outside: requests with a time limit, and a fresh one after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, BinaryIO

START_S = 120.0  # what importing the engine may take on a busy machine
_LOG_TAIL = 1500
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from importlib import import_module; import_module(sys.argv[3]).serve(int(sys.argv[2]))"
)


class EngineError(RuntimeError):
    """The engine hung, died or failed; the episode is lost, and the next request starts anew."""


class EngineProcess:
    """One child process that runs an engine; started by the first request, and again by the first
    one after a failure. `module` has a function `serve(file descriptor)` that answers requests."""

    def __init__(self, time_limit_s: float, *, module: str = "sim.alfworld.engine") -> None:
        self.time_limit_s, self.module = time_limit_s, module
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log: BinaryIO | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None when no engine runs."""
        return None if self._process is None else self._process.pid

    def request(
        self, message: Mapping[str, Any], time_limit_s: float | None = None
    ) -> dict[str, Any]:
        """The engine's answer. EngineError when it takes longer than the limit (seconds; the
        process's own when not given) or dies, ValueError on what it found wrong with the game."""
        if self._process is None:
            self._start()
        assert self._connection is not None
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError:
            raise self._lost("died") from None
        answer = self._receive(self.time_limit_s if time_limit_s is None else time_limit_s)
        if "error" in answer:
            if answer["kind"] == "ValueError":
                raise ValueError(answer["error"])
            self.close()
            raise EngineError(f"the ALFWorld engine failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for thing in (self._connection, self._log):
            if thing is not None:
                thing.close()
        self._process = self._connection = self._log = None

    def __del__(self) -> None:
        with suppress(Exception):  # at the interpreter's end modules may be gone
            self.close()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        # The engine lists things in the order of Python's sets: the same in every process.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno()), self.module],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's to decide on
        )
        theirs.close()
        self._receive(START_S)

    def _receive(self, limit_s: float) -> dict[str, Any]:
        assert self._connection is not None
        until = time.monotonic() + limit_s
        try:
            if self._connection.poll(max(0.0, until - time.monotonic())):
                return json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._lost("died") from None
        raise self._lost(f"did not answer within {limit_s:g} s and was ended")

    def _lost(self, what: str) -> EngineError:
        said = ""
        if self._log is not None:
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - _LOG_TAIL))
            said = self._log.read().decode(errors="replace").strip()
        self.close()
        told = f" Its last output: {said}" if said else ""
        return EngineError(
            f"the ALFWorld engine {what}; this episode is lost, the next reset starts a fresh "
            f"engine.{told}"
        )


def answer_requests(
    connection: int, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> None:
    """Inside the process: tell that it is ready, then answer JSON requests over an inherited file
    descriptor until it is closed. A mistake comes back as {"error", "kind"}: ValueError where the
    game is wrong, engine else."""
    channel = Connection(connection)
    channel.send_bytes(b"{}")
    while True:
        try:
            request = json.loads(channel.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            reply = answer(request)
        except (ValueError, FileNotFoundError) as error:
            reply = {"error": str(error), "kind": "ValueError"}
        except (Exception, SystemExit):  # the planner's translator leaves by sys.exit
            print(traceback.format_exc(), file=sys.stderr)
            reply = {"error": traceback.format_exc().strip().splitlines()[-1], "kind": "engine"}
        channel.send_bytes(json.dumps(reply).encode())
