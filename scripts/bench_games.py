"""Language games: games a second that their recipes' players play into a file of logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from bench_rows import Row, worker_row

GROUP = "games"
# Recipe -> games of one measurement, some seconds of them on one core.
GAMES = {
    "games/wordle": 4000,
    "games/twenty_questions": 2000,
    "games/chess_endgames": 400,
    "webshop": 1500,
}


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Every world with one process and with two; what it takes to start a process is left out."""
    from qsft_robot.presets.look_up import recipe
    from qsft_robot.rollouts.collect import CollectPart, collect

    for name, number in GAMES.items():
        if name == "webshop" and find_spec("bm25s") is None:
            say("without bm25s: pip install 'qsft-robot[webshop]'")
            continue
        chosen, games = recipe(name), 12 if quick else number
        env_args = {"env_name": chosen.env_name, "env_kwargs": dict(chosen.env_kwargs)}
        (part,) = chosen.parts
        parts, logs = [CollectPart(games, part.mixture, part.noise)], folder / "logs.hdf5"

        def collected(workers: int, env_args=env_args, parts=parts, logs=logs) -> float:
            logs.unlink(missing_ok=True)
            report = collect(env_args, logs, parts, workers=workers, progress=False)
            say(f"{report.episodes} games, {workers}: {report.seconds:.1f} s")
            return report.episodes / report.seconds

        yield worker_row(
            GROUP,
            f"{chosen.env_name}_games_two_workers_vs_one",
            "games/s by the players of the recipe, written to logs",
            None,
            collected,
            1 if quick else 3,
        )
