"""Decisions of several clients in one batch, on a thread of their own beside the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from qsft_robot.policy.folder import PolicySpec
from qsft_robot.server.metrics import ServerMetrics
from qsft_robot.server.requests import Request
from qsft_robot.types import BatchPolicy, Decision, EpisodeMemory, Observation

WARM_UP_DECISIONS = 3
log = logging.getLogger("qsft_robot.server.server")

T = TypeVar("T")
_LOGGED = "the server's log has the reason"


class Busy(RuntimeError):
    """The queue is full, or the server is going down."""


class Abandoned(RuntimeError):
    """The client went away while its request waited."""


class PolicyFailed(RuntimeError):
    """The policy raised, or its answer was none; the episode can't go on."""


@dataclass
class Session:
    """One connection's episode. Only the policy's thread touches the memory."""

    is_open: Callable[[], bool]
    memory: EpisodeMemory | None = None


@dataclass(frozen=True)
class Answer:
    """A decision and how long it took, in seconds."""

    decision: Decision
    queue_s: float
    infer_s: float


@dataclass(frozen=True)
class _Waiting:
    session: Session
    request: Request
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class DecisionBatches:
    """Takes what waits, up to `max_batch` requests at a time, to one thread that runs the policy.

    `window_s` is how long the first request of a batch waits for others, at most: once every
    session waits, nobody else can come. More than `max_waiting` requests are refused with Busy.
    """

    def __init__(
        self,
        policy: BatchPolicy,
        spec: PolicySpec,
        metrics: ServerMetrics,
        *,
        max_batch: int,
        window_s: float,
        max_waiting: int,
    ) -> None:
        self._policy = policy
        self._spec = spec
        self._metrics = metrics
        self._max_batch = max_batch
        self._window_s = window_s
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._sessions = 0
        self._stopping = False
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def session(self, is_open: Callable[[], bool]) -> Iterator[Session]:
        """One connection's place in the batches."""
        self._sessions += 1
        try:
            yield Session(is_open)
        finally:
            self._sessions -= 1
            self._arrived.set()

    async def warm_up(self) -> None:
        """Decide a few times at batch sizes up to the largest; then take requests.

        PolicyFailed when the policy can't decide on observations of its own description.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, _contained, self._warm_up)
        self._task = loop.create_task(self._run())

    async def decide(self, session: Session, request: Request) -> Answer:
        """The policy's decision. Raises Busy or PolicyFailed."""
        if self._stopping:
            raise Busy("the server is going down")
        if len(self._waiting) >= self._max_waiting:
            raise Busy(f"{self._max_waiting} requests wait already")
        waiting = _Waiting(session, request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._metrics.waiting = len(self._waiting)
        self._arrived.set()
        return await waiting.answer

    async def stop(self) -> None:
        """Let the running batch end, and refuse what waits."""
        self._stopping = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        while self._waiting:
            self._resolve(self._waiting.popleft(), Busy("the server is going down"))
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            if self._stopping:
                return
            batch = self._take()
            if not batch:
                continue
            began = time.perf_counter()
            try:
                decisions = await loop.run_in_executor(
                    self._thread, _contained, partial(self._decide, batch)
                )
            except Exception as error:
                # Of whatever kind: the other connections must not hang on one batch.
                log.exception("the policy raised")
                name = type(error).__name__
                for each in batch:
                    self._resolve(each, PolicyFailed(f"{name}; {_LOGGED}"))
                continue
            took = time.perf_counter() - began
            self._metrics.inference_seconds.observe(took)
            self._metrics.batch_size.observe(len(batch))
            for each, decision in zip(batch, decisions, strict=True):
                queued = began - each.since
                self._metrics.queue_seconds.observe(queued)
                if isinstance(decision, ValueError):
                    log.error("the policy refused a request: %s", decision)
                    self._resolve(each, PolicyFailed(f"ValueError; {_LOGGED}"))
                    continue
                fault = self._fault(decision)
                if fault is not None:
                    log.error("the policy failed: %s", fault)
                answer = Answer(decision, queued, took) if fault is None else PolicyFailed(fault)
                self._resolve(each, answer)

    async def _gather(self) -> None:
        """Return once a batch is worth running, or the server stops."""
        deadline: float | None = None
        while not self._stopping:
            self._arrived.clear()
            if len(self._waiting) >= min(self._max_batch, max(1, self._sessions)):
                return
            now = time.perf_counter()
            if self._waiting:
                deadline = self._waiting[0].since + self._window_s
                if now >= deadline:
                    return
            try:
                await asyncio.wait_for(
                    self._arrived.wait(), None if deadline is None else deadline - now
                )
            except TimeoutError:
                continue

    def _take(self) -> list[_Waiting]:
        """The next batch, without the requests of clients that have gone."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._max_batch:
            each = self._waiting.popleft()
            if each.session.is_open() and not each.answer.done():
                batch.append(each)
            else:
                self._resolve(each, Abandoned())
        self._metrics.waiting = len(self._waiting)
        return batch

    def _resolve(self, waiting: _Waiting, result: Answer | Exception) -> None:
        if waiting.answer.done():
            return
        if isinstance(result, Exception):
            waiting.answer.set_exception(result)
        else:
            waiting.answer.set_result(result)

    def _decide(self, batch: Sequence[_Waiting]) -> list[Decision | ValueError]:
        """On the policy's thread: begin the episodes that are to begin, and decide. Where the
        policy refuses a batch, each request is decided alone, so that one that can't be (an
        instruction too long) costs no other episode."""
        for each in batch:
            if each.request.seed is not None or each.session.memory is None:
                each.session.memory = self._policy.begin_episode(each.request.seed or 0)
        try:
            return [*self._decided(batch)]
        except ValueError:
            if len(batch) == 1:
                raise
        found: list[Decision | ValueError] = []
        for each in batch:
            try:
                found += self._decided([each])
            except ValueError as error:
                found.append(error)
        return found

    def _decided(self, batch: Sequence[_Waiting]) -> list[Decision]:
        decisions = self._policy.infer_batch(
            [each.request.observation for each in batch], [each.session.memory for each in batch]
        )
        if len(decisions) != len(batch):
            raise ValueError(f"{len(decisions)} decisions for {len(batch)} observations")
        return decisions

    def _fault(self, decision: Decision) -> str | None:
        """Why a decision must not reach a robot; None for a good one."""
        actions, shape = decision.actions, (self._spec.horizon, self._spec.action_dim)
        if actions.shape != shape or actions.dtype != np.float32:
            return f"it gave actions {actions.dtype} {actions.shape} instead of float32 {shape}"
        if not np.isfinite(actions).all():
            return "it gave an action that is NaN or infinite"
        return None

    def _warm_up(self) -> None:
        spec = self._spec
        blank = Observation(
            {key: np.zeros((*size, 3), np.uint8) for key, size in spec.cameras.items()},
            {key: np.zeros(size, np.float32) for key, size in spec.state.items()},
            spec.instructions[0] if spec.instructions else "",
        )
        size = 1
        while True:
            memories = [self._policy.begin_episode(0) for _ in range(size)]
            for _ in range(WARM_UP_DECISIONS):
                decisions = self._policy.infer_batch([blank] * size, memories)
                faults = [fault for d in decisions if (fault := self._fault(d)) is not None]
                if faults:
                    raise PolicyFailed(f"the policy failed in its warm-up: {faults[0]}")
            if size == self._max_batch:
                return
            size = min(2 * size, self._max_batch)


def _contained(work: Callable[[], T]) -> T:
    """Do `work` on the policy's thread; a policy's sys.exit() ends no server."""
    try:
        return work()
    except Exception:
        raise
    except BaseException as error:
        raise PolicyFailed(f"the policy raised {type(error).__name__}") from error
