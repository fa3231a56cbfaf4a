"""Runs of --method lamo: train, resume, evaluate, export, ONNX, serve; bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from policy_fixtures import without_checks

from qsft_robot.export.export import export_policy
from qsft_robot.policy.onnx_policy import load_onnx_policy
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.remote_policy import RemotePolicy
from qsft_robot.server.running import serving
from qsft_robot.training.train import resume_config, train

OWN = {"method": "lamo", "model__history": 3, "tokenizer__horizon": 2, "data__short_logs": "drop"}
TEXT = "the robot puts the red cube into the bowl and opens the drawer. " * 12


def same_weights(one, other) -> bool:
    weights = [(run / "policy" / "weights.safetensors").read_bytes() for run in (one, other)]
    return weights[0] == weights[1]


@pytest.mark.parametrize("head", ["tokens", "continuous"])
def test_a_decision_transformer_goes_all_the_way(head, config, observations, tmp_path):
    horizon = 2 if head == "tokens" else 1  # an export takes its time by the tokens
    own = OWN | {"lamo__head": head, "acting__execute": 1, "tokenizer__horizon": horizon}
    train(config(**own, out=tmp_path / "run"))
    train(config(**own, out=tmp_path / "again"), stop_after=7)
    train(resume_config(tmp_path / "again"), resume=True)
    run = tmp_path / "run"
    assert same_weights(run, tmp_path / "again")
    about = json.loads((run / "policy" / "policy.json").read_text())
    assert about["reads_past"]
    assert about["acting"]["target_return"] == 1.0
    with without_checks():
        export_policy(run / "checkpoint", run / "policy", onnx=True)
    told = json.loads((run / "policy" / "policy.json").read_text())["onnx"]["parity"]
    assert told["different"] == 0
    torch_policy, graphs = load_policy(run / "policy"), load_onnx_policy(run / "policy")
    for policy in (torch_policy, graphs):
        policy.reset(seed=3)
    with serving(load_onnx_policy(run / "policy"), ServerConfig(port=0)) as server:
        remote = RemotePolicy(server.url)
        remote.reset(seed=3)
        for i, observation in enumerate(observations[:5]):
            seen = replace(observation, step=i, paid=0.1 * i)
            wanted = torch_policy.infer(seen)
            assert wanted.shape == (horizon, 4)
            np.testing.assert_allclose(graphs.infer(seen), wanted, atol=2e-5)
            np.testing.assert_allclose(remote.infer(seen), wanted, atol=2e-5)


def test_a_language_models_layers_carry_it_and_keep_their_language(
    config, tiny_folder, tmp_path, observations
):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    own = OWN | {
        "model__trunk": str(tiny_folder("llama")), "model__layers": 1, "model__lora_rank": 2,
        "model__width": None, "model__depth": None, "lamo__text": text, "lamo__text_length": 8,
        "lamo__text_batch": 2, "optim__accumulate": 2,
    }  # fmt: skip
    train(config(**own, out=tmp_path / "run"))
    train(config(**own, out=tmp_path / "again"), stop_after=5)
    train(resume_config(tmp_path / "again"), resume=True)
    assert same_weights(tmp_path / "run", tmp_path / "again")
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["loss/language"] > 1.0 for row in rows)
    # The folder holds all of its weights: it needs its base no more, and trains no vocabulary.
    policy = load_policy(tmp_path / "run" / "policy")
    assert policy.infer(observations[0]).shape == (2, 4)
    other = resume_config(tmp_path / "again")
    other = replace(other, model=replace(other.model, trunk=str(tiny_folder("gpt2"))))
    with pytest.raises(ValueError, match="another language model than"):
        train(other, resume=True)


def test_cameras_and_instructions_are_read_by_the_same_encoders(config, pixel_observations):
    settings = config(pixels=True, method="lamo", model__history=2, model__auxiliary_weight=0.0)
    policy = load_policy(train(settings))
    assert policy.networks.behavior.config.frame_image_tokens > 0
    for seen in pixel_observations[:3]:
        assert np.isfinite(policy.infer(seen)).all()


def test_what_was_paid_lowers_the_return_that_is_asked_for(config, tmp_path, observations):
    policy = load_policy(train(config(**OWN)))
    for paid, to_go in ((None, 1.0), (0.25, 0.75)):
        memory = policy.begin_episode(0)
        first = policy.contexts([replace(observations[0], paid=paid)], [memory])[0]
        assert float(first.state[0, -1, -1]) == pytest.approx(to_go)
        assert not first.state[0, -1, -9:-1].any()  # no action came before
    (decision,) = policy.infer_batch([observations[0]], [memory])
    (second,) = policy.contexts([replace(observations[1], step=2)], [memory])
    actions = policy.norm_stats.normalize_actions(decision.actions).reshape(-1)
    np.testing.assert_allclose(second.state[0, -1, -9:-1].numpy(), actions, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "asked"),
    [({"data__return_high": 4.0}, 0.25), ({"lamo__target_return": 0.5}, 0.5)],
)
def test_a_policy_asks_for_the_return_that_was_chosen_on_its_logs(changes, asked, config) -> None:
    assert load_policy(train(config(**OWN | changes))).acting.target_return == pytest.approx(asked)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__history": 200}, "are 399 steps, and the longest log has"),
        ({"lamo__target_return": 1.5}, "the logs' returns reach from 0 to 1"),
        ({"lamo__head": "continuous", "tokenizer__kind": "fast"}, "fast tokens are no bins"),
        ({"data__return_high": 0.5}, "outside the declared range"),
    ],
)
def test_what_the_logs_cannot_give_is_said_at_once(changes, words, config):
    with pytest.raises(ValueError, match=words):
        train(config(**OWN | changes))


def test_a_text_too_short_for_one_batch_is_refused(config, tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("too short")
    own = OWN | {"model__trunk": str(tiny_folder("llama")), "model__lora_rank": 2}
    own |= {"model__width": None, "model__depth": None, "lamo__text": text}
    with pytest.raises(ValueError, match="a batch of 8 passages of 128 takes 1025"):
        train(config(**own))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "sft", "model__trunk": "gpt2"},
        {"model__pretrained": "gpt2", "model__width": None, "model__depth": None},
        {"model__trunk": "gpt2"},
        {"model__layers": 2},
        {"lamo__text": "text.txt"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, config):
    with pytest.raises(ValueError, match=r"--(model|lamo)\."):
        config(**OWN | changes)
