"""Fixtures of trained runs and of exported policies."""

from __future__ import annotations

from policy_fixtures import exported, no_shape_checks, random, tiny
from run_fixtures import (
    config,
    frame_cache,
    logs,
    observations,
    one_thread,
    pixel_logs,
    pixel_observations,
    pretrained,
    text_logs,
    tiny_folder,
    unchecked_shapes,
)
