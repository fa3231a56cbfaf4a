"""gymnasium's Hopper, and the agents that act in it."""

from __future__ import annotations

from sim.locomotion import agents
from sim.locomotion.env import REFERENCE_RETURNS, LocomotionEnv


class Hopper(LocomotionEnv):
    """Hopper of gymnasium's version 4."""

    robot = "Hopper"
    reference_returns = REFERENCE_RETURNS["Hopper"]


ENVIRONMENT, FAILURE_MODES = Hopper, agents.AGENTS
build_expert, find_agents = agents.build_expert, agents.find_agents
