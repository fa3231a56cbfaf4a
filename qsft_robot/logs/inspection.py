"""The report of `qsft-robot inspect`: what logs hold, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

from qsft_robot.logs.checks import ACTION_TOLERANCE
from qsft_robot.logs.doctor.checks import examine
from qsft_robot.logs.doctor.finding import Finding, Severity, gravest_first
from qsft_robot.logs.doctor.hdf5_logs import hdf5_source
from qsft_robot.logs.doctor.log import Log, LogSet, LogSource
from qsft_robot.logs.ends import LogEnd, untold_note
from qsft_robot.logs.inspection_table import show
from qsft_robot.logs.reader import no_reward
from qsft_robot.logs.summary import TEXT, DataSummary, rare_success
from qsft_robot.parts.simulators import unknown_environment
from qsft_robot.types import ADMISSIBLE


def inspect(
    path: str | Path,
    *,
    filter_key: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
    console: Console | None = None,
) -> DataSummary:
    """Read a whole demonstration file, print its table and findings, and return them.

    What no reader could fix raises ValueError (structure, lengths, NaN, sizes), after everything
    else was printed; all that depends on how the data is used becomes a finding.
    """
    source = hdf5_source(
        path, filter_key=filter_key, log_end=log_end, success_reward=success_reward
    )
    summary = summarize_source(source, success_reward)
    show(summary, console or Console())
    refuse(summary)
    return summary


def summarize(
    path: str | Path,
    *,
    filter_key: str | None = None,
    log_end: LogEnd | Mapping[str, LogEnd] | None = None,
    success_reward: bool = False,
) -> DataSummary:
    """`inspect` without printing."""
    source = hdf5_source(
        path, filter_key=filter_key, log_end=log_end, success_reward=success_reward
    )
    summary = summarize_source(source, success_reward)
    refuse(summary)
    return summary


def summarize_source(source: LogSource, success_reward: bool = False) -> DataSummary:
    """Read all logs of a source, HDF5 or LeRobot, and run the checks."""
    summary, logs = DataSummary(source.path, source.environment), list[Log]()
    success: dict[str, bool] = {}
    for episode, log in source.logs:
        logs.append(log)
        if episode is not None:
            summary.add(episode, log.frames)
            success[log.name] = episode.success
    summary.add_masks(source.masks, success)
    found = examine(LogSet(logs, source.control_hz, *3 * (source.lerobot,)))
    if success:
        found += _of_use(summary, source, success_reward)
    summary.findings = gravest_first(found)
    return summary


def refuse(summary: DataSummary) -> None:
    """ValueError where the reader refuses a log, so that the file can't be trained on as it is."""
    refused = [x for x in summary.findings if x.check == "refused"]
    if refused:
        more = len(refused) - 1
        also = f" {more} more logs are refused, see above." if more else ""
        raise ValueError(refused[0].message + also)


def _of_use(summary: DataSummary, source: LogSource, success_reward: bool) -> list[Finding]:
    """The findings that depend on how the data is used."""
    found: list[Finding] = []
    for key, (count, _) in summary.masks.items():
        if not count and not source.masks[key]:
            message = f"mask/{key} is empty; --data.filter-key {key} would be refused."
            found.append(Finding("empty-mask", "warning", message))
    for key, names in source.absent.items():
        if names:
            listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            message = f"mask/{key} names {listed}, but there is no such log: it would be refused."
            found.append(Finding("absent-log", "error", message))
    for key, reason in source.unread.items():
        message = f"{key} is left out. {reason}"
        # A camera that is left out is a loss, a map of depth beside cameras is none.
        severity: Severity = "info" if key in source.depth else "warning"
        found.append(Finding("unread-key", severity, message))
    if source.upside_down is not None:
        found.append(Finding("upside-down", "info", source.upside_down))
    found += _of_rewards(summary, source, success_reward)
    if (unknown := unknown_environment(source.environment)) is not None:
        found.append(Finding("unknown-environment", "info", unknown))
    if source.no_next:
        message = "no next_obs: the last frame stands in for what the last action led to."
        found.append(Finding("no-next-obs", "info", message))
    for key, x in summary.keys.items():
        if x.dtype != TEXT and x.constant and len(x.shape) != 3:
            listed = ", ".join(map(str, x.constant))
            message = f"{key}: constant in dimension {listed}; normalized to 0."
            found.append(Finding("constant", "info", message))
    return found + _of_actions(summary)


def _of_rewards(summary: DataSummary, source: LogSource, success_reward: bool) -> list[Finding]:
    if not source.tells_success:
        message = (
            "neither next.success nor next.reward, so which logs succeeded is unknown: say so at "
            "import (import-lerobot --success all, none, or --successful 0 3 7)."
        )
        return [Finding("unknown-success", "info", message)]
    found = []
    if summary.untold:
        message = untold_note(summary.untold, summary.episodes)
        found.append(Finding("unknown-success", "warning", message))
    if not summary.rewarded:
        message = no_reward(source.path, success_reward)
        found.append(Finding("no-reward", "warning", message))
    elif min(summary.returns) < 0 or max(summary.returns) > 1:
        message = (
            f"returns span [{min(summary.returns):.3g}, {max(summary.returns):.3g}], beyond the "
            "default range [0, 1]: declare --data.return-low and --data.return-high, or pass "
            "--data.success-reward to pay 1 once, at the first success."
        )
        found.append(Finding("return-range", "warning", message))
    if summary.successes == summary.episodes:
        message = "every demonstration succeeds: there is no failure to learn from."
        found.append(Finding("all-succeed", "info", message))
    if (rare := rare_success(summary.successes, summary.lengths)) is not None:
        found.append(Finding("rare-success", "warning", rare))
    if summary.successes == 0:
        found.append(Finding("no-success", "warning", "no demonstration succeeds."))
    if source.only_dones and summary.successes < summary.episodes:
        failures = summary.episodes - summary.successes
        message = (
            f"the file has only dones: the ends of its {failures} unsuccessful demonstrations "
            "count as known failures (terminal). If they were cut while the task could go on, pass "
            "--data.log-end truncated."
        )
        found.append(Finding("unknown-end", "info", message))
    return found


def _of_actions(summary: DataSummary) -> list[Finding]:
    actions, found = summary.actions, list[Finding]()
    assert actions is not None
    if actions.dtype == TEXT:
        if ADMISSIBLE not in summary.keys:
            message = (
                f"the actions are text commands, but there is no observation {ADMISSIBLE!r}: "
                "training then needs --tokenizer.free or --tokenizer.closed."
            )
            found.append(Finding("no-admissible", "warning", message))
        if summary.foreign_commands:
            message = (
                f"{summary.foreign_commands} of {summary.steps} commands were not among the "
                f"{ADMISSIBLE} of their step."
            )
            found.append(Finding("foreign-command", "warning", message))
        return found
    if (np.maximum(-actions.low, actions.high) > 1 + ACTION_TOLERANCE).any():
        low = ", ".join(f"{x:.4g}" for x in actions.low)
        high = ", ".join(f"{x:.4g}" for x in actions.high)
        message = (
            f"actions span [{low}] to [{high}], beyond [-1, 1]: declare their scale with "
            "--data.action-low and --data.action-high."
        )
        found.append(Finding("action-scale", "info", message))
    if actions.constant:
        listed = ", ".join(map(str, actions.constant))
        found.append(Finding("constant", "info", f"actions: constant in dimension {listed}."))
    return found
