"""One progress line for work of known length, such as converting logs."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class StepProgress:
    """Called with (done, of) after each piece; where the output is no terminal it prints lines at
    every tenth."""

    def __init__(self, title: str, unit: str) -> None:
        self._console = Console(stderr=True)
        self._title, self._unit = title, unit
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=None)
        self.done = 0

    def __call__(self, done: int, of: int) -> None:
        self.done = done
        self._bar.update(self._task, completed=done, total=of)
        if not self._console.is_terminal and (10 * done // of > 10 * (done - 1) // of):
            self._console.print(f"{self._title} {done}/{of} {self._unit}", highlight=False)

    def __enter__(self) -> StepProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.stop()
