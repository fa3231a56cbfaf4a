"""Progress of long work in one line: a bar on a terminal, else a line at every tenth."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


class _ProgressLine:
    """A context manager; `_show` tells how far the work is."""

    def __init__(
        self, title: str, total: int | None, *columns: ProgressColumn, note: str = ""
    ) -> None:
        self._console = Console(stderr=True)
        self._title = title
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, note=note)

    def _show(self, done: int, total: int, note: str) -> None:
        self._bar.update(self._task, completed=done, total=total, note=note)
        if not self._console.is_terminal and 10 * done // total > 10 * (done - 1) // total:
            self._console.print(f"{self._title} {done}/{total} {note}", highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.stop()


class RolloutProgress(_ProgressLine):
    """Called with each finished episode's success: episodes done, time left, success so far."""

    def __init__(self, title: str, total: int) -> None:
        super().__init__(title, total, TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        self._total, self._done, self._successes, self._told = total, 0, 0, False

    def __call__(self, success: bool | None) -> None:
        self._done += 1
        self._successes += bool(success)
        self._told |= success is not None
        rate = f" success {self._successes / self._done:.3f}" if self._told else ""
        self._show(self._done, self._total, rate)


class StepProgress(_ProgressLine):
    """Called with (done, of) after each piece of work of known length, such as converting logs."""

    def __init__(self, title: str, unit: str) -> None:
        super().__init__(title, None, TextColumn(unit), TimeRemainingColumn())
        self._unit = unit
        self.done = 0

    def __call__(self, done: int, of: int) -> None:
        self.done = done
        self._show(done, of, self._unit)
