"""Instructions reach the model apart from each other, and a run's words stay those of its model."""

from __future__ import annotations

import shutil

import h5py
import pytest

from qsft_robot.policy.folder import read_description
from qsft_robot.training import run_model
from qsft_robot.training.train import resume_config, train


def told(logs, path, *instructions):
    """The logs with these instructions in turn."""
    shutil.copy(logs, path)
    with h5py.File(path, "r+") as file:
        for i, demo in enumerate(file["data"].values()):
            demo.attrs["lang"] = instructions[i % len(instructions)]
    return path


def scheme(folder):
    return read_description(folder).model["config"]["word_scheme"]


def test_instructions_that_differ_and_read_alike_are_refused_by_name(config, logs, tmp_path):
    path = told(logs, tmp_path / "odd.hdf5", "¿?", "!!")
    with pytest.raises(ValueError, match=r"odd\.hdf5: .*'¿\?' and '!!' alike"):
        train(config(data__path=path))
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_instructions_that_differ_in_case_and_stops_alone_are_one_task(config, logs, tmp_path):
    path = told(logs, tmp_path / "same.hdf5", "Open it.", "open it")
    train(config(data__path=path, method="sft"), stop_after=1)


def test_a_run_keeps_the_words_of_the_model_that_it_goes_on_with(config, tmp_path, monkeypatch):
    few = {"optim__behavior_steps": 2, "optim__value_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(run_model, "UNICODE_WORDS", 1)  # as runs were before
        old = train(config(out=tmp_path / "old", **few), stop_after=1)
    assert scheme(old / "checkpoint") == 1
    policy = train(resume_config(old), resume=True)
    assert scheme(policy) == 1
    assert scheme(train(config(out=tmp_path / "on", behavior_from=old, **few))) == 1
    assert scheme(train(config(out=tmp_path / "new", **few))) == 2
