"""Environment of a run: clock, decision thread, and supervisors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

from qsft_robot.control.cadence import Clock, WallClock
from qsft_robot.control.decisions import Decider, DecisionThread
from qsft_robot.control.driver import Driver
from qsft_robot.control.guard import Guard
from qsft_robot.control.operator_input import OperatorInput
from qsft_robot.control.supervisor import Supervisor, end_after, end_process
from qsft_robot.types import Policy

# Seconds that the supervisor's thread has before the guard, a process, takes the run for stuck.
_GUARD_LATER_S = 2.0


@dataclass(frozen=True)
class Watch:
    """Who watches over a run."""

    operator: OperatorInput
    supervisor: Supervisor


@contextmanager
def _watch(driver: Driver, stop_after_s: float) -> Iterator[Watch]:
    """Signals and keys, the supervisor's thread, and the guard's process."""
    with ExitStack() as stack:
        limit = end_after(stop_after_s) + _GUARD_LATER_S
        guard = stack.enter_context(Guard(driver.name, limit))

        def end(line: str) -> None:
            operator.give_terminal_back()
            guard.left()
            end_process(line)

        supervisor = Supervisor(driver, stop_after_s, WallClock(), end=end, beat=guard.beat)
        operator = stack.enter_context(OperatorInput(supervisor.ask))
        stack.enter_context(supervisor)
        yield Watch(operator, supervisor)


@dataclass(frozen=True)
class Surroundings:
    """Of a real run; a test brings a clock of its own."""

    clock: Clock = field(default_factory=WallClock)
    decider: Callable[[Policy], Decider] = DecisionThread
    watch: Callable[[Driver, float], AbstractContextManager[Watch]] = _watch
    # Where notices of the running loop go; None: to the terminal, which the loop doesn't wait for.
    notice: Callable[[str], None] | None = None
