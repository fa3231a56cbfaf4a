"""The stages of a run, built for its method on its data."""

from __future__ import annotations

from pathlib import Path

from qsft_robot.algorithms.ilql import ILQLStage
from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.qsft_stage import QSFTStage
from qsft_robot.algorithms.stage import BehaviorStage, Stage, on_features
from qsft_robot.config.train import TrainConfig
from qsft_robot.parallel.distributed import processes
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.token_data.run_data import RunData
from qsft_robot.token_data.token_data import TokenData
from qsft_robot.training.feature_cache import image_tokens_of

# A one-stage method that starts from another run's behavior goes on with its own loss ("tuning").
BEHAVIOR, VALUE, TUNING = "behavior", "value", "tuning"


def build_stage(
    name: str,
    config: TrainConfig,
    networks: PolicyNetworks,
    data: RunData,
    resumed: bool,
    checkpoint: Path,
) -> Stage:
    """Build a stage; the value stage adds theta, and loads weights where a run is resumed."""
    frozen = bool(data.cameras) and config.model.frozen_features
    tokens = data.train
    frozen = frozen and (name != BEHAVIOR or tokens.features is not None)

    def on_frozen_features() -> TokenData:
        if tokens.features is not None:
            return tokens
        return on_features(tokens, image_tokens_of(config, networks, tokens))

    if name != VALUE:
        assert networks.behavior is not None
        if resumed:
            networks.load_state_dict(read_policy_folder(checkpoint)[1])
        if frozen:
            tokens = on_frozen_features()
            for parameter in networks.behavior.image_parameters():
                parameter.requires_grad_(False)
        return BehaviorStage(
            networks,
            tokens,
            config.device,
            filtered=config.method == "filtered_sft",
            with_returns=config.method == "return_conditioned",
            random_shift=config.model.random_shift,
            auxiliary_weight=config.model.auxiliary_weight,
        )
    weights = read_policy_folder(checkpoint)[1] if resumed else None
    phi = networks.behavior if weights is None else networks.load_behavior(weights)
    assert phi is not None
    if frozen:
        tokens = on_frozen_features()
    kind = "heads" if config.method == "ilql" else config.qsft.residual
    theta = networks.start_value_stage(
        {"uniform": "none"}.get(kind, kind), phi.config.width, data.tokenizer.vocab_size
    )
    networks.to(config.device)
    processes().share(networks)
    phi.requires_grad_(False).eval()
    if frozen:
        for parameter in theta.image_parameters():
            parameter.requires_grad_(False)
    if config.method == "ilql":
        stage: Stage = ILQLStage(networks, tokens, config.device, config.ilql, config.qsft.gamma)
    else:
        stage = QSFTStage(networks, tokens, config.device, config.qsft)
    if weights is not None:
        networks.load_state_dict(weights)
    return stage
