"""What the episodes of an evaluation come to: rates and means with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median, stdev
from typing import Any

from qsft_robot.intervals import mean_interval, wilson
from qsft_robot.parts.simulators import reference_returns
from qsft_robot.rollouts.batches import EpisodeResult

# Reasons that say that the software failed, not the policy. They count as failures all the same.
BROKEN = ("error", "crashed", "timeout")
_SCORE = "normalized_score"


def count_reasons(episodes: Sequence[EpisodeResult]) -> dict[str, int]:
    """How often each reason of failure stands there."""
    counts: dict[str, int] = {}
    for episode in episodes:
        if episode.failure_reason is not None:
            counts[episode.failure_reason] = counts.get(episode.failure_reason, 0) + 1
    return counts


def tells_success(episodes: Sequence[EpisodeResult]) -> bool:
    """Whether the environment told of any episode whether it succeeded."""
    # An episode that broke off counts as a failure, told or not.
    whole = [e for e in episodes if e.failure_reason not in BROKEN]
    return not whole or any(e.success_any is not None for e in whole)


def summarize(episodes: Sequence[EpisodeResult]) -> dict[str, Any]:
    """What the episodes come to: rates with intervals, returns, reasons of failure."""
    n = len(episodes)
    first = last = None
    if tells_success(episodes):
        first = wilson(sum(bool(e.success_any) for e in episodes), n)
        last = wilson(sum(bool(e.success_last) for e in episodes), n)
    decisions = [e.mean_decision_ms for e in episodes if e.mean_decision_ms is not None]
    extra: dict[str, Any] = {}
    refused = [e.refused_commands for e in episodes if e.refused_commands is not None]
    if refused:
        commands = sum(e.steps for e in episodes if e.refused_commands is not None)
        extra["refused_commands"] = {"count": sum(refused), "rate": sum(refused) / commands}
    if first is not None and (tasks := sorted({e.task for e in episodes if e.task is not None})):
        of_task = {
            task: [bool(e.success_any) for e in episodes if e.task == task] for task in tasks
        }
        extra["tasks"] = {task: asdict(wilson(sum(x), len(x))) for task, x in of_task.items()}
    return {
        "n": n,
        # The headline is success at any step; both measures follow in full.
        # None, as all rates are, where the environment tells no success.
        "success_rate": first and first.rate,
        "low": first and first.low,
        "high": first and first.high,
        "interval": "Wilson, 95 %",
        "success_any": first and asdict(first),
        "success_last": last and asdict(last),
        "broken": sum(e.failure_reason in BROKEN for e in episodes),
        "failure_reasons": count_reasons(episodes),
        "restarts": sum(e.restarts for e in episodes),
        **_returns([e.total_reward for e in episodes if e.failure_reason not in BROKEN]),
        "mean_steps": sum(e.steps for e in episodes) / n,
        "median_decision_ms": round(median(decisions), 4) if decisions else None,
        **extra,
    }


def mean_text(summary: Mapping[str, Any]) -> str:
    """The means of a summary in words."""
    told = []
    for key, words in (("mean_return", "mean return"), (_SCORE, "normalized score")):
        if (value := summary.get(key)) is not None:
            low, high = summary[f"{key}_low"], summary[f"{key}_high"]
            told.append(
                f"{words} {value:.4g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")
            )
    return "; ".join(told)


def normalized(env_name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The mean return where a random policy's is 0 and an expert's 100, with its interval; empty
    where no such references are published."""
    references = reference_returns(env_name)
    if references is None or summary["mean_return"] is None:
        return {}
    random, expert = references
    ends = {end: summary[f"mean_return{end}"] for end in ("", "_low", "_high")}
    return {"reference_returns": {"random": random, "expert": expert}} | {
        _SCORE + end: None if x is None else 100.0 * (x - random) / (expert - random)
        for end, x in ends.items()
    }


def _returns(returns: Sequence[float]) -> dict[str, float | None]:
    """Mean return with its interval, of the episodes that didn't break off: what those would have
    paid nobody knows, and where steps cost, the 0 of none would be the best of all."""
    mean = sum(returns) / len(returns) if returns else None
    deviation = stdev(returns) if len(returns) > 1 else None
    low = high = None
    if mean is not None and deviation is not None:
        low, high = mean_interval(mean, deviation, len(returns))
    return {
        "mean_return": mean,
        "mean_return_low": low,
        "mean_return_high": high,
        "return_deviation": deviation,
    }
