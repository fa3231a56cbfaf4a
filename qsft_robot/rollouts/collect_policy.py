"""Collects logs with a policy: its own episodes and the environment's rewards, in one file."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.progress import RolloutProgress
from qsft_robot.rollouts.action_range import check_policy_range
from qsft_robot.rollouts.batches import RolloutBatches
from qsft_robot.rollouts.collect import CollectReport, Returns, choose_valid, env_seed
from qsft_robot.rollouts.pool import WorkerPool
from qsft_robot.types import BatchPolicy, Episode

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
    progress: bool = True,
) -> CollectReport:
    """Run `policy` closed loop and write its episodes to `out` (robomimic's schema).

    Episode i is reset with the seed that demonstration i of a collection with `seed` has. Success
    and a used step limit are terminal. Masks: policy and mixed (all), train and valid. `attributes`
    (JSON types) are stored with every log, beside its seed. `imports` as in `build_env`. Episodes
    that the environment broke off are left out and counted. The file appears whole or not at all,
    also after Ctrl-C.
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
    service = "qsft_robot.rollouts.worker:serve_rollouts"
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(service, settings, min(workers, episodes)))
        check_policy_range(getattr(policy, "description", None), pool.greeting["action_range"])
        writer = stack.enter_context(
            DemonstrationWriter(out, pool.greeting["env_args"], compress_images)
        )
        tell = stack.enter_context(RolloutProgress("collect", episodes)) if progress else None
        kept = _InOrder(writer, seeds, choose_valid(episodes, valid_fraction, seed), attributes)
        batches = RolloutBatches(pool, policy, slots, execute_steps, kept)
        began = time.monotonic()
        try:
            batches.run(seeds, [], tell)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{out}: interrupted after {kept.following} of {episodes} episodes; nothing was "
                "written, and an earlier file of this name is as it was"
            ) from None
        if not kept.written:
            raise RuntimeError(
                f"{out}: all {episodes} episodes broke off; the first: {batches.finished[0].error}"
            )
        seconds = time.monotonic() - began
    return CollectReport(
        path=Path(out),
        episodes=kept.written,
        steps=kept.steps,
        successes=kept.successes,
        by_expert={POLICY: (kept.written, kept.successes)},
        seconds=seconds,
        broken=episodes - kept.written,
        mean_return=kept.returns.mean,
    )


class _InOrder:
    """Writes episodes in the order of their seeds, whichever is over first."""

    def __init__(
        self,
        writer: DemonstrationWriter,
        seeds: list[int],
        valid: set[int],
        attributes: Mapping[str, Any] | None,
    ) -> None:
        self._writer, self._seeds, self._valid = writer, seeds, valid
        self._attributes = dict(attributes or {})
        self._arrived: dict[int, dict[str, Any] | None] = {}
        self.returns = Returns()
        self.following = self.written = self.steps = self.successes = 0

    def __call__(self, index: int, fields: dict[str, Any] | None) -> None:
        self._arrived[index] = fields
        while self.following in self._arrived:
            found = self._arrived.pop(self.following)
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
