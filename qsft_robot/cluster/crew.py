"""A crew: numbered Ray actors of one kind that are asked things, and replaced where they are lost.

Actors get bytes and give bytes (`array_messages`), so nothing of ours is pickled.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from time import monotonic, sleep
from typing import Any

from qsft_robot.printed_text import one_line
from qsft_robot.rollouts.array_messages import pack, unpack
from qsft_robot.rollouts.pool import NODE, Joined, Lost, Message
from qsft_robot.rollouts.worker_channel import IDLE, error_of, failure

# How often in a row an actor may be lost before it has started.
_MAX_STARTS = 5
# After which people are told that nothing could be placed yet.
_PATIENCE_S = 30.0
# The answer of an actor that can't go on where it is: it is replaced as a lost one is.
LEAVES = "leaves"
# What processes on other machines take over from this one, where they have none of their own.
_ENVIRONMENT = ("MUJOCO_GL", "OMP_WAIT_POLICY", "ALFWORLD_DATA", "HF_HUB_OFFLINE")


def environment() -> dict[str, str]:
    """Variables that an actor's processes are to have (see `take_environment`)."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def take_environment(variables: Mapping[str, str]) -> None:
    """Set variables that this machine does not set itself."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def answering(method: Callable[[Any, Any], Any]) -> Callable[[Any, bytes], bytes]:
    """A method of an actor whose message and answer are packed; an exception is an answer, too."""

    @wraps(method)
    def answer(self: Any, message: bytes) -> bytes:
        try:
            return pack({"answer": method(self, unpack(message))})
        except Exception as error:
            traceback.print_exc()  # into Ray's logs of that node
            return pack(failure(error))

    return answer


class _Member:
    """One actor: what it was asked and has not answered, oldest first."""

    def __init__(self, actor: Any, start: Any, starts: int) -> None:
        self.actor, self.starts, self.ready = actor, starts, False
        self.asked = deque([start])


class Crew:
    """Actors of one kind: `start(order)` answers its greeting, then `ask(message)` is answered in
    turn. `present` and the events of `wait` are those of a `rollouts.pool.Pool`."""

    def __init__(
        self,
        kind: type,
        orders: Sequence[Any],
        options: Mapping[str, Any],
        what: str,
        limit_s: float = float("inf"),
    ) -> None:
        """An actor for each order, with Ray's `options`; `what` they are, for people. Returns as
        soon as one of them has started, with its greeting in `greeting`; TimeoutError where none
        has after `limit_s` seconds."""
        import ray

        self._ray, self._what = ray, what
        self._kind: Any = ray.remote(max_restarts=0, max_task_retries=0, **options)(kind)
        self._orders = [pack(order) for order in orders]
        self.greeting: dict[str, Any] = {}
        self.greetings: list[dict[str, Any]] = []
        self._members = [self._begin(number, 1) for number in range(len(orders))]
        began, told = monotonic(), False
        try:
            while not any(member.ready for member in self._members):
                self.wait(1.0)
                if monotonic() - began > limit_s:
                    raise TimeoutError(f"the Ray cluster has room for no {what}")
                if not told and monotonic() - began > _PATIENCE_S:
                    told = True
                    warnings.warn(
                        f"the Ray cluster has started no {what} yet: is it busy (`ray status`)?",
                        stacklevel=2,
                    )
        except BaseException:
            self.close()
            raise

    def _begin(self, number: int, starts: int) -> _Member:
        actor = self._kind.remote()
        return _Member(actor, actor.start.remote(self._orders[number]), starts)

    def __len__(self) -> int:
        return len(self._members)

    def present(self, number: int) -> bool:
        """Whether an actor has started."""
        return number < len(self._members) and self._members[number].ready

    def ask(self, number: int, message: Any) -> None:
        """Queue a message; the answer comes by `wait`."""
        member = self._members[number]
        member.asked.append(member.actor.ask.remote(pack(message)))

    def wait(self, timeout_s: float) -> list[Message | Lost | Joined]:
        """Answers, in the order of the messages of each actor; none after `timeout_s`. Raises the
        error of an actor that could not answer."""
        events: list[Message | Lost | Joined] = []
        while True:
            # An answer must not overtake the loss of the one before it.
            heads = {m.asked[0]: i for i, m in enumerate(self._members) if m.asked}
            if not heads:
                if not events:
                    sleep(min(timeout_s, 0.05))
                return events
            wanted = len(heads) if events else 1
            limit = 0.0 if events else timeout_s
            done, _ = self._ray.wait(list(heads), num_returns=wanted, timeout=limit)
            if not done:
                return events
            for reference in done:
                events += self._take(heads[reference], reference)

    def _take(self, number: int, reference: Any) -> list[Message | Lost | Joined]:
        member = self._members[number]
        member.asked.popleft()
        errors = self._ray.exceptions
        try:
            content = unpack(self._ray.get(reference))
        except errors.RayTaskError as error:
            raise RuntimeError(f"a {self._what} failed: {one_line(error)[-500:]}") from error
        except errors.RayError as error:
            return [self._lost(number, one_line(error)[:500])]
        if "failed" in content:
            raise error_of(content)
        answer = content["answer"]
        if isinstance(answer, dict) and LEAVES in answer:
            return [self._lost(number, answer[LEAVES])]
        if member.ready:
            return [Message(number, answer)]
        member.ready = True
        self.greeting = self.greeting or answer
        self.greetings.append(answer)
        return [Joined(number)]

    def _lost(self, number: int, detail: str) -> Lost:
        member = self._members[number]
        starts = 1 if member.ready else member.starts + 1
        if starts > _MAX_STARTS:
            raise RuntimeError(f"no {self._what} can start in the Ray cluster: {detail}")
        self._kill(member)
        self._members[number] = self._begin(number, starts)
        return Lost(number, NODE, IDLE, detail)

    def _kill(self, member: _Member) -> None:
        with suppress(Exception):  # it may be gone, and its node with it
            self._ray.kill(member.actor)

    def close(self) -> None:
        """End every actor."""
        for member in self._members if hasattr(self, "_members") else []:
            self._kill(member)
        self._members = []
