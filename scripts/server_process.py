"""`qsft-robot serve` in a process of its own, for scripts that measure it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServerProcess:
    """A server that is ready."""

    url: str
    pid: int

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return host, int(port)

    def resident_mib(self) -> float:
        """Resident memory of the server, in MiB."""
        return self._status("VmRSS") / 1024

    def threads(self) -> int:
        """Threads of the server."""
        return self._status("Threads")

    def open_files(self) -> int:
        """Open files of the server, its connections among them."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
        raise KeyError(key)


@contextmanager
def server_process(
    run: Path, flags: Sequence[str] = (), token: str | None = None, code: Path | None = None
) -> Iterator[ServerProcess]:
    """Start the server on a free port of loopback; stop it by SIGTERM at the end. `code` is the
    checkout that it runs from, this one when not given.

    RuntimeError when it does not come up, or does not end in order.
    """
    words = [sys.executable, "-m", "qsft_robot.cli", "serve", str(run), "--port", "0", *flags]
    environment = {k: x for k, x in os.environ.items() if k != "QSFT_TOKEN"}
    if token is not None:
        environment["QSFT_TOKEN"] = token
    if code is not None:
        environment["PYTHONPATH"] = str(code.resolve())
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("listening on"):
                    break
            else:
                raise RuntimeError(f"the server did not come up (exit status {process.wait()})")
            yield ServerProcess(line.split()[2], process.pid)
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                raise RuntimeError(f"the server ended with status {process.returncode}")
        finally:
            process.kill()
