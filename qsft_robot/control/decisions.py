"""Decisions beside the loop: one thread asks the policy while the arm goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qsft_robot.control.cadence import Clock
from qsft_robot.types import Observation, Policy


@dataclass(frozen=True)
class Answer:
    """The policy's answer: actions [h, d], or the error."""

    tick: int
    actions: np.ndarray | None
    error: BaseException | None
    seconds: float


class Decider(Protocol):
    """Asks a policy, one observation at a time, without blocking the loop."""

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come or to be fetched."""
        ...

    def ask(self, observation: Observation, tick: int) -> None: ...

    def answer(self, until: float) -> Answer | None:
        """The answer, waited for until the moment `until` of the loop's clock; None if none yet."""
        ...

    def reset(self, seed: int, timeout_s: float, cancelled: Callable[[], bool] = ...) -> None:
        """Begin an episode in the policy; Cancelled once `cancelled()`."""
        ...

    def close(self) -> None: ...


class Cancelled(RuntimeError):
    """Somebody asked for the end of the run while the policy was waited for."""


def never() -> bool:
    """Nobody cancels."""
    return False


class DecisionThread:
    """The policy in a thread of its own; onnxruntime, torch and sockets release the interpreter."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._wake = threading.Condition()
        self._question: tuple[Callable[[], Any], int] | None = None
        self._answer: Answer | None = None
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._work, name="decisions", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._busy

    def ask(self, observation: Observation, tick: int) -> None:
        """Hand over an observation; ValueError while the one before is still being answered."""
        self._post(lambda: self._policy.infer(observation), tick)

    def reset(self, seed: int, timeout_s: float, cancelled: Callable[[], bool] = never) -> None:
        """Begin an episode in the policy, waiting for it and for any late answer of the one
        before; RuntimeError when the policy does not come back in time."""
        give_up = time.monotonic() + timeout_s
        while self._busy:
            wait_for(self, give_up, cancelled, f"the policy has not answered for {timeout_s:g} s")
        self._post(lambda: self._policy.reset(seed), -1)
        done = wait_for(self, give_up, cancelled, f"its reset took more than {timeout_s:g} s")
        if done.error is not None:
            raise done.error

    def answer(self, until: float) -> Answer | None:
        """The answer, waited for until `until` (`time.monotonic`)."""
        with self._wake:
            while self._answer is None:
                left = until - time.monotonic()
                if not self._busy or left <= 0:
                    return None
                self._wake.wait(left)
            found, self._answer = self._answer, None
            self._busy = False
            return found

    def close(self) -> None:
        """Let the thread end; a decision under way is left to itself."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _post(self, work: Callable[[], Any], tick: int) -> None:
        with self._wake:
            if self._busy:
                raise ValueError("one decision at a time: fetch the answer before asking again.")
            self._question, self._busy = (work, tick), True
            self._wake.notify_all()

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._question is None and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                assert self._question is not None
                (work, tick), self._question = self._question, None
            began = time.monotonic()
            actions, error = None, None
            try:
                actions = work()
            except BaseException as problem:
                error = problem
            with self._wake:
                self._answer = Answer(tick, actions, error, time.monotonic() - began)
                self._wake.notify_all()


def wait_for(
    decider: Decider,
    give_up: float,
    cancelled: Callable[[], bool],
    late: str,
    clock: Clock | None = None,
) -> Answer:
    """The answer that is under way; RuntimeError with `late` when it does not come by `give_up`
    (of `clock`, the system's monotonic one when None), Cancelled once `cancelled()`."""
    now = time.monotonic if clock is None else clock.now
    while now() < give_up:
        found = decider.answer(min(give_up, now() + 0.1))
        if found is not None:
            return found
        if cancelled():
            raise Cancelled("the run was ended while the policy was waited for")
    raise RuntimeError(f"{late}; no episode can begin.")
