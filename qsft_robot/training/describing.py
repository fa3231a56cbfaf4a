"""The description of a run's policy, as far as it is known before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qsft_robot.algorithms.target_return import target_return
from qsft_robot.config.acting import ActingConfig
from qsft_robot.config.train import TrainConfig
from qsft_robot.logs.checks import env_args_of, open_demonstrations
from qsft_robot.logs.image_convention import ENTRY as IMAGE_CONVENTION
from qsft_robot.logs.image_convention import image_convention
from qsft_robot.policy.description import ActionDescription, PolicyDescription, SeenActions, Span
from qsft_robot.returns import ReturnRange
from qsft_robot.token_data.run_data import RunData
from qsft_robot.versions import software_versions


def describe(config: TrainConfig, data: RunData, model: dict[str, Any]) -> PolicyDescription:
    """The policy's description as far as it is known before training."""
    with open_demonstrations(config.data.path) as file:
        env_args = env_args_of(file)  # logs of a robot of one's own may have none
        convention = image_convention(file, env_args) if config.data.cameras else None
    if convention is not None:
        env_args = {**env_args, IMAGE_CONVENTION: convention}
    low, high, ranges = data.norm_stats.action_low, data.norm_stats.action_high, data.ranges
    kwargs = env_args.get("env_kwargs") or {}
    return PolicyDescription(
        method=config.method,
        conditions_on_return=config.traits.conditions_on_return,
        reads_past=config.traits.reads_past,
        model=model,
        tokenizer=data.tokenizer.to_json(),
        norm_stats=data.norm_stats,
        state_keys=tuple(config.data.state_keys),
        text_keys=tuple(config.data.text_keys),
        cameras=data.cameras,
        action=ActionDescription(
            dim=data.tokenizer.action_dim,
            horizon=data.tokenizer.horizon,
            history_stride=data.train.stride,
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            control_hz=kwargs.get("control_freq", env_args.get("control_hz")),
            units=_units(env_args.get("action_units"), len(low), config.data.path),
            seen=SeenActions(
                *(tuple(x.tolist()) for x in (ranges.low, ranges.high, ranges.largest_change))
            ),
        ),
        state_range={
            key: Span(tuple(low.tolist()), tuple(high.tolist()))
            for key, (low, high) in ranges.state.items()
        },
        return_range=ReturnRange(config.discount, config.data.return_low, config.data.return_high),
        acting=_acting(config, data),
        shared_image_features=config.model.frozen_features,
        env_args=env_args,
        data=data.summary,
        seed=config.seed,
        versions=software_versions(),
    )


def _acting(config: TrainConfig, data: RunData) -> ActingConfig:
    """The acting rule; a Decision Transformer asks for a return that its logs have."""
    if not config.traits.reads_past:
        return config.acting
    return replace(config.acting, target_return=target_return(config, data.train))


def _units(told: Any, dimensions: int, path: Path) -> tuple[str, ...] | None:
    """The unit of each number of an action, from env_args: one for all, or a list."""
    if told is None:
        return None
    units = (told,) * dimensions if isinstance(told, str) else told
    if not isinstance(units, list | tuple) or not all(isinstance(x, str) for x in units):
        raise ValueError(
            f"{path}: env_args: action_units is {told!r}, not the unit of each number of an action."
        )
    return tuple(units)
