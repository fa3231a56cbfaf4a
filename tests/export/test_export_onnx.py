"""The whole way: train, export by the command line with its graphs, run them."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np

from qsft_robot.cli import main
from qsft_robot.policy.onnx_policy import OnnxPolicy
from qsft_robot.policy.open import open_policy
from qsft_robot.training.train import train


def play(policy, observations) -> np.ndarray:
    policy.reset(seed=5)
    return np.stack([policy.infer(o) for o in observations])


def test_a_trained_policy_is_exported_with_graphs_that_were_held_against_its_own_logs(
    config, observations, capsys, unchecked_shapes
):
    run = config().out
    train(config())
    assert not (run / "policy" / "decision.onnx").exists()
    assert main(["export", str(run)]) == 0
    assert capsys.readouterr().out.split() == [str(run / "policy")]
    graphs = open_policy(run)
    assert isinstance(graphs, OnnxPolicy)
    eager = open_policy(run, runtime="torch")
    np.testing.assert_array_equal(play(graphs, observations), play(eager, observations))
    parity = json.loads((run / "policy" / "policy.json").read_text())["onnx"]["parity"]
    assert parity["measured_on"] == "recorded observations of place.hdf5"
    assert parity["observations"] >= 100
    card = (run / "policy" / "README.md").read_text()
    assert "recorded observations of place.hdf5" in card
    # Exported again without them, they are gone.
    assert main(["export", str(run), "--no-onnx"]) == 0
    assert not isinstance(open_policy(run), OnnxPolicy)


def test_actions_of_another_scale_and_logs_beside_the_mask_are_no_hindrance(
    config, logs, tmp_path, unchecked_shapes
):
    """As in logs that came from a robot in degrees."""
    path = tmp_path / "degrees.hdf5"
    shutil.copy(logs, path)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["actions"][...] *= 90
        file["data/demo_0/obs/proprio"][0] = np.nan  # not among mask/train
    setting = config(
        data__path=path, data__filter_key="train",
        data__action_low=(-90.0,), data__action_high=(90.0,),
    )  # fmt: skip
    train(setting)
    assert main(["export", str(setting.out)]) == 0
    told = json.loads((setting.out / "policy" / "policy.json").read_text())["onnx"]["parity"]
    assert told["measured_on"] == "recorded observations of degrees.hdf5"
