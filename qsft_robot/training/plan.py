"""The stages that a run goes through, and which of them are still to be trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qsft_robot.config.train import TrainConfig

# A one-stage method that starts from another run's behavior goes on with its own loss ("tuning").
BEHAVIOR, VALUE, TUNING = "behavior", "value", "tuning"
# The critic of whole decisions is trained last, beside a policy that stands.
CRITIC = "critic"


@dataclass(frozen=True)
class StagePlan:
    """One stage of a run."""

    name: str
    # Updates in all, and those of the stages before it.
    steps: int
    before: int
    # train: from update 0; resume: from the checkpoint; take: from the run of --behavior-from;
    # done: its weights are in the checkpoint of a later stage.
    action: Literal["train", "resume", "take", "done"]


def plan_stages(config: TrainConfig, saved: str | None = None) -> list[StagePlan]:
    """The stages in order; `saved` is the stage that the checkpoint of a resumed run is in.

    Methods of one stage take the updates of both, unless they start from another run's behavior.
    ValueError where the checkpoint's stage is none of the plan.
    """
    optim, taken = config.optim, config.behavior_from is not None
    second = VALUE if config.two_stages else TUNING if taken else None
    if second is None:
        steps = {BEHAVIOR: optim.behavior_steps + optim.value_steps}
    else:
        steps = {BEHAVIOR: optim.behavior_steps, second: optim.value_steps}
    if config.critic.updates:
        steps[CRITIC] = config.critic.updates
    if saved is not None and saved not in steps:
        raise ValueError(
            f"the checkpoint is in the stage {saved!r}, but --method {config.method} has "
            f"{' and '.join(steps)}: resume it with the settings that it began with."
        )
    plans, before, stages = list[StagePlan](), 0, list(steps)
    for name, count in steps.items():
        action: Literal["train", "resume", "take", "done"] = "train"
        if name == saved:
            action = "resume"
        elif saved is not None and name in stages[: stages.index(saved)]:
            action = "done"
        elif name == BEHAVIOR and taken:
            action = "take"
        plans.append(StagePlan(name, count, before, action))
        before += count
    return plans
