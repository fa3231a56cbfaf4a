"""A model server of vla-eval's behind openpi's protocol, driven by openpi's own client."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from served_description import served
from vla_eval.api import serve_background

from qsft_robot.cli import main
from qsft_robot.harness.deciders import LocalDecider
from qsft_robot.harness.key_map import KeyMap, Part
from qsft_robot.harness.model_server import HarnessModelServer
from qsft_robot.harness.openpi_bridge import bridging, observation_of
from qsft_robot.types import Decision


class Counter:
    """Chunks of two actions: its seed and step, and what it saw."""

    description = served(
        2,
        {"horizon": 2},
        state_keys=["position"],
        norm_stats={
            "state": {"position": {"mean": [0, 0], "std": [1, 1]}},
            "actions": {"low": [-1, -1], "high": [1, 1]},
        },
        cameras={"front_image": [4, 6]},
    )

    def begin_episode(self, seed: int) -> list[int]:
        return [seed, 0]

    def infer_batch(self, observations: Any, memories: Any) -> list[Decision]:
        found = []
        for seen, memory in zip(observations, memories, strict=True):
            x = seen.state["position"].sum() + seen.images["front_image"][0, 0, 0]
            memory[1] += 1
            found.append(Decision(np.array([memory, [x, len(seen.instruction)]], np.float32)))
        return found


def request(x: float = 0.5, **more: Any) -> dict[str, Any]:
    return {
        "observation/position": np.array([x, 1.0]),
        "observation/front_image": np.full((4, 6, 3), 7, np.uint8),
        "prompt": "push",
        **more,
    }


def test_openpis_client_gets_the_model_servers_actions(capsys) -> None:
    with (
        serve_background(HarnessModelServer(LocalDecider(Counter()), KeyMap())) as upstream,
        bridging(upstream.url, KeyMap()) as url,
    ):
        client, other = (
            WebsocketClientPolicy("127.0.0.1", int(url.rpartition(":")[2])) for _ in range(2)
        )
        assert client.get_server_metadata()["hello"]["model_server"] == "HarnessModelServer"
        # A chunk's actions one by one, episodes by their seeds, clients apart.
        asked = [(client, {"reset": True, "seed": 9}), (other, {}), (client, {}), (client, {})]
        told = [who.infer(request(**more))["actions"].tolist() for who, more in asked]
        assert told == [[[9, 1]], [[0, 1]], [[8.5, 4]], [[9, 2]]]
        assert client.infer(request(seed=3))["actions"].tolist() == [[3, 1]]
        with pytest.raises(RuntimeError, match="no image 'front_image'"):
            other.infer({"observation/position": np.zeros(2)})
        with pytest.raises(RuntimeError, match=r"bad request: .*neither an image nor numbers"):
            other.infer({"prompt": "push"})
        # The episode goes on after either.
        assert other.infer(request())["actions"].tolist() == [[8.5, 4]]
    assert main(["serve", upstream.url, "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {upstream.url}: no model server of vla-eval's: ")
    assert said.count("\n") == 1


def test_the_key_map_names_what_the_model_server_is_sent() -> None:
    keys = KeyMap({"observation/front_image": "agentview"}, {"position": Part("states")})
    sent = observation_of(request(reset=True, seed=1), keys)
    assert list(sent["images"]) == ["agentview"]
    assert sent["states"].tolist() == [0.5, 1.0]
    assert sent["task_description"] == "push"
    assert set(sent) == {"images", "states", "task_description"}
    assert set(observation_of({"joints": [1, 2]}, KeyMap())) == {
        "images", "joints", "states", "task_description",
    }  # fmt: skip
