"""The logs as tensors: contexts, tokens and reward terms, gathered into batches by step number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qsft_robot.context import rows_seen
from qsft_robot.normalize import NormStats
from qsft_robot.observations import state_vector
from qsft_robot.past import Past
from qsft_robot.returns import ReturnRange
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.types import ADMISSIBLE, Episode
from tokenizers_action.protocol import (
    ActionTokenizer,
    RowTokenizer,
    TextTokenizer,
    action_chunks,
    legal_along,
)

Words = Callable[[str], np.ndarray]
# Instruction, and the last steps: the command that led to each and what was said there.
StepPrompt = Callable[[str, Sequence[tuple[str, Sequence[str]]]], np.ndarray]
# The command that led to a step and what was said there, as ids [w].
FrameWords = Callable[[str, Sequence[str]], np.ndarray]


@runtime_checkable
class FrameSource(Protocol):
    """Frames by row number: log `name` has its frames at `start[name]` and after."""

    @property
    def start(self) -> Mapping[str, int]: ...

    def read(self, camera: str, rows: np.ndarray) -> np.ndarray: ...


class TokenData:
    """Logs of `e` episodes with `N` steps in all and `R = N + e` observation rows.

    Rows of one episode follow each other, its last row being what was seen after the last action.
    A step number counts the rows that have an action, in the same order. `words` turns an
    instruction into ids; None leaves them to `read_words`.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        state_keys: Sequence[str],
        cameras: Sequence[str],
        frames: FrameSource | None,
        norm_stats: NormStats,
        tokenizer: ActionTokenizer,
        returns: ReturnRange,
        words: Words | None,
        history: int,
        auxiliary_keys: Sequence[str] = (),
        text_keys: Sequence[str] = (),
        stride: int | None = None,
        reads_past: bool = False,
    ) -> None:
        """`stride`: rows between the frames of a window; None: a chunk. `reads_past`: the state of
        a row ends with the actions before it and its return to go."""
        self.names = [episode.name for episode in episodes]
        self.cameras, self.frames = tuple(cameras), frames
        self.tokenizer, self.history = tokenizer, history
        self.stride = tokenizer.horizon if stride is None else stride
        self.discount = returns.discount
        self.features: Float[Tensor, "R m c"] | None = None
        self.steps = torch.tensor([len(e) for e in episodes])
        starts = [0 if frames is None else frames.start[name] for name in self.names]
        self.frame_start = torch.tensor(starts)
        self.terminated = torch.tensor([e.terminated for e in episodes])
        self.success = torch.tensor([e.success for e in episodes])
        self.first_row = torch.cat([torch.zeros(1, dtype=torch.long), (self.steps + 1).cumsum(0)])
        self.episode_of_row = torch.repeat_interleave(torch.arange(len(episodes)), self.steps + 1)
        self.first_row, self.rows = self.first_row[:-1], int(self.first_row[-1])
        self.episode_of_step = torch.repeat_interleave(torch.arange(len(episodes)), self.steps)
        self.row_of_step = torch.arange(int(self.steps.sum())) + self.episode_of_step
        self.time_of_step = self.row_of_step - self.first_row[self.episode_of_step]
        self.instructions = [episode.instruction for episode in episodes]
        self.text_ids = torch.zeros(len(episodes), 0, dtype=torch.long)
        if words is not None:
            self.read_words(words)
        self.state = torch.from_numpy(
            np.concatenate(
                [state_vector(e.observations, state_keys, norm_stats, len(e) + 1) for e in episodes]
            )
        )
        self.auxiliary = torch.from_numpy(  # [R, a]
            np.concatenate(
                [
                    state_vector(e.observations, auxiliary_keys, norm_stats, len(e) + 1)
                    for e in episodes
                ]
            )
        )
        self.reward_terms = torch.zeros(len(episodes), int(self.steps.max()))
        self.returns_to_go = torch.zeros(len(episodes), int(self.steps.max()))
        for i, episode in enumerate(episodes):
            terms = returns.reward_terms(episode.rewards, episode.terminated)
            self.reward_terms[i, : len(episode)] = torch.from_numpy(terms.astype(np.float32))
            to_go = np.cumsum(episode.rewards[::-1])[::-1]
            to_go = ((to_go - returns.low) / (returns.high - returns.low)).astype(np.float32)
            self.returns_to_go[i, : len(episode)] = torch.from_numpy(to_go)
        chunks, masks = zip(
            *(action_chunks(e.actions, tokenizer.horizon) for e in episodes), strict=True
        )
        actions = norm_stats.normalize_actions(np.concatenate(chunks))
        self.action_ids = torch.from_numpy(tokenizer.encode(actions))
        # What the tokens were made of, where a head regresses it.
        self.actions: Float[Tensor, "N a"] | None = None
        if reads_past:
            self.actions = torch.from_numpy(actions).flatten(1)
            past = Past(self.stride, tokenizer.action_dim, returns)
            pasts = [
                past.of_log(norm_stats.normalize_actions(e.actions), e.rewards) for e in episodes
            ]
            self.state = torch.cat([self.state, torch.from_numpy(np.concatenate(pasts))], 1)
        real = tokenizer.real_tokens(self.action_ids.numpy(), np.concatenate(masks).sum(1))
        self.token_mask = torch.from_numpy(real)
        # What text commands add: the commands that may be given at every row, and each row's words.
        self.support: RowTokenizer | None = None
        self._steps_told: list[tuple[str, tuple[str, ...]]] = []
        self.words: Int[Tensor, "R w"] | None = None
        self.prompt_ids: Int[Tensor, "R l"] | None = None
        self.text_history = 1
        if isinstance(tokenizer, TextTokenizer) and not tokenizer.free:
            self.support = tokenizer.within([x for e in episodes for x in admissible_rows(e)])
        for e in episodes:
            commands = ["", *(e.actions if e.has_commands else [""] * len(e))]
            said = zip(*(e.texts[key] for key in text_keys), strict=True)
            rows = said if text_keys else [()] * (len(e) + 1)
            self._steps_told += zip(commands, rows, strict=True)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.row_of_step)

    def read_words(self, words: Words) -> None:
        """Turn the instruction of every log into ids, each instruction once."""
        known = {text: words(text) for text in dict.fromkeys(self.instructions)}
        self.text_ids = torch.from_numpy(np.stack([known[text] for text in self.instructions]))

    def read_frames(self, frame_words: FrameWords, text_history: int) -> None:
        """Turn the command and the texts of every row into ids, each pair once; a context then
        has those of its last `text_history` rows."""
        known = {told: frame_words(*told) for told in dict.fromkeys(self._steps_told)}
        ids = np.stack([known[told] for told in self._steps_told]).astype(np.int32)
        self.words, self.text_history = torch.from_numpy(ids), text_history

    def read_steps(self, prompt: StepPrompt, text_history: int) -> None:
        """Turn every row into the ids of a prompt with its last `text_history` steps."""
        rows = torch.arange(self.rows)
        windows, seen = self._window(rows, text_history)
        found = []
        for row, (window, is_seen) in enumerate(zip(windows, seen, strict=True)):
            told = [self._steps_told[i] for i in window[is_seen]]
            instruction = self.instructions[int(self.episode_of_row[row])]
            found.append(prompt(instruction, told).astype(np.int32))
        self.prompt_ids = torch.from_numpy(np.stack(found))

    def legal_first(self, rows: Int[Tensor, " b"]) -> Bool[Tensor, "b v"]:
        """Which tokens a decision at observation rows may begin with."""
        empty = np.zeros((len(rows), 0), np.int64)
        return torch.from_numpy(self._tokenizer_at(rows).legal_tokens(empty))

    def _tokenizer_at(self, rows: Int[Tensor, " b"]) -> ActionTokenizer:
        return self.tokenizer if self.support is None else self.support[rows.numpy()]

    def _words(self, rows: Tensor) -> Tensor | None:
        if self.words is None:
            return None
        window, seen = self._window(rows, self.text_history)
        return self.words[window].long() * torch.from_numpy(seen)[..., None]

    def window_steps(
        self, steps: Int[Tensor, " b"]
    ) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
        """The steps at the frames of windows that end at `steps`, and which of them are seen."""
        rows, seen = self._window(self.row_of_step[steps], self.history)
        found = torch.from_numpy(rows) - self.episode_of_step[steps][:, None]
        return found, torch.from_numpy(seen)

    def _window(self, rows: Tensor, length: int) -> tuple[np.ndarray, np.ndarray]:
        first = self.first_row[self.episode_of_row[rows]]
        return rows_seen(rows.numpy(), first.numpy(), length, self.stride)

    def context(self, rows: Int[Tensor, " b"]) -> TokenBatch:
        """The policy's context at observation rows, with no action tokens (n = 0)."""
        episode = self.episode_of_row[rows]
        window, frame_mask = map(torch.from_numpy, self._window(rows, self.history))
        empty = torch.zeros(len(rows), 0)
        return TokenBatch(
            state=self.state[window],
            frame_mask=frame_mask,
            text_ids=(
                self.text_ids[episode] if self.prompt_ids is None else self.prompt_ids[rows].long()
            ),
            action_ids=empty.long(),
            token_mask=empty.bool(),
            legal=empty.unsqueeze(-1).bool(),
            features=None if self.features is None else self.features[window].float(),
            images=self._images(window, episode),
            words=self._words(rows),
        )

    def _images(self, window: Tensor, episode: Tensor) -> dict[str, Tensor] | None:
        if self.features is not None or self.frames is None:
            return None
        offset = self.frame_start[episode] - self.first_row[episode]
        rows = (window + offset[:, None]).numpy()
        return {c: torch.from_numpy(self.frames.read(c, rows)) for c in self.cameras}

    def batch(self, steps: Int[Tensor, " b"], with_returns: bool = False) -> TokenBatch:
        """Contexts and the decisions taken there. `with_returns` adds the return of the log from
        that step on, undiscounted and in [0, 1], for the return-conditioned baseline."""
        ids, rows = self.action_ids[steps], self.row_of_step[steps]
        legal = torch.from_numpy(legal_along(self._tokenizer_at(rows), ids.numpy()))
        returns = None
        if with_returns:
            returns = self.returns_to_go[self.episode_of_step[steps], self.time_of_step[steps]]
        return replace(
            self.context(rows),
            action_ids=ids,
            token_mask=self.token_mask[steps],
            legal=legal,
            returns=returns,
        )

    def real_tokens(self) -> Int[Tensor, "e t"]:
        """How many tokens of each decision carry something."""
        table = torch.zeros(len(self.steps), int(self.steps.max()), dtype=torch.long)
        table[self.episode_of_step, self.time_of_step] = self.token_mask.sum(1)
        return table

    def padded(self, flat: Float[Tensor, "N n"], final: Float[Tensor, " e"]) -> Tensor:
        """Numbers of every step and last row as [e, t + 1, n], zero where there is none."""
        table = flat.new_zeros(len(self.steps), int(self.steps.max()) + 1, flat.shape[-1])
        table[self.episode_of_step, self.time_of_step] = flat
        table[torch.arange(len(self.steps)), self.steps] = final[:, None]
        return table

    def next_rows(self, steps: Int[Tensor, " b"]) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
        """The row after each step's chunk, and whether a terminated log ended there."""
        episode = self.episode_of_step[steps]
        following = self.row_of_step[steps] + self.tokenizer.horizon
        final = self.final_rows[episode]
        return torch.minimum(following, final), (following >= final) & self.terminated[episode]

    def chunk_rewards(
        self, steps: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """Discounted reward terms of each step's chunk, and the number of actions in it."""
        episode, time = self.episode_of_step[steps], self.time_of_step[steps]
        lengths = (self.steps[episode] - time).clamp(max=self.tokenizer.horizon)
        total = torch.zeros(len(steps))
        for j in range(self.tokenizer.horizon):
            index = (time + j).clamp(max=self.reward_terms.shape[1] - 1)
            reward = self.reward_terms[episode, index]
            total = total + torch.where(j < lengths, self.discount**j * reward, 0.0)
        return total, lengths

    @property
    def final_rows(self) -> Int[Tensor, " e"]:
        """The row after the last action of each episode."""
        return self.first_row + self.steps

    def describe(self, steps: Int[Tensor, " b"]) -> str:
        """The first few steps as `log:time`, for error messages."""
        names = [
            f"{self.names[self.episode_of_step[i]]}:{int(self.time_of_step[i])}" for i in steps[:8]
        ]
        return ", ".join(names) + (f" and {len(steps) - 8} more" if len(steps) > 8 else "")


def admissible_rows(episode: Episode) -> list[str]:
    """The commands that may be given at each row of a log, one a line, t + 1 rows; the one that was
    given is among them, whatever the log lists."""
    listed = episode.texts[ADMISSIBLE]
    rows = [
        text if command in text.split("\n") else f"{text}\n{command}"
        for text, command in zip(listed, episode.actions, strict=False)
    ]
    return [*rows, listed[-1]]
