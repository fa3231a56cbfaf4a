"""One progress line for rollouts: episodes done, time left and the success rate so far."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RolloutProgress:
    """Called with each finished episode's success; where the output is no terminal, prints lines
    at every tenth."""

    def __init__(self, title: str, total: int) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[success]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, success="")
        self._title, self._total = title, total
        self._done = self._successes = 0

    def __call__(self, success: bool) -> None:
        self._done += 1
        self._successes += success
        rate = f"success {self._successes / self._done:.3f}"
        self._bar.update(self._task, completed=self._done, success=rate)
        tenth = max(self._total // 10, 1)
        if not self._console.is_terminal and not self._done % tenth:
            self._console.print(
                f"{self._title} {self._done}/{self._total}  {rate}", highlight=False
            )

    def __enter__(self) -> RolloutProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.stop()
