"""ALFWorld's handcoded expert, asked for its next command in the engine's process."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from alfworld.agents.expert import HandCodedTWAgent
from alfworld.agents.expert.handcoded_expert import HandCodedAgentFailed, HandCodedAgentTimeout

# What the handcoded expert looks for among hundreds of facts that never change.
_WATCHED = frozenset({"holds", "inreceptacle", "ishot", "iscool", "isclean"})
_EXPERT_STEPS = 150


class Adviser:
    """The engine's handcoded expert, told of every step, for one task or another in one game."""

    def __init__(self, traj_data: Mapping[str, Any], task: Mapping[str, str], seed: int) -> None:
        """`task` replaces entries of the game's own: task_type, object_target, parent_target,
        toggle_target (AI2-THOR's names of types)."""
        random.seed(seed)  # the expert draws from Python's own generator
        params = {**traj_data["pddl_params"], "task_type": traj_data["task_type"], **task}
        self._agent = HandCodedTWAgent(max_steps=_EXPERT_STEPS)
        self._agent.task_params = {
            key: value if key == "task_type" or not isinstance(value, str) else value.lower()
            for key, value in params.items()
        }
        policy = self._agent.get_task_policy(self._agent.task_params)
        self._agent.policy = policy(self._agent.task_params, max_steps=_EXPERT_STEPS)

    def advise(self, env: Any, last_command: str) -> str | None:
        """The expert's next command, None when it knows no more."""
        state = env.state
        watched = [f for f in state["_facts"] if f.name in _WATCHED]
        state["facts"] = [env.unwrapped._get_human_readable_fact(f) for f in watched]
        # The engine says "move" where its expert still listens for "put": unheard, the expert
        # thinks that it goes on holding what it has put down, and never fetches a second object.
        heard = re.sub(r"^move ", "put ", last_command)
        try:
            command = self._agent.act(state, 0, state["won"], heard)
        except (HandCodedAgentFailed, HandCodedAgentTimeout, IndexError, KeyError, ValueError):
            return None  # it lost the thread: its lists of where to look are empty
        return command if command in state["admissible_commands"] else "look"
