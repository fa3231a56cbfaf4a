"""The stages of a run, built for its method on its data."""

from __future__ import annotations

from pathlib import Path

from qsft_robot.algorithms.critic import CriticStage, add_critic
from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.sft import BehaviorStage
from qsft_robot.algorithms.stage import Stage
from qsft_robot.config.train import TrainConfig
from qsft_robot.parallel.distributed import processes
from qsft_robot.parts.plugins import load_part
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.token_data.run_data import RunData
from qsft_robot.token_data.token_data import TokenData
from qsft_robot.training.feature_cache import image_tokens_of, on_features
from qsft_robot.training.plan import BEHAVIOR, CRITIC, VALUE


def build_stage(
    name: str,
    config: TrainConfig,
    networks: PolicyNetworks,
    data: RunData,
    resumed: bool,
    checkpoint: Path,
) -> Stage:
    """Build a stage; the value stage adds theta, and loads weights where a run is resumed."""
    weights = read_policy_folder(checkpoint)[1] if resumed else None
    build = {VALUE: _value_stage, CRITIC: _critic_stage}.get(name, _behavior_stage)
    frozen = bool(data.cameras) and config.model.frozen_features
    # The behavior stage trains its image encoder, unless the features are there already.
    frozen = frozen and (name != BEHAVIOR or data.train.features is not None)
    stage = build(config, networks, data.train, weights, frozen)
    if frozen:
        model = networks.behavior if networks.value is None else networks.value
        assert model is not None
        for parameter in model.image_parameters():
            parameter.requires_grad_(False)
    return stage


def _behavior_stage(
    config: TrainConfig,
    networks: PolicyNetworks,
    data: TokenData,
    weights: dict | None,
    frozen: bool,
) -> Stage:
    if weights is not None:
        networks.load_state_dict(weights)
    if frozen:
        data = _on_features(config, networks, data)
    method = config.traits
    if method.stage is not None and not method.value_stage:
        return load_part(method.stage)(networks, data, config.device, config.settings)
    return BehaviorStage(
        networks,
        data,
        config.device,
        logs=method.logs,
        share=config.filtered_share,
        with_returns=method.conditions_on_return and not method.value_stage,
        random_shift=config.model.random_shift,
        auxiliary_weight=config.model.auxiliary_weight,
    )


def _value_stage(
    config: TrainConfig,
    networks: PolicyNetworks,
    data: TokenData,
    weights: dict | None,
    frozen: bool,
) -> Stage:
    phi = networks.behavior if weights is None else networks.load_behavior(weights)
    assert phi is not None
    if frozen:
        data = _on_features(config, networks, data)
    networks.start_value_stage(config.head, data.tokenizer.vocab_size)
    networks.to(config.device)
    processes().share(networks)
    phi.requires_grad_(False).eval()
    method = config.traits
    assert method.stage is not None
    stage = load_part(method.stage)(networks, data, config.device, config.settings)
    if weights is not None:
        networks.load_state_dict(weights)
    return stage


def _critic_stage(
    config: TrainConfig,
    networks: PolicyNetworks,
    data: TokenData,
    weights: dict | None,
    frozen: bool,
) -> Stage:
    if weights is not None and config.two_stages:
        networks.start_value_stage(config.head, data.tokenizer.vocab_size)
    networks.requires_grad_(False).eval()
    if weights is not None:
        kept = networks.state_dict()
        networks.load_state_dict({name: weights[name] for name in kept})
    networks.to(config.device)
    if frozen:
        data = _on_features(config, networks, data)
    add_critic(networks, data, config.device, config.critic)
    stage = CriticStage(networks, data, config.device, config.critic)
    if weights is not None:
        networks.load_state_dict(weights)
    return stage


def _on_features(config: TrainConfig, networks: PolicyNetworks, data: TokenData) -> TokenData:
    if data.features is not None:
        return data
    return on_features(data, image_tokens_of(config, networks, data))
