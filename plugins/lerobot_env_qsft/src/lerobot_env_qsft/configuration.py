"""Which simulator lerobot-eval runs, and what of it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from qsft_robot.policy.folder import read_description
from qsft_robot.presets.look_up import recipe

from .environment import LeRobotEnv


@EnvConfig.register_subclass("qsft")
@dataclass
class QsftEnvConfig(EnvConfig):
    """A recipe's simulator (`qsft-robot info recipes`), or that of a policy's logs."""

    task: str | None = "tabletop/place"
    # A policy folder: the simulator of its logs, its cameras and state keys, instead of the task's.
    policy: str | None = None
    # What is shown, where no policy says it; all state keys of the simulator when none are named.
    cameras: list[str] = field(default_factory=list)
    image_size: int = 64
    state_keys: list[str] = field(default_factory=list)
    # Changes of the simulator's arguments: '{"max_steps": 30}'.
    env_kwargs: dict = field(default_factory=dict)
    fps: int = 10
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arguments = self.gym_kwargs
        env = LeRobotEnv(**arguments)
        try:
            shown = env.observation_space
            self.fps = round(env.metadata["render_fps"])
            self.features = {ACTION: PolicyFeature(FeatureType.ACTION, env.action_space.shape)}
            self.features_map = {ACTION: ACTION}
            if "agent_pos" in shown.spaces:
                size = shown["agent_pos"].shape
                self.features["agent_pos"] = PolicyFeature(FeatureType.STATE, size)
                self.features_map["agent_pos"] = OBS_STATE
            for camera, space in shown["pixels"].spaces.items() if arguments["cameras"] else ():
                key = f"pixels/{camera}"
                self.features[key] = PolicyFeature(FeatureType.VISUAL, space.shape)
                self.features_map[key] = f"{OBS_IMAGES}.{camera}"
        finally:
            env.close()

    @property
    def package_name(self) -> str:
        return "lerobot_env_qsft"

    @property
    def gym_id(self) -> str:
        return "lerobot_env_qsft/simulator-v0"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        if self.policy:
            about = read_description(Path(self.policy))
            env_args = dict(about.env_args)
            if not env_args:
                raise ValueError(f"{self.policy}: the policy's logs name no simulator.")
            cameras, state_keys = list(about.cameras), list(about.state_keys)
        else:
            chosen = recipe(str(self.task))
            seen = {"cameras": self.cameras, "image_size": self.image_size}
            env_args = {"env_name": chosen.env_name, "env_kwargs": {**chosen.env_kwargs, **seen}}
            cameras, state_keys = [f"{x}_image" for x in self.cameras], list(self.state_keys)
        return {
            "env_args": env_args,
            "cameras": cameras,
            "state_keys": state_keys,
            "changes": dict(self.env_kwargs),
        }
