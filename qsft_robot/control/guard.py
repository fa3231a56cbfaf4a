"""The guard: a process beside the run that says so when the run dies, and ends one that is stuck.

A driver may block inside of C code that keeps Python's lock, so that no thread of the process runs;
the system may kill the process for its memory. Neither can be told from inside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

# One byte a message: m (commands move the arm), r (it holds), b (it was left as promised). Only the
# standard library: it starts in a few hundredths of a second.
_CODE = """
import os, select, sys
name, limit, parent, state = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), "r"
def stopped():
    try:
        return open(f"/proc/{parent}/stat").read().rsplit(")", 1)[1].split()[0] in "Tt"
    except (OSError, IndexError):
        return False
def say(what):
    os.write(2, f"\\nerror: robot {name}: {what}\\n".encode())
told, silent = False, 0.0
while True:
    heard = select.select([0], [], [], 0.5)[0]
    silent = 0.0 if heard else silent + 0.5
    # A process that a driver forked may keep the pipe open; the parent tells of its end.
    if not heard and os.getppid() == parent:
        if state != "m" or silent < limit:
            continue
        if stopped():
            if not told:
                say("the process was stopped by the system; the arm keeps its last command")
            told, silent = True, 0.0
            continue
        say(f"the process has been stuck for {limit:g} s and is killed: the arm was not left "
            "holding and not disconnected")
        os.kill(parent, 9)
        break
    got = os.read(0, 4096).decode() if heard else ""
    if not got:
        if state != "b":
            say("the process was killed: the arm was " + ("not left holding and " if state == "m"
                else "left holding, but ") + "not disconnected")
        break
    state = got[-1]
"""


class Guard:
    """A context manager around a run; `beat` is told of every command, `left` of a good end."""

    def __init__(self, name: str, limit_s: float) -> None:
        """`limit_s`: seconds of silence, the arm being under commands, that end the process."""
        self._name, self._limit_s = name, limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    def __enter__(self) -> Self:
        words = [self._name, str(self._limit_s), str(os.getpid())]
        reads, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            # A session of its own: the keys of the terminal are the run's.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CODE, *words],
                stdin=reads,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(reads)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.left()
        os.close(self._pipe)
        assert self._process is not None
        self._process.wait()

    def beat(self, moving: bool) -> None:
        """The loop is alive; whether commands move the arm."""
        self._tell(b"m" if moving else b"r")

    def left(self) -> None:
        """Tell the guard that the loop was left: whatever comes now, this process says itself."""
        self._tell(b"b")

    def _tell(self, message: bytes) -> None:
        with suppress(OSError):  # it may have been killed; a full pipe has newer beats than needed
            os.write(self._pipe, message)
