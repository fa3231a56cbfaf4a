"""NaN inside of a network is an error, never token 0."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from qsft_robot.files import write_sums
from qsft_robot.normalize import NormStats
from qsft_robot.policy.onnx_policy import load_onnx_policy
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.types import NotFinite

NAME = "low-dim, k = 3"


def test_a_decision_of_networks_with_nan_or_overflow_is_refused(exported):
    checkpoint, _, logs = exported(NAME)
    for bad in (float("nan"), float("inf"), 1e38):
        policy = load_policy(checkpoint)
        for x in policy.networks.parameters():
            x.data.fill_(bad)
        with pytest.raises(NotFinite, match="no command"):
            policy.infer(logs[0][0])


def test_weights_with_nan_are_refused_by_name(exported, tmp_path):
    checkpoint, _, _ = exported(NAME)
    folder = tmp_path / "policy"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "weights.safetensors")
    name = next(key for key, x in weights.items() if x.is_floating_point() and x.numel() > 1)
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, folder / "weights.safetensors")
    write_sums(folder)
    with pytest.raises(ValueError, match=rf"{name} holds NaN"):
        load_policy(folder)


def test_graphs_that_overflow_decide_nothing(exported, tmp_path):
    _, source, logs = exported(NAME)
    folder = tmp_path / "policy"
    shutil.copytree(source, folder)
    model = onnx.load(folder / "decision.onnx")
    for x in model.graph.initializer:
        row = numpy_helper.to_array(x)
        if row.dtype == np.float32 and row.size > 100:
            x.CopyFrom(numpy_helper.from_array(np.full_like(row, 1e38), x.name))
    (folder / "decision.onnx").write_bytes(model.SerializeToString())
    write_sums(folder)
    with pytest.raises(NotFinite, match="the graphs"):
        load_onnx_policy(folder).infer(logs[0][0])


def test_a_graph_of_before_the_finite_output_shows_nan_of_its_weights(
    exported, tmp_path, monkeypatch
):
    # It would be refused as it is read.
    monkeypatch.setattr("qsft_robot.policy.graph_file.non_finite", lambda tensors: None)
    _, source, logs = exported(NAME)
    folder = tmp_path / "policy"
    shutil.copytree(source, folder)
    model = onnx.load(folder / "decision.onnx")
    (finite,) = [x for x in model.graph.output if x.name == "finite"]
    model.graph.output.remove(finite)
    whole = model.SerializeToString()

    def decides(graph: bytes) -> np.ndarray:
        (folder / "decision.onnx").write_bytes(graph)
        write_sums(folder)
        return load_onnx_policy(folder).infer(logs[0][0])

    assert np.array_equal(decides(whole), load_onnx_policy(source).infer(logs[0][0]))
    parts = ("behavior.head", "behavior.action_embedding", "value.head", "value.blocks.0.mlp_in")
    names = [x.name for x in model.graph.initializer if any(part in x.name for part in parts)]
    assert len(names) >= len(parts)
    for name in names:
        poisoned = onnx.load_from_string(whole)
        (x,) = [x for x in poisoned.graph.initializer if x.name == name]
        row = np.full_like(numpy_helper.to_array(x), np.nan)
        x.CopyFrom(numpy_helper.from_array(row, name))
        with pytest.raises(NotFinite, match="the graphs"):
            decides(poisoned.SerializeToString())


def test_statistics_with_nan_are_refused():
    with pytest.raises(ValueError, match=r"mean of 'q' holds NaN"):
        NormStats({"q": np.array([np.nan])}, {"q": np.ones(1)}, -np.ones(1), np.ones(1))
