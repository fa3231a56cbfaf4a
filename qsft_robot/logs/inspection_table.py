"""The tables and findings that `qsft-robot inspect` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qsft_robot.logs.doctor.finding import Severity
from qsft_robot.logs.summary import TEXT, DataSummary
from qsft_robot.printed_text import cell

_COLORS: dict[Severity, str] = {"error": "red", "warning": "yellow", "info": "cyan"}
_WORDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
# Logs of a ranking that are listed.
_RANKED = 40
# Instructions that are listed.
_LISTED = 8


@dataclass(frozen=True)
class LogValue:
    """The judgment of V on one log."""

    name: str
    success: bool
    last: float  # V at its end
    peers: float  # the median of that over the logs of the same outcome
    drop: float  # the largest fall of V from one decision to the next, 0 or more
    drop_step: int  # the step after it
    held_out: bool  # whether no policy that was asked had learned from it

    @property
    def suspicion(self) -> float:
        """How far V at the end lies on the other outcome's side of its peers."""
        return self.peers - self.last if self.success else self.last - self.peers

    def to_json(self) -> dict[str, Any]:
        """Plain types, for `inspect --json`."""
        return {**vars(self), "suspicion": self.suspicion}


def show(summary: DataSummary, console: Console) -> None:
    """Print the tables and the findings of a summary."""
    if summary.episodes:
        _show_overview(summary, console)
        _show_keys(summary, console)
    for finding in summary.findings:
        color, word = _COLORS[finding.severity], _WORDS[finding.severity]
        line = cell(f"{word} ", color) + cell(f"{finding.check} ", "bold") + cell(finding.message)
        if finding.where:
            line += cell(f"  {finding.where}", "dim")
        console.print(line, highlight=False, soft_wrap=True)
    if not any(x.severity != "info" for x in summary.findings):
        console.print("No warnings.")


def _show_overview(summary: DataSummary, console: Console) -> None:
    lengths, returns = np.array(summary.lengths), np.array(summary.returns)
    overview = Table(title=cell(summary.path), show_header=False)
    overview.add_row("environment", cell(summary.environment or "not named in the file"))
    overview.add_row("demonstrations", f"{summary.episodes}, {summary.steps} steps")
    overview.add_row("length", _span(lengths, "d"))
    overview.add_row("return (undiscounted)", _span(returns, ".3g"))
    untold = f", untold of {summary.untold}" if summary.untold else ""
    overview.add_row("success", f"{summary.successes}/{summary.episodes}{untold}")
    overview.add_row("ends", f"{summary.terminated} terminated, {summary.truncated} truncated")
    for text, count in list(summary.instructions.items())[:_LISTED]:
        overview.add_row("instruction", cell(f"{text if text.strip() else '(none)'}  x{count}"))
    if len(summary.instructions) > _LISTED:
        overview.add_row("", f"and {len(summary.instructions) - _LISTED} more")
    for key, (count, successes) in summary.masks.items():
        overview.add_row(cell(f"mask/{key}"), f"{count} demonstrations, {successes} successes")
    console.print(overview)


def _show_keys(summary: DataSummary, console: Console) -> None:
    keys = Table("key", "shape", "dtype", "range")
    actions = {"actions": summary.actions} if summary.actions else {}
    for key, x in {**summary.keys, **actions}.items():
        low, high = float(x.low.min()), float(x.high.max())
        if x.dtype == TEXT:
            keys.add_row(cell(key), "", x.dtype, f"{low:.0f} to {high:.0f} characters")
            continue
        note = f"  constant: {', '.join(map(str, x.constant))}" if x.constant else ""
        shape = "x".join(map(str, x.shape))
        keys.add_row(cell(key), shape, x.dtype, f"{low:.4g} to {high:.4g}{note}")
    console.print(keys)


def show_ranking(ranked: Sequence[LogValue], console: Console) -> None:
    """Print the logs whose V at the end lies farthest from that of their outcome."""
    table = Table(
        "log", "outcome", "V at the end", "its peers", "off by", "largest drop", "learned from",
        title="logs by V, the most suspicious first",
    )  # fmt: skip
    for x in ranked[:_RANKED]:
        table.add_row(
            cell(x.name),
            "success" if x.success else "failure",
            f"{x.last:.2f}",
            f"{x.peers:.2f}",
            f"{x.suspicion:.2f}",
            f"{x.drop:.2f} at step {x.drop_step}",
            "no" if x.held_out else "perhaps",
        )
    console.print(table)
    if not all(x.held_out for x in ranked):
        console.print(
            "V of a log that a policy learned from remembers its outcome: train one policy on the "
            "mask of each half, and give both.",
            soft_wrap=True,
        )


def _span(x: np.ndarray, form: str) -> str:
    return f"{x.min():{form}} to {x.max():{form}}, mean {x.mean():.3g}"
