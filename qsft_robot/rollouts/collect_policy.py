"""Collects logs with a policy: its own episodes and the environment's rewards, in one file."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.progress import RolloutProgress
from qsft_robot.rollouts.action_range import check_policy_range
from qsft_robot.rollouts.batches import EpisodeResult
from qsft_robot.rollouts.collect import CollectReport, Returns, choose_valid, env_seed, interrupted
from qsft_robot.rollouts.machines import Machines, ThisMachine
from qsft_robot.rollouts.partial import PartialLogs
from qsft_robot.types import BatchPolicy, Episode
from qsft_robot.versions import software_versions

# The mask, and the name beside the experts' names in a report.
POLICY = "policy"


def collect_with_policy(
    policy: BatchPolicy,
    env_args: Mapping[str, Any],
    out: str | Path,
    episodes: int,
    *,
    seed: int = 0,
    workers: int = 2,
    envs_per_worker: int = 8,
    execute_steps: int | None = None,
    valid_fraction: float = 0.1,
    episode_timeout_s: float = 120.0,
    attributes: Mapping[str, Any] | None = None,
    imports: Collection[str] = (),
    compress_images: bool = True,
    max_batch: int | None = None,
    machines: Machines | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> CollectReport:
    """Run `policy` closed loop and write its episodes to `out` (robomimic's schema).

    Episode i is reset with the seed that demonstration i of a collection with `seed` has. Success
    and a used step limit are terminal. Masks: policy and mixed (all), train and valid. `attributes`
    (JSON types) are stored with every log, beside its seed. `imports` as in `build_env`. Episodes
    that the environment broke off are left out and counted. The file appears whole or not at all,
    also after Ctrl-C. `max_batch` and `machines` as in `evaluate`. `identity` (JSON) says which
    policy this is: logs lie in <out>.parts as long as the file is not whole, and the same call goes
    on from them.
    Raises ValueError on bad arguments, RuntimeError when every episode broke off.
    """
    if episodes < 1:
        raise ValueError(f"{episodes} episodes; at least 1 is needed")
    if workers < 1 or envs_per_worker < 1:
        raise ValueError(
            f"workers={workers} and envs_per_worker={envs_per_worker}: at least 1 of each is needed"
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}, it has to be 0 or more")
    if not 0 <= valid_fraction < 1:
        raise ValueError(f"valid_fraction is {valid_fraction}, it lies in [0, 1)")
    seeds = [env_seed(seed, index) for index in range(episodes)]
    slots = min(envs_per_worker, -(-episodes // workers))
    settings = {
        "env_args": dict(env_args),
        "env_overrides": {"imports": list(imports)} if imports else {},
        "reset_options": None,
        "slots": slots,
        "episode_timeout_s": episode_timeout_s,
        "video_folder": None,
        "log": True,
    }
    machines = ThisMachine() if machines is None else machines
    with ExitStack() as stack:
        rollouts = stack.enter_context(
            machines.rollouts(
                policy, settings, min(workers, episodes), slots, execute_steps, max_batch
            )
        )
        check_policy_range(getattr(policy, "description", None), rollouts.greeting["action_range"])
        writer = stack.enter_context(
            DemonstrationWriter(out, rollouts.greeting["env_args"], compress_images)
        )
        tell = stack.enter_context(RolloutProgress("collect", episodes)) if progress else None
        kept = None
        if identity is not None:
            same = {**settings, "seed": seed, "execute_steps": execute_steps, "policy": identity}
            kept = PartialLogs(Path(out), {**same, "versions": software_versions()})
        valid = choose_valid(episodes, valid_fraction, seed)
        logs = _InOrder(writer, seeds, valid, attributes, kept, tell)
        began = time.monotonic()
        try:
            rollouts.run(logs.missing, [], logs)
            logs.write()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                interrupted(out, logs.following, episodes, "episodes", kept)
            ) from None
        if not logs.written:
            raise RuntimeError(f"{out}: all {episodes} episodes broke off; the first: {logs.error}")
        seconds = time.monotonic() - began
    if kept is not None:
        kept.remove()
    return CollectReport(
        path=Path(out),
        episodes=logs.written,
        steps=logs.steps,
        successes=logs.successes,
        by_expert={POLICY: (logs.written, logs.successes)},
        seconds=seconds,
        broken=episodes - logs.written,
        mean_return=logs.returns.mean,
    )


class _InOrder:
    """Writes episodes in the order of their seeds, whichever is over first."""

    def __init__(
        self,
        writer: DemonstrationWriter,
        seeds: list[int],
        valid: set[int],
        attributes: Mapping[str, Any] | None,
        kept: PartialLogs | None,
        tell: Callable[[bool | None], None] | None,
    ) -> None:
        self._writer, self._seeds, self._valid = writer, seeds, valid
        self._attributes = dict(attributes or {})
        self._kept, self._tell = kept, tell
        self._there = set() if kept is None else {i for i in range(len(seeds)) if kept.has(i)}
        self._arrived: dict[int, dict[str, Any] | None] = {}
        self.returns = Returns()
        self.following = self.written = self.steps = self.successes = 0
        self.error: str | None = None  # of the first that broke off
        self._missing = [i for i in range(len(seeds)) if i not in self._there]

    @property
    def missing(self) -> list[int]:
        """Seeds of the episodes that are not there yet."""
        return [self._seeds[i] for i in self._missing]

    def __call__(self, i: int, episode: EpisodeResult, log: dict[str, Any] | None) -> None:
        index = self._missing[i]
        self._arrived[index] = log
        self.error = self.error or episode.error
        if self._kept is not None and log is not None:
            self._kept.put(index, log)
        if self._tell is not None:
            self._tell(episode.success_any)
        self.write()

    def write(self) -> None:
        """Write all those that follow the last one that was written."""
        while self.following in self._arrived or self.following in self._there:
            found = self._arrived.pop(self.following, None)
            if self.following in self._there:
                assert self._kept is not None
                found = self._kept.get(self.following)
                if self._tell is not None:
                    self._tell(bool(found["success"]))
            if found is not None:
                self._write(self.following, found)
            self.following += 1

    def _write(self, index: int, fields: dict[str, Any]) -> None:
        attributes = {**self._attributes, "seed": self._seeds[index], "reset_options": {}}
        episode = Episode(name=f"demo_{self.written}", attributes=attributes, **fields)
        end = "valid" if index in self._valid else "train"
        self._writer.append(episode, ["mixed", POLICY, end])
        self.returns.add(episode)
        self.written += 1
        self.steps += len(episode)
        self.successes += episode.success
