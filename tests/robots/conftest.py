"""Fixtures of the control loop."""

from __future__ import annotations

from arm_fixtures import clock, joint_arm, small_policy
