"""A pool of worker processes that are watched, killed past their deadline, and replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from multiprocessing.connection import wait as wait_for
from typing import Any, BinaryIO, Protocol

from qsft_robot.rollouts.array_messages import pack, unpack
from qsft_robot.rollouts.worker_channel import STARTUP_S, error_of, read_mark, write_mark

# Why a worker is lost whose machine went away: whatever it was at begins again elsewhere.
NODE = "node"
_LOG_TAIL = 4000
# The path travels as an argument, so a worker imports what the main process would.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from qsft_robot.rollouts.worker_channel import serve; "
    "serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
)


@dataclass(frozen=True)
class Message:
    """A message of worker number `worker`."""

    worker: int
    content: Any


@dataclass(frozen=True)
class Lost:
    """Worker number `worker` died or hung and was replaced by a fresh one of the same number."""

    worker: int
    reason: str  # "crashed" or "timeout", which is its task's fault, or NODE, which is nobody's
    task: int  # what it was at, or worker_channel.IDLE
    detail: str  # exit status and the last lines that it printed


@dataclass(frozen=True)
class Joined:
    """Worker number `worker` is present from now on."""

    worker: int


class Pool(Protocol):
    """Workers that run one service, wherever they are. The first message of a worker is its
    greeting."""

    greeting: dict[str, Any]

    def __len__(self) -> int: ...

    def present(self, worker: int) -> bool:
        """Whether a worker can be sent messages; one that is not comes with a `Joined`."""
        ...

    def send(self, worker: int, message: Any) -> None: ...

    def wait(self, timeout_s: float) -> list[Message | Lost | Joined]: ...


class _Worker:
    """One child process with its pipe, its mark file and the file that takes its output."""

    def __init__(self, service: str, settings: bytes) -> None:
        self.ready = False
        # Both files live as long as the process.
        self.log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._mark: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        # Until the worker says "ready" its task is to start.
        write_mark(self._mark.fileno(), 0, time.monotonic() + STARTUP_S)
        self.connection: Connection
        self.connection, theirs = Pipe()
        descriptors = (theirs.fileno(), self._mark.fileno())
        # One thread each: the workers themselves fill the cores.
        environment = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", **os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path), *map(str, descriptors), service],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=environment,
        )
        theirs.close()
        with suppress(OSError):  # it may have died at once; the closed pipe tells
            self.connection.send_bytes(settings)

    def mark(self) -> tuple[int, float]:
        return read_mark(self._mark.fileno())

    def tail(self) -> str:
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - _LOG_TAIL))
        return self.log.read().decode(errors="replace").strip()

    def stop(self, grace_s: float) -> None:
        """Close the pipe, which asks the worker to end, and kill it where it does not."""
        self.connection.close()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self._mark.close()


class WorkerPool:
    """`workers` processes that run `service` ("module:function", see `worker_channel.serve`).

    The first message of every worker is its greeting, kept as `greeting`. Nothing is pickled, and
    no worker imports the main script again, so a pool can be started from a notebook or a pipe.
    """

    def __init__(self, service: str, settings: Mapping[str, Any], workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}, at least 1 is needed")
        self.greeting: dict[str, Any] = {}
        self._service = service
        self._settings = pack(dict(settings))
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(_Worker(service, self._settings))
            while not all(worker.ready for worker in self._workers):
                self.wait(1.0)
        except BaseException:
            self.close(grace_s=0)
            raise

    def __len__(self) -> int:
        return len(self._workers)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        # After an error nothing that a worker still does is wanted.
        self.close(grace_s=10.0 if error[0] is None else 0)

    def pids(self) -> list[int]:
        """Process ids of the workers, by number."""
        return [worker.process.pid for worker in self._workers]

    def present(self, worker: int) -> bool:
        """Always: a lost one is replaced at once."""
        return worker < len(self._workers)

    def send(self, worker: int, message: Any) -> None:
        """Queue a message; a worker that has just died is told by the next `wait`."""
        with suppress(OSError):
            self._workers[worker].connection.send_bytes(pack(message))

    def wait(self, timeout_s: float) -> list[Message | Lost | Joined]:
        """The messages that came in; none after `timeout_s`. Raises the error of a worker that
        can't start."""
        by_connection = {w.connection: i for i, w in enumerate(self._workers)}
        events: list[Message | Lost | Joined] = []
        for connection in wait_for(list(by_connection), timeout_s):
            number = by_connection[connection]  # type: ignore[index]
            worker = self._workers[number]
            try:
                content = unpack(worker.connection.recv_bytes())
            except (EOFError, OSError):
                events.append(self._replace(number, "crashed"))
                continue
            if isinstance(content, dict) and "failed" in content:
                raise error_of(content)
            if worker.ready:
                events.append(Message(number, content))
            else:
                worker.ready = True
                self.greeting = content
        now = time.monotonic()
        for number, worker in enumerate(self._workers):
            if now > worker.mark()[1] and not worker.connection.poll():
                worker.process.send_signal(signal.SIGUSR1)  # print where it hangs
                events.append(self._replace(number, "timeout"))
        return events

    def close(self, grace_s: float = 10.0) -> None:
        """End every worker; one that has not ended after `grace_s` is killed."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.stop(grace_s)
        self._workers.clear()

    def _replace(self, number: int, reason: str) -> Lost:
        worker = self._workers[number]
        task, _ = worker.mark()
        with suppress(subprocess.TimeoutExpired):
            # A dead one closes its pipe a little before it is gone; a hung one tells where it is.
            worker.process.wait(2.0 if reason == "crashed" else 0.3)
        worker.process.kill()
        status = worker.process.wait()
        said = worker.tail()
        worker.stop(0)
        detail = f"the worker process ended with status {status}"
        if reason == "timeout":
            detail = "the worker process ran past its time limit and was killed"
        detail += f"; its last output:\n{said}" if said else " and printed nothing"
        if not worker.ready:
            raise RuntimeError(f"a worker process could not start: {detail}")
        self._workers[number] = _Worker(self._service, self._settings)
        return Lost(number, reason, task, detail)
