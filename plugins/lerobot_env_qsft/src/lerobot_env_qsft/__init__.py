"""Simulators of qsft-robot as environments of LeRobot."""

import gymnasium

from .configuration import QsftEnvConfig as QsftEnvConfig

gymnasium.register(
    id="lerobot_env_qsft/simulator-v0", entry_point="lerobot_env_qsft.environment:LeRobotEnv"
)
