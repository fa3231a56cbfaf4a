"""The thread that decides: one question at a time, errors handed over, late answers forgotten."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from qsft_robot.control.decisions import DecisionThread
from qsft_robot.types import Observation

SEEN = Observation({}, {"q": np.zeros(1, np.float32)})
SOON = 30.0


class Gated:
    """A policy that answers when its gate is open: the seed and how often it was asked since."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.seed, self.asked = -1, 0

    def reset(self, seed: int = 0) -> None:
        self.seed, self.asked = seed, 0

    def infer(self, observation: Observation) -> np.ndarray:
        self.gate.wait(SOON)
        self.asked += 1
        if self.seed == 13:
            raise ConnectionError("gone")
        return np.array([[self.seed, self.asked]], np.float32)


@pytest.fixture
def policy():
    return Gated()


@pytest.fixture
def thread(policy):
    made = DecisionThread(policy)
    yield made
    policy.gate.set()
    made.close()


def soon() -> float:
    return time.monotonic() + SOON


def test_an_answer_says_what_it_answers(thread):
    thread.reset(7, SOON)
    thread.ask(SEEN, 3)
    answer = thread.answer(soon())
    assert answer.tick == 3
    assert answer.error is None
    assert answer.actions.tolist() == [[7, 1]]
    assert not thread.busy
    assert thread.answer(soon()) is None


def test_nobody_waits_longer_than_asked(thread, policy):
    policy.gate.clear()
    thread.ask(SEEN, 0)
    assert thread.answer(time.monotonic() - 1) is None
    assert thread.busy
    with pytest.raises(ValueError, match="one decision at a time"):
        thread.ask(SEEN, 1)
    policy.gate.set()
    assert thread.answer(soon()).tick == 0


def test_an_error_of_the_policy_is_an_answer(thread):
    thread.reset(13, SOON)
    thread.ask(SEEN, 0)
    assert isinstance(thread.answer(soon()).error, ConnectionError)
    thread.reset(1, SOON)
    thread.ask(SEEN, 1)
    assert thread.answer(soon()).actions.tolist() == [[1, 1]]


def test_a_reset_forgets_what_was_still_being_decided(thread, policy):
    policy.gate.clear()
    thread.ask(SEEN, 9)
    threading.Timer(0.05, policy.gate.set).start()
    thread.reset(2, SOON)
    thread.ask(SEEN, 0)
    assert thread.answer(soon()).tick == 0


def test_a_reset_of_a_policy_that_hangs_is_an_error(thread, policy):
    policy.gate.clear()
    thread.ask(SEEN, 0)
    with pytest.raises(RuntimeError, match="no episode can begin"):
        thread.reset(1, 0.05)
