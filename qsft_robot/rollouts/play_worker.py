"""The worker process of a recording of play data: whole episodes, one an order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsft_robot.parts.simulators import build_play_recorder
from qsft_robot.rollouts.worker_channel import WorkerChannel


def serve_play(channel: WorkerChannel, settings: Mapping[str, Any]) -> None:
    """Answer each message {"index", "seed", "timeout_s"} with {"index", "episode"}."""
    recorder = build_play_recorder(settings["env_name"], settings["kwargs"])
    channel.send({})
    channel.end()
    while (order := channel.receive()) is not None:
        channel.begin(order["index"], order["timeout_s"])
        episode = recorder.record(order["seed"])
        channel.end()
        channel.send({"index": order["index"], "episode": episode})
    recorder.close()
