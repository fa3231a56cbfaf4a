"""Decisions beside the loop: one thread asks the policy while the arm goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qsft_robot.types import Observation, Policy


@dataclass(frozen=True)
class Answer:
    """What came of asking the policy: actions [h, d], or the error."""

    tick: int
    actions: np.ndarray | None
    error: Exception | None
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

    def reset(self, seed: int, timeout_s: float) -> None:
        """Begin an episode in the policy, waiting for it and for any late answer of the one
        before; RuntimeError when the policy does not come back in time."""
        give_up = time.monotonic() + timeout_s
        while self._busy and time.monotonic() < give_up:
            self.answer(min(give_up, time.monotonic() + 0.1))
        if self._busy:
            raise RuntimeError(
                f"the policy has not answered for {timeout_s:g} s; no episode can begin."
            )
        self._post(lambda: self._policy.reset(seed), -1)
        done = self.answer(give_up)
        if done is None:
            raise RuntimeError(f"the policy's reset took more than {timeout_s:g} s.")
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
            except Exception as problem:  # handed to the loop, which holds and says so
                error = problem
            with self._wake:
                self._answer = Answer(tick, actions, error, time.monotonic() - began)
                self._wake.notify_all()
