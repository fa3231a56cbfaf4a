"""The nodes of a Ray cluster as `rollouts.machines.Machines`."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qsft_robot.cluster.connection import connected
from qsft_robot.cluster.crew import Crew, environment
from qsft_robot.cluster.hosts import SHARED_MARK, RayPool
from qsft_robot.cluster.players import Player, PolicyOnNodes
from qsft_robot.rollouts.batches import EpisodeResult, Over, steps_executed
from qsft_robot.rollouts.pool import Joined, Lost
from qsft_robot.versions import software_versions

# Simulator processes that one policy on a processor decides for.
_PER_POLICY = 8
# How many players may be lost with no episode finished in between.
_MAX_LOSSES = 8
# Software that decides the last digits, so that it had better be the same on all nodes.
_MATTERS = ("qsft-robot", "python", "numpy", "torch", "onnxruntime", "mujoco")


class RayMachines:
    """The cluster that this process is connected to (see `ray_cluster`)."""

    def __init__(self, address: str) -> None:
        import ray

        self._address = address
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._cpus = [int(node.get("CPU", 0)) for node in nodes]
        self._gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        self._lost = 0
        if not sum(self._cpus):
            raise ValueError(f"--ray {address}: none of its {len(nodes)} nodes offers a core.")

    def describe(self) -> dict[str, Any]:
        """Nodes, cores and GPUs at the start, and how many actors were lost since."""
        return {
            "ray": self._address,
            "nodes": len(self._cpus),
            "cpus": sum(self._cpus),
            "gpus": self._gpus,
            "lost": self._lost,
        }

    def __str__(self) -> str:
        return (
            f"ray: {len(self._cpus)} nodes, {sum(self._cpus)} cores, {self._gpus} GPUs "
            f"({self._address})"
        )

    def workers(self, asked: int | None, policy: PolicyOnNodes | None = None) -> int:
        """Worker processes: as many as asked for, or one for each core that no policy has."""
        if asked is not None:
            return asked
        taken = 0 if policy is None else self._policies(policy) * policy.threads
        return max(1, sum(self._cpus) - taken)

    def _policies(self, policy: PolicyOnNodes) -> int:
        """One a GPU, or, where there is none, one for every few cores of a node."""
        if self._on_gpu(policy):
            return self._gpus
        return max(1, sum(-(-cpus // _PER_POLICY) for cpus in self._cpus if cpus > 1))

    def _on_gpu(self, policy: PolicyOnNodes) -> bool:
        if policy.device.startswith("cuda") and not self._gpus:
            raise ValueError(f"--device {policy.device}: the Ray cluster has no GPU.")
        return bool(self._gpus) and policy.device.startswith(("auto", "cuda"))

    def pool(self, service: str, settings: Mapping[str, Any], workers: int) -> RayPool:
        """`workers` processes that run a service, wherever there are cores."""
        return RayPool(service, settings, workers)

    @contextmanager
    def rollouts(
        self,
        policy: PolicyOnNodes,
        settings: Mapping[str, Any],
        workers: int,
        slots: int,
        execute_steps: int | None,
        max_batch: int | None = None,
    ) -> Iterator[RayRollouts]:
        """Policies on GPUs, or on processors, and `workers` simulator processes shared out."""
        on_gpu = self._on_gpu(policy)
        count = min(self._policies(policy), workers)
        order = {
            "policy": policy.to_json(),
            "on_gpu": on_gpu,
            "settings": dict(settings),
            "slots": slots,
            "execute_steps": execute_steps,
            "max_batch": max_batch,
            "environment": environment(),
        }
        shares = [workers // count + (i < workers % count) for i in range(count)]
        options = {
            "num_cpus": policy.threads,
            "num_gpus": int(on_gpu),
            "scheduling_strategy": "SPREAD",
        }
        with _marked(settings["video_folder"]):
            crew = Crew(
                Player, [{**order, "workers": n} for n in shares], options, "policy of the cluster"
            )
            try:
                steps = steps_executed(policy, execute_steps)
                yield RayRollouts(self, crew, [n * slots for n in shares], steps)
            finally:
                crew.close()

    def lose(self, detail: str, count: int = 1) -> None:
        """Count processes that were lost, and say so."""
        self._lost += count
        warnings.warn(
            f"a node or a process of the cluster was lost; its unfinished episodes begin again "
            f"elsewhere ({detail[:160]})",
            stacklevel=3,
        )


class RayRollouts:
    """Episodes of one policy on a crew of players: `rollouts.machines.Rollouts`."""

    def __init__(
        self, machines: RayMachines, crew: Crew, capacities: list[int], execute_steps: int | None
    ) -> None:
        self._machines, self._crew, self._capacities = machines, crew, capacities
        self.execute_steps = execute_steps
        self.greeting = crew.greeting
        self.backend: dict[str, Any] = {}
        self._run = 0
        self._compared = 0

    def run(
        self, seeds: Sequence[int], filmed: Sequence[int], over: Over | None = None
    ) -> list[EpisodeResult]:
        """One episode a seed, in the order of the seeds; `over` is called with each that ends."""
        self._run += 1
        results: dict[int, EpisodeResult] = {}
        queue = deque(enumerate(seeds))
        held: list[dict[int, int]] = [{} for _ in self._capacities]  # index -> seed, by player
        busy = [False] * len(held)
        losses = 0
        while len(results) < len(seeds):
            for player, episodes in enumerate(held):
                if not busy[player] and self._crew.present(player):
                    room = min(self._capacities[player] - len(episodes), len(queue))
                    new = [queue.popleft() for _ in range(room)]
                    episodes.update(new)
                    if episodes:
                        told = {"run": self._run, "filmed": list(filmed), "episodes": new}
                        self._crew.ask(player, told)
                        busy[player] = True
            for event in self._crew.wait(0.5):
                if isinstance(event, Joined):
                    continue
                busy[event.worker] = False
                if isinstance(event, Lost):
                    queue.extendleft(reversed(held[event.worker].items()))
                    held[event.worker].clear()
                    losses += 1
                    if losses > _MAX_LOSSES:
                        raise RuntimeError(
                            f"policies were lost {losses} times with no episode finished in "
                            f"between, the last: {event.detail}"
                        )
                    self._machines.lose(event.detail)
                    continue
                if count := event.content["lost"]:
                    self._machines.lose(f"{count} simulator processes", count)
                self.backend = event.content["backend"] or self.backend
                for index, fields, log in event.content["over"]:
                    losses = 0
                    del held[event.worker][index]
                    results[index] = EpisodeResult.from_json(fields)
                    if over is not None:
                        over(index, results[index], log)
            self._compare()
        return [results[i] for i in range(len(seeds))]

    def _compare(self) -> None:
        """Say where a player's software is not that of this machine."""
        here = software_versions()
        for greeting in self._crew.greetings[self._compared :]:
            self._compared += 1
            player = greeting["player"]
            other = {n: player["versions"].get(n) for n in _MATTERS}
            if other := {n: v for n, v in other.items() if v != here[n]}:
                told = ", ".join(f"{n} {v or '(absent)'}" for n, v in other.items())
                warnings.warn(
                    f"node {player['node']} has {told}, which is not what is here: the last digits "
                    "may differ.",
                    stacklevel=3,
                )


@contextmanager
def _marked(folder: str | None) -> Iterator[None]:
    """A folder of videos with a mark that nodes look for."""
    if folder is None:
        yield
        return
    mark = Path(folder) / SHARED_MARK
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield
    finally:
        with suppress(OSError):
            mark.unlink()


@contextmanager
def ray_cluster(address: str) -> Iterator[RayMachines]:
    """The cluster at `address` for as long as the block lasts (errors: see `connected`)."""
    with connected(address):
        yield RayMachines(address)
