"""Runs with a critic: it resumes to the bit and leaves the policy beside it as it was."""

from __future__ import annotations

import filecmp

import pytest
import torch
from safetensors.torch import load_file

from qsft_robot.policy.token_policy import load_policy
from qsft_robot.training.train import resume_config, train


@pytest.mark.parametrize("method", ["qsft", "filtered_sft"])
def test_a_run_with_a_critic_resumes_to_the_same_bits_in_any_stage(config, tmp_path, method):
    setting = {"method": method, "critic__updates": 4, "critic__lam": 0.5}
    whole = config(out=tmp_path / "whole", **setting)
    train(whole)
    parts = config(out=tmp_path / "parts", **setting)
    train(parts, stop_after=3)
    for stop in (7, 10, 12, None):
        train(resume_config(parts.out), resume=True, stop_after=stop)
    a, b = (run / "checkpoint/weights.safetensors" for run in (whole.out, parts.out))
    assert filecmp.cmp(a, b, shallow=False)
    weights = load_file(a)
    assert any(name.startswith("critic.") for name in weights)
    plain = config(out=tmp_path / "plain", method=method)
    train(plain)
    before = load_file(plain.out / "checkpoint/weights.safetensors")
    assert all(torch.equal(x, weights[name]) for name, x in before.items())


BESIDE = ("advantage_weighted", "advantage_conditioned", "filtered_sft_by_value")


@pytest.mark.parametrize("method", BESIDE)
def test_a_policy_beside_a_critic_resumes_to_the_same_bits_and_acts(config, tmp_path, method):
    whole = config(out=tmp_path / "whole", method=method)
    train(whole)
    parts = config(out=tmp_path / "parts", method=method)
    train(parts, stop_after=7)
    train(resume_config(parts.out), resume=True)
    a, b = (run / "checkpoint/weights.safetensors" for run in (whole.out, parts.out))
    assert filecmp.cmp(a, b, shallow=False)
    policy = load_policy(whole.out / "policy")
    assert policy.networks.critic is None  # nothing chooses by it
    assert policy.networks.value is not None


@pytest.mark.parametrize("method", ["cql", "q_transformer"])
def test_q_learning_by_tokens_resumes_to_the_same_bits_and_acts_without_phi(
    config, tmp_path, method
):
    whole = config(out=tmp_path / "whole", method=method, acting__rule="value")
    train(whole)
    parts = config(out=tmp_path / "parts", method=method, acting__rule="value")
    train(parts, stop_after=7)
    train(resume_config(parts.out), resume=True)
    a, b = (run / "checkpoint/weights.safetensors" for run in (whole.out, parts.out))
    assert filecmp.cmp(a, b, shallow=False)
    policy = load_policy(whole.out / "policy")
    assert policy.networks.behavior is None
    assert policy.decider.has_value
