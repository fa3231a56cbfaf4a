"""The settings of a run: contradictions are refused in plain words, JSON brings them back."""

import dataclasses
import json
from pathlib import Path

import pytest

from qsft_robot.config.acting import ActingConfig
from qsft_robot.config.critic import CriticConfig
from qsft_robot.config.data import DataConfig
from qsft_robot.config.json_form import from_json, to_json
from qsft_robot.config.methods import (
    AdvantageConditionedConfig,
    AdvantageWeightedConfig,
    CQLConfig,
    ILQLConfig,
    QSFTConfig,
    TokenQConfig,
)
from qsft_robot.config.model import ModelConfig
from qsft_robot.config.tokenizer import TokenizerConfig
from qsft_robot.config.train import OptimConfig, TrainConfig

KEYS = {"state_keys": ("proprio",)}


@pytest.mark.parametrize(
    ("kind", "settings", "flag"),
    [
        (DataConfig, {}, "--data.state-keys"),
        (DataConfig, {**KEYS, "return_low": 1.0}, "--data.return-low"),
        (DataConfig, {**KEYS, "action_low": (0.0,)}, "--data.action-high"),
        (DataConfig, {**KEYS, "log_end": ("cut",)}, "'cut'"),
        (DataConfig, {**KEYS, "log_end": ("drawer=cut",)}, "'drawer=cut'"),
        (DataConfig, {**KEYS, "log_end": ("=terminal",)}, "'=terminal'"),
        (DataConfig, {**KEYS, "log_end": ("terminal", "a=truncated")}, "one word for all"),
        (ModelConfig, {"history": 0}, "--model.history"),
        (ModelConfig, {"text_history": -1}, "--model.text-history"),
        (ModelConfig, {"text_history": 0, "pretrained": "gpt2"}, "--model.text-history 0"),
        (ModelConfig, {"dropout": 1.0}, "--model.dropout"),
        (ModelConfig, {"random_shift": -1}, "--model.random-shift"),
        (TokenizerConfig, {"n_bins": 1}, "--tokenizer.n-bins"),
        (TokenizerConfig, {"horizon": 0}, "--tokenizer.horizon"),
        (TrainConfig, {"discount": 0.0}, "--discount"),
        (TrainConfig, {"discount": 1.01}, "--discount"),
        (QSFTConfig, {"lam": 1.5}, "--qsft.lam"),
        (QSFTConfig, {"softness": 0.0}, "--qsft.softness"),
        (QSFTConfig, {"refresh_every": 0}, "--qsft.refresh-every"),
        (QSFTConfig, {"policy_share": 1.0}, "--qsft.policy-share"),
        (QSFTConfig, {"policy_share": 0.7, "balance": "weighted"}, "--qsft.balance"),
        (QSFTConfig, {"value_weight": 0.0}, "--qsft.value-weight"),
        (QSFTConfig, {"value_weight": 0.5, "residual": "uniform"}, "--qsft.residual void"),
        (QSFTConfig, {"residual": "uniform", "backup": "max"}, "--qsft.balance weighted"),
        (QSFTConfig, {"residual": "uniform", "balance": "weighted"}, "--qsft.backup"),
        (QSFTConfig, {"targets": "ema", "balance": "weighted"}, "--qsft.lam 0"),
        (QSFTConfig, {"targets": "ema", "lam": 0.0}, "--qsft.balance weighted"),
        (
            QSFTConfig,
            {"targets": "ema", "lam": 0.0, "balance": "weighted"},
            "--qsft.backup max or soft",
        ),
        (AdvantageWeightedConfig, {"expectile": 0.2}, "--advantage-weighted.expectile"),
        (AdvantageWeightedConfig, {"ema_rate": 0.0}, "--advantage-weighted.ema-rate"),
        (AdvantageConditionedConfig, {"members": 0}, "--advantage-conditioned.members"),
        (AdvantageConditionedConfig, {"lam": 1.5}, "--advantage-conditioned.lam"),
        (CQLConfig, {"conservatism": -1.0}, "--cql.conservatism"),
        (TokenQConfig, {"ema_rate": 0.0}, "--q-transformer.ema-rate"),
        (ILQLConfig, {"expectile": 0.2}, "--ilql.expectile"),
        (ActingConfig, {"k": -1.0}, "--acting.k"),
        (ActingConfig, {"temperature": -1.0}, "--acting.temperature"),
        (ActingConfig, {"min_p": 1.1}, "--acting.min-p"),
        (ActingConfig, {"support": -0.1}, "--acting.support"),
        (ActingConfig, {"rule": "powr"}, "power"),
        (ActingConfig, {"judge": "chance"}, "--acting.judge"),
        (TrainConfig, {"acting": ActingConfig(candidates=2)}, "--acting.judge likelihood"),
        (ModelConfig, {"mixture": 2}, "--model.mixture"),
        (ModelConfig, {"mixture": 0, "name": "whole_commands"}, "--model.mixture"),
        (OptimConfig, {"batch_size": 1}, "--optim.batch-size"),
        (OptimConfig, {"behavior_steps": 0}, "--optim.behavior-steps"),
        (OptimConfig, {"value_steps": 0}, "--optim.value-steps"),
        (
            TrainConfig,
            {"data": DataConfig(text_keys=("said",)), "model": ModelConfig(text_history=0)},
            "--data.text-keys",
        ),
        (TrainConfig, {"method": "ilql"}, "advantage"),
        (TrainConfig, {"acting": ActingConfig(rule="advantage")}, "--method qsft"),
        (TrainConfig, {"log_every": 0}, "--log-every"),
        (TrainConfig, {"checkpoint_every": 0}, "--checkpoint-every"),
    ],
)
def test_a_contradiction_is_refused_and_names_the_flag(kind, settings, flag):
    with pytest.raises(ValueError, match=flag):
        kind(**settings)


