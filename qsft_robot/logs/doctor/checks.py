"""The table of checks, and the one call that runs them all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qsft_robot.logs.doctor.actions import action_offset, saturated_action
from qsft_robot.logs.doctor.cameras import black_camera, frozen_camera, swapped_cameras
from qsft_robot.logs.doctor.finding import Finding, gravest_first
from qsft_robot.logs.doctor.identity import duplicated_log, junk_instruction, refused
from qsft_robot.logs.doctor.log import LogSet
from qsft_robot.logs.doctor.motion import frozen_action, frozen_state, state_jump
from qsft_robot.logs.doctor.outcomes import (
    coverage,
    cut_against_terminal,
    reward_after_end,
    success_against_rewards,
)
from qsft_robot.logs.doctor.timing import short_log, timestamp_back, timestamp_gap, wrong_rate

# Name of a check, as findings carry it -> the check.
CHECKS: dict[str, Callable[[LogSet], list[Finding]]] = {
    "refused": refused,
    "frozen-state": frozen_state,
    "frozen-action": frozen_action,
    "frozen-camera": frozen_camera,
    "black-camera": black_camera,
    "swapped-cameras": swapped_cameras,
    "state-jump": state_jump,
    "action-offset": action_offset,
    "saturated-action": saturated_action,
    "duplicated-log": duplicated_log,
    "short-log": short_log,
    "junk-instruction": junk_instruction,
    "timestamp-gap": timestamp_gap,
    "timestamp-back": timestamp_back,
    "wrong-rate": wrong_rate,
    "reward-after-end": reward_after_end,
    "success-against-rewards": success_against_rewards,
    "cut-against-terminal": cut_against_terminal,
    "coverage": coverage,
}


def examine(logs: LogSet) -> list[Finding]:
    """Run every check; the gravest findings first."""
    logs = logs.without_clocks()
    with np.errstate(all="ignore"):  # numbers near the end of float32 are none of these faults
        return gravest_first([finding for check in CHECKS.values() for finding in check(logs)])
