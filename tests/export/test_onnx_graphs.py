"""Export to ONNX: what the folder holds, what is measured, and what is refused."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
import torch

from qsft_robot.export import onnx_parity
from qsft_robot.export.export import export_policy
from qsft_robot.export.onnx_graphs import (
    OPSET,
    DecisionGraph,
    NotExportable,
    feature_trunks,
    refuse,
)
from qsft_robot.export.onnx_parity import TOLERANCE, measure
from qsft_robot.export.recorded_observations import random_observations
from qsft_robot.policy.onnx_policy import load_onnx_policy
from qsft_robot.policy.token_policy import load_policy
from tokenizers_action.bins import UniformBinTokenizer


def test_the_folder_holds_the_graphs_and_says_how_they_were_checked(exported):
    folder = exported("pixels and state, ratio").folder
    names = {"weights.safetensors", "policy.json", "README.md", "SHA256SUMS"}
    assert {file.name for file in folder.iterdir()} == names | {"frame.onnx", "decision.onnx"}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    told = json.loads((folder / "policy.json").read_text())["onnx"]
    assert told["opset"] == OPSET
    assert told["graphs"] == ["frame.onnx", "decision.onnx"]
    assert {"torch", "onnx", "onnxscript", "onnxruntime"} == set(told["versions"])
    parity = told["parity"]
    assert parity["observations"] == 128
    assert parity["decisions"] == 256  # sampled and greedy
    assert parity["measured_on"].startswith("random observations")
    assert all(parity[name] <= limit for name, limit in parity["tolerance"].items())
    card = (folder / "README.md").read_text()
    assert "`frame.onnx` and `decision.onnx` (ONNX opset 18" in card
    assert "128 random observations (the data file was not at hand)" in card


def test_each_graph_is_whole_and_of_the_one_opset(exported):
    for name in ("frame.onnx", "decision.onnx"):
        model = onnx.load(
            exported("pixels and state, ratio").folder / name, load_external_data=False
        )
        onnx.checker.check_model(model)
        assert {(x.domain, x.version) for x in model.opset_import} == {("", OPSET)}
        assert not [x for x in model.graph.initializer if x.external_data]
        batch = {i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input
                 if i.type.tensor_type.shape.dim}  # fmt: skip
        assert len(batch) == 1
        assert batch != {""}


def test_a_graph_names_no_folder_of_the_machine_that_exported_it(exported, repository):
    for name in ("frame.onnx", "decision.onnx"):
        graph = (exported("pixels and state, ratio").folder / name).read_bytes()
        assert str(repository).encode() not in graph
        assert b".py" not in graph


def test_a_low_dimensional_policy_has_no_graph_of_frames(exported):
    assert not (exported("low-dim, k = 3").folder / "frame.onnx").exists()


def test_other_weights_are_beyond_the_tolerance(exported):
    checkpoint, _, logs = exported("low-dim, k = 3")
    eager = load_policy(checkpoint)
    graphs = load_onnx_policy(exported("low-dim, k = 3").folder)
    same = measure(eager, graphs, logs)
    assert same.beyond() == []
    assert same.decisions == 2 * sum(map(len, logs))
    weights = eager.networks.value.head.weight  # type: ignore[union-attr]
    weights.data += 0.1 * weights.data.std() * weights.data.sign()
    parity = measure(eager, graphs, logs)
    assert parity.different > 0
    assert parity.log_probability > TOLERANCE["log_probability"]
    assert "log-probability differs by" in parity.beyond()[0]


def test_a_near_tie_is_within_the_tolerance_and_a_lost_token_is_not(exported):
    """Moving a logit by less than the tolerance may change tokens, and no more than that."""
    checkpoint, folder, logs = exported("low-dim, k = 3")
    eager = load_policy(checkpoint)
    head = eager.networks.value.head.weight  # type: ignore[union-attr]
    head.data += 2e-5 * head.data.std() * head.data.sign()
    parity = measure(eager, load_onnx_policy(folder), logs)
    assert parity.log_probability <= TOLERANCE["log_probability"]


def test_graphs_that_act_otherwise_are_refused_and_nothing_is_written(
    exported, tmp_path, monkeypatch, no_shape_checks
):
    checkpoint = exported("low-dim, k = 3").checkpoint
    monkeypatch.setitem(onnx_parity.TOLERANCE, "action", -1.0)  # no difference is small enough
    refusal = r"act otherwise .* random observations .* Nothing was"
    with no_shape_checks, pytest.raises(RuntimeError, match=refusal):
        export_policy(checkpoint, tmp_path / "policy", {"k": 1.0}, onnx=True)
    assert list(tmp_path.iterdir()) == []


@torch.inference_mode()
def test_the_module_that_is_exported_decides_as_the_policy(random):
    (log,) = random_observations(random.description, 8, steps=8, seed=2)
    trunks = feature_trunks(random)
    ours, theirs = random.begin_episode(1), random.begin_episode(1)
    for observation in log:
        (expected,) = random.infer_batch([observation], [ours])
        contexts = random.contexts([observation], [theirs])
        features, state, frame_mask, text_ids, returns, _ = zip(*contexts, strict=True)
        given = {f"features_{i}": features[i] for i in range(len(trunks))}
        given |= {"state": state[0], "frame_mask": frame_mask[0], "text_ids": text_ids[0]}
        noise = random.noise([theirs])
        noise = noise if random.acting.candidates > 1 else noise[:, 0]
        given |= {"returns": returns[0], "noise": noise}
        given |= {"temperature": torch.tensor(random.acting.temperature)}
        actions, _, finite, *value = DecisionGraph(random, list(given))(*given.values())
        assert finite.all()
        np.testing.assert_array_equal(actions[0].numpy(), expected.actions)
        assert (value[0].item() if value else None) == expected.value


class PrefixTokenizer(UniformBinTokenizer):
    """Bins whose legal ids can only be asked for with the ids before them."""

    position_tables = None  # type: ignore[assignment]


def test_tokens_that_are_not_legal_by_place_are_refused_by_name(tiny):
    tiny.tokenizer = PrefixTokenizer(2, n_bins=8)
    with pytest.raises(NotExportable, match=r"uniform_bins tokens have no tables"):
        refuse(tiny)


def test_a_text_tower_is_refused_by_name(tiny):
    tiny.description.model["config"]["text_encoder"] = "open_clip:ViT-B-32"
    with pytest.raises(NotExportable, match=r"text encoder 'open_clip:ViT-B-32' needs its own"):
        refuse(tiny)


def test_an_export_without_graphs_forgets_those_of_the_folder_it_came_from(exported, tmp_path):
    """Exported again under another rule, from an exported folder."""
    folder = exported("low-dim, k = 3").folder
    again = export_policy(folder, tmp_path / "again", {"k": 1.0})
    assert "onnx" not in json.loads((again / "policy.json").read_text())
    assert not (again / "decision.onnx").exists()
