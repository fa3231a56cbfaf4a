"""Fine-tuned language models as graphs that run without torch, and those that have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qsft_robot.export import onnx_graphs as export_onnx
from qsft_robot.export.export import export_policy
from qsft_robot.export.onnx_graphs import NotExportable
from qsft_robot.policy.onnx_policy import OnnxPolicy
from qsft_robot.policy.open import open_policy
from qsft_robot.training.train import train

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def play(policy, observations) -> np.ndarray:
    policy.reset(seed=5)
    return np.stack([policy.infer(o) for o in observations])


@pytest.mark.parametrize(("family", "k"), [("gpt2", 1.0), ("llama", 2.0)])
def test_a_language_model_decides_by_its_graph_as_by_torch(
    pretrained, observations, tmp_path, family, k
):
    """With k = 1 the graph holds one network, else two adapters over one base."""
    setting = pretrained(family)
    train(setting)
    folder = export_policy(setting.out / "checkpoint", tmp_path / "policy", {"k": k}, onnx=True)
    graphs, eager = open_policy(folder), open_policy(folder, runtime="torch")
    assert isinstance(graphs, OnnxPolicy)
    np.testing.assert_array_equal(play(graphs, observations), play(eager, observations))
    told = graphs.description.onnx["parity"]
    assert told["decisions"] >= 200
    assert all(told[name] <= limit for name, limit in told["tolerance"].items())
    stranger = replace(observations[0], instruction="wave at the crowd")
    with pytest.raises(ValueError, match=r"not 'wave at the crowd'.*with torch"):
        graphs.infer(stranger)


def test_a_processor_that_cannot_be_traced_is_refused_by_name(pretrained, tmp_path):
    setting = pretrained("smolvlm", pixels=True)
    train(setting)
    with pytest.raises(NotExportable, match=r"frame\.onnx \(image encoder .*torch runs"):
        export_policy(setting.out / "checkpoint", tmp_path / "policy", {"k": 1.0}, onnx=True)
    assert list(tmp_path.iterdir()) == [setting.out]


def test_weights_beyond_what_a_graph_holds_are_refused(pretrained, tmp_path, monkeypatch):
    setting = pretrained("gpt2")
    train(setting)
    monkeypatch.setattr(export_onnx, "MOST_BYTES", 1000)
    with pytest.raises(NotExportable, match=r"GB of weights, and an ONNX file holds"):
        export_policy(setting.out / "checkpoint", tmp_path / "policy", {"k": 1.0}, onnx=True)
