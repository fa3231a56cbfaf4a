"""The verb of the command line that compares evaluations: compare."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from qsft_robot.printed_text import printable, say


def compare(
    evaluations: Positional[tuple[Path, ...]],
    against: tuple[Path, ...] = (),
    name: str = "policy",
    at_last_step: bool = False,
    accept: tuple[Literal["seeds", "environment"], ...] = (),
    strict_versions: bool = False,
    json: bool = False,
    page: Path | None = None,
) -> None:
    """Compare two evaluations on the same episodes: difference, interval, what would decide it.

    Positive differences are in favor of the first. With --against, the evaluations before it are
    training runs of one method and those after it of the other, and runs are what is drawn.

    Args:
        evaluations: Two run folders, evaluations (<run>/evaluation/<name>) or Hub ids, or all those
            of the first side.
        against: Those of the second side: several seeds of training, each evaluated on the same
            episodes.
        name: Which evaluation of a run folder is meant.
        at_last_step: Count success at the last step, instead of at any.
        accept: seeds: compare the episodes that all have, where they have others too.
            environment: compare in spite of other simulators or arguments.
        strict_versions: Refuse simulators of other versions instead of a note.
        json: Print one JSON object instead of a table.
        page: HTML file to write, with the episodes that differ, as video where there are videos.
    """
    from qsft_robot.compare.comparison import compare as run
    from qsft_robot.compare.page import write_page
    from qsft_robot.compare.summary_table import show

    first, second = (evaluations, against) if against else (evaluations[:1], evaluations[1:])
    if not first or not second or (not against and len(evaluations) > 2):
        raise ValueError(
            f"{len(evaluations)} evaluations: a comparison takes two, or the runs of each side "
            "with --against between: compare a/seed1 a/seed2 --against b/seed1 b/seed2."
        )
    compared = run(
        first,
        second,
        name=name,
        at_last_step=at_last_step,
        accept=accept,
        strict_versions=strict_versions,
    )
    filmed = None if page is None else write_page(compared, page)
    if json:
        say(dumps(compared.to_json(), indent=2, allow_nan=False))
        return
    from rich.console import Console

    show(compared, Console())
    if page is not None:
        say(f"{printable(page)}: {filmed} episodes side by side as video")
