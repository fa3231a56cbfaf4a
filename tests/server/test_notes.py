"""A request that would be acted on by mistake is refused, or counted and said once a connection."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from websockets.sync.client import connect

from qsft_robot.server.config import ServerConfig
from qsft_robot.server.remote_policy import RemotePolicy
from qsft_robot.server.requests import read_request
from qsft_robot.server.running import serving
from qsft_robot.server.wire import pack, unpack


def without_prompt(message: dict, **others) -> dict:
    return {key: x for key, x in message.items() if key != "prompt"} | others


MISSING = [{}, {"prompt": ""}, {"prompt": " \n"}, {"prompt": None}, {"instruction": "put ..."},
           {"observation/prompt": "put ..."}]  # fmt: skip


@pytest.mark.parametrize("others", MISSING, ids=str)
def test_a_request_without_an_instruction_is_refused(observations, as_message, spec, others):
    frame = pack(without_prompt(as_message(observations[0]), **others))
    with pytest.raises(ValueError, match=r"'prompt' holds none; it was trained on: put .*has: "):
        read_request(frame, spec)


@pytest.mark.parametrize("known", [(), ("", "put ...")], ids=["no instructions", "some without"])
def test_a_policy_that_acts_without_an_instruction_takes_requests_without(
    observations, as_message, spec, known
):
    frame = pack(without_prompt(as_message(observations[0])))
    assert not read_request(frame, replace(spec, instructions=known)).observation.instruction


def test_a_refused_request_leaves_the_connection_as_it_was(server, observations, as_message):
    good = as_message(observations[0])
    with connect(server.url, compression=None) as client:
        client.recv()
        client.send(pack(without_prompt(good)))
        assert client.recv(timeout=60).startswith("bad request: the policy acts by an instruction")
        client.send(pack(good))
        assert "notes" not in unpack(client.recv(timeout=60))


def test_an_unknown_instruction_is_said_once_a_connection_and_counted(
    server, observations, as_message, caplog
):
    unknown = as_message(observations[0], prompt="dance")
    for i in range(2):
        with connect(server.url, compression=None) as client:
            client.recv()
            said = []
            for _ in range(3):
                client.send(pack(unknown))
                said.append(unpack(client.recv(timeout=60)).get("notes"))
        assert said == [["the policy was not trained on 'dance'"], None, None]
        assert server.metrics.unknown_instructions == 3 * (i + 1)
    assert caplog.text.count("not trained on 'dance'") == 2
    assert "qsft_unknown_instructions_total 6" in server.metrics.text()


def far_from(observation, index: int = 2):
    row = observation.state["proprio"].copy()
    row[index] = 1000.0
    return replace(observation, state={**observation.state, "proprio": row})


def test_far_readings_are_acted_on_said_once_and_counted(server, observations):
    with RemotePolicy(server.url, timeout_s=60) as remote:
        with pytest.warns(UserWarning, match=r"'proprio'\[2\] reads 1000, the logs had"):
            assert remote.infer(far_from(observations[0])).shape == (2, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            remote.infer(far_from(observations[0]))
            remote.infer(observations[0])
    assert server.metrics.far_readings == {"proprio": 2}
    assert 'qsft_far_readings_total{key="proprio"} 2' in server.metrics.text()


def test_far_readings_are_refused_where_that_is_asked_for(policy, observations):
    config = ServerConfig(port=0, max_batch=1, refuse_far=True)
    with serving(policy, config) as server, RemotePolicy(server.url, timeout_s=60) as remote:
        with pytest.raises(ValueError, match=r"bad request: state 'proprio'\[2\] reads 1000"):
            remote.infer(far_from(observations[0]))
        assert np.isfinite(remote.infer(observations[0])).all()
        assert server.metrics.far_readings == {"proprio": 1}
