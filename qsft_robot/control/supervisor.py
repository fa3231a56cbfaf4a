"""The supervisor: a thread beside the loop that acts when a driver's call does not come back."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from qsft_robot.control.cadence import Clock
from qsft_robot.control.driver import Driver

# Exit status of a run whose arm could not be left holding and disconnected.
LEFT = 3
# Seconds between two looks, and without one after which the system had stopped the process.
_LOOK_S, _STOPPED_S = 0.05, 1.0


def end_after(stop_after_s: float) -> float:
    """Seconds without a command after which the process ends: the call that blocks gets as long
    again as the watchdog's time to come back, and one second to hold and disconnect."""
    return 2 * stop_after_s + 1.0


class Supervisor:
    """Watches one driver. While commands are sent (`feed` to `rest`) a gap of `stop_after_s` trips
    it: the arm is stopped by its second path, `Robot.stop`, where it has one. After `end_after` the
    process ends, with one line and exit status LEFT. The same goes for a call that has not come
    back so long after the end of the run was asked for, whichever it is. A process that the system
    stopped (SIGSTOP) and let go on has the time that a blocked call has to come back.

    As a context manager it runs in a thread of its own; `check` is what that does.
    """

    def __init__(
        self,
        driver: Driver,
        stop_after_s: float,
        clock: Clock,
        *,
        end: Callable[[str], None] | None = None,
        beat: Callable[[bool], None] = lambda moving: None,
        beside: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """`end(line)` ends the process; `beat(moving)` is called by `feed` and `rest`; `beside`
        runs the second path, which may block as well, in a thread of its own."""
        self._driver, self._clock, self._stop_after_s = driver, clock, stop_after_s
        self._end, self._beat, self._beside = end or end_process, beat, beside or _in_a_thread
        # Whether the loop was found stuck; it ends the run as soon as it comes back.
        self.tripped = False
        # What did not come back, in words.
        self.blocked: str | None = None
        self._stopped: str | None = None
        self._fed: float | None = None
        self._doing = ""
        self._asked: float | None = None
        # When the system let the process go on that it had stopped.
        self._resumed: float | None = None
        self._over = threading.Event()

    def feed(self, doing: str = "a command") -> None:
        """The loop is alive, and the arm under its commands."""
        self._fed, self._doing = self._clock.now(), doing
        self._beat(True)

    def rest(self) -> None:
        """No command is expected: the arm holds."""
        self._fed = None
        self._beat(False)

    def ask(self) -> None:
        """Somebody wants the run to end."""
        if self._asked is None:
            self._asked = self._clock.now()

    def check(self) -> None:
        """Act where the loop has been silent for too long."""
        now, doing = self._clock.now(), self._driver.doing
        since = [t for t in (self._fed,) if t is not None]
        if self._asked is not None and doing is not None:
            since.append(max(self._asked, doing[1]))
        if not since:
            return
        gap = now - min(since)
        if gap >= self._stop_after_s and not self.tripped:
            verb = f"{doing[0]} has not come back" if doing else "the loop has not come back"
            self.blocked = f"{verb} for {gap:.2f} s"
            self.tripped = True
            try:
                self._beside(self._stop)
            except RuntimeError as error:  # the system has no thread left; the end still comes
                self._stopped = f"stop() could not be called ({error}): not left holding"
        patience = end_after(self._stop_after_s)
        since_resumed = patience if self._resumed is None else now - self._resumed
        if gap >= patience and since_resumed >= patience - self._stop_after_s:
            left = self._stopped or "the arm was not left holding"
            verb = doing[0] if doing else self._doing
            self._end(
                f"error: robot {self._driver.name}: {verb} has not come back for {gap:.1f} s: "
                f"{left} and not disconnected; the process ends here"
            )

    def _stop(self) -> None:
        try:
            if self._driver.stop():
                self._stopped = "it was stopped by stop()"
        except BaseException as error:
            self._stopped = f"stop() failed ({type(error).__name__}: {error}): not left holding"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def _watch(self) -> None:
        before = self._clock.now()
        while not self._over.wait(_LOOK_S):
            now = self._clock.now()
            if now - before > _STOPPED_S:
                # The loop was stopped with this thread, and can hold in a moment.
                self._resumed = now
            before = now
            self.check()


def _in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="stop", daemon=True).start()


def end_process(line: str) -> None:
    """Say `line` and end the process at once, whatever its other threads do."""
    # A terminal that takes no text must not hold this thread too.
    saying = threading.Thread(target=os.write, args=(2, f"\n{line}\n".encode()), daemon=True)
    saying.start()
    saying.join(0.5)
    sys.stderr = None  # type: ignore[assignment]
    os._exit(LEFT)
