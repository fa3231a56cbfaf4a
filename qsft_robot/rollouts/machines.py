"""Where episodes run: the seam between a collection or an evaluation and the processes it uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from qsft_robot.rollouts.batches import EpisodeResult, Over, RolloutBatches
from qsft_robot.rollouts.pool import Pool, WorkerPool
from qsft_robot.types import BatchPolicy

ROLLOUTS = "qsft_robot.rollouts.worker:serve_rollouts"


class Rollouts(Protocol):
    """Episodes of one policy in one environment."""

    # What the simulators tell of themselves: env_args, action_shape, action_range.
    greeting: dict[str, Any]
    # What renders images, once one was rendered.
    backend: dict[str, Any]
    execute_steps: int | None

    def run(
        self, seeds: Sequence[int], filmed: Sequence[int], over: Over | None = None
    ) -> list[EpisodeResult]:
        """One episode a seed, in the order of the seeds; `over` is called with each that ends."""
        ...


class Machines(Protocol):
    """Whoever starts processes, on this machine or on others."""

    def describe(self) -> dict[str, Any] | None:
        """Entry of a summary that tells which machines they were; None where it is this one."""
        ...

    def workers(self, asked: int | None, policy: Any = None) -> int:
        """Simulator processes: as many as asked for, or what these machines are made for, beside a
        policy that is to run there."""
        ...

    def pool(
        self, service: str, settings: Mapping[str, Any], workers: int
    ) -> AbstractContextManager[Pool]:
        """`workers` processes that run a service without a policy."""
        ...

    def rollouts(
        self,
        policy: Any,
        settings: Mapping[str, Any],
        workers: int,
        slots: int,
        execute_steps: int | None,
        max_batch: int | None = None,
    ) -> AbstractContextManager[Rollouts]:
        """`workers` simulator processes of `slots` episodes each, and who decides for them."""
        ...


class ThisMachine:
    """Child processes of this one, and a policy that is open here."""

    def describe(self) -> dict[str, Any] | None:
        """Nothing to tell."""
        return None

    def workers(self, asked: int | None, policy: Any = None) -> int:
        """As many as asked for, or two."""
        return 2 if asked is None else asked

    def pool(self, service: str, settings: Mapping[str, Any], workers: int) -> WorkerPool:
        """`workers` processes that run a service."""
        return WorkerPool(service, settings, workers)

    @contextmanager
    def rollouts(
        self,
        policy: BatchPolicy,
        settings: Mapping[str, Any],
        workers: int,
        slots: int,
        execute_steps: int | None,
        max_batch: int | None = None,
    ) -> Iterator[RolloutBatches]:
        """`workers` simulator processes of `slots` episodes each; `policy` decides in this one."""
        with WorkerPool(ROLLOUTS, settings, workers) as pool:
            yield RolloutBatches(pool, policy, slots, execute_steps, max_batch)
