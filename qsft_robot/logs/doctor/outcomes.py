"""Checks of outcomes: rewards, success and ends that contradict each other, rare instructions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from qsft_robot.logs.doctor.finding import Finding, Where, whole
from qsft_robot.logs.doctor.log import Log, LogSet

# Share of the failures that end at one length where that is the step limit.
_LIMIT = 0.8
_FEWEST_FAILURES = 5
# Logs of an instruction that are few where most have many.
_FEW, _MANY = 2, 10
# Chance below which an instruction without success is no chance.
_CHANCE = 1e-3


def reward_after_end(logs: LogSet) -> list[Finding]:
    """A log is rewarded after the step that ends it, or after a success that it lost again."""
    steps = {}
    for log in logs.readable:
        over = np.zeros(len(log), bool)
        for mark in log.marks.values():
            # A mark that stays up to the end says that the state is still a success.
            over |= mark & ~_lasting(mark)
        after = np.cumsum(over) - over > 0
        at = np.flatnonzero(after & (log.rewards != 0))
        if len(at):
            steps[log.name] = [(int(at[0]), int(at[-1]))]
    if not steps:
        return []
    message = (
        "rewards stand after the step that ends the log: two episodes in one, or an end that is "
        "none. Cut the logs at their end."
    )
    return [Finding("reward-after-end", "error", message, steps)]


def _lasting(mark: np.ndarray) -> np.ndarray:
    """The steps of a mark that stays up to the end of the log."""
    return np.cumprod(mark[::-1])[::-1].astype(bool)


def success_against_rewards(logs: LogSet) -> list[Finding]:
    """A log is called a success and has no reward, or the other way round; where rewards are
    marks of success, 0 and one number above it."""
    there = logs.readable
    levels = np.unique(np.concatenate([log.rewards for log in there])) if there else np.zeros(0)
    if len(levels) != 2 or levels[0] != 0 or levels[1] < 0:
        return []
    told = [log for log in there if log.success is not None]
    if not any(log.success and (log.rewards > 0).any() for log in told):
        return []  # rewards mean something else here
    called = whole(x.name for x in told if x.success and not (x.rewards > 0).any())
    paid = whole(x.name for x in told if not x.success and (x.rewards > 0).any())
    found = []
    for names, message in (
        (called, "called a success, but no step is rewarded."),
        (paid, "called no success, but rewarded as one."),
    ):
        if names:
            words = f"{message} `qsft-robot relabel` writes what is true."
            found.append(Finding("success-against-rewards", "error", words, names))
    return found


def cut_against_terminal(logs: LogSet) -> list[Finding]:
    """Ends that contradict themselves: both or none of terminated and truncated, a success that
    was cut, a failure that is final long before the step limit of the others."""
    both, none, lost, early = Where(), Where(), Where(), Where()
    for log in logs.readable:
        if "terminated" not in log.marks or "truncated" not in log.marks or not len(log):
            continue
        terminated, truncated = log.marks["terminated"][-1], log.marks["truncated"][-1]
        if terminated and truncated:
            both[log.name] = []
        elif not terminated and not truncated:
            none[log.name] = []
        elif truncated and log.outcome:
            lost[log.name] = []
    finals = [x for x in logs.readable if _final_failure(x)]
    lengths = np.array([len(log) for log in finals])
    if len(finals) >= _FEWEST_FAILURES:
        limit = int(lengths.max())
        if (lengths == limit).mean() >= _LIMIT:
            early = whole(log.name for log in finals if len(log) < limit)
    found = []
    for names, message in (
        (both, "both terminated and truncated at the last step."),
        (none, "neither terminated nor truncated at the last step: it counts as cut."),
        (lost, "a success that is marked as cut: it counts as terminal."),
        (
            early,
            "a failure that is terminal although it is shorter than the step limit at which the "
            "others end. If it was cut, its end is truncated (`relabel --failure-end truncated`).",
        ),
    ):
        if names:
            found.append(Finding("cut-against-terminal", "warning", message, names))
    return found


def _final_failure(log: Log) -> bool:
    end = log.marks.get("terminated")
    return end is not None and bool(end[-1]) and not log.outcome and not log.has_commands


def coverage(logs: LogSet) -> list[Finding]:
    """An instruction has few logs, or no success where chance does not explain it."""
    there = logs.readable
    groups: dict[str, list[Log]] = defaultdict(list)
    for log in there:
        groups[log.instruction].append(log)
    if len(groups) < 2:
        return []
    counts = np.array([len(x) for x in groups.values()])
    few = [x for x in groups if len(groups[x]) <= _FEW and np.median(counts) >= _MANY]
    never = [x for x in groups if x not in few and _never(x, groups)]
    found = []
    if few:
        names = whole(log.name for text in few for log in groups[text])
        message = f"{_quoted(few)}: too few logs to learn from; most have {np.median(counts):g}."
        found.append(Finding("coverage", "warning", message, names))
    if never:
        names = whole(log.name for text in never for log in groups[text])
        rate = np.mean([log.outcome for log in there])
        message = f"{_quoted(never)}: no success, where {rate:.0%} of all logs succeed."
        found.append(Finding("coverage", "warning", message, names))
    return found


def _never(text: str, groups: Mapping[str, Sequence[Log]]) -> bool:
    """Whether its logs all fail where logs of the other instructions make that unlikely."""
    others = [log.outcome for other in groups if other != text for log in groups[other]]
    fails = not any(log.outcome for log in groups[text])
    return fails and (1 - float(np.mean(others))) ** len(groups[text]) < _CHANCE


def _quoted(texts: Sequence[str]) -> str:
    named = ", ".join(repr(text) for text in texts[:3])
    return named + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
