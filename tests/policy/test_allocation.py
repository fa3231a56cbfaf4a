"""Sizes that a description makes up are refused before memory is taken for them."""

from __future__ import annotations

import shutil

import pytest
import torch
from policy_fixtures import describe, random_policy

from qsft_robot.cli import main
from qsft_robot.files import read_json, write_json, write_sums
from qsft_robot.policy.allocation import AllocationLimit, check_layers
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.policy.open import open_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    told = describe(cameras=True)
    folder = tmp_path_factory.mktemp("policies") / "policy"
    write_checkpoint(folder, told, random_policy(told).networks)
    return folder


def changed(policy, out, part, **entries):
    """The policy with other sizes in its description, its sums rewritten to match."""
    shutil.copytree(policy, out)
    content = read_json(out / "policy.json")
    target = content["model"]["config"] if part == "config" else content[part]
    target.update(entries)
    write_json(out / "policy.json", content)
    write_sums(out)
    return out


@pytest.mark.parametrize(
    "sizes",
    [
        {"depth": 9_000_000},
        {"depth": 900},
        {"width": 8_000_000},
        {"width": 10**12},
        {"vocab_size": 9_000_000},
        {"text_length": 9_000_000},
        {"image_channels": 9_000_000},
    ],
)
def test_a_size_that_the_weights_do_not_have_is_refused(policy, tmp_path, sizes, monkeypatch):
    made = []
    count = AllocationLimit._add

    def counted(self, *arguments):
        count(self, *arguments)
        made.append(self._bytes)

    monkeypatch.setattr(AllocationLimit, "_add", counted)
    folder = changed(policy, tmp_path / "policy", "config", **sizes)
    with pytest.raises(ValueError, match=r"policy\.json"):
        open_policy(folder)
    assert len(made) < 15_000
    assert max(made, default=0) < 2 << 30


@pytest.mark.parametrize("verb", ["evaluate", "export", "serve"])
def test_every_verb_answers_with_one_line(policy, tmp_path, verb, capsys):
    folder = changed(policy, tmp_path / "policy", "config", depth=9_000_000)
    words = {"evaluate": ["--env", "tabletop/place"], "export": ["--out", str(tmp_path / "out")]}
    assert main([verb, str(folder), *words.get(verb, ["--port", "0"])]) == 2
    said = capsys.readouterr().err.strip()
    assert "model.config.depth is 9000000, more than 1,000 layers" in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_layers_are_found_wherever_a_tower_or_a_base_says_them():
    tower = {"image_tower": {"vision_cfg": {"layers": [3, 4, 10**6, 3]}}}
    with pytest.raises(ValueError, match=r"p: model\.config\.image_tower\.vision_cfg\.layers is"):
        check_layers({"config": tower}, "p: model")
    check_layers({"config": {"depth": 1000, "layers": [3, 4, 6, 3]}}, "p")


def test_the_limit_counts_bytes_and_tensors_before_they_are_there():
    with AllocationLimit("p", 1 << 20, 10), pytest.raises(ValueError, match="takes more than"):
        torch.empty(1 << 40)
    with AllocationLimit("p", 1 << 20, 10):
        for _ in range(10):
            torch.zeros(1)
        with pytest.raises(ValueError, match="or 10 tensors"):
            torch.zeros(1)
