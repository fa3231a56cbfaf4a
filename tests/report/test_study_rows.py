"""Rows of results pool their seeds, and replace no row of more seeds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from qsft_robot.config.train import TrainConfig
from qsft_robot.files import read_json
from qsft_robot.intervals import mean_interval, wilson
from qsft_robot.presets.look_up import PRESETS, apply_presets
from qsft_robot.report.study_rows import MEAN_RETURN, merge_rows, result_row, row_text, run_verb
from qsft_robot.verbs.flag_words import env_changes


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
    assert (row["metric"], row["value"]) == ("success_rate", 0.5)
    assert row["command"].startswith("python report/test_study_rows.py")
    assert len(row["commit"]) >= 7


def test_a_mean_return_is_that_of_all_whole_episodes_and_its_seeds_are_seen() -> None:
    rng = np.random.default_rng(0)
    returns = [rng.normal(-3 + seed, 1.0, 40 + seed) for seed in range(3)]
    summaries = [
        {
            "n": len(x) + 1, "broken": 1, "success_rate": 0.5, "mean_return": float(x.mean()),
            "return_deviation": float(x.std(ddof=1)), "refused_commands": {"rate": 0.25},
        }
        for x in returns
    ]  # fmt: skip
    script = Path(__file__).resolve()
    where = ("games/wordle", "text", "tenth letters scratch", "qsft")
    row = result_row(*where, summaries, script, MEAN_RETURN)
    everything = np.concatenate(returns)
    low, high = mean_interval(everything.mean(), everything.std(ddof=1), len(everything))
    found = (row["value"], row["low"], row["high"])
    assert found == pytest.approx((everything.mean(), low, high), abs=1e-4)
    means = np.array([x.mean() for x in returns])
    assert row["seed_low"] == pytest.approx(
        means.mean() - 4.3027 * means.std(ddof=1) / 3**0.5, abs=1e-3
    )
    assert (row["metric"], row["refused"], row["n"]) == (MEAN_RETURN, 0.25, 126)
    assert f"{row['value']:.3f}" in row_text(row)
    one = result_row(*where, summaries[:1], script, MEAN_RETURN)
    assert one["seed_low"] is one["seed_high"] is None


def test_an_environment_that_tells_no_success_has_a_mean_return_alone(repository: Path) -> None:
    told = {"n": 10, "broken": 0, "success_rate": None, "return_deviation": 1.0}
    script = repository / "scripts" / "run_lamo_study.py"
    where = ("gymnasium/Hopper", "low_dim", "logs-10", "sft")
    summaries = [{**told, "mean_return": mean} for mean in (100.0, 300.0)]
    row = result_row(*where, summaries, script, MEAN_RETURN)
    assert (row["success_rate"], row["value"], row["by_seed"]) == (None, 200.0, [100.0, 300.0])


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


@pytest.fixture(scope="module")
def study(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", repository / "scripts" / "run_study.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["study"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def summary(successes: int, n: int, tasks: dict[str, tuple[int, int]]) -> dict:
    kinds = {kind: {"n": of, "rate": good / of} for kind, (good, of) in tasks.items()}
    return {"n": n, "success_rate": successes / n, "tasks": kinds}


def test_a_split_has_a_row_for_the_average_and_for_each_kind_of_task(study: ModuleType) -> None:
    setting = study.Setting("world", "image", "mixed", "", "", splits={"unseen": 2, "seen": 1})
    asked = [study.evaluations(setting, "qsft", seed, False) for seed in range(2)]
    assert asked[0] == {
        "unseen": "--env-kwargs split=unseen",
        "seen": "--env-kwargs split=seen",
    }
    assert list(asked[1]) == ["unseen"]
    found = [
        {"unseen": summary(3, 8, {"heat": (1, 4), "cool": (2, 4)}), "seen": summary(1, 1, {})},
        {"unseen": summary(5, 8, {"heat": (1, 4), "cool": (4, 4)})},
    ]
    rows = {(r["task"], r["setting"]): r for r in study.rows_of(setting, "qsft", found)}
    assert rows.keys() == {
        ("world/average", "unseen"),
        ("world/heat", "unseen"),
        ("world/cool", "unseen"),
        ("world/average", "seen"),
    }
    assert rows["world/average", "unseen"]["by_seed"] == [0.375, 0.625]
    cool = rows["world/cool", "unseen"]
    assert (cool["n"], cool["seeds"], cool["success_rate"]) == (8, 2, 0.75)


def test_changes_of_the_environment_are_json_or_text() -> None:
    words = ["split=valid_unseen", "max_steps=9", 'types=["heat"]', "images=false"]
    assert env_changes(words) == {
        "split": "valid_unseen",
        "max_steps": 9,
        "types": ["heat"],
        "images": False,
    }
    with pytest.raises(ValueError, match=r"--env-kwargs 'split': give name=value"):
        env_changes(["split"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_free_of_contradictions(name: str) -> None:
    assert apply_presets(TrainConfig(), [name]) != TrainConfig()
