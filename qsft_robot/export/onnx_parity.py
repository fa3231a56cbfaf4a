"""Parity: how far the graphs of a policy are from what torch runs, on the same observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from qsft_robot.policy.onnx_policy import OnnxPolicy
from qsft_robot.policy.token_policy import TokenPolicy
from qsft_robot.types import Observation

# What rounding may do. In log-probability: a token of the graph may lack so much to be the choice
# of torch, given the tokens before it. In actions: a share of their range, tokens being the same.
TOLERANCE = {"log_probability": 1e-3, "action": 1e-5, "value": 1e-4}


@dataclass(frozen=True)
class Parity:
    """Largest differences over decisions, sampled and greedy, with the same noise."""

    decisions: int
    # Decisions with another token.
    different: int
    log_probability: float
    action: float
    value: float

    def beyond(self) -> list[str]:
        """The differences that no rounding explains, in words; empty where all is well."""
        return [
            f"{name.replace('_', '-')} differs by {getattr(self, name):.2g} (tolerance {limit:g})"
            for name, limit in TOLERANCE.items()
            if not getattr(self, name) <= limit  # NaN is beyond, too
        ]

    def to_json(self) -> dict[str, Any]:
        """The numbers and what they may be; JSON types only."""
        return {**asdict(self), "tolerance": TOLERANCE}


@torch.inference_mode()
def measure(
    eager: TokenPolicy,
    graphs: OnnxPolicy,
    logs: Sequence[Sequence[Observation]],
    batch: int = 8,
) -> Parity:
    """Play `logs` through both, each from its start with a history of its own: the first alone and
    the others `batch` at a time; at temperature 0 and at the policy's own (1 if that is 0)."""
    groups = [logs[:1], *(logs[i : i + batch] for i in range(1, len(logs), batch))]
    decisions = different = 0
    worst = dict.fromkeys(TOLERANCE, 0.0)
    span = eager.norm_stats.action_high - eager.norm_stats.action_low
    for temperature in (0.0, eager.acting.temperature or 1.0):
        ours = eager.with_acting(temperature=temperature)
        theirs = graphs.with_acting(temperature=temperature)
        for group in groups:
            ours_memories = [ours.begin_episode(i) for i in range(len(group))]
            their_memories = [theirs.begin_episode(i) for i in range(len(group))]
            for t in range(max(map(len, group))):
                rows = [i for i, log in enumerate(group) if t < len(log)]
                seen = [group[i][t] for i in rows]
                contexts = ours.contexts(seen, [ours_memories[i] for i in rows])
                noise = ours.noise([ours_memories[i] for i in rows])
                ids, value, _ = ours.decider.decide(
                    contexts, ours.legal, noise, numbers=ours.numbers
                )
                actions, their_ids, their_value = theirs.decide(
                    seen, [their_memories[i] for i in rows]
                )
                same = (ids.cpu().numpy() == their_ids).all(-1)
                decisions, different = decisions + len(rows), different + int((~same).sum())
                if not same.all():
                    found = torch.from_numpy(their_ids).to(ids)
                    slack = TOLERANCE["log_probability"]
                    lacks = ours.decider.shortfall(
                        contexts, ours.legal, noise, temperature, found, slack
                    )
                    _raise(worst, "log_probability", lacks.numpy())
                    if ours.acting.needs_critic and ours.acting.judge == "critic":
                        q = [
                            ours.decider.scores(contexts[-1], chosen, ours.numbers)
                            for chosen in (ids, found)
                        ]
                        _raise(worst, "value", (q[0] - q[1]).clamp(min=0).cpu().numpy())
                # Both go on from what the graphs chose.
                taken = ours.tokenizer.decode(their_ids.astype(np.int64))
                ours.remember([ours_memories[i] for i in rows], taken)
                decoded = ours.tokenizer.decode(ids.cpu().numpy())
                expected = ours.norm_stats.unnormalize_actions(decoded)
                _raise(worst, "action", (np.abs(actions - expected) / span)[same])
                if value is not None and their_value is not None:
                    _raise(worst, "value", np.abs(value.cpu().numpy() - their_value))
    return Parity(decisions, different, **worst)


def _raise(worst: dict[str, float], name: str, differences: np.ndarray) -> None:
    if differences.size:
        # np.maximum keeps NaN, which max() may drop.
        worst[name] = float(np.maximum(worst[name], differences.max()))
