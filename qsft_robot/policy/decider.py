"""One decision of the acting networks, token by token: the same code eagerly and in a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from qsft_robot.algorithms.acting import Distributions, acting_log_probs, below, choose, median
from qsft_robot.algorithms.log_probs import legal_log_softmax
from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.config.acting import ActingConfig
from vlm.decision import decide_together
from vlm.model import Context, ModelOutput

Legal = Callable[[Tensor], Tensor]
Numbers = Callable[[Tensor], Tensor]  # ids [b, n] to the numbers [b, a] that the critic reads
Contexts = Sequence[Context]


class Decider:
    """Networks under an acting rule. `trunks` are the models that it runs, behavior first."""

    def __init__(self, networks: PolicyNetworks, acting: ActingConfig) -> None:
        self.networks, self.acting = networks, acting
        # Without phi the actions are those of a policy exported without it.
        self.runs_behavior = networks.behavior is not None and acting.runs_behavior
        self.trunks = networks.trunks() if self.runs_behavior else networks.trunks()[-1:]
        # Whether V(s) means something: with a void outcome or value heads.
        self.has_value = networks.head is not None
        self.candidates = acting.candidates
        # Whether token 0 ends a decision; the policy says so of its tokenizer.
        self.ends = False

    def decide(
        self,
        contexts: Contexts,
        legal: Legal,
        noise: Float[Tensor, "b candidates n v"],
        temperature: float | Tensor | None = None,
        numbers: Numbers | None = None,
    ) -> tuple[Int64[Tensor, "b n"], Float[Tensor, " b"] | None, Bool[Tensor, " b"]]:
        """Token ids, V(s), and whether every number behind them was finite: the argmax of NaN is
        token 0, a command at full speed. The networks step through their caches side by side.

        `legal(prefix ids [b, i]) -> bool [b, v]`; `noise` is standard Gumbel noise; `temperature`
        replaces that of the acting rule. Of several candidates the judge's best is taken; `numbers`
        tells what each stands for, where a critic reads numbers.
        """
        if self.candidates == 1:
            return self._draw(contexts, legal, noise[:, 0], temperature)[:3]
        many = repeated(contexts, self.candidates)
        ids, value, finite, likelihood = self._draw(many, legal, noise.flatten(0, 1), temperature)
        scores = self.judged(likelihood, many[-1], ids, numbers)
        scores = scores.unflatten(0, (-1, self.candidates))
        finite = finite & torch.isfinite(scores).flatten()
        best = scores.argmax(1)[:, None, None].expand(-1, 1, ids.shape[1])
        ids = ids.unflatten(0, (-1, self.candidates)).gather(1, best)[:, 0]
        finite = finite.unflatten(0, (-1, self.candidates)).all(1)
        return ids, None if value is None else value[:: self.candidates], finite

    def judged(
        self,
        likelihood: Float[Tensor, " b"],
        context: Context,
        ids: Int64[Tensor, "b n"],
        numbers: Numbers | None,
    ) -> Float[Tensor, " b"]:
        """What the judge of candidates says of them, given the rule's log-probabilities."""
        if self.acting.judge == "likelihood":
            return likelihood
        q = self.scores(context, ids, numbers)
        return likelihood + self.acting.beta * q if self.acting.judge == "tilted" else q

    def scores(
        self, context: Context, ids: Int64[Tensor, "b n"], numbers: Numbers | None
    ) -> Float[Tensor, " b"]:
        """Q of decisions by the critic, in [0, 1]."""
        critic = self.networks.critic
        assert critic is not None
        decision = critic.read_decision(ids, None if numbers is None else numbers(ids))
        return critic.scores(critic.encode(context), decision)

    def _draw(
        self,
        contexts: Contexts,
        legal: Legal,
        noise: Float[Tensor, "b n v"],
        temperature: float | Tensor | None,
    ) -> tuple[
        Int64[Tensor, "b n"], Float[Tensor, " b"] | None, Bool[Tensor, " b"], Float[Tensor, " b"]
    ]:
        """One decision a row by the acting rule, with V, whether all was finite, and the rule's
        log-probability of the decision."""
        temperature = self.acting.temperature if temperature is None else temperature
        state_value: list[Tensor] = []
        finite: list[Tensor] = []
        likelihood: list[Tensor] = []

        def pick(outputs: Sequence[ModelOutput], allowed: Tensor, i: int) -> Tensor:
            log_probs, value = self._log_probs(self.acting, outputs, allowed)
            for output in outputs:
                finite.append((torch.isfinite(output.logits[:, 0]) | ~allowed).all(-1))
            finite.append(torch.isfinite(log_probs).all(-1))
            if value is not None:
                finite.append(torch.isfinite(value))
            if i == 0 and value is not None and self.has_value:
                state_value.append(value)
            if self.acting.draw == "median":
                token = median(log_probs, temperature)
            else:
                token = choose(log_probs, temperature, noise[:, i])
            likelihood.append(log_probs.gather(-1, token[:, None])[:, 0])
            return token

        ids = decide_together(self.trunks, contexts, legal, pick, self.ends)
        value = state_value[0] if state_value else None
        return ids, value, torch.stack(finite).all(0), torch.stack(likelihood).sum(0)

    def shortfall(
        self,
        contexts: Contexts,
        legal: Legal,
        noise: Float[Tensor, "b candidates n v"],
        temperature: float,
        ids: Int64[Tensor, "b n"],
        slack: float,
    ) -> Float[Tensor, "b n"]:
        """How much log-probability each token of `ids` lacks to be the one that is drawn after the
        tokens before it; 0 where it is the one. Of several candidates the nearest counts.

        A token may stand at the edge of the support or of the low-probability cut: the smallest
        shortfall over both edges moved by up to `slack` (in log-probability) counts.
        """
        count, n = self.candidates, ids.shape[1]
        contexts, ids = repeated(contexts, count), ids.repeat_interleave(count, 0)
        noise = noise.flatten(0, 1)
        acting, lacks = self.acting, torch.zeros(ids.shape)
        moved = [
            replace(
                acting,
                support=min(1.0, acting.support * factor),
                min_p=min(1.0, acting.min_p * other),
            )
            for factor in (1.0, 1 + slack, 1 - slack)
            for other in (1.0, 1 + slack, 1 - slack)
        ]

        def take(outputs: Sequence[ModelOutput], allowed: Bool[Tensor, "b v"], i: int) -> Tensor:
            token = ids[:, i, None]
            gaps = []
            for config in moved:
                scores, _ = self._log_probs(config, outputs, allowed)
                if temperature > 0 and acting.draw == "median":
                    up_to = below(scores / temperature).gather(-1, token)[:, 0]
                    own = torch.softmax(scores.float() / temperature, -1).gather(-1, token)[:, 0]
                    gaps.append((0.5 - up_to).clamp(min=0) + (up_to - own - 0.5).clamp(min=0))
                    continue
                if temperature > 0:
                    scores = scores + temperature * noise[:, i]
                gaps.append(scores.amax(-1) - scores.gather(-1, token)[:, 0])
            lacks[:, i] = torch.stack(gaps).amin(0).float().cpu()
            return token[:, 0]

        decide_together(self.trunks, contexts, legal, take, self.ends)
        lacks = lacks.unflatten(0, (-1, count))
        nearest = lacks.amax(-1).argmin(1)[:, None, None].expand(-1, 1, n)
        return lacks.gather(1, nearest)[:, 0]

    def _log_probs(
        self, acting: ActingConfig, outputs: Sequence[ModelOutput], allowed: Bool[Tensor, "b v"]
    ) -> tuple[Float[Tensor, "b v"], Float[Tensor, " b"] | None]:
        """Log-probabilities of the next token, and V of its prefix."""
        logs = [legal_log_softmax(o.logits[:, 0], allowed) for o in outputs]
        value = advantage = None
        if self.networks.head is not None:
            reading = self.networks.head.read(outputs[-1].hidden)
            value = reading.value[:, 0]
            advantage = None if reading.advantage is None else reading.advantage[:, 0]
        elif self.networks.value is not None:
            value = outputs[-1].hidden.new_ones(allowed.shape[0])
        said = Distributions(
            log_phi=logs[0] if self.runs_behavior else None,
            log_policy=logs[-1] if self.networks.value is not None else None,
            value=value,
            advantage=advantage,
        )
        return acting_log_probs(acting, allowed, said), value


def repeated(contexts: Contexts, times: int) -> list[Context]:
    """Contexts with every row so many times, one after the other."""
    return [
        Context._make(None if x is None else x.repeat_interleave(times, 0) for x in context)
        for context in contexts
    ]
