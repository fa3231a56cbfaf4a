"""Settings of a qsft-robot policy in LeRobot, as `qsft-robot export --lerobot` writes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig


def _nothing() -> dict[str, NormalizationMode]:
    return dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)


@PreTrainedConfig.register_subclass("qsft")
@dataclass
class QsftConfig(PreTrainedConfig):
    """What LeRobot has to know of a policy folder; policy.json beside it says the rest."""

    # Actions of a chunk that are executed before the next decision.
    n_action_steps: int = 1
    # The parts of observation.state, in order, and their sizes.
    state_keys: list[str] = field(default_factory=list)
    state_sizes: list[int] = field(default_factory=list)
    # LeRobot's name of a camera -> the policy's.
    camera_keys: dict[str, str] = field(default_factory=dict)
    # auto, onnx or torch.
    runtime: str = "auto"
    # Seed of the first episode's samples; the next episodes have the next. Give lerobot-eval's
    # --seed here, and episodes come out as those of `qsft-robot evaluate --seed`.
    episode_seed: int = 0
    # The folder normalizes by itself.
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=_nothing)

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig()

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        pass

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.n_action_steps))

    @property
    def reward_delta_indices(self) -> None:
        return None
