"""Collects demonstrations of mixed quality: scripted experts in worker processes, one HDF5 file."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.progress import RolloutProgress
from qsft_robot.rollouts.collect_worker import EXPERT
from qsft_robot.rollouts.machines import Machines, ThisMachine
from qsft_robot.rollouts.partial import PartialLogs
from qsft_robot.rollouts.pool import NODE, Lost, Message, Pool
from qsft_robot.types import Episode
from qsft_robot.versions import software_versions

_DEMONSTRATIONS = "qsft_robot.rollouts.collect_worker:serve_demonstrations"

# A worker has one order in work and one at hand.
_AHEAD = 2
_MASKS = ("expert", "mixed", "train", "valid")


@dataclass(frozen=True)
class CollectPart:
    """Demonstrations of one kind; a file is made of one part or more."""

    episodes: int
    # "expert" or the name of a failure mode -> probability; they sum to 1
    mixture: Mapping[str, float] = field(default_factory=lambda: {EXPERT: 1.0})
    # standard deviation of the Gaussian noise on the expert's actions
    noise: float = 0.0
    # passed to env.reset, stored with each demonstration
    reset_options: Mapping[str, Any] | None = None
    # further keyword arguments of the environment's expert
    expert_options: Mapping[str, Any] = field(default_factory=dict)
    # a filter key (mask) that lists the demonstrations of this part
    mask: str | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"a part of {self.episodes} episodes; at least 1 is needed")
        total = sum(self.mixture.values())
        if not self.mixture or min(self.mixture.values()) < 0 or abs(total - 1) > 1e-6:
            raise ValueError(
                f"the mixture {dict(self.mixture)} sums to {total:g}; "
                "its probabilities have to be positive and to sum to 1"
            )
        if self.noise < 0:
            raise ValueError(f"noise is {self.noise}, a standard deviation is 0 or more")
        if self.mask in _MASKS:
            raise ValueError(
                f"mask {self.mask!r} is written by every collection; name the part otherwise"
            )


@dataclass(frozen=True)
class CollectReport:
    """Report of a collection."""

    path: Path
    episodes: int
    steps: int
    successes: int
    # expert or failure mode -> (episodes, successes)
    by_expert: dict[str, tuple[int, int]]
    seconds: float  # without the start of the workers
    broken: int = 0  # episodes of a policy that broke off and were left out
    # Of rewards that tell more than success; None where a success pays 1 and nothing else pays.
    mean_return: float | None = None

    def __str__(self) -> str:
        modes = ", ".join(f"{name} {s}/{n}" for name, (n, s) in sorted(self.by_expert.items()))
        return (
            f"{self.path}: {self.episodes} demonstrations, {self.steps} steps, success "
            f"{self.successes / self.episodes:.3f} ({modes}), "
            + ("" if self.mean_return is None else f"mean return {self.mean_return:.3f}, ")
            + f"{self.seconds:.0f} s, {self.steps / self.seconds:.0f} steps/s"
            + (f"; {self.broken} broke off and were left out" if self.broken else "")
        )


class Returns:
    """The mean return of the episodes of a collection."""

    def __init__(self) -> None:
        self._total, self._number, self._tell_more = 0.0, 0, False

    def add(self, episode: Episode) -> None:
        """Count an episode."""
        found = float(episode.rewards.sum())
        self._total, self._number = self._total + found, self._number + 1
        self._tell_more |= found != episode.success

    @property
    def mean(self) -> float | None:
        """None where a success paid 1 and nothing else paid: the success rate says it."""
        return self._total / self._number if self._tell_more else None


def collect(
    env_args: Mapping[str, Any],
    out: str | Path,
    parts: Sequence[CollectPart],
    *,
    seed: int = 0,
    workers: int = 2,
    valid_fraction: float = 0.1,
    episode_timeout_s: float = 300.0,
    env_overrides: Mapping[str, Any] | None = None,
    compress_images: bool = True,
    machines: Machines | None = None,
    resumable: bool = False,
    progress: bool = True,
) -> CollectReport:
    """Collect `parts` into the HDF5 file `out` (robomimic's schema) and return what came of it.

    Demonstration i depends on `seed` and i alone, so the file is the same for any `workers`.
    Masks: expert (no failure mode), mixed (all), train and valid (`valid_fraction` of all), and one
    for each part that names one. The file appears whole or not at all, also after Ctrl-C.
    `machines`: where processes run (None: here). `resumable`: logs lie in <out>.parts as long as
    the file is not whole, and the same call goes on from them.
    Raises ValueError on bad arguments, RuntimeError when an episode raises, dies or hangs.
    """
    orders = [order for part in parts for order in [part] * part.episodes]
    if not orders:
        raise ValueError("no parts, so there is nothing to collect")
    if not 0 <= valid_fraction < 1:
        raise ValueError(f"valid_fraction is {valid_fraction}, it lies in [0, 1)")
    if seed < 0:
        raise ValueError(f"seed is {seed}, it has to be 0 or more")
    settings = {"env_args": dict(env_args), "env_overrides": dict(env_overrides or {})}
    machines = ThisMachine() if machines is None else machines
    kept = None
    returns = Returns()
    seen: Counter[str] = Counter()
    good: Counter[str] = Counter()
    steps = written = 0
    try:
        with ExitStack() as stack:
            pool = stack.enter_context(
                machines.pool(_DEMONSTRATIONS, settings, min(workers, len(orders)))
            )
            writer = stack.enter_context(
                DemonstrationWriter(out, pool.greeting["env_args"], compress_images)
            )
            tell = (
                stack.enter_context(RolloutProgress("collect", len(orders))) if progress else None
            )
            began = time.monotonic()
            valid = choose_valid(len(orders), valid_fraction, seed)
            if resumable:
                kept = PartialLogs(Path(out), {**settings, **_all_of(parts, seed)})
            for index, episode in _play_all(pool, orders, seed, episode_timeout_s, kept):
                name = episode.attributes["expert"]
                mask = orders[index].mask
                masks = ["mixed", "valid" if index in valid else "train"]
                masks += ["expert"] if name == EXPERT else []
                writer.append(episode, masks + ([mask] if mask else []))
                seen[name] += 1
                good[name] += episode.success
                returns.add(episode)
                steps += len(episode)
                written += 1
                if tell is not None:
                    tell(episode.success)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            interrupted(out, written, len(orders), "demonstrations", kept)
        ) from (None)
    if kept is not None:
        kept.remove()
    return CollectReport(
        path=Path(out),
        episodes=written,
        steps=steps,
        successes=good.total(),
        by_expert={name: (seen[name], good[name]) for name in seen},
        seconds=time.monotonic() - began,
        mean_return=returns.mean,
    )


def interrupted(out: str | Path, done: int, of: int, what: str, kept: PartialLogs | None) -> str:
    """What is said after Ctrl-C."""
    if kept is not None:
        return (
            f"{out}: interrupted with {kept.count()} of {of} {what}, which lie in {kept.folder}; "
            "the same command goes on from there"
        )
    return (
        f"{out}: interrupted after {done} of {of} {what}; nothing was written, and an earlier file "
        "of this name is as it was"
    )


def _all_of(parts: Sequence[CollectPart], seed: int) -> dict[str, Any]:
    """All that decides the demonstrations beside their environment."""
    told = [{**vars(part), "mixture": dict(part.mixture)} for part in parts]
    return {"parts": told, "seed": seed, "versions": software_versions()}


def choose_valid(n: int, fraction: float, seed: int) -> set[int]:
    """Which of n demonstrations are held out."""
    chosen = np.random.default_rng([seed, n]).permutation(n)[: round(fraction * n)]
    return {int(index) for index in chosen}


def env_seed(seed: int, index: int) -> int:
    """The seed that resets the environment of demonstration `index`."""
    draws = np.random.SeedSequence([seed, index])
    return int(draws.generate_state(1)[0] >> 1)  # 31 bits, which every simulator takes


def _order(index: int, part: CollectPart, seed: int) -> dict[str, Any]:
    """All that determines demonstration `index`."""
    draws = np.random.SeedSequence([seed, index])
    names = sorted(part.mixture)
    probabilities = np.array([part.mixture[name] for name in names])
    rng = np.random.default_rng(draws)
    return {
        "seed": env_seed(seed, index),
        "expert_seed": [seed, index, 1],
        "expert": str(rng.choice(names, p=probabilities / probabilities.sum())),
        "noise": part.noise,
        "reset_options": None if part.reset_options is None else dict(part.reset_options),
        "expert_options": dict(part.expert_options),
    }


def _play_all(
    pool: Pool,
    parts: Sequence[CollectPart],
    seed: int,
    timeout_s: float,
    kept: PartialLogs | None,
) -> Iterator[tuple[int, Episode]]:
    """Yield (index, episode) in the order of the indices, whichever worker is faster."""
    there = set() if kept is None else {i for i in range(len(parts)) if kept.has(i)}
    waiting = deque(i for i in range(len(parts)) if i not in there)
    arrived: dict[int, dict[str, Any]] = {}
    in_work: list[list[int]] = [[] for _ in range(len(pool))]
    wanted = 0
    while wanted < len(parts):
        for worker, indices in enumerate(in_work):
            # A slow episode must not let the others pile up in memory.
            while (
                len(indices) < _AHEAD
                and waiting
                and waiting[0] - wanted < 8 * _AHEAD * len(pool)
                and pool.present(worker)
            ):
                index = waiting.popleft()
                order = _order(index, parts[index], seed)
                pool.send(worker, {"index": index, "timeout_s": timeout_s, **order})
                indices.append(index)
        if wanted not in there:
            for event in pool.wait(0.5):
                if isinstance(event, Lost):
                    if event.reason != NODE:
                        raise _lost(event, parts, seed)
                    waiting.extendleft(reversed(in_work[event.worker]))
                    in_work[event.worker].clear()
                elif isinstance(event, Message):
                    index = event.content["index"]
                    in_work[event.worker].remove(index)
                    arrived[index] = event.content["episode"]
                    if kept is not None:
                        kept.put(index, arrived[index])
        while wanted in arrived or wanted in there:
            fields = arrived.pop(wanted, None)
            if fields is None:
                assert kept is not None
                fields = kept.get(wanted)
            order = _order(wanted, parts[wanted], seed)
            attributes = {
                "seed": order["seed"],
                "reset_options": order["reset_options"] or {},
                "expert": order["expert"],
                "noise": order["noise"],
            }
            yield wanted, Episode(name=f"demo_{wanted}", attributes=attributes, **fields)
            wanted += 1


def _lost(event: Lost, parts: Sequence[CollectPart], seed: int) -> RuntimeError:
    what = "a worker with no demonstration under way"
    if event.task >= 0:
        order = _order(event.task, parts[event.task], seed)
        seed_and_expert = f"env seed {order['seed']}, expert {order['expert']!r}"
        what = f"demonstration {event.task} ({seed_and_expert})"
    return RuntimeError(f"{what} {event.reason}: {event.detail}")
