"""Operator input: keys of the terminal, and every signal that would end or suspend the process."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

# Key -> what it asks for.
KEYS = {"s": "stop", "q": "quit", "y": "done", "n": "failed"}
# What a person or the system asks an end with, whoever handled it before.
_ASKED = ("SIGINT", "SIGTERM")
# Signals that mean nothing, that can't be caught, or that tell of a fault of the code itself.
_LEFT_ALONE = (
    "SIGKILL", "SIGSTOP", "SIGCONT", "SIGCHLD", "SIGWINCH", "SIGURG", "SIGPIPE", "SIGSEGV",
    "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS", "SIGABRT",
)  # fmt: skip
# A process of the background that touches the terminal would be suspended, the arm moving.
_IGNORED = ("SIGTTIN", "SIGTTOU")
# Seconds in which a key that is held down still repeats after the arm was left.
_STILL_HELD_S = 2.0
HELP = "s ends the episode, q the run, y: success, n: failure"


class OperatorInput:
    """A context manager. Inside, single keys are read without Enter (only where stdin is a
    terminal), and every signal that would end or suspend the process (Ctrl-C, Ctrl-Z, Ctrl-\\,
    SIGTERM, SIGHUP, SIGUSR1, SIGALRM ...) asks for an orderly end, as often as it comes: none cuts
    the ending short. After `release`, when the arm was left, a signal interrupts as ever."""

    def __init__(self, asked: Callable[[], None] = lambda: None) -> None:
        """`asked` is called at every signal, from a thread of its own if the main one is stuck."""
        self.quits = False
        # The names of the signals that came.
        self.signals: list[str] = []
        self._request: str | None = None
        self._terminal: Any = None
        self._earlier: dict[int, Any] = {}
        self._taken: dict[int, Any] = {}
        self._asked = asked
        self._released: float | None = None

    @property
    def has_keys(self) -> bool:
        """Whether keys are read."""
        return self._terminal is not None

    def __enter__(self) -> Self:
        self._take_signals()
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

    def _take_signals(self) -> None:
        alone = {getattr(signal, name, None) for name in _LEFT_ALONE}
        asked = {getattr(signal, name, None) for name in _ASKED}
        ignored = {getattr(signal, name, None) for name in _IGNORED}
        for number in signal.valid_signals() - alone:
            now = signal.getsignal(number)
            # What is ignored (nohup) stays so, and a driver's own handlers are its own.
            if now is signal.SIG_DFL or number in asked:
                self._taken[number] = signal.SIG_IGN if number in ignored else self._signal
                self._earlier[number] = signal.signal(number, self._taken[number])
        # A handler runs once the main thread comes back from a call; the byte comes at once.
        self._wakes, self._woken = os.pipe()
        for end in (self._wakes, self._woken):
            os.set_blocking(end, end == self._wakes)
        self._fd = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(self._wakes,), daemon=True).start()

    def take_back(self) -> None:
        """Take what people ask an end with from a driver that took it for itself (middleware of
        robots handles Ctrl-C on its own, asyncio leaves signals at their defaults): the arm would
        not be left as promised. What else it handles itself stays its own."""
        asked = {getattr(signal, name, None) for name in _ASKED}
        for number, taken in self._taken.items():
            now = signal.getsignal(number)
            if now != taken and (number in asked or now is signal.SIG_DFL):
                signal.signal(number, taken)
        with suppress(OSError, ValueError):  # it may have closed the pipe
            signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)

    def _listen(self, wakes: int) -> None:
        """Until the pipe closes: pass signals on though the main thread be stuck."""
        while got := os.read(wakes, 64):
            if any(signal.getsignal(number) == self._signal for number in got):
                self._asked()
        os.close(wakes)

    def release(self) -> None:
        """The arm was left: from now on a signal interrupts what is still to be written."""
        self._released = time.monotonic()

    def give_terminal_back(self) -> None:
        """Leave the terminal as it was found."""
        if self._terminal is not None:
            import termios

            with suppress(OSError, ValueError, termios.error):  # the terminal may have gone
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._terminal)
            self._terminal = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_terminal_back()
        signal.set_wakeup_fd(self._fd)
        os.close(self._woken)
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def request(self) -> str | None:
        """The operator's word since the episode began: stop, quit, done or failed; None without."""
        while self._terminal is not None and self._pressed(0.0):
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
            if self._pressed(0.1):
                if self._key() in ("q", ""):
                    self._ask("quit")
                break
        print()

    def _pressed(self, seconds: float) -> bool:
        """Whether a key came within so long, or the terminal has ended."""
        try:
            return bool(select.select([sys.stdin], [], [], seconds)[0])
        except (OSError, ValueError):  # a driver may have closed it
            return True

    def _key(self) -> str:
        """The next key, "" where the terminal has ended."""
        try:
            return os.read(sys.stdin.fileno(), 1).decode(errors="replace").lower()
        except (OSError, ValueError):
            return ""

    def _ask(self, what: str | None) -> None:
        self._request = what
        self.quits |= what == "quit"

    def _signal(self, number: int, frame: FrameType | None) -> None:
        if self._released is not None and time.monotonic() - self._released > _STILL_HELD_S:
            raise KeyboardInterrupt("interrupted while the logs were being written")
        self.signals.append(signal.Signals(number).name if number < 32 else f"signal {number}")
        self._ask("quit")
        self._asked()
