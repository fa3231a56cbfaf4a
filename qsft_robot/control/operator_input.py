"""What the person at the robot says: keys of the terminal, SIGINT, SIGTERM and SIGHUP."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

# Key -> what it asks for.
KEYS = {"s": "stop", "q": "quit", "y": "done", "n": "failed"}
# SIGHUP is unknown on Windows.
_SIGNALS = [getattr(signal, x) for x in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, x)]
HELP = "s ends the episode, q the run, y: success, n: failure"


class OperatorInput:
    """A context manager. Inside, single keys are read without Enter (only where stdin is a
    terminal), and the first SIGINT, SIGTERM or SIGHUP (the terminal has gone) asks for an orderly
    end; a second one interrupts."""

    def __init__(self) -> None:
        self.quits = False
        self._request: str | None = None
        self._terminal: Any = None
        self._earlier: dict[int, Any] = {}

    @property
    def has_keys(self) -> bool:
        """Whether keys are read."""
        return self._terminal is not None

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._earlier[number] = signal.signal(number, self._signal)
        if sys.stdin is not None and sys.stdin.isatty():
            import termios
            import tty

            descriptor = sys.stdin.fileno()
            self._terminal = termios.tcgetattr(descriptor)
            tty.setcbreak(descriptor)
            # Ctrl-S beside the key s would stop whoever writes to the terminal.
            mode = termios.tcgetattr(descriptor)
            mode[0] &= ~termios.IXON
            termios.tcsetattr(descriptor, termios.TCSANOW, mode)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal is not None:
            import termios

            with suppress(OSError, termios.error):  # the terminal may have gone
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._terminal)
            self._terminal = None
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def request(self) -> str | None:
        """What was asked for since the episode began: stop, quit, done or failed; else None."""
        while self._terminal is not None and select.select([sys.stdin], [], [], 0)[0]:
            key = self._key()
            if not key:
                break
            self._ask(KEYS.get(key, self._request))
        return self._request

    def begin_episode(self) -> None:
        """Forget what ended the last episode; to quit stays."""
        self._request = "quit" if self.quits else None

    def wait_for_start(self, what: str) -> None:
        """Let the person lay the scene out: a key pressed from now on begins, q quits, as does the
        end of the terminal. At once without keys."""
        if self._terminal is None:
            return
        import termios

        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)  # keys of the episode before
        print(f"\r{what}: any key begins, q quits ", end="", flush=True)
        while self._request is None:
            if select.select([sys.stdin], [], [], 0.1)[0]:
                if self._key() in ("q", ""):
                    self._ask("quit")
                break
        print()

    def _key(self) -> str:
        """The next key, "" where the terminal has ended."""
        try:
            return os.read(sys.stdin.fileno(), 1).decode(errors="replace").lower()
        except OSError:
            return ""

    def _ask(self, what: str | None) -> None:
        self._request = what
        self.quits |= what == "quit"

    def _signal(self, number: int, frame: FrameType | None) -> None:
        if self.quits:
            raise KeyboardInterrupt("interrupted twice: the run was not ended orderly")
        self._ask("quit")
