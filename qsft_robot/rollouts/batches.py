"""Batches the decisions of many running episodes and keeps the workers busy meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsft_robot.rollouts.pool import NODE, Joined, Lost, Message, Pool
from qsft_robot.types import BatchPolicy, Decision, EpisodeMemory, Observation, is_text

# How often an episode that was not at fault begins again after its worker was lost.
MAX_RESTARTS = 3
# Called with the index of an episode that is over, its outcome, and what a pool that logs saw of
# it, as the fields of `types.Episode`; None where it broke off or nothing is logged.
Over = Callable[[int, "EpisodeResult", dict[str, Any] | None], None]


@dataclass(frozen=True)
class EpisodeResult:
    """The outcome of one episode; one line of episodes.jsonl."""

    seed: int
    steps: int
    total_reward: float  # the undiscounted sum of rewards; "return" in the file
    # Success at any step, and at the last one; None where the environment tells none.
    success_any: bool | None
    success_last: bool | None
    # None when success_any; else "step_limit" or "terminated" (the environment ended it without
    # success), or what broke: "error" (it raised), "timeout", "crashed" (the process died)
    failure_reason: str | None
    error: str | None  # the traceback, or the process's last words
    instruction: str
    decisions: int
    mean_decision_ms: float | None  # inference time of a batch over its size, mean of the episode
    value_at_start: float | None  # V of the first observation, where the policy has one
    values: list[float | None]  # V of each decision
    env_seconds: float  # what the environment computed
    restarts: int  # how often it began again because another episode took its worker down
    video: str | None  # file name in videos/
    task: str | None = None  # the kind of task, where the environment tells it (`task_type`)
    # how many text commands the environment did not take; None where actions are numbers
    refused_commands: int | None = None

    def with_video(self, name: str | None) -> EpisodeResult:
        return replace(self, video=name)

    def to_json(self) -> dict[str, Any]:
        """The line's fields, in order."""
        fields = dict(vars(self))
        for name in ("task", "refused_commands"):
            if fields[name] is None:
                del fields[name]
        return {"return" if k == "total_reward" else k: v for k, v in fields.items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EpisodeResult:
        """Undo `to_json`; TypeError on other fields than these."""
        return cls(**{"total_reward" if k == "return" else k: v for k, v in fields.items()})


@dataclass
class _Running:
    """One episode under way."""

    index: int
    seed: int
    restarts: int
    memory: EpisodeMemory
    values: list[float | None]
    decision_ms: list[float]
    steps: int = 0  # actions that were sent, all of which are executed unless the episode ends


@dataclass
class _Group:
    """Slots of one worker that are stepped together while the worker's other group is decided."""

    worker: int
    slots: list[int]
    running: dict[int, _Running]  # slot -> episode
    observations: dict[int, Observation]  # slot -> what awaits a decision


class RolloutBatches:
    """Runs episodes on a pool of `rollouts.worker.serve_rollouts` workers with one policy.

    Each worker's slots form two groups. A decision takes at most half of all groups, those that
    have waited longest, so that the others are being stepped during inference.
    """

    def __init__(
        self,
        pool: Pool,
        policy: BatchPolicy,
        slots: int,
        execute_steps: int | None,
        max_batch: int | None = None,
    ) -> None:
        """`execute_steps`: actions of a chunk before the next decision; None: as the policy says,
        else all. `max_batch`: most observations that the policy is given at once."""
        self._pool = pool
        self._policy = policy
        self.execute_steps = steps_executed(policy, execute_steps)
        self._max_batch = max_batch
        self.greeting = pool.greeting
        self.backend: dict[str, Any] = {}
        self._results: dict[int, EpisodeResult] = {}
        self._queue: deque[tuple[int, int, int]] = deque()  # index, seed, restarts
        self._waiting: deque[_Group] = deque()
        halves = [list(range(slots))[half::2] for half in range(2)]
        self._groups = [
            _Group(worker, half, {}, {}) for half in halves for worker in range(len(pool)) if half
        ]

    @property
    def finished(self) -> list[EpisodeResult]:
        """The episodes that are over, in the order of the seeds."""
        return [self._results[i] for i in sorted(self._results)]

    def run(
        self,
        seeds: Sequence[int],
        filmed: Sequence[int],
        over: Over | None = None,
    ) -> list[EpisodeResult]:
        """One episode a seed; `over` is called with each that ends."""
        self.begin(filmed, over)
        self.add(enumerate(seeds))
        while len(self._results) < len(seeds):
            self.turn()
        return self.finished

    def begin(self, filmed: Sequence[int], over: Over | None) -> None:
        """Forget all episodes; those to come are `add`ed."""
        self._results = {}
        self._over = over
        self._filmed = set(filmed)
        self._queue.clear()
        self._waiting.clear()
        for group in self._groups:
            group.running.clear()

    def add(self, episodes: Iterable[tuple[int, int]]) -> None:
        """Queue episodes (index, seed) and begin those for which there is a free slot."""
        self._queue.extend((index, seed, 0) for index, seed in episodes)
        self._wake()

    def turn(self) -> None:
        """Take what the workers have sent, and decide once."""
        for event in self._pool.wait(0.0 if self._waiting else 0.5):
            if isinstance(event, Joined):
                self._wake()
            elif isinstance(event, Lost):
                self._waiting = deque(g for g in self._waiting if g.worker != event.worker)
                self._recover(event)
            elif (group := self._take(event)).observations:
                self._waiting.append(group)
            else:
                self._send(group, {})
        if self._waiting:
            count = self._batch_groups(len(self._waiting))
            self._decide([self._waiting.popleft() for _ in range(count)])

    def _wake(self) -> None:
        # A group without an episode was told so by an earlier, empty queue.
        for group in self._groups:
            if not group.running:
                self._send(group, {})

    def _batch_groups(self, waiting: int) -> int:
        return min(waiting, max(1, len(self._groups) // 2))

    def _send(self, group: _Group, decisions: dict[int, Decision]) -> None:
        """Send the actions of `decisions` (by slot) and begin episodes in the free slots."""
        if not self._pool.present(group.worker):
            return
        commands: list[dict[str, Any]] = []
        for slot, decision in decisions.items():
            actions = decision.actions[: self.execute_steps]
            group.running[slot].steps += len(actions)
            commands.append({"slot": slot, "actions": actions, "value": decision.value})
        for slot in group.slots:
            if slot in group.running or not self._queue:
                continue
            index, seed, restarts = self._queue.popleft()
            memory = self._policy.begin_episode(seed)
            group.running[slot] = _Running(index, seed, restarts, memory, [], [])
            commands.append({"slot": slot, "seed": seed, "record": seed in self._filmed})
        if commands:
            number = self._groups.index(group)
            self._pool.send(group.worker, {"group": number, "commands": commands})

    def _take(self, message: Message) -> _Group:
        """File a worker's replies: results are recorded, observations await a decision."""
        group = self._groups[message.content["group"]]
        if message.content["backend"]["gl_renderer"] is not None or not self.backend:
            self.backend = message.content["backend"]
        for slot, reply in message.content["replies"].items():
            number = int(slot)
            if "result" in reply:
                self._record(group.running.pop(number), reply["result"], reply.get("episode"))
            else:
                seen = Observation.from_env(reply["observation"], reply["instruction"])
                step = group.running[number].steps
                group.observations[number] = replace(seen, step=step, paid=reply["paid"])
        return group

    def _record(
        self, episode: _Running, result: dict[str, Any], log: dict[str, Any] | None = None
    ) -> None:
        ms = episode.decision_ms
        total_reward = result.pop("return")
        self._results[episode.index] = ended = EpisodeResult(
            seed=episode.seed,
            total_reward=total_reward,
            decisions=len(ms),
            mean_decision_ms=round(sum(ms) / len(ms), 4) if ms else None,
            value_at_start=episode.values[0] if episode.values else None,
            values=episode.values,
            restarts=episode.restarts,
            **result,
        )
        if self._over is not None:
            self._over(episode.index, ended, log)

    def _decide(self, groups: Sequence[_Group]) -> None:
        """One decision for every observation of `groups`, and off to the workers."""
        asked = [(group, slot) for group in groups for slot in group.observations]
        observations = [group.observations[slot] for group, slot in asked]
        episodes = [group.running[slot] for group, slot in asked]
        began = time.perf_counter()
        decisions = self._infer(observations, [e.memory for e in episodes])
        ms = 1000 * (time.perf_counter() - began) / len(asked)
        if len(decisions) != len(asked):
            raise ValueError(
                f"the policy gave {len(decisions)} decisions for {len(asked)} observations"
            )
        by_group: dict[int, dict[int, Decision]] = {id(group): {} for group in groups}
        for (group, slot), episode, decision in zip(asked, episodes, decisions, strict=True):
            value = None if decision.value is None else round(float(decision.value), 6)
            if value is not None and not np.isfinite(value):
                raise ValueError(f"the policy gave V = {value} (episode of seed {episode.seed})")
            episode.decision_ms.append(ms)
            episode.values.append(value)
            by_group[id(group)][slot] = Decision(self._checked(decision.actions), value)
        for group in groups:
            group.observations.clear()
            self._send(group, by_group[id(group)])

    def _infer(
        self, observations: Sequence[Observation], memories: Sequence[EpisodeMemory]
    ) -> list[Decision]:
        size = self._max_batch or len(observations)
        return [
            decision
            for i in range(0, len(observations), size)
            for decision in self._policy.infer_batch(
                observations[i : i + size], memories[i : i + size]
            )
        ]

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if self._pool.greeting["action_shape"] is None:
            if actions.ndim != 1 or not len(actions) or not is_text(actions):
                raise ValueError(
                    "the environment takes text commands, object [h] of str with h >= 1; the "
                    f"policy gave {actions.dtype} of shape {list(actions.shape)}"
                )
            return actions
        shape = tuple(self._pool.greeting["action_shape"])
        if actions.ndim != 1 + len(shape) or actions.shape[1:] != shape or not len(actions):
            raise ValueError(
                f"the policy gave actions of shape {list(actions.shape)}; the environment takes "
                f"[h, {', '.join(map(str, shape))}] with h >= 1"
            )
        if is_text(actions):
            raise ValueError("the policy gave text commands; the environment takes numbers")
        if not np.isfinite(actions).all():
            raise ValueError("the policy gave an action that is NaN or infinite")
        return actions

    def _recover(self, lost: Lost) -> None:
        """Record the episode that took its worker down; the worker's others begin again."""
        for group in self._groups:
            if group.worker != lost.worker:
                continue
            group.observations.clear()
            running = dict(group.running)
            group.running.clear()
            for slot, episode in reversed(running.items()):
                if lost.reason == NODE:
                    self._queue.appendleft((episode.index, episode.seed, episode.restarts))
                elif slot == lost.task or episode.restarts >= MAX_RESTARTS:
                    reason = lost.reason if slot == lost.task else "crashed"
                    self._record(episode, _broken(reason, lost.detail))
                else:
                    self._queue.appendleft((episode.index, episode.seed, episode.restarts + 1))
        self._wake()


def steps_executed(policy: Any, asked: int | None) -> int | None:
    """How many actions of a chunk are executed: as asked, as the policy says, or all (None)."""
    description = getattr(policy, "description", None)
    steps = description.acting.execute if asked is None and description is not None else asked
    if steps is not None and steps < 1:
        raise ValueError(f"execute_steps is {steps}, at least 1 is needed")
    return steps


def _broken(reason: str, detail: str) -> dict[str, Any]:
    return {
        "steps": 0,
        "return": 0.0,
        "success_any": False,
        "success_last": False,
        "failure_reason": reason,
        "error": detail,
        "instruction": "",
        "env_seconds": 0.0,
        "video": None,
    }
