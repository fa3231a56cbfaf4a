"""gymnasium's Walker2d, and the agents that act in it."""

from __future__ import annotations

from sim.locomotion import agents
from sim.locomotion.env import REFERENCE_RETURNS, LocomotionEnv


class Walker2d(LocomotionEnv):
    """Walker2d of gymnasium's version 4."""

    robot = "Walker2d"
    reference_returns = REFERENCE_RETURNS["Walker2d"]


ENVIRONMENT, FAILURE_MODES = Walker2d, agents.AGENTS
build_expert, find_agents = agents.build_expert, agents.find_agents
