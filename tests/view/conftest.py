"""Fixtures of small real logs."""

from __future__ import annotations

from run_fixtures import logs, one_thread, pixel_logs
