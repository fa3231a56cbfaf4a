"""The benchmark script walks through its rows; what the numbers are is not looked at here."""

import json
import os
import subprocess
import sys

import pytest

FIELDS = {"name", "ours", "peer", "ratio", "unit", "aim", "better", "command"}


@pytest.fixture(scope="module")
def written(repository, tmp_path_factory):
    """The folder of a quick run of two groups."""
    folder = tmp_path_factory.mktemp("bench")
    words = ["scripts/run_benchmarks.py", "--quick", "--only", "loader", "training"]
    done = subprocess.run(
        [sys.executable, *words, "--out", str(folder)],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loader: timing" in done.stderr
    return folder


def test_every_row_has_its_numbers_aim_and_command(written):
    rows = json.loads((written / "benchmarks.json").read_text())
    assert len({row["name"] for row in rows}) == len(rows) >= 6
    for row in rows:
        assert set(row) == FIELDS
        assert row["better"] in ("higher", "lower")
        assert row["ours"] > 0
        assert row["peer"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=2e-3)
        assert row["aim"] is None or row["aim"] > 0
        assert row["command"].startswith("python scripts/run_benchmarks.py --only ")
    aims = {row["name"]: row["aim"] for row in rows}
    assert aims["loader_vs_robomimic_no_cache"] == 10
    assert aims["loader_vs_robomimic_full_cache"] == 1
    assert aims["loader_memory_vs_robomimic_full_cache"] == 0.33
    training = {name: aim for name, aim in aims.items() if name.startswith("qsft_update_vs_sft")}
    assert len(training) == 3
    assert set(training.values()) == {1.3}


def test_the_page_has_a_line_for_each_row_and_names_no_machine(written):
    page = (written / "benchmarks.md").read_text()
    for row in json.loads((written / "benchmarks.json").read_text()):
        assert f"| {row['name']} |" in page
    assert "torch " in page
    assert "robomimic 0.3" in page
    assert os.uname().nodename not in page
    assert "/" not in page.split("## ")[0].split("| what")[0]


def test_every_group_can_be_imported(repository):
    code = "import run_benchmarks as r\nfor g in r.GROUPS: r.import_module(f'bench_{g}')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository / "scripts", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
