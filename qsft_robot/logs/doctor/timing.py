"""Checks of time: gaps, steps back, another rate than declared, very short logs."""

from __future__ import annotations

import numpy as np

from qsft_robot.logs.doctor.finding import Finding, whole
from qsft_robot.logs.doctor.log import LogSet

# A gap, in control periods; what a rate may differ by.
_GAP, _RATE = 1.5, 0.1
# Share of the usual length below which a log is very short, and steps that are in any set.
_SHORT, _FEWEST = 0.15, 2
# Logs from which there is a usual length.
_USUAL = 5


def timestamp_gap(logs: LogSet) -> list[Finding]:
    """More than one and a half periods pass between two steps."""
    period = _period(logs)
    steps = {}
    for log in logs.readable:
        if log.timestamps is not None and period:
            at = np.flatnonzero(np.diff(log.timestamps) > _GAP * period) + 1
            if len(at):
                steps[log.name] = [(int(i), int(i)) for i in at]
    if not steps:
        return []
    message = (
        f"more than {_GAP:g} periods lie before these steps: frames were dropped, so one action "
        "stands for several."
    )
    return [Finding("timestamp-gap", "warning", message, steps)]


def timestamp_back(logs: LogSet) -> list[Finding]:
    """Time stands still, runs backwards or is no number."""
    steps = {}
    for log in logs.readable:
        if log.timestamps is not None:
            at = np.flatnonzero(~(np.diff(log.timestamps) > 0)) + 1
            if len(at):
                steps[log.name] = [(int(i), int(i)) for i in at]
    if not steps:
        return []
    message = (
        "the timestamps of these steps are not after those before, or no numbers: steps are out of "
        "order, or the clock failed."
    )
    return [Finding("timestamp-back", "error", message, steps)]


def wrong_rate(logs: LogSet) -> list[Finding]:
    """Timestamps run at another rate than the file declares."""
    if not logs.seconds or not logs.control_hz:
        return []
    rates = {}
    for log in logs.readable:
        if log.timestamps is not None and len(log) > 2:
            period = float(np.median(np.diff(log.timestamps)))
            if period > 0 and abs(period * logs.control_hz - 1) > _RATE:
                rates[log.name] = 1 / period
    if not rates:
        return []
    hz = float(np.median([*rates.values()]))
    message = f"the timestamps run at {hz:.4g} Hz, the file declares {logs.control_hz:g} Hz."
    everywhere = len(rates) == len(logs.readable)
    return [Finding("wrong-rate", "warning", message, whole([] if everywhere else rates))]


def _period(logs: LogSet) -> float | None:
    """Time between two steps, in the unit of the timestamps."""
    steps = [np.diff(x.timestamps) for x in logs.readable if x.timestamps is not None]
    everything = np.concatenate(steps) if steps else np.zeros(0)
    everything = everything[everything > 0]
    return float(np.median(everything)) if len(everything) else None


def short_log(logs: LogSet) -> list[Finding]:
    """A log is a small part of the usual length. Games that are won by few commands are not."""
    there = logs.readable
    if not there:
        return []
    usual = float(np.median([len(log) for log in there]))
    least = _SHORT * usual if len(there) >= _USUAL else 0.0
    short = whole(
        log.name
        for log in there
        if (len(log) < least and not log.has_commands) or len(log) <= min(_FEWEST, usual / 2)
    )
    if not short:
        return []
    message = f"a few steps where {usual:g} are usual: a recording that was started by mistake?"
    return [Finding("short-log", "warning", message, short)]
