"""Worker processes on the nodes of a Ray cluster, as one pool: each has a host that watches it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsft_robot.cluster.crew import Crew, answering, environment, take_environment
from qsft_robot.rollouts.pool import Joined, Lost, Message, WorkerPool

# A file in the folder of videos, by which a node knows that it sees that folder.
SHARED_MARK = ".shared"


class Host:
    """An actor with one worker process, as it would run on one machine: watched, killed past its
    deadline, and replaced."""

    @answering
    def start(self, order: Any) -> dict[str, Any]:
        """Start the process; its greeting."""
        take_environment(order["environment"])
        folder = order["settings"].get("video_folder")
        if folder is not None and not (Path(folder) / SHARED_MARK).exists():
            raise ValueError(
                f"node {socket.gethostname()} does not see {folder}, where videos go: put the run "
                "into a folder that all nodes share, or evaluate without --videos."
            )
        self._pool = WorkerPool(order["service"], order["settings"], 1)
        self._losses = 0
        return self._pool.greeting

    @answering
    def ask(self, message: Any) -> dict[str, Any]:
        """The worker's reply to a message, or that it was lost. What was sent before that was known
        is left unanswered: its episodes begin again."""
        if message["losses"] != self._losses:
            return {"stale": True}
        self._pool.send(0, message["content"])
        while True:
            for event in self._pool.wait(0.5):
                if isinstance(event, Message):
                    return {"content": event.content}
                if isinstance(event, Lost):
                    self._losses += 1
                    return {"lost": [event.reason, event.task, event.detail]}


class RayPool:
    """`workers` processes that run a service anywhere in the cluster that this process is connected
    to: a `rollouts.pool.Pool`. It begins with one of them; the others join."""

    def __init__(
        self,
        service: str,
        settings: Mapping[str, Any],
        workers: int,
        limit_s: float = float("inf"),
        near: bool = False,
    ) -> None:
        """`near`: on the node of this process as long as there is room; `limit_s`: as of `Crew`."""
        if workers < 1:
            raise ValueError(f"workers is {workers}, at least 1 is needed")
        order = {"service": service, "settings": dict(settings), "environment": environment()}
        options: dict[str, Any] = {"num_cpus": 1}
        if near:
            options["scheduling_strategy"] = _here()
        self._crew = Crew(Host, [order] * workers, options, "worker process", limit_s)
        self.lost = 0  # processes that went with their node
        self._losses = [0] * workers
        self.greeting = self._crew.greeting

    def __len__(self) -> int:
        return len(self._crew)

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def present(self, worker: int) -> bool:
        """Whether its host has started."""
        return self._crew.present(worker)

    def send(self, worker: int, message: Any) -> None:
        """Queue a message."""
        self._crew.ask(worker, {"losses": self._losses[worker], "content": message})

    def wait(self, timeout_s: float) -> list[Message | Lost | Joined]:
        """The messages that came in; none after `timeout_s`."""
        events: list[Message | Lost | Joined] = []
        for event in self._crew.wait(timeout_s):
            if isinstance(event, Lost):
                self._losses[event.worker] = 0  # a fresh host
                self.lost += 1
            if not isinstance(event, Message):
                events.append(event)
            elif "content" in event.content:
                events.append(Message(event.worker, event.content["content"]))
            elif "lost" in event.content:
                self._losses[event.worker] += 1
                events.append(Lost(event.worker, *event.content["lost"]))
        return events

    def close(self) -> None:
        """End every worker."""
        self._crew.close()


def _here() -> Any:
    """Ray's word for: on this node, or elsewhere where it is full."""
    from ray import get_runtime_context
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
