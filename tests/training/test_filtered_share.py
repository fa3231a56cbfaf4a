"""Filtered SFT on a share of the logs by their returns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.sft import BehaviorStage, of_high_returns
from qsft_robot.algorithms.stage import own_returns
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training.run_model import build_run_model


@pytest.mark.parametrize("share", [1e-6, 0.3, 0.5, 1.0])
def test_the_logs_that_are_kept_are_those_of_the_highest_returns(config, share):
    data = read_run_data(config()).train
    kept = of_high_returns(data, share)
    assert kept.sum() == math.ceil(share * len(data.names))
    first = data.time_of_step == 0
    returns = own_returns(data)[first]
    assert (data.episode_of_step[first] == torch.arange(len(data.names))).all()
    if not kept.all():
        assert returns[kept].min() >= returns[~kept].max()


def test_steps_are_drawn_from_these_logs_alone(config):
    setting = config(method="filtered_sft", filtered_share=0.4)
    run = read_run_data(setting)
    data = run.train
    networks = PolicyNetworks(build_run_model(setting, run))
    stage = BehaviorStage(networks, data, "cpu", share=setting.filtered_share)
    logs = set(data.episode_of_step[stage.pool].tolist())
    assert logs == set(np.flatnonzero(of_high_returns(data, 0.4)).tolist())


@pytest.mark.parametrize(
    ("method", "share"), [("filtered_sft", 0.0), ("filtered_sft", 1.5), ("sft", 0.5), ("qsft", 0.5)]
)
def test_another_share_or_method_is_refused(config, method, share):
    with pytest.raises(ValueError, match=rf"--filtered-share {share} is a share of the logs"):
        config(method=method, filtered_share=share)
