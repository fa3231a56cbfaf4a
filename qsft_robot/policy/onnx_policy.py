"""An exported policy on numpy and onnxruntime alone: graphs decide, history stays with the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsft_robot.context import Memory
from qsft_robot.observations import MAX_TEXTS, check_observation, state_vector
from qsft_robot.past import Past
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import described_by, read_description
from qsft_robot.policy.onnx_session import open_graph
from qsft_robot.types import Decision, NotFinite, Observation
from vlm.words import ASCII_WORDS, hash_words

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64

DECISION, FRAME = "decision.onnx", "frame.onnx"
# Scores of tokens that may not be taken are below this (algorithms/log_probs.py: ILLEGAL).
NO_TOKEN = -5e8
# The output that tells whether all numbers of a decision were finite.
FINITE = "finite"
# Parts of the acting rule that are inputs of the graph, or for who executes its chunks; all others
# are in it.
CHANGEABLE = ("temperature", "target_return", "execute")


class OnnxPolicy:
    """The graphs of an exported folder as a `Policy` for one robot and a `BatchPolicy` for many.

    The same seed gives the same samples as the policy that torch runs. `threads` compute one
    decision; more than one pays for large models only. RuntimeError where the installed
    onnxruntime can't run the graphs, ValueError where the folder has none.
    """

    def __init__(self, folder: Path, description: PolicyDescription, threads: int = 1) -> None:
        self.description, made = description, description.onnx or {}
        self._decision = open_graph(folder / DECISION, made, threads)
        self._inputs = {each.name: each.shape for each in self._decision.get_inputs()}
        self._outputs = [each.name for each in self._decision.get_outputs()]
        # Graphs of older folders tell no "finite": their scores are looked at instead.
        self._scores: list[str] = []
        if FINITE not in self._outputs:
            self._decision = open_graph(folder / DECISION, made, threads, scores=True)
            known = len(self._outputs)
            self._outputs = [each.name for each in self._decision.get_outputs()]
            self._scores = self._outputs[known:]
        self._feature_inputs = [name for name in self._inputs if name.startswith("features_")]
        self._frame = None
        if self._feature_inputs:
            self._frame = open_graph(folder / FRAME, made, threads)
        self.norm_stats, self.acting = description.norm_stats, description.acting
        self.state_keys, self.cameras = description.state_keys, description.cameras
        config, self.history = description.model["config"], description.history
        self._past = Past.of(description)
        self._text_length, self._text_buckets = config["text_length"], config.get("text_buckets")
        self._word_scheme = config.get("word_scheme", ASCII_WORDS)
        # A pretrained model's graphs list the instructions they know; else words are hashed.
        listed = made.get("texts")
        self._only_listed = listed is not None
        self._texts = {text: np.array(ids, np.int64) for text, ids in (listed or {}).items()}
        self.reset()

    @property
    def control_hz(self) -> float | None:
        """The rate of the logs, in actions a second, where the file told it."""
        return self.description.action.control_hz

    def with_acting(self, **changes: Any) -> OnnxPolicy:
        """The same graphs at another temperature or target return; ValueError on any other change,
        because the rest of the acting rule is part of the graph."""
        for name, value in changes.items():
            if name not in CHANGEABLE:
                raise ValueError(
                    f"the exported graph acts by its own {name}; {', '.join(CHANGEABLE)} can be "
                    f"changed. Run the policy with torch, or export it again with {name}="
                    f"{value}."
                )
        changed = object.__new__(OnnxPolicy)
        changed.__dict__.update(self.__dict__)
        horizon = self.description.action.horizon
        if (changes.get("execute") or 1) > horizon:
            raise ValueError(
                f"acting execute={changes['execute']}: a decision has {horizon} actions."
            )
        changed.acting = replace(self.acting, **changes)
        changed.description = replace(self.description, acting=changed.acting)
        changed.reset()
        return changed

    def reset(self, seed: int = 0) -> None:
        """Forget the episode; `seed` decides the samples of the next one."""
        self._memory = self.begin_episode(seed)

    def infer(self, observation: Observation) -> np.ndarray:
        """The action chunk, float32 [h, d], in the environment's own action units."""
        return self.infer_batch([observation], [self._memory])[0].actions

    def begin_episode(self, seed: int) -> Memory:
        """A fresh memory."""
        stride = self.description.action.history_stride
        return Memory(self.history, 0, len(self._feature_inputs), seed, stride)

    def infer_batch(
        self, observations: Sequence[Observation], memories: Sequence[Memory]
    ) -> list[Decision]:
        """One decision an observation. ValueError names a missing or wrong-sized input."""
        actions, _, values = self.decide(observations, memories)
        return [
            Decision(a, None if values is None else float(values[i])) for i, a in enumerate(actions)
        ]

    def decide(
        self, observations: Sequence[Observation], memories: Sequence[Memory]
    ) -> tuple[
        Float32[np.ndarray, "b h d"], Int64[np.ndarray, "b n"], Float32[np.ndarray, " b"] | None
    ]:
        """Actions, their token ids, and V(s) where the policy carries a value."""
        given = self.inputs(observations, memories)
        found = self._decision.run(None, {name: np.asarray(given[name]) for name in self._inputs})
        outputs = dict(zip(self._outputs, found, strict=True))
        seen = [given[name] for name in ("state", *self._feature_inputs)]
        seen += [outputs[name] for name in ("actions", "value") if name in outputs]
        # A comparison with NaN is false: behind a mask it shows as no token that may be taken.
        best = [outputs[name].max(-1) for name in self._scores]
        broken = any(np.isnan(x).any() or (x <= NO_TOKEN).any() for x in best)
        finite = np.all(outputs.get(FINITE, True)) and all(np.isfinite(x).all() for x in seen)
        if broken or not finite:
            raise NotFinite("the graphs")
        if self._past is not None:
            for memory, chunk in zip(memories, outputs["actions"], strict=True):
                memory.actions = self.norm_stats.normalize_actions(chunk)
        return outputs["actions"], outputs["token_ids"], outputs.get("value")

    def inputs(
        self, observations: Sequence[Observation], memories: Sequence[Memory]
    ) -> dict[str, Any]:
        """Remember the observations; what the decision graph then reads."""
        for observation in observations:
            check_observation(observation, self.cameras, self.state_keys)
        # All that can be refused comes before any memory is changed.
        text_ids = np.stack([self._text(o.instruction) for o in observations])
        for o, memory in zip(observations, memories, strict=True):
            row = state_vector(o.state, self.state_keys, self.norm_stats, 1)[0]
            if self._past is not None:
                past = self._past.of_decision(memory, o, self.acting.target_return)
                row = np.concatenate([row, past])
            memory.states.push(row, o.step)
        if self._frame is not None:
            images = {
                f"image_{i}": np.stack([o.images[camera] for o in observations])
                for i, camera in enumerate(self.cameras)
            }
            made = self._frame.run(None, {"text_ids": text_ids, **images})
            for i, features in enumerate(made):
                for o, memory, row in zip(observations, memories, features, strict=True):
                    memory.features[i].push(row, o.step)
        given = {
            "state": np.stack([m.states.window() for m in memories]),
            "frame_mask": np.stack([m.states.seen() for m in memories]),
            "text_ids": text_ids,
            "returns": np.full(len(memories), self.acting.target_return, np.float32),
            "noise": self._noise(memories),
            "temperature": np.float32(self.acting.temperature),
        }
        for i, name in enumerate(self._feature_inputs):
            given[name] = np.stack([m.features[i].window() for m in memories])
        return given

    def _noise(self, memories: Sequence[Memory]) -> np.ndarray:
        size = self._inputs["noise"][1:]
        return np.stack([m.generator.gumbel(size=size).astype(np.float32) for m in memories])

    def _text(self, instruction: str) -> np.ndarray:
        if instruction not in self._texts and self._only_listed:
            raise ValueError(
                f"the graphs know {len(self._texts)} instructions and not {instruction!r}: "
                f"{'; '.join(map(repr, list(self._texts)[:5]))} ... Any other needs the model's "
                "tokenizer: run the policy with torch."
            )
        if instruction not in self._texts:
            ids = hash_words(instruction, self._text_length, self._text_buckets, self._word_scheme)
            if len(self._texts) >= MAX_TEXTS:
                self._texts.clear()
            self._texts[instruction] = ids
        return self._texts[instruction]


def load_onnx_policy(folder: str | Path, threads: int = 1) -> OnnxPolicy:
    """Load an exported policy without torch. ValueError on a changed or partial folder, or one
    without graphs; RuntimeError where this onnxruntime can't run them."""
    folder = Path(folder)
    description = read_description(folder)
    with described_by(folder):
        return OnnxPolicy(folder, description, threads)
