"""The table that `qsft-robot inspect` prints: keys, shapes, ranges, returns, success, warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qsft_robot.logs.checks import (
    ACTION_TOLERANCE,
    ANY_SCALE,
    demo_group,
    env_args_of,
    masks_of,
    open_demonstrations,
    select_demos,
)
from qsft_robot.logs.ends import LogEnd
from qsft_robot.logs.reader import iter_episodes, no_reward
from qsft_robot.normalize import CONSTANT_STD
from qsft_robot.printed_text import cell
from qsft_robot.types import ADMISSIBLE, Episode, is_text

TEXT = "text"


@dataclass
class KeySummary:
    """One observation key, or the actions, over all steps."""

    shape: tuple[int, ...]
    dtype: str  # "text" where the rows are str: low and high are then their lengths
    low: np.ndarray  # [s]; one number for images
    high: np.ndarray

    @property
    def constant(self) -> list[int]:
        """Dimensions that never change."""
        return np.flatnonzero(self.high - self.low < CONSTANT_STD).tolist()


@dataclass
class DataSummary:
    """What a demonstration file holds; returns are undiscounted."""

    path: str
    environment: str
    episodes: int = 0
    steps: int = 0
    lengths: list[int] = field(default_factory=list)
    keys: dict[str, KeySummary] = field(default_factory=dict)
    actions: KeySummary | None = None
    returns: list[float] = field(default_factory=list)
    rewarded: bool = False
    successes: int = 0
    terminated: int = 0
    truncated: int = 0
    # filter key -> (episodes, successes)
    masks: dict[str, tuple[int, int]] = field(default_factory=dict)
    # instruction -> episodes
    instructions: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    # text commands that were not among the admissible ones of their step
    foreign_commands: int = 0

    @property
    def success_rate(self) -> float:
        return self.successes / self.episodes


def inspect(
    path: str | Path,
    *,
    filter_key: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
    console: Console | None = None,
) -> DataSummary:
    """Read the whole file, print its table, and return what stands in it.

    What no reader could mend raises ValueError (structure, lengths, NaN, sizes); what depends on
    how the data is used (action scale, rewards, return range) becomes a warning.
    """
    summary = summarize(path, filter_key=filter_key, log_end=log_end, success_reward=success_reward)
    show(summary, console or Console())
    return summary


def summarize(
    path: str | Path,
    *,
    filter_key: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
) -> DataSummary:
    """`inspect` without printing."""
    with open_demonstrations(path) as file:
        masks = masks_of(file)
        env_args = env_args_of(file)
        demo = demo_group(file, select_demos(file, filter_key)[0])
        only_dones = "terminated" not in demo and "truncated" not in demo
        no_next = "next_obs" not in demo
    summary = DataSummary(str(path), str(env_args.get("env_name", "")))
    success: dict[str, bool] = {}
    for episode in iter_episodes(
        path,
        filter_key=filter_key,
        log_end=log_end,
        success_reward=success_reward,
        action_scale=ANY_SCALE,
    ):
        _add(summary, episode)
        success[episode.name] = episode.success
    for key, names in masks.items():
        known = [success[name] for name in names if name in success]
        summary.masks[key] = (len(known), sum(known))
        if not names:
            summary.warnings.append(
                f"mask/{key} is empty; --data.filter-key {key} would be refused."
            )
    if not summary.rewarded:
        summary.warnings.append(no_reward(path, success_reward))
    summary.warnings += _warnings(summary, only_dones and log_end is None, no_next)
    return summary


def show(summary: DataSummary, console: Console) -> None:
    """Print the tables and the warnings of a summary."""
    lengths, returns = np.array(summary.lengths), np.array(summary.returns)
    overview = Table(title=cell(summary.path), show_header=False)
    overview.add_row("environment", cell(summary.environment or "not named in the file"))
    overview.add_row("demonstrations", f"{summary.episodes}, {summary.steps} steps")
    overview.add_row("length", _span(lengths, "d"))
    overview.add_row("return (undiscounted)", _span(returns, ".3g"))
    overview.add_row("success", f"{summary.successes}/{summary.episodes}")
    overview.add_row("ends", f"{summary.terminated} terminated, {summary.truncated} truncated")
    for text, count in list(summary.instructions.items())[:8]:
        overview.add_row("instruction", cell(f"{text or '(none)'}  x{count}"))
    if len(summary.instructions) > 8:
        overview.add_row("", f"and {len(summary.instructions) - 8} more")
    for key, (count, successes) in summary.masks.items():
        overview.add_row(cell(f"mask/{key}"), f"{count} demonstrations, {successes} successes")
    console.print(overview)
    keys = Table("key", "shape", "dtype", "range")
    actions = {"actions": summary.actions} if summary.actions else {}
    for key, x in {**summary.keys, **actions}.items():
        low, high = float(x.low.min()), float(x.high.max())
        if x.dtype == TEXT:
            keys.add_row(cell(key), "", x.dtype, f"{low:.0f} to {high:.0f} characters")
            continue
        note = f"  constant: {', '.join(map(str, x.constant))}" if x.constant else ""
        keys.add_row(
            cell(key), "x".join(map(str, x.shape)), x.dtype, f"{low:.4g} to {high:.4g}{note}"
        )
    console.print(keys)
    for warning in summary.warnings:
        line = cell("warning ", "yellow") + cell(warning)
        console.print(line, highlight=False, soft_wrap=True)
    if not summary.warnings:
        console.print("No warnings.")


def _span(x: np.ndarray, form: str) -> str:
    return f"{x.min():{form}} to {x.max():{form}}, mean {x.mean():.3g}"


def _add(summary: DataSummary, episode: Episode) -> None:
    summary.episodes += 1
    summary.steps += len(episode)
    summary.lengths.append(len(episode))
    summary.returns.append(float(episode.rewards.sum()))
    summary.rewarded |= bool(episode.rewards.any())
    summary.successes += episode.success
    summary.terminated += episode.terminated
    summary.truncated += episode.truncated
    text = episode.instruction
    summary.instructions[text] = summary.instructions.get(text, 0) + 1
    for key, rows in {**episode.observations, **episode.texts}.items():
        summary.keys[key] = _widen(summary.keys.get(key), rows)
    summary.actions = _widen(summary.actions, episode.actions)
    if episode.has_commands and ADMISSIBLE in episode.texts:
        admissible = [text.split("\n") for text in episode.texts[ADMISSIBLE]]
        summary.foreign_commands += sum(
            action not in commands
            for action, commands in zip(episode.actions, admissible, strict=False)
        )


def _widen(before: KeySummary | None, rows: np.ndarray) -> KeySummary:
    if is_text(rows):
        lengths = np.array([len(x) for x in rows])
        low, high = lengths.min(keepdims=True), lengths.max(keepdims=True)
    elif rows.ndim == 4:
        low, high = rows.min(keepdims=True).ravel(), rows.max(keepdims=True).ravel()
    else:
        low, high = rows.min(axis=0), rows.max(axis=0)
    if before is not None:
        low, high = np.minimum(low, before.low), np.maximum(high, before.high)
    return KeySummary(rows.shape[1:], TEXT if is_text(rows) else str(rows.dtype), low, high)


def _warnings(summary: DataSummary, only_dones: bool, no_next: bool) -> list[str]:
    found = []
    if summary.rewarded and (min(summary.returns) < 0 or max(summary.returns) > 1):
        found.append(
            f"returns span [{min(summary.returns):.3g}, {max(summary.returns):.3g}], beyond the "
            "default range [0, 1]: declare --data.return-low and --data.return-high, or pass "
            "--data.success-reward to pay 1 once, at the first success."
        )
    if summary.successes == summary.episodes:
        found.append("every demonstration succeeds: there is no failure to learn from.")
    if summary.successes == 0:
        found.append("no demonstration succeeds.")
    if only_dones and summary.successes < summary.episodes:
        failures = summary.episodes - summary.successes
        found.append(
            f"the file has only dones: the ends of its {failures} unsuccessful demonstrations "
            "count as known failures (terminal). If they were cut while the task could go on, pass "
            "--data.log-end truncated."
        )
    if no_next:
        found.append("no next_obs: the last frame stands in for what the last action led to.")
    for key, x in summary.keys.items():
        if x.dtype == TEXT:
            continue
        if x.constant and len(x.shape) == 3:
            found.append(f"{key}: every pixel of every frame is {x.low[0]}.")
        elif x.constant:
            listed = ", ".join(map(str, x.constant))
            found.append(f"{key}: constant in dimension {listed}; normalized to 0.")
    assert summary.actions is not None
    if summary.actions.dtype == TEXT:
        if ADMISSIBLE not in summary.keys:
            found.append(
                f"the actions are text commands, but there is no observation {ADMISSIBLE!r}: "
                "training then needs --tokenizer.free."
            )
        if summary.foreign_commands:
            found.append(
                f"{summary.foreign_commands} of {summary.steps} commands were not among the "
                f"{ADMISSIBLE} of their step."
            )
        return found
    if (np.maximum(-summary.actions.low, summary.actions.high) > 1 + ACTION_TOLERANCE).any():
        low = ", ".join(f"{x:.4g}" for x in summary.actions.low)
        high = ", ".join(f"{x:.4g}" for x in summary.actions.high)
        found.append(
            f"actions span [{low}] to [{high}], beyond [-1, 1]: declare their scale with "
            "--data.action-low and --data.action-high."
        )
    if summary.actions.constant:
        listed = ", ".join(map(str, summary.actions.constant))
        found.append(f"actions: constant in dimension {listed}.")
    return found
