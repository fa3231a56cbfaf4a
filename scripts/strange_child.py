"""Strange inputs in a process of their own: what kills, stalls or swells it is told of the input.

A long-lived child takes one input after the other. It may take 2 GiB more than its imports did and
a minute for an input; where it dies or hangs, that is the outcome of the input, and the next one
gets a new child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SECONDS, BYTES = 60.0, 2 << 30


class Child:
    """A process that tries inputs, started when needed."""

    def __init__(self, bases: Path, keep: Path | None = None, seconds: float = SECONDS) -> None:
        self._bases, self._keep, self._seconds = bases, keep, seconds
        self._work = TemporaryDirectory(prefix="strange-")
        self.process: subprocess.Popen[bytes] | None = None

    def try_input(self, kind: str, number: str, verbs: Sequence[str] = ()) -> dict[str, Any]:
        """The outcome of the input that `number` seeds; its status is FAILED where it is bad."""
        self._start()
        assert self.process is not None
        request = {"kind": kind, "number": number, "verbs": list(verbs)}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            if line := self._answers.readline():
                outcome: dict[str, Any] = json.loads(line)
                if outcome.pop("last"):
                    self._end()
                return outcome
            what = f"the process died with status {self.process.wait()}"
        except TimeoutError:
            os.kill(self.process.pid, signal.SIGABRT)  # faulthandler writes where it stood
            what = f"hung for {self._seconds:g} s"
        except ConnectionError:
            what = f"the process died with status {self.process.wait()}"
        self._end()
        stood = self._log.read_text(errors="replace").split("\nExtension modules")[0].splitlines()
        told = {"kind": kind, "verb": "/".join(verbs) or "any", "status": "FAILED", "what": what}
        return {**told, "number": number, "trace": stood[-60:]}

    @property
    def _log(self) -> Path:
        return Path(self._work.name) / "stderr.txt"

    def _start(self) -> None:
        if self.process is not None:
            return
        self._socket, far = socket.socketpair()
        self._socket.settimeout(self._seconds)
        self._answers = self._socket.makefile("rb")
        words = [sys.executable, __file__, str(self._bases), self._work.name, str(far.fileno())]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*words, str(self._keep or "")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[far.fileno()],
                start_new_session=True,
            )
        far.close()

    def _end(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the processes that it started, too
        self.process.wait()
        self._answers.close()
        self._socket.close()
        self.process = None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self._socket.shutdown(socket.SHUT_WR)
        self._end()
        self._work.cleanup()


def limit_memory() -> None:
    """No more than BYTES beyond what is held now: private memory, touched or not."""
    import resource

    if held := held_bytes():
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (held + BYTES, hard))


def held_bytes() -> int:
    """Private memory of this process; 0 where the system doesn't tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmData"].split()[0]) * 1024


def _keep_failure(folder: Path, keep: Path, outcome: dict[str, Any]) -> None:
    """Move what failed aside, once for each way to fail."""
    known = keep / f"failed_{abs(hash(outcome['what'][:60])) % 10**8}"
    if not known.exists():
        os.rename(folder, known)
        folder.mkdir()
        (known / "outcome.json").write_text(json.dumps(outcome, indent=1))


def main() -> None:
    """Answer the requests of a socket, one line of ASCII each, until it is closed."""
    faulthandler.enable()
    import resource

    from strange_inputs import Bases, Failure, try_input

    bases, work, number, keep = sys.argv[1:]
    with socket.socket(fileno=int(number)) as channel, channel.makefile("rb") as requests:
        begun = held_bytes()
        for line in requests:
            limit_memory()
            asked = json.loads(line)
            verbs = (tuple(asked["verbs"]),) if asked["verbs"] else ()
            with TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as name:
                rng = random.Random(asked["number"])
                try:
                    outcome = try_input(asked["kind"], Bases(Path(bases)), Path(name), rng, *verbs)
                except Failure as failure:
                    outcome = {**failure.told, "number": asked["number"]}
                    if keep:
                        _keep_failure(Path(name), Path(keep), outcome)
            outcome["held"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            # What inputs leave behind adds up (buffers, threads); none pays for others.
            outcome["last"] = held_bytes() - begun > BYTES // 2
            channel.sendall(json.dumps(outcome).encode() + b"\n")
            if outcome["last"]:
                break


if __name__ == "__main__":
    main()
