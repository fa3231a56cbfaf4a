"""A policy folder of qsft-robot as a policy of LeRobot: the same decisions, on ONNX or torch."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import OBS_STATE
from torch import Tensor

from qsft_robot import Observation, open_policy

from .configuration_qsft import QsftConfig

_NO_TRAINING = (
    "qsft policies are trained by `qsft-robot train` (`qsft-robot import-lerobot` makes logs of a "
    "data set), not by lerobot-train; then --policy.path=<run>/policy."
)


class QsftPolicy(PreTrainedPolicy):
    """Decides for a batch of episodes at once, each with a memory and samples of its own."""

    config_class = QsftConfig
    name = "qsft"

    def __init__(self, config: QsftConfig, folder: str | Path | None = None, **_: Any) -> None:
        super().__init__(config)
        if folder is None:
            raise ValueError(_NO_TRAINING)
        self.policy = open_policy(folder, device=str(config.device), runtime=config.runtime)
        # V of each episode at the last decision, where the policy has one.
        self.last_values: list[float | None] = []
        self._memories: list[Any] = []
        self._begun = 0
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        revision: str | None = None,
        **_: Any,
    ) -> QsftPolicy:
        folder = Path(pretrained_name_or_path)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(pretrained_name_or_path), revision=revision))
        if config is None:
            config = PreTrainedConfig.from_pretrained(str(folder))
        return cls(config, folder=folder).eval()

    def get_optim_params(self) -> Any:
        raise NotImplementedError(_NO_TRAINING)

    def forward(self, batch: dict[str, Tensor], **_: Any) -> Any:
        raise NotImplementedError(_NO_TRAINING)

    def reset(self) -> None:
        """Begin new episodes, whose seeds follow those of the ones before."""
        self._begun += len(self._memories)
        self._memories = []
        self._queue: deque[Tensor] = deque()
        self._step = 0

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """The chunk of each episode, float32 [b, h, d], in the environment's own units."""
        observations = self._observations(batch)
        if not self._memories:
            first = self.config.episode_seed + self._begun
            seeds = range(first, first + len(observations))
            self._memories = [self.policy.begin_episode(seed) for seed in seeds]
        if len(self._memories) != len(observations):
            raise ValueError(
                f"a batch of {len(observations)} observations in episodes that began as "
                f"{len(self._memories)}: call reset() between them."
            )
        decided = self.policy.infer_batch(observations, self._memories)
        self.last_values = [decision.value for decision in decided]
        return torch.from_numpy(np.stack([decision.actions for decision in decided])).float()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """The next action of each episode, float32 [b, d]."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch)[:, : self.config.n_action_steps]
            self._queue.extend(chunk.transpose(0, 1))
        self._step += 1
        return self._queue.popleft()

    def _observations(self, batch: dict[str, Any]) -> list[Observation]:
        wanted = [*([OBS_STATE] if self.config.state_keys else []), *self.config.camera_keys]
        if missing := [name for name in wanted if name not in batch]:
            there = sorted(name for name in batch if name.startswith("observation."))
            raise ValueError(
                f"the policy needs {', '.join(missing)}; there are: {', '.join(there) or 'none'}. "
                'Rename what is called otherwise: --rename_map=\'{"there": "needed"}\'.'
            )
        rows = len(batch[wanted[0]])
        states: dict[str, np.ndarray] = {}
        if self.config.state_keys:
            state = batch[OBS_STATE].float().cpu().numpy()
            total = sum(self.config.state_sizes)
            if state.ndim != 2 or state.shape[1] != total:
                parts = ", ".join(
                    f"{key} [{size}]"
                    for key, size in zip(
                        self.config.state_keys, self.config.state_sizes, strict=True
                    )
                )
                raise ValueError(
                    f"{OBS_STATE} has shape {list(state.shape)}; the policy takes [b, {total}]: "
                    f"{parts}, in this order."
                )
            cuts = np.cumsum(self.config.state_sizes)[:-1]
            parts_of = np.split(state, cuts, axis=1)
            states = dict(zip(self.config.state_keys, parts_of, strict=True))
        images = {ours: _bytes(batch[name]) for name, ours in self.config.camera_keys.items()}
        tasks = batch.get("task") or ""
        tasks = [tasks] * rows if isinstance(tasks, str) else list(tasks)
        return [
            Observation(
                {key: x[i] for key, x in images.items()},
                {key: x[i] for key, x in states.items()},
                tasks[i],
                step=self._step,
            )
            for i in range(rows)
        ]


def _bytes(images: Tensor) -> np.ndarray:
    """Images of LeRobot, [b, 3, height, width] in [0, 1], as uint8 [b, height, width, 3]."""
    scaled = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).cpu().numpy())
