"""A trained policy: observations in, action chunks out, history and randomness inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsft_robot.algorithms.networks import PolicyNetworks, frame_features
from qsft_robot.context import Memory
from qsft_robot.names import unknown
from qsft_robot.observations import MAX_TEXTS, check_observation, state_vector
from qsft_robot.parts.models import load_model
from qsft_robot.parts.tokenizers import load_tokenizer
from qsft_robot.past import Past
from qsft_robot.policy.allocation import GIB, AllocationLimit, check_layers, check_numbers
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.policy.decider import Decider
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import POLICY, described_by
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.trust import NOTHING, Trust
from qsft_robot.types import ADMISSIBLE, Decision, NotFinite, Observation
from tokenizers_action.protocol import ActionTokenizer, SequenceTokenizer, TextTokenizer
from vlm.critic import load_critic
from vlm.model import Context


class TokenPolicy:
    """Behavior and value networks, tokenizer, statistics and acting rule, as one policy.

    It is both a `Policy` (reset, infer) for one robot and a `BatchPolicy` for many episodes.
    """

    def __init__(
        self, description: PolicyDescription, networks: PolicyNetworks, device: str = "cpu"
    ) -> None:
        self.description = description
        self.networks = networks.to(device).eval()
        self.device = device
        self.tokenizer = load_tokenizer(description.tokenizer)
        self.norm_stats, self.acting = description.norm_stats, description.acting
        self.state_keys, self.text_keys = description.state_keys, description.text_keys
        self.cameras, self.history = description.cameras, description.history
        self.text_history: int = description.model["config"].get("text_history", 0)
        self._stride = description.action.history_stride
        self._past = Past.of(description)
        self._commands = self.tokenizer if isinstance(self.tokenizer, TextTokenizer) else None
        self._needs = [*self.text_keys]
        if self._commands is not None and not self._commands.free:
            self._needs.append(ADMISSIBLE)
        self._check_rule()
        self.decider = Decider(networks, self.acting)
        self.decider.ends = isinstance(self.tokenizer, SequenceTokenizer | TextTokenizer)
        self._trunks = self.decider.trunks
        first = self._trunks[0]
        self._words, self._texts = first.encode_words, dict[str, Tensor]()
        self._frame_words = first.encode_frame if first.reads_frames else None
        self.reset()

    @property
    def control_hz(self) -> float | None:
        """The rate of the logs, in actions a second, where the file told it."""
        return self.description.action.control_hz

    def with_acting(self, **changes: Any) -> TokenPolicy:
        """The same networks under a changed acting rule."""
        acting = replace(self.acting, **changes)
        return TokenPolicy(replace(self.description, acting=acting), self.networks, self.device)

    def reset(self, seed: int = 0) -> None:
        """Forget the episode; `seed` decides the samples of the next one."""
        self._memory = self.begin_episode(seed)

    def infer(self, observation: Observation) -> np.ndarray:
        """The action chunk, float32 [h, d], in the environment's own action units, or a text
        command, object [1] of str."""
        return self.infer_batch([observation], [self._memory])[0].actions

    def begin_episode(self, seed: int) -> Memory:
        """A fresh memory."""
        return Memory(self.history, self.text_history, len(self._trunks), seed, self._stride)

    @torch.inference_mode()
    def infer_batch(
        self, observations: Sequence[Observation], memories: Sequence[Memory]
    ) -> list[Decision]:
        """One decision an observation. ValueError names a missing or wrong-sized input."""
        contexts = self.contexts(observations, memories)
        legal = self._legal_of(self._tokenizer_for(observations))
        ids, values, finite = self.decider.decide(
            contexts, legal, self.noise(memories), numbers=self.numbers
        )
        if not bool(finite.all()):
            raise NotFinite()
        decoded = self.tokenizer.decode(ids.cpu().numpy())
        if self._commands is not None:
            for memory, (command,) in zip(memories, decoded, strict=True):
                memory.command = command
            return [
                Decision(command, None if values is None else float(values[i]))
                for i, command in enumerate(decoded)
            ]
        self.remember(memories, decoded)
        actions = self.norm_stats.unnormalize_actions(decoded)
        return [
            Decision(np.asarray(a, np.float32), None if values is None else float(values[i]))
            for i, a in enumerate(actions)
        ]

    def remember(self, memories: Sequence[Memory], actions: np.ndarray) -> None:
        """Keep the normalized actions [b, h, d] of a decision, where the next one reads them."""
        if self._past is not None:
            for memory, chunk in zip(memories, actions, strict=True):
                memory.actions = chunk

    def legal(self, prefix: Tensor) -> Tensor:
        """The ids that may follow a prefix [b, i], bool [b, v], in any observation."""
        return self._legal_of(self.tokenizer)(prefix)

    def numbers(self, ids: Tensor) -> Tensor:
        """The numbers of decisions [b, n] before the scale of the actions, float32 [b, h * d]."""
        if self._commands is not None:
            return torch.zeros(len(ids), 0, device=self.device)
        decoded = self.tokenizer.decode(ids.cpu().numpy())
        return torch.from_numpy(decoded).flatten(1).to(self.device)

    def _tokenizer_for(self, observations: Sequence[Observation]) -> ActionTokenizer:
        """The tokenizer, bound to the commands that may be given where there are such."""
        if self._commands is None or self._commands.free:
            return self.tokenizer
        rows = self._commands.within([o.texts[ADMISSIBLE] for o in observations])
        count = self.acting.candidates
        return rows if count == 1 else rows[np.arange(len(observations)).repeat(count)]

    def _legal_of(self, tokenizer: ActionTokenizer) -> Callable[[Tensor], Tensor]:
        def legal(prefix: Tensor) -> Tensor:
            allowed = tokenizer.legal_tokens(prefix.cpu().numpy())
            return torch.from_numpy(allowed).to(self.device)

        return legal

    def noise(self, memories: Sequence[Memory]) -> Tensor:
        """The next Gumbel noise of each episode, float32 [b, candidates, n, v]."""
        size = (self.acting.candidates, self.tokenizer.n_tokens, self.tokenizer.vocab_size)
        drawn = [m.generator.gumbel(size=size).astype(np.float32) for m in memories]
        return torch.from_numpy(np.stack(drawn)).to(self.device)

    def contexts(
        self, observations: Sequence[Observation], memories: Sequence[Memory]
    ) -> list[Context]:
        """Remember the observations; what each network's prefill then reads."""
        batches = self._context(observations, memories)
        return [
            Context(c.features, c.state, c.frame_mask, c.text_ids, c.returns, c.words)
            for c in batches
        ]

    def _context(
        self, observations: Sequence[Observation], memories: Sequence[Memory]
    ) -> list[TokenBatch]:
        """Remember the observations; the context batch of each network."""
        for observation in observations:
            check_observation(observation, self.cameras, self.state_keys, self._needs)
        if self.text_history and self._frame_words is None:
            text_ids = self._prompts(observations, memories)
        else:
            text_ids = torch.stack([self._text(o.instruction) for o in observations])
        text_ids = text_ids.to(self.device)
        for observation, memory in zip(observations, memories, strict=True):
            row = state_vector(observation.state, self.state_keys, self.norm_stats, 1)[0]
            if self._past is not None:
                past = self._past.of_decision(memory, observation, self.acting.target_return)
                row = np.concatenate([row, past])
            memory.states.push(row, observation.step)
        empty = torch.zeros(len(observations), 0, device=self.device)
        returns = None
        if self.description.conditions_on_return:
            returns = torch.full((len(observations),), self.acting.target_return)
        base = TokenBatch(
            state=self._stacked([m.states.window() for m in memories]),
            frame_mask=self._stacked([m.states.seen() for m in memories]),
            text_ids=text_ids,
            action_ids=empty.long(),
            token_mask=empty.bool(),
            legal=empty.unsqueeze(-1).bool(),
            returns=None if returns is None else returns.to(self.device),
            words=self._read_texts(observations, memories),
        )
        if not self.cameras:
            return [base] * len(self._trunks)
        images = {
            camera: torch.from_numpy(np.stack([o.images[camera] for o in observations]))[
                :, None
            ].to(self.device)
            for camera in self.cameras
        }
        newest = replace(
            base, images=images, state=base.state[:, -1:], frame_mask=base.frame_mask[:, -1:]
        )
        contexts: list[TokenBatch] = []
        for i, model in enumerate(self._trunks):
            if i > 0 and self.description.shared_image_features:
                contexts.append(contexts[0])
                continue
            features = frame_features(model, newest)
            assert features is not None
            for seen, memory, row in zip(observations, memories, features[:, 0], strict=True):
                memory.features[i].push(row, seen.step)
            stacked = torch.stack([torch.stack(m.features[i].window()) for m in memories])
            contexts.append(replace(base, features=stacked))
        return contexts

    def _read_texts(
        self, observations: Sequence[Observation], memories: Sequence[Memory]
    ) -> Tensor | None:
        """Remember what was said; the words of the last steps, [b, j, w]."""
        if not self.text_history or self._frame_words is None:
            return None
        for observation, memory in zip(observations, memories, strict=True):
            said = [observation.texts[key] for key in self.text_keys]
            memory.words.push(self._frame_words(memory.command, said), observation.step)
        rows = [np.stack(m.words.window()) * m.words.seen()[:, None] for m in memories]
        return self._stacked(rows)

    def _stacked(self, rows: Sequence[Any]) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(row) for row in rows])).to(self.device)

    def _prompts(self, observations: Sequence[Observation], memories: Sequence[Memory]) -> Tensor:
        """Remember what was said; the ids of the prompts with the last steps, [b, l]."""
        prompt, found = self._trunks[0].encode_steps, []
        for observation, memory in zip(observations, memories, strict=True):
            said = [observation.texts[key] for key in self.text_keys]
            memory.steps.push((memory.command, said), observation.step)
            found.append(torch.from_numpy(prompt(observation.instruction, memory.steps.entries())))
        return torch.stack(found)

    def _text(self, instruction: str) -> Tensor:
        if instruction not in self._texts:
            if len(self._texts) >= MAX_TEXTS:
                self._texts.clear()
            self._texts[instruction] = torch.from_numpy(self._words(instruction))
        return self._texts[instruction]

    def _check_rule(self) -> None:
        rule, has = self.acting.rule, self.networks
        if (self.acting.execute or 1) > self.tokenizer.horizon:
            raise ValueError(
                f"acting execute={self.acting.execute}: a decision of this policy has "
                f"{self.tokenizer.horizon} actions."
            )
        if self.acting.draw == "median" and isinstance(
            self.tokenizer, SequenceTokenizer | TextTokenizer
        ):
            raise ValueError(
                f"acting draw=median: ids of {self.tokenizer.to_json()['kind']} tokens are in no "
                "order that an action has; use draw=sample."
            )
        if self.acting.runs_behavior and has.behavior is None:
            raise ValueError(
                f"acting rule {rule} with k = {self.acting.k} needs the behavior network, which "
                "this policy was exported without; export it again with that rule."
            )
        if rule not in ("behavior", "advantage", "value") and has.value is None:
            raise ValueError(
                f"acting rule {rule!r} needs a value network; this policy "
                f"({self.description.method}) has none: use the rule behavior."
            )
        if self.acting.needs_critic and has.critic is None:
            raise ValueError(
                f"{self.acting.candidates} candidates need a critic that chooses among them, and "
                "this policy was trained without one: train with --critic.updates, or use "
                "judge=likelihood or candidates=1."
            )
        of_q = ("heads", "token_values")
        if rule in ("advantage", "value") and has.head_name not in of_q:
            raise unknown(
                "acting rule for this policy", rule, ("power", "ratio", "paper", "behavior")
            )


