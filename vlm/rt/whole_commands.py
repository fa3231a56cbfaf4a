"""The model of whole commands: those of a closed list scored at once, told token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlm.model import ModelOutput
from vlm.rt.config import RTConfig
from vlm.rt.perceptron import PerceptronModel, PrefixSum

# Logit of a token that goes on to no command, and the smallest probability of one that does.
NOTHING, _LEAST = -1e4, 1e-30


class WholeCommands(PerceptronModel):
    """A distribution over the commands of a list, read out as one over the next token.

    What fits is a property of the command: which first letters fit depends on all words that begin
    so, which a network that says letter after letter has to learn for every beginning. Here a
    command's score is the sum of the scores of its tokens at their places, and a token's
    probability that of all commands that go on with it. Its hidden states are those of the
    perceptrons, so that heads read every prefix.

    Of `mixture` distributions each has scores of its own, weighted by the context: logs of several
    players, one of whom plays anything, are no single softmax of sums (Yang et al., "Breaking the
    softmax bottleneck", arXiv 1711.03953).
    """

    # Places and tokens of the commands, [w * n]; the beginnings that each has, the same.
    command_tokens: Tensor
    beginnings: Tensor
    # The beginning that a token makes of a beginning, 0 for none, [beginnings, v].
    following: Tensor

    def __init__(self, config: RTConfig, load_image_weights: bool = True) -> None:
        super().__init__(config, load_image_weights)
        del self.head
        c, n, v = config.width, config.n_tokens, config.vocab_size
        self.modes = nn.Linear(c, config.mixture)
        self.token_scores = nn.Linear(c, config.mixture * n * v, bias=False)
        nn.init.normal_(self.token_scores.weight, std=0.02)
        following, beginnings = tree(config.commands, v)
        commands = torch.tensor(config.commands)
        places = torch.arange(n) * v
        # Made from the config, so no part of the weights.
        self.register_buffer("command_tokens", (commands + places).flatten(), persistent=False)
        self.register_buffer("beginnings", beginnings.flatten(), persistent=False)
        self.register_buffer("following", following, persistent=False)

    def command_log_probs(self, context: Float[Tensor, "b c"]) -> Float[Tensor, "b w"]:
        """Log-probability of every command of the list."""
        with torch.autocast(context.device.type, enabled=False):
            context = self.norm(context.float())
            b, n = context.shape[0], self.config.n_tokens
            scores = self.token_scores(context).unflatten(1, (self.config.mixture, -1))
            scores = scores[:, :, self.command_tokens].view(b, self.config.mixture, -1, n).sum(-1)
            weights = F.log_softmax(self.modes(context), -1)[..., None]
            return torch.logsumexp(F.log_softmax(scores, -1) + weights, 1)

    def masses(self, context: Float[Tensor, "b c"]) -> Float[Tensor, "b s"]:
        """Log-probability of every beginning of a command; of the first, which is none, nothing."""
        probs = self.command_log_probs(context).exp()
        repeated = probs[..., None].expand(*probs.shape, self.config.n_tokens).flatten(1)
        index = self.beginnings.expand(probs.shape[0], -1)
        total = probs.new_zeros(probs.shape[0], len(self.following))
        return total.scatter_add(1, index, repeated).clamp(min=_LEAST).log()

    def decisions(
        self, context: Float[Tensor, "b c"], action_ids: Int64[Tensor, "b n"]
    ) -> ModelOutput:
        """Hidden states and logits of whole decisions; `action_ids[:, n - 1]` is never an input."""
        hidden = self.hidden(self.inputs(context, action_ids))
        begun = [torch.ones_like(action_ids[:, 0])]
        for i in range(action_ids.shape[1] - 1):
            begun.append(self.following[begun[-1], action_ids[:, i]])
        return ModelOutput(hidden, self.logits(self.masses(context), torch.stack(begun, 1)))

    def logits(
        self, masses: Float[Tensor, "b s"], begun: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n v"]:
        """Log-probabilities of what goes on from beginnings, all up to their own."""
        onward = self.following[begun]
        found = masses.gather(1, onward.flatten(1)).view(onward.shape)
        return torch.where(onward == 0, NOTHING, found)

    def start(self, context: Float[Tensor, "b c"]) -> CommandSum:
        begun = torch.ones(context.shape[0], dtype=torch.int64, device=context.device)
        return CommandSum(self, context, 0, self.masses(context), begun)


@dataclass
class CommandSum(PrefixSum):
    """A decision as far as it is made, and the beginning of a command that it is."""

    model: WholeCommands
    masses: Tensor
    begun: Tensor

    @torch.no_grad()
    def decode(self, ids: Int64[Tensor, " b"]) -> ModelOutput:
        """Read action tokens [b]; the output (n = 1) for the next."""
        self.begun = self.model.following[self.begun, ids]
        return super().decode(ids)

    def output(self) -> ModelOutput:
        """The output (n = 1) for the next token."""
        logits = self.model.logits(self.masses, self.begun[:, None])
        return ModelOutput(self.model.hidden(self.input()), logits)


def tree(
    commands: Sequence[Sequence[int]], vocab_size: int
) -> tuple[Int64[Tensor, "s v"], Int64[Tensor, "w n"]]:
    """All beginnings of commands: what each token makes of each, and those that each command has.

    Number 0 is no beginning, from where nothing goes on; 1 is the empty one.
    """
    numbers: dict[tuple[int, ...], int] = {(): 1}
    own = []
    for command in commands:
        begun = [tuple(command[: i + 1]) for i in range(len(command))]
        own.append([numbers.setdefault(each, len(numbers) + 1) for each in begun])
    following = torch.zeros(len(numbers) + 1, vocab_size, dtype=torch.int64)
    for beginning, number in numbers.items():
        if beginning:
            following[numbers[beginning[:-1]], beginning[-1]] = number
    return following, torch.tensor(own)
