"""Processors around a policy that normalizes by itself: names, a batch dimension, the device."""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME as AFTER
from lerobot.utils.constants import POLICY_PREPROCESSOR_DEFAULT_NAME as BEFORE


def make_qsft_pre_post_processors(
    config: Any, dataset_stats: Any = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """What `qsft-robot export --lerobot` writes as JSON, for a folder that has no such files."""
    steps = [
        RenameObservationsProcessorStep(rename_map={}),
        AddBatchDimensionProcessorStep(),
        DeviceProcessorStep(device="cpu"),
    ]
    return (
        PolicyProcessorPipeline(steps=steps, name=BEFORE),
        PolicyProcessorPipeline(
            steps=[DeviceProcessorStep(device="cpu")],
            name=AFTER,
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        ),
    )
