"""Findings of the checks: name, severity, logs and steps, and one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# error: contradicts itself or can't be read; warning: training would suffer; info: to know.
Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
# Log -> its steps as (first, last) pairs; none for the whole log
Where = dict[str, list[tuple[int, int]]]
# Logs that are named in a sentence.
_NAMED = 6


@dataclass(frozen=True)
class Finding:
    """The result of one check. `logs`: log -> its steps as [first, last] pairs, none for the whole
    log; without logs it concerns the data set."""

    check: str
    severity: Severity
    message: str
    logs: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain types, for `inspect --json`."""
        return {
            "check": self.check,
            "severity": self.severity,
            "message": self.message,
            "logs": {name: [list(x) for x in steps] for name, steps in self.logs.items()},
        }

    @property
    def where(self) -> str:
        """Its logs and steps in words, "" where it concerns the data set."""
        named = [
            name + (f" ({_steps(steps)})" if steps else "")
            for name, steps in list(self.logs.items())[:_NAMED]
        ]
        more = len(self.logs) - len(named)
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def whole(names: Iterable[str]) -> Where:
    """Logs from end to end."""
    return {name: [] for name in names}


def _steps(steps: Sequence[tuple[int, int]]) -> str:
    words = [f"{a}" if a == b else f"{a}-{b}" for a, b in steps[:3]]
    kind = "step" if len(steps) == 1 and steps[0][0] == steps[0][1] else "steps"
    return f"{kind} {', '.join(words)}" + (" ..." if len(steps) > 3 else "")


def reaches(findings: Sequence[Finding], severity: Severity) -> bool:
    """Whether any finding is as severe as `severity`."""
    return any(SEVERITIES.index(x.severity) >= SEVERITIES.index(severity) for x in findings)


def gravest_first(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then what is good to know."""
    return sorted(findings, key=lambda x: -SEVERITIES.index(x.severity))
