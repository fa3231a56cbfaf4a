"""Folders of every format that was ever written open, act and go on training as they did there."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qsft_robot.cli import main
from qsft_robot.files import read_json, write_json, write_sums
from qsft_robot.policy.description import FORMAT
from qsft_robot.policy.earlier import EARLIER_FORMATS
from qsft_robot.policy.open import open_policy
from qsft_robot.token_data.tokenizer_file import read_tokenizer
from qsft_robot.types import Observation

DATA = Path(__file__).parents[1] / "data"
# Format -> the folder of its data, and the exported policies in it.
FORMATS = {
    "qsft-robot policy 1": ("format_e03bdf4", ("policy", "policy_k2", "policy_behaviour")),
    "qsft-robot policy 2": ("format_2", ("policy", "policy_k2")),
}
EXPECTED: dict[str, dict[str, Any]] = {
    data: json.loads((DATA / data / "expected.json").read_text()) for data, _ in FORMATS.values()
}
FIRST = "format_e03bdf4"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives, unpacked: exported policies, two runs that were stopped, their logs."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("old")
    for data, _ in FORMATS.values():
        for archive in sorted((DATA / data).glob("*.tar.xz")):
            with tarfile.open(archive) as file:
                file.extractall(root / data, filter="data")
    return root


def acted(policy: Any, data: str) -> tuple[list[Any], list[Any]]:
    """Actions and values on the recorded observations, each log with its own seed."""
    recorded, actions, values = EXPECTED[data]["observations"], [], []
    for seed, (log, text) in enumerate(
        zip(recorded["state"], recorded["instructions"], strict=True)
    ):
        memory, decisions = policy.begin_episode(seed), []
        for row in log:
            state = {key: np.array(x, np.float32) for key, x in row.items()}
            decisions += policy.infer_batch([Observation({}, state, text)], [memory])
        actions.append([each.actions.tolist() for each in decisions])
        values.append([each.value for each in decisions])
    return actions, values


def test_folders_of_every_format_are_kept(folders) -> None:
    """A new format needs data of the one before it, and its own."""
    assert set(FORMATS) == {FORMAT, *EARLIER_FORMATS}
    for told, (data, policies) in FORMATS.items():
        for name in policies:
            assert read_json(folders / data / name / "policy.json")["format"] == told


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("data", "name"), [(data, name) for data, names in FORMATS.values() for name in names]
)
def test_an_exported_policy_gives_the_same_actions_and_values(folders, data, name, runtime):
    actions, values = acted(open_policy(folders / data / name, runtime=runtime), data)
    expected = EXPECTED[data][f"{name}/{runtime}"]
    np.testing.assert_allclose(actions, expected["actions"], rtol=0, atol=1e-6)
    assert (values[0][0] is None) == (name == "policy_behaviour")
    np.testing.assert_allclose(
        np.array(values, float), np.array(expected["values"], float), atol=1e-5
    )


def test_a_later_format_is_refused_with_what_to_upgrade(folders, tmp_path, capsys) -> None:
    folder = shutil.copytree(folders / "format_2" / "policy", tmp_path / "later")
    told = read_json(folder / "policy.json")
    name, _, number = FORMAT.rpartition(" ")
    later = f"{name} {int(number) + 1}"
    write_json(folder / "policy.json", {"format": later, "new": told["action"]})
    write_sums(folder)
    for words in (["info", str(folder)], ["evaluate", str(folder)], ["serve", str(folder)]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.fullmatch(
            rf"error: {folder}/policy\.json: written by a later qsft-robot: its format is "
            rf"'{later}', .*reads up to '{FORMAT}'\. Upgrade it here: pip install --upgrade "
            r"qsft-robot\.",
            line,
        )


def test_a_tokenizer_of_a_later_version_is_refused_with_what_to_upgrade(tmp_path):
    file = tmp_path / "code.json"
    for told, line in (
        ("qsft-robot tokenizer 2", "code.json: written by a later qsft-robot.* Upgrade it here"),
        ("qsft-robot policy 2", "code.json: no tokenizer that qsft-robot fit-tokenizer"),
    ):
        write_json(file, {"format": told})
        with pytest.raises(ValueError, match=line):
            read_tokenizer(file)


@pytest.mark.parametrize("name", ["run_behaviour", "run_value"])
def test_a_run_that_was_stopped_goes_on_to_the_same_policy(folders, name, monkeypatch):
    """Stopped in the stage of the behavior, and in that of the value."""
    monkeypatch.chdir(folders / FIRST)
    before = Path(name, "metrics.jsonl").read_text().splitlines()
    assert main(["train", "--resume", name]) == 0
    lines, expected = Path(name, "metrics.jsonl").read_text().splitlines(), EXPECTED[FIRST][name]
    assert lines[: len(before)] == before
    assert len(lines) == expected["lines"]
    last = json.loads(lines[-1])
    for key in ("step", "loss/total", "q/value_mean", "q/target_mean"):
        assert last[key] == pytest.approx(expected["metrics"][key], rel=1e-3), key
    _, values = acted(open_policy(name, runtime="torch"), FIRST)
    np.testing.assert_allclose(values, expected["values"], atol=1e-3)