def test_log_ends_are_one_word_or_one_a_mask():
    assert DataConfig(**KEYS).log_ends() is None
    assert DataConfig(**KEYS, log_end=("truncated",)).log_ends() == "truncated"
    ends = DataConfig(**KEYS, log_end=("open=truncated", "a=b=terminal")).log_ends()
    assert ends == {"open": "truncated", "a=b": "terminal"}


def test_settings_come_back_from_json():
    config = TrainConfig(
        out=Path("a/b"),
        data=DataConfig(Path("x.hdf5"), ("a", "b"), cameras=("front_image",), filter_key="few"),
        qsft=QSFTConfig(lam=0.5, backup="soft"),
        discount=1.0,
        model=ModelConfig(width=32, depth=1, image_weights="hub"),
        behavior_from=Path("c"),
    )
    text = json.dumps(to_json(config))
    again = from_json(TrainConfig, json.loads(text))
    assert again == config
    assert json.dumps(to_json(again)) == text
    for field in dataclasses.fields(TrainConfig):
        assert type(getattr(again, field.name)) is type(getattr(config, field.name))


def test_an_unknown_setting_in_json_is_an_error_that_names_it():
    value = to_json(TrainConfig())
    value["qsft"]["gama"] = 0.9
    with pytest.raises(ValueError, match=r"QSFTConfig has no setting 'gama'.*value_weight"):
        from_json(TrainConfig, value)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "stages"),
    [("qsft", 2), ("ilql", 2), ("sft", 1), ("filtered_sft", 1), ("return_conditioned", 1)],
)
def test_methods_with_values_have_two_stages(method, stages):
    rule = "advantage" if method == "ilql" else "power"
    assert TrainConfig(method=method, acting=ActingConfig(rule=rule)).two_stages == (stages == 2)


@pytest.mark.parametrize("share", [0.06, 0.99])
def test_a_batch_has_room_for_the_policy_term(share):
    optim = OptimConfig(batch_size=16)
    if share * 16 >= 1:
        TrainConfig(optim=optim, qsft=QSFTConfig(policy_share=share))
        return
    with pytest.raises(ValueError, match="less than one decision"):
        TrainConfig(optim=optim, qsft=QSFTConfig(policy_share=share))


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_logs_is_at_least_one(count):
    with pytest.raises(ValueError, match=r"--data\.max-episodes must be at least 1"):
        DataConfig(state_keys=("proprio",), max_episodes=count)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"critic": CriticConfig(updates=5)}, "--critic.dropout 0"),
        ({"method": "advantage_weighted"}, "--advantage-weighted.dropout 0"),
    ],
)
def test_threads_share_no_dropout_of_a_critic(changes, flag):
    parallel = {"optim": OptimConfig(parallel=2), "model": ModelConfig(dropout=0.0)}
    with pytest.raises(ValueError, match=flag):
        TrainConfig(**parallel, **changes)
    TrainConfig(**parallel)
