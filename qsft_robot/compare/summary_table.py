"""The table and the verdict that `qsft-robot compare` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from qsft_robot.compare.comparison import Comparison
from qsft_robot.compare.verdict import verdict
from qsft_robot.printed_text import cell, printable

_LISTED = 10


def show(compared: Comparison, console: Console) -> None:
    """Print both sides, the difference and what would decide it, and episodes that differ."""
    table = Table(title=f"{len(compared.seeds)} episodes, the same for both")
    for heading in ("", "evaluation", "success", "95 % interval"):
        table.add_column(heading)
    for mark, side in (("first", compared.first), ("second", compared.second)):
        for run, rate in zip(side, compared.rates(side), strict=True):
            alone = len(side) == 1
            pooled = compared.pooled(side)
            words = f"{pooled.low:.3f} to {pooled.high:.3f}" if alone else ""
            table.add_row(mark, cell(run.folder), f"{rate:.3f}", words)
        if len(side) > 1:
            mean = sum(compared.rates(side)) / len(side)
            table.add_row(mark, f"mean of {len(side)} runs", f"{mean:.3f}", "")
    console.print(table)
    for line in verdict(compared):
        console.print(line, highlight=False, soft_wrap=True)
    rows = compared.differing()
    if rows:
        console.print(f"episodes that differ ({len(rows)}):", highlight=False)
    for row in rows[:_LISTED]:
        text = compared.first[0].episodes[row.seed].get("instruction") or ""
        if compared.paired:
            who = "the first alone" if row.first else "the second alone"
        else:
            who = f"{row.first} of {len(compared.first)} against "
            who += f"{row.second} of {len(compared.second)}"
        line = f"  seed {row.seed}: {who}, {text}".rstrip(", ")
        console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
    if len(rows) > _LISTED:
        console.print(f"  and {len(rows) - _LISTED} more (--json, --page)", highlight=False)
    for note in compared.notes:
        console.print(printable(f"note: {note}"), highlight=False, markup=False, soft_wrap=True)
