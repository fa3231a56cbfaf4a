"""A method: supervised fine-tuning that draws the steps of a log by its return, softly.

Register it in the pyproject.toml of its package; the name is what --method takes:

    [project.entry-points."qsft_robot.methods"]
    return_weighted = "return_weighted_method:METHOD"

and train with `--method return_weighted --method-settings temperature=0.2`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.sft import BehaviorStage
from qsft_robot.algorithms.stage import proportional_steps
from qsft_robot.config.methods import Method
from qsft_robot.token_data.token_data import TokenData

METHOD = Method(
    "supervised fine-tuning on steps drawn in proportion to exp(return / temperature)",
    stage="return_weighted_method:ReturnWeightedStage",
)


class ReturnWeightedStage(BehaviorStage):
    """The loss of supervised fine-tuning on another draw of steps."""

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, settings: Mapping[str, str]
    ) -> None:
        super().__init__(networks, data, device)
        temperature = float(settings.get("temperature", "0.5"))
        if temperature <= 0:
            raise ValueError(f"--method-settings temperature={temperature:g} must be positive.")
        returns = data.returns_to_go[data.episode_of_step, data.time_of_step]
        self.cumulative = ((returns.double() - 1) / temperature).exp().cumsum(0)

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        return proportional_steps(self.cumulative, batch_size, generator)