def build_networks(
    description: PolicyDescription, folder: Path | None = None, trust: Trust = NOTHING
) -> PolicyNetworks:
    """Networks of a description, with random weights to be overwritten where they were trained;
    `folder` is the policy folder, for a model that carries its base inside."""
    parts, model = description.networks, description.model
    networks = PolicyNetworks(load_model(model, folder, trust))
    if "value" in parts:
        head = next((part for part in parts if part not in ("behavior", "value", "critic")), None)
        networks.start_value_stage(head, model["config"]["vocab_size"])
    if "behavior" not in parts:
        networks.behavior = None
    if "critic" in parts:
        networks.critic = load_critic(description.critic or {})
    return networks


def read_networks(folder: Path, trust: Trust = NOTHING) -> tuple[PolicyDescription, PolicyNetworks]:
    """Description and networks of a checkpoint or exported policy, with its weights; ValueError
    where the description asks for more memory than they could fill."""
    description, weights = read_policy_folder(folder)
    where = str(folder / POLICY)
    model = description.model
    check_numbers(model, f"{where}: model")
    check_numbers(description.tokenizer, f"{where}: tokenizer")
    check_layers(model, f"{where}: model")
    held = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    base = model["kind"] == "pretrained" and "inside" not in model
    # Image encoders are built whole before what the policy does not need is cut off.
    limit = 4 * held + (64 if base else 1) * GIB
    with described_by(folder):
        with AllocationLimit(where, limit, 20 * len(weights) + 5_000):
            networks = build_networks(description, folder, trust)
        networks.load_state_dict(weights)
    return description, networks


def load_policy(folder: str | Path, device: str = "cpu", trust: Trust = NOTHING) -> TokenPolicy:
    """Load a checkpoint or an exported policy. Raises ValueError on a changed or partial folder,
    and on one that asks for more than `trust` allows."""
    description, networks = read_networks(Path(folder), trust)
    with described_by(Path(folder)):
        return TokenPolicy(description, networks, device)
