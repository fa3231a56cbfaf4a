"""Every verb names the extra of a package that is missing, in one line and before it begins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from qsft_robot.extras import EXTRAS, explained, require_packages

# Imported by every process at its start, worker processes too.
BLOCK = """
import os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["BLOCKED"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""
WITHOUT_TORCH = [name for name in EXTRAS["train"] if name != "torch"]


def test_the_extras_are_those_of_the_project(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    brings = {module: dists[0] for module, dists in packages_distributions().items() if dists}
    ours = {"numpy"}  # which stands in the base too
    for extra, modules in EXTRAS.items():
        lines = project["optional-dependencies"][extra]
        wanted = {canonicalize_name(Requirement(line).name) for line in lines} - ours
        # Not every environment has every extra; TextWorld comes with alfworld.
        there = {canonicalize_name(brings[name]) for name in modules if name in brings}
        assert there - {"textworld"} <= wanted
        missing = wanted - there - {"alfworld"}
        assert not missing & {canonicalize_name(name) for name in brings.values()}


@pytest.fixture
def run_without(tmp_path: Path, repository: Path):
    """Runs `qsft-robot` where some modules are missing: its exit status and what it said."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK)

    def run(blocked: list[str], *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from qsft_robot.cli import main; sys.exit(main())",
             *words],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{repository}",
                "BLOCKED": ",".join(blocked),
            },
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_flags_of_train_are_shown_without_torch(run_without) -> None:
    status, said, _ = run_without(["torch"], "train", "--help")
    assert status == 0
    assert "--optim.batch-size" in said


@pytest.mark.parametrize(
    ("blocked", "words", "line"),
    [
        (["torch"], "train --data.path x --out y", "torch is not installed"),
        (WITHOUT_TORCH, "train --data.path x --out y", "is not installed"),
        (WITHOUT_TORCH, "demo --out demo", "the demo needs einops"),
        (["mujoco"], "collect tabletop/place --out x.hdf5 --episodes 1", "mujoco is not installed"),
        (["safetensors"], "export runs/mine", "safetensors is not installed"),
    ],
)
def test_a_missing_package_is_answered_with_its_extra(
    run_without, tmp_path, blocked, words, line
) -> None:
    status, said, error = run_without(blocked, *words.split())
    assert status == 2
    assert not said
    assert error.count("\n") == 1
    assert re.match(rf"error: .*{line}.*pip install 'qsft-robot\[train\]'", error)
    assert not (tmp_path / "demo").exists()


def test_a_missing_simulator_is_answered_with_its_extra(run_without, tmp_path) -> None:
    for words in ("collect ogbench/cube-single --out x.hdf5", "import-npz x --env ogbench --out y"):
        status, _, error = run_without(["ogbench"], *words.split())
        assert status == 2
        assert re.match(r"error: .*ogbench is not installed: pip install 'qsft-robot\[ogb", error)
        assert error.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".py" and path.is_file()]


def test_a_missing_harness_is_answered_with_its_extra(run_without) -> None:
    status, _, error = run_without(["vla_eval"], "evaluate", "runs/mine", "--harness", "libero")
    assert status == 2
    assert error == "error: --harness needs vla_eval: pip install 'qsft-robot[harness]'\n"


def test_a_missing_ray_is_answered_with_its_extra(run_without) -> None:
    for words in ("evaluate runs/mine --ray auto", "collect tabletop/place --out x.hdf5 --ray a:1"):
        status, _, error = run_without(["ray"], *words.split())
        assert status == 2
        assert error == "error: --ray needs ray: pip install 'qsft-robot[ray]'\n"


def test_an_error_of_another_package_keeps_its_words() -> None:
    error = ModuleNotFoundError("No module named 'thesis'", name="thesis")
    assert explained(error) == "No module named 'thesis'"


def test_all_that_is_missing_is_named_at_once() -> None:
    require_packages("this", "numpy")
    with pytest.raises(ImportError, match=r"no_such_package: pip install 'qsft-robot\[\]'"):
        require_packages("this", "numpy", "no_such_package")
