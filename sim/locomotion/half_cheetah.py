"""gymnasium's HalfCheetah, and the agents that act in it."""

from __future__ import annotations

from sim.locomotion import agents
from sim.locomotion.env import REFERENCE_RETURNS, LocomotionEnv


class HalfCheetah(LocomotionEnv):
    """HalfCheetah of gymnasium's version 4."""

    robot = "HalfCheetah"
    reference_returns = REFERENCE_RETURNS["HalfCheetah"]


ENVIRONMENT, FAILURE_MODES = HalfCheetah, agents.AGENTS
build_expert, find_agents = agents.build_expert, agents.find_agents
