"""A vla-eval model server: decisions of a policy for the benchmarks of that harness."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.specs import IMAGE_RGB, LANGUAGE, RAW, DimSpec

from qsft_robot.harness.deciders import Decider
from qsft_robot.harness.key_map import KeyMap
from qsft_robot.harness.observations import ObservationReader
from qsft_robot.types import Observation

# More actions than any chunk has.
_ALL_OF_A_CHUNK = 1 << 16


@dataclass
class EpisodeRecord:
    """What the policy saw and said in one episode."""

    seed: int
    instruction: str = ""
    # V of each decision, and the milliseconds that it took.
    values: list[float | None] = field(default_factory=list)
    decision_ms: list[float] = field(default_factory=list)


@dataclass
class _Running:
    record: EpisodeRecord
    memory: Any = None


class HarnessModelServer(PredictModelServer):
    """Episode i of a task begins the policy's episode of seed `first_seed` + i."""

    def __init__(
        self,
        decider: Decider,
        key_map: KeyMap,
        *,
        first_seed: int = 0,
        max_batch_size: int = 1,
        keep_records: bool = False,
        on_end: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """`keep_records`: keep what was said in each episode, by the harness' id of it. `on_end` is
        called with the result of each episode that ends."""
        super().__init__(
            chunk_size=decider.execute_steps or _ALL_OF_A_CHUNK, max_batch_size=max_batch_size
        )
        self._decider, self._actions = decider, key_map.actions
        self._reader = ObservationReader(decider.wanted, key_map)
        self._first_seed, self._keep, self._on_end = first_seed, keep_records, on_end
        self._running: dict[str, _Running] = {}
        self.records: dict[str, EpisodeRecord] = {}
        # What stopped the first decision that failed: the policy's or the key map's fault, which
        # every later one would have as well.
        self.failure: Exception | None = None

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:
        await super().on_episode_start(config, ctx)
        self._end(ctx)
        task = config.get("task") or {}
        record = EpisodeRecord(self._first_seed + int(task.get("episode_idx", 0)))
        self._running[ctx.session_id] = _Running(record)
        if self._keep:
            self.records[ctx.episode_id] = record

    async def on_observation(self, obs: dict[str, Any], ctx: SessionContext) -> None:
        """Read the observation before it is put into a batch, so that a wrong one is its own
        episode's alone."""
        if self.failure is not None and self._keep:
            raise self.failure
        try:
            await super().on_observation({"read": self._reader.read(obs, ctx.step)}, ctx)
        except Exception as error:
            self.failure = self.failure or error
            raise

    async def on_episode_end(self, result: dict[str, Any], ctx: SessionContext) -> None:
        await super().on_episode_end(result, ctx)
        self._end(ctx)
        if self._on_end is not None:
            self._on_end(result)

    def predict_batch(
        self, obs_batch: list[dict[str, Any]], ctx_batch: list[SessionContext]
    ) -> list[dict[str, Any]]:
        observations: list[Observation] = [each["read"] for each in obs_batch]
        running = [self._episode(ctx) for ctx in ctx_batch]
        for each, seen in zip(running, observations, strict=True):
            each.record.instruction = seen.instruction
            if each.memory is None:
                each.memory = self._decider.begin(each.record.seed)
        began = time.perf_counter()
        decisions = self._decider.decide(observations, [each.memory for each in running])
        ms = 1000 * (time.perf_counter() - began) / len(running)
        answers = []
        for each, decision in zip(running, decisions, strict=True):
            value = None if decision.value is None else round(float(decision.value), 6)
            each.record.values.append(value)
            each.record.decision_ms.append(ms)
            actions = self._actions.of(np.asarray(decision.actions, np.float32))
            if not np.isfinite(actions).all():
                raise RuntimeError("the policy gave an action that is NaN or infinite.")
            answers.append({"actions": actions, "value": value})
        return answers

    def get_observation_params(self) -> dict[str, Any]:
        wanted = self._decider.wanted
        return {"send_state": bool(wanted.state), "send_wrist_image": len(wanted.cameras) > 1}

    def get_action_spec(self) -> dict[str, DimSpec]:
        dim = self._decider.wanted.action_dim
        size = 0 if dim is None else self._actions.count(dim)
        return {"actions": DimSpec("actions", size, "raw")}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        wanted = self._decider.wanted
        images = {"image": IMAGE_RGB} if wanted.cameras else {}
        return images | ({"state": RAW} if wanted.state else {}) | {"language": LANGUAGE}

    def _episode(self, ctx: SessionContext) -> _Running:
        found = self._running.get(ctx.session_id)
        if found is None:
            raise RuntimeError("an observation before the episode was begun.")
        return found

    def _end(self, ctx: SessionContext) -> None:
        running = self._running.pop(ctx.session_id, None)
        if running is not None and running.memory is not None:
            self._decider.end(running.memory)
