"""Players: actors that hold a policy each and play episodes with it, as `evaluate` does here."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

from qsft_robot.cluster.crew import LEAVES, answering, take_environment
from qsft_robot.cluster.hosts import RayPool
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import fingerprint, read_description
from qsft_robot.policy.open import open_policy
from qsft_robot.rollouts.batches import EpisodeResult, RolloutBatches
from qsft_robot.rollouts.machines import ROLLOUTS
from qsft_robot.trust import NOTHING, Trust
from qsft_robot.versions import software_versions

# How long a player waits for the first of its simulator processes.
_ROOM_S = 180.0
# How long a player without any simulator process keeps its episodes.
_ALONE_S = 30.0
# Seconds of play between two looks at what is new, where no episode ends.
_TURN_S = 1.0


@dataclass(frozen=True)
class PolicyOnNodes:
    """A policy that every node opens for itself; here only its description is read."""

    folder: Path
    acting: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    threads: int = 1
    trust: Trust = NOTHING

    @cached_property
    def description(self) -> PolicyDescription:
        """As `open_policy` would have it."""
        inner = self.folder / ("checkpoint" if self.acting else "policy")
        description = read_description(inner if inner.is_dir() else self.folder)
        return replace(description, acting=replace(description.acting, **self.acting))

    def to_json(self) -> dict[str, Any]:
        """What `open_here` takes, with the digest of the folder."""
        told = {**asdict(self), "folder": str(self.folder.resolve()), "acting": dict(self.acting)}
        return {**told, "fingerprint": fingerprint(self.folder)}


def open_here(told: Mapping[str, Any], on_gpu: bool) -> Any:
    """Open a policy that was told by `PolicyOnNodes.to_json` on this node; ValueError where its
    folder is not here, or is another."""
    folder, node = Path(told["folder"]), socket.gethostname()
    mend = "let all nodes see the same folder under this path (a shared disk, or a copy)."
    if not folder.is_dir():
        raise ValueError(f"node {node} has no folder {folder}: {mend}")
    if fingerprint(folder) != told["fingerprint"]:
        raise ValueError(f"node {node} has another policy in {folder}: {mend}")
    device = told["device"]
    # Ray shows an actor its own GPU alone.
    device = "cuda" if on_gpu else "cpu" if device == "auto" else device
    policy = open_policy(
        folder,
        told["acting"],
        device,
        threads=told["threads"],
        trust_remote_code=told["trust"]["remote_code"],
        allow_downloads=told["trust"]["downloads"],
    )
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(told["threads"])
    return policy


class Player:
    """An actor with a policy and simulator processes; it decides for all its episodes in batches,
    by `RolloutBatches`."""

    @answering
    def start(self, order: Any) -> dict[str, Any]:
        """Open the policy and start the simulators; their greeting, with where this is."""
        take_environment(order["environment"])
        policy = open_here(order["policy"], order["on_gpu"])
        try:
            self._pool = RayPool(ROLLOUTS, order["settings"], order["workers"], _ROOM_S, near=True)
        except TimeoutError as error:
            # Evaluations side by side may hold all cores with policies: one has to give way.
            return {LEAVES: str(error)}
        self._batches = RolloutBatches(
            self._pool, policy, order["slots"], order["execute_steps"], order["max_batch"]
        )
        self._over: list[list[Any]] = []
        self._run = 0
        self._alone_since: float | None = None
        told = {"node": socket.gethostname(), "device": str(getattr(policy, "device", "cpu"))}
        return {**self._pool.greeting, "player": {**told, "versions": software_versions()}}

    @answering
    def ask(self, message: Any) -> dict[str, Any]:
        """Take episodes [[index, seed], ...] and play on until some are over, or for a second."""
        if message["run"] != self._run:
            self._run = message["run"]
            self._batches.begin(message["filmed"], self._end)
        self._batches.add((index, seed) for index, seed in message["episodes"])
        began = monotonic()
        while not self._over and monotonic() - began < _TURN_S:
            self._batches.turn()
        if any(self._pool.present(i) for i in range(len(self._pool))):
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = monotonic()
        elif monotonic() - self._alone_since > _ALONE_S:
            return {LEAVES: "no node has room for its simulator processes"}
        over, self._over = self._over, []
        lost, self._pool.lost = self._pool.lost, 0
        return {"over": over, "backend": self._batches.backend, "lost": lost}

    def _end(self, index: int, episode: EpisodeResult, log: dict[str, Any] | None) -> None:
        self._over.append([index, episode.to_json(), log])
