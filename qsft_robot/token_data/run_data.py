"""From a data file and a config to training tensors, and to notes on the logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsft_robot.config.data import DataConfig
from qsft_robot.config.train import TrainConfig
from qsft_robot.files import cache_folder
from qsft_robot.logs.data_description import MAX_INSTRUCTIONS, DataDescription
from qsft_robot.logs.data_hash import data_hash
from qsft_robot.logs.ends import OUTCOME, UNTOLD, untold_note
from qsft_robot.logs.ranges import LogRanges
from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.summary import rare_success
from qsft_robot.logs.validate import check_cameras
from qsft_robot.normalize import NormStats
from qsft_robot.parts.simulators import unknown_environment
from qsft_robot.parts.tokenizers import build_tokenizer, load_tokenizer
from qsft_robot.returns import ReturnRange
from qsft_robot.token_data.auxiliary_commands import command_columns
from qsft_robot.token_data.code_logs import long_enough
from qsft_robot.token_data.frames import FrameCache
from qsft_robot.token_data.token_data import TokenData
from qsft_robot.token_data.tokenizer_file import check_fits, check_reaches, read_tokenizer
from qsft_robot.types import ADMISSIBLE, Episode
from tokenizers_action.protocol import ActionTokenizer
from vlm.words import UNICODE_WORDS, count_words, hash_words

# Fewest words of an instruction that a model reads.
SHORT_TEXT = 16
# Share of a success that the first step of a log should still see.
_SEEN = 0.2


@dataclass(frozen=True)
class RunData:
    """The logs of one run, ready to train on."""

    train: TokenData
    valid: TokenData | None
    tokenizer: ActionTokenizer
    norm_stats: NormStats
    cameras: dict[str, tuple[int, int]]  # camera -> (height, width)
    # What a policy carries of its data; see `describe`.
    summary: DataDescription
    # What actions and states the logs saw, for the limits of a control loop.
    ranges: LogRanges
    longest_success: int  # steps; 0 without a success
    untold: int  # logs of which nobody told whether they succeeded
    words_read: int  # words of an instruction that a model of these logs reads
    word_scheme: int = UNICODE_WORDS  # how they are told apart


def read_run_data(
    config: TrainConfig,
    word_scheme: int = UNICODE_WORDS,
    saved_tokenizer: Mapping[str, Any] | None = None,
) -> RunData:
    """Read, check and tokenize the logs that the config names; `word_scheme` is the model's,
    `saved_tokenizer` the description of the one that a resumed run has."""
    data = config.data
    held_out = _read(config, data.valid_key) if data.valid_key else []
    away = {episode.name for episode in held_out}
    episodes = [e for e in _read(config, data.filter_key) if e.name not in away]
    episodes = episodes[: data.max_episodes]
    if not episodes:
        raise ValueError(
            f"{data.path}: --data.valid-key {data.valid_key} holds every log out that "
            f"--data.filter-key {data.filter_key} picks; nothing is left to train on."
        )
    wanted = config.tokenizer
    tokenizer = None if saved_tokenizer is None else load_tokenizer(saved_tokenizer)
    scale = None
    if tokenizer is None and wanted.from_file is not None:
        tokenizer, scale = read_tokenizer(wanted.from_file)
    horizon = wanted.horizon if tokenizer is None else tokenizer.horizon
    if (config.acting.execute or 1) > horizon:
        raise ValueError(
            f"--acting.execute {config.acting.execute}: a decision has {horizon} actions."
        )
    episodes = long_enough(episodes, horizon, data)
    returns = ReturnRange(config.discount, data.return_low, data.return_high)
    for episode in [*episodes, *held_out]:
        where = f"{data.path}: {episode.name}"
        returns.check(episode.rewards, episode.terminated, where)
    keys = (*data.state_keys, *data.auxiliary_keys)
    norm_stats = NormStats.fit(episodes, keys, _action_scale(data))
    if tokenizer is None:
        logs = [norm_stats.normalize_actions(e.actions) for e in episodes]
        if wanted.kind == "commands":
            logs = [every_command([*episodes, *held_out])]
        try:
            tokenizer = build_tokenizer(wanted, logs)
        except ValueError as error:
            raise ValueError(f"{data.path}: {error}") from error
    elif scale is not None:
        assert wanted.from_file is not None
        check_fits(wanted.from_file, tokenizer, scale, norm_stats, wanted.horizon)
        check_reaches(wanted.from_file, tokenizer, norm_stats, episodes)
    cameras = {}
    if data.cameras:
        cameras = dict.fromkeys(data.cameras, check_cameras(data.path, data.cameras))

    words = _words_read([*episodes, *held_out], word_scheme)
    read = partial(hash_words, length=words, scheme=word_scheme)

    def tensors(logs: Sequence[Episode]) -> TokenData:
        frames = None
        if data.cameras:
            frames = FrameCache.build(
                data.path,
                data.cameras,
                [e.name for e in logs],
                cache_folder() / "frames",
                byte_budget=int(data.frame_cache_gib * 2**30),
                truncated=[e.name for e in logs if not e.terminated],
            )
        return TokenData(
            logs,
            data.state_keys,
            data.cameras,
            frames,
            norm_stats,
            tokenizer,
            returns,
            # A pretrained model reads words by its own tokenizer, which is loaded with it.
            read if config.model.reads_words else None,
            config.model.history,
            data.auxiliary_keys,
            data.text_keys,
            config.acting.execute,
            config.traits.reads_past,
        )

    valid = tensors(held_out) if held_out else None
    summary = DataDescription(
        file=Path(data.path).name,
        sha256=data_hash(data.path),
        filter_key=data.filter_key,
        episodes=len(episodes),
        steps=sum(len(e) for e in episodes),
        success_rate=float(np.mean([e.success for e in episodes])),
        instructions=tuple(sorted({e.instruction for e in episodes})[:MAX_INSTRUCTIONS]),
    )
    ranges = LogRanges.of(episodes, keys)
    train = tensors(episodes)
    if data.auxiliary_commands and config.behavior_from is None and config.features_from is None:
        columns = torch.from_numpy(command_columns(episodes))
        train.auxiliary = torch.cat([train.auxiliary, columns], 1)
    longest = max((len(e) for e in episodes if e.success), default=0)
    untold = sum(e.attributes.get(OUTCOME) == UNTOLD for e in episodes)
    return RunData(
        *(train, valid, tokenizer, norm_stats, cameras, summary, ranges, longest, untold),
        *(words, word_scheme),
    )


def discount_note(config: TrainConfig, data: RunData) -> str | None:
    """A note where the discount hides the end of a successful log from its start."""
    if not config.two_stages or not data.longest_success:
        return None
    steps, gamma = data.longest_success, config.discount
    if gamma**steps >= _SEEN:
        return None
    return (
        f"note: --discount {gamma:g} over the {steps} steps of the longest successful log is "
        f"{gamma**steps:.2g}: its first steps hardly count. {0.3 ** (1 / steps):.4f} would give .3."
    )


def data_notes(config: TrainConfig, data: RunData, env_name: str | None) -> list[str]:
    """Notes on the logs before training: their discount, outcomes and environment."""
    path, steps = config.data.path, data.train.steps.tolist()
    untold = untold_note(data.untold, data.summary.episodes) if data.untold else None
    rare = rare_success(int(data.train.success.sum()), steps)
    unknown = unknown_environment(env_name)
    found = [f"note: {path}: {words}" for words in (untold, rare, unknown) if words is not None]
    discount = discount_note(config, data)
    return found if discount is None else [discount, *found]


def _action_scale(data: DataConfig) -> tuple[Sequence[float], Sequence[float]] | None:
    return (data.action_low, data.action_high) if data.action_low else None


def _words_read(episodes: Sequence[Episode], scheme: int) -> int:
    """Words of an instruction that a model of these logs reads: those of the longest, and 16 at
    least."""
    return max(
        SHORT_TEXT, *(count_words(text, scheme) for text in {e.instruction for e in episodes})
    )


def every_command(episodes: Sequence[Episode]) -> np.ndarray:
    """All commands that were given or could have been given, each once, object [N] of str."""
    texts = {text for e in episodes for text in e.texts.get(ADMISSIBLE, ())}
    found = {line for text in texts for line in text.split("\n")}
    found.update(command for e in episodes for command in e.actions)
    return np.array(sorted(found), object)


def _read(config: TrainConfig, filter_key: str | None) -> list[Episode]:
    """State and text keys only: images are read through the frame cache."""
    data, commands = config.data, config.tokenizer.kind == "commands"
    lists = commands and (data.auxiliary_commands or config.tokenizer.reads_admissible)
    listed = (ADMISSIBLE,) if lists else ()
    episodes = read_episodes(
        data.path,
        keys=tuple(
            dict.fromkeys((*data.state_keys, *data.auxiliary_keys, *data.text_keys, *listed))
        ),
        filter_key=filter_key,
        instruction=data.instruction,
        log_end=data.log_ends(),
        success_reward=data.success_reward,
        action_scale=_action_scale(data),
        require_reward=filter_key == data.filter_key,
    )
    first = episodes[0]
    if first.has_commands != commands:
        raise ValueError(
            f"{data.path}: the actions are "
            + (
                "text commands: train on them with --tokenizer.kind commands."
                if first.has_commands
                else "numbers, which --tokenizer.kind commands does not take: use quantile or "
                "uniform."
            )
        )
    for flag, keys, there in (
        ("text-keys", data.text_keys, first.texts),
        ("state-keys", (*data.state_keys, *data.auxiliary_keys), first.observations),
    ):
        for key in keys:
            if key not in there:
                kind = "text" if key in first.texts else "no text"
                raise ValueError(f"{data.path}: --data.{flag} {key}: this key holds {kind}.")
    return episodes
