"""Rows of results pool their seeds, and replace no row of more seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsft_robot.files import read_json
from qsft_robot.intervals import wilson
from qsft_robot.study_rows import merge_rows, result_row, run_verb


def row_of(rates: list[float], method: str = "qsft") -> dict:
    summaries = [{"n": 50, "success_rate": rate} for rate in rates]
    script = Path(__file__).resolve()
    return result_row("tabletop/place", "pixels", "vlm-few", method, summaries, script)


def test_seeds_are_pooled_and_the_interval_is_that_of_all_episodes() -> None:
    row = row_of([0.2, 0.4, 0.9])
    assert (row["seeds"], row["n"], row["by_seed"]) == (3, 150, [0.2, 0.4, 0.9])
    rate = wilson(75, 150)
    assert (row["success_rate"], row["low"], row["high"]) == (
        0.5,
        round(rate.low, 4),
        round(rate.high, 4),
    )
    assert row["command"].startswith("python tests/test_study_rows.py")
    assert len(row["commit"]) >= 7


def test_a_row_takes_the_place_of_its_like_unless_that_has_more_seeds(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    merge_rows(results, [row_of([0.5, 0.5]), row_of([0.1], method="sft")])
    merge_rows(results, [row_of([0.9])])
    assert [row["by_seed"] for row in read_json(results)] == [[0.5, 0.5], [0.1]]
    merge_rows(results, [row_of([0.9, 0.7])])
    assert [row["by_seed"] for row in read_json(results)] == [[0.9, 0.7], [0.1]]


def test_a_verb_that_fails_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "run.log"
    with pytest.raises(RuntimeError, match=r"run\.log"):
        run_verb(f"inspect {tmp_path / 'none.hdf5'}", log, tmp_path)
    assert "none.hdf5" in log.read_text()
