"""Fixtures of the training path."""

from __future__ import annotations

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
