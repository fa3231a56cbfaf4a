"""The graphs of an exported folder act as torch does, and say what they can't do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qsft_robot.files import write_sums
from qsft_robot.policy.onnx_policy import OnnxPolicy, load_onnx_policy
from qsft_robot.policy.open import open_policy
from qsft_robot.policy.token_policy import TokenPolicy, load_policy
from qsft_robot.types import Observation

NAMES = (
    "low-dim, k = 3", "pixels and state, ratio", "value heads", "return-conditioned",
    "chunks that a critic chooses", "paper",
)  # fmt: skip


def play(policy: Any, log: Sequence[Observation], seed: int = 3) -> np.ndarray:
    policy.reset(seed)
    return np.stack([policy.infer(o) for o in log])


@pytest.mark.parametrize("name", NAMES)
def test_the_graphs_act_as_torch_does_with_the_same_seed(exported, name):
    checkpoint, folder, logs = exported(name)
    for temperature in (1.0, 0.0, 0.3):
        eager = load_policy(checkpoint).with_acting(temperature=temperature)
        graphs = load_onnx_policy(folder).with_acting(temperature=temperature)
        found = np.stack([play(graphs, log, seed) for seed, log in enumerate(logs)])
        expected = [play(eager, log, seed) for seed, log in enumerate(logs)]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(found[..., 0])) > 1


@pytest.mark.parametrize("name", NAMES[:2] + NAMES[4:])
def test_a_batch_of_episodes_of_different_ages_decides_as_each_alone(exported, name):
    _, folder, logs = exported(name)
    policy = load_onnx_policy(folder)
    alone = [play(policy, log, seed=i) for i, log in enumerate(logs)]
    memories = [policy.begin_episode(i) for i in range(len(logs))]
    for step in range(9):
        active = [i for i in range(len(logs)) if 0 <= step - i < len(logs[i])]  # one joins a step
        decisions = policy.infer_batch(
            [logs[i][step - i] for i in active], [memories[i] for i in active]
        )
        for i, decision in zip(active, decisions, strict=True):
            np.testing.assert_array_equal(decision.actions, alone[i][step - i])


@pytest.mark.parametrize("name", ["low-dim, k = 3", "value heads", "pixels and state, ratio"])
def test_v_is_that_of_torch(exported, name):
    checkpoint, folder, logs = exported(name)
    values = []
    for policy in (load_policy(checkpoint), load_onnx_policy(folder)):
        memories = [policy.begin_episode(i) for i in range(4)]
        first = policy.infer_batch([log[0] for log in logs], memories)
        values.append([decision.value for decision in first])
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)
    assert np.ptp(values[0]) > 0


def test_a_policy_without_a_value_tells_none(exported):
    _, folder, logs = exported("return-conditioned")
    policy = load_onnx_policy(folder)
    (decision,) = policy.infer_batch([logs[0][0]], [policy.begin_episode(0)])
    assert decision.value is None


def test_the_return_that_is_asked_for_is_an_input(exported):
    checkpoint, folder, logs = exported("return-conditioned")
    low, high = (
        [play(load_onnx_policy(folder).with_acting(target_return=x), log) for log in logs]
        for x in (0.0, 1.0)
    )
    eager = load_policy(checkpoint).with_acting(target_return=0.0)
    np.testing.assert_array_equal(low, [play(eager, log) for log in logs])
    assert not np.array_equal(low, high)


def test_what_is_part_of_the_graph_can_not_be_changed(exported):
    policy = load_onnx_policy(exported("low-dim, k = 3").folder)
    with pytest.raises(ValueError, match=r"its own k; temperature, target_return, execute can"):
        policy.with_acting(k=2.0)


def spoiled(observation: Observation, how: str) -> Observation:
    images, state = dict(observation.images), dict(observation.state)
    if how == "no camera":
        del images["wrist"]
    elif how == "another size":
        images["front"] = images["front"][:, :-1]
    elif how == "floats":
        images["front"] = images["front"] / 255
    elif how == "no state":
        del state["gripper"]
    elif how == "NaN":
        state["joints"] = np.where(np.arange(len(state["joints"])) == 1, np.nan, state["joints"])
    elif how == "infinity":
        state["joints"] = state["joints"] / np.float32(0)
    elif how == "masked":
        state["joints"] = np.ma.masked_array(state["joints"], np.arange(len(state["joints"])) == 1)
    elif how == "masked image":
        images["front"] = np.ma.masked_equal(images["front"], images["front"].max())
    elif how == "a list":
        state = list(state.values())
    elif how == "words":
        state["gripper"] = np.array(["open"])
    else:
        state["joints"] = state["joints"][:-1]
    return replace(observation, images=images, state=state)


@pytest.mark.filterwarnings("ignore:divide by zero|invalid value")
@pytest.mark.parametrize(
    "how",
    [
        "no camera",
        "another size",
        "floats",
        "no state",
        "fewer joints",
        "NaN",
        "infinity",
        "masked",
        "masked image",
        "a list",
        "words",
    ],
)
def test_a_wrong_observation_is_answered_in_the_words_of_torch(exported, how):
    checkpoint, folder, logs = exported("pixels and state, ratio")
    said = []
    for policy in (load_policy(checkpoint), load_onnx_policy(folder)):
        with pytest.raises(ValueError, match=r"front|wrist|gripper|joints|state") as caught:
            policy.infer(spoiled(logs[0][0], how))
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_open_policy_takes_the_graphs_on_a_cpu_and_torch_where_asked(exported):
    checkpoint, folder, logs = exported("low-dim, k = 3")
    kinds = {
        ("auto", folder, ()): OnnxPolicy,
        ("onnx", folder, (("temperature", 0.0),)): OnnxPolicy,
        ("torch", folder, ()): TokenPolicy,
        ("auto", folder, (("k", 2.0),)): TokenPolicy,
        ("auto", folder.parent, (("k", 2.0),)): TokenPolicy,  # both networks of its checkpoint
        ("auto", checkpoint, ()): TokenPolicy,
        ("auto", folder.parent, ()): OnnxPolicy,  # a run folder
    }
    for (runtime, where, changes), kind in kinds.items():
        assert isinstance(open_policy(where, dict(changes), runtime=runtime), kind)
    graphs, eager = open_policy(folder), open_policy(folder, runtime="torch")
    np.testing.assert_array_equal(play(graphs, logs[0]), play(eager, logs[0]))
    with pytest.raises(ValueError, match=r"unknown runtime 'onyx'. Did you mean 'onnx'"):
        open_policy(folder, runtime="onyx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no decision\.onnx, so this policy was exported without"):
        open_policy(checkpoint, runtime="onnx")


@pytest.fixture
def copied(exported, tmp_path: Path) -> Path:
    """A copy of an exported folder, to be spoiled."""
    folder = exported("low-dim, k = 3").folder
    (tmp_path / "policy").mkdir()
    for file in folder.iterdir():
        (tmp_path / "policy" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "policy"


def test_a_graph_with_a_changed_byte_is_not_run(copied):
    graph = bytearray((copied / "decision.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (copied / "decision.onnx").write_bytes(graph)
    with pytest.raises(ValueError, match=r"decision\.onnx: does not match SHA256SUMS"):
        open_policy(copied)


def test_an_opset_that_the_installed_onnxruntime_lacks_is_named(copied):
    model = onnx.load(copied / "decision.onnx")
    model.opset_import[0].version = 99
    onnx.save(model, copied / "decision.onnx")
    description = json.loads((copied / "policy.json").read_text())
    description["onnx"]["opset"] = 99
    (copied / "policy.json").write_text(json.dumps(description))
    write_sums(copied)
    with pytest.raises(RuntimeError, match=r"can't run this graph of opset 99; .* Install") as said:
        open_policy(copied)
    assert len(str(said.value).splitlines()) == 1


def test_a_graph_that_is_none_is_named(copied):
    (copied / "decision.onnx").write_bytes(b"no graph")
    write_sums(copied)
    with pytest.raises(ValueError, match=r"decision\.onnx: not an ONNX graph"):
        open_policy(copied)
