"""The client as a policy: the local actions, or PolicyUnavailable in time, and it recovers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from qsft_robot.server.config import ServerConfig
from qsft_robot.server.remote_policy import PolicyUnavailable, RemotePolicy
from qsft_robot.server.requests import metadata_of
from qsft_robot.server.running import serving
from qsft_robot.server.wire import pack, unpack
from qsft_robot.types import PolicyChanged


def infer_until_it_works(remote: RemotePolicy, observation) -> tuple[np.ndarray, int]:
    """Actions, and how many calls raised before."""
    deadline, failures = time.monotonic() + 30, 0
    while True:
        try:
            return remote.infer(observation), failures
        except PolicyUnavailable:
            assert time.monotonic() < deadline
            failures += 1
            time.sleep(0.01)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_it_acts_as_the_local_policy(server, spec, observations, play):
    with RemotePolicy(server.url, timeout_s=20) as remote:
        assert remote.description.state_keys == ("proprio",)
        assert remote.spec.cameras == spec.cameras
        for seed in (1, 2, 1):
            remote.reset(seed)
            found = np.stack([remote.infer(o) for o in observations])
            assert found.dtype == np.float32
            assert np.array_equal(found, play(observations, seed))
        assert 0 <= remote.last_value <= 1
        assert remote.last_timing_ms["infer_ms"] > 0


def test_without_a_server_it_says_so(server):
    url = f"ws://127.0.0.1:{port_of(server.url) ^ 1}"
    with pytest.raises(PolicyUnavailable, match=url):
        RemotePolicy(url, connect_timeout_s=0.2)
    with pytest.raises(ValueError, match="no address of a policy server"):
        RemotePolicy("localhost:8000")


def test_it_waits_for_a_server_that_is_starting(policy, observations):
    with serving(policy, ServerConfig(port=0, max_batch=1)) as server:
        port = port_of(server.url)
    found = []
    thread = threading.Thread(target=lambda: found.append(RemotePolicy(server.url)))
    thread.start()
    time.sleep(0.2)
    with serving(policy, ServerConfig(port=port, max_batch=1)):
        thread.join()
        assert found[0].infer(observations[0]).shape == (2, 4)
        found[0].close()


def test_no_answer_in_time_is_told_in_time_and_never_given_late(server, policy, observations, play):
    with RemotePolicy(server.url, timeout_s=0.3) as remote:
        remote.reset(1)
        infer_until_it_works(remote, observations[0])
        policy.gate.clear()
        began = time.monotonic()
        with pytest.raises(PolicyUnavailable, match="no answer in time"):
            remote.infer(observations[1])
        assert time.monotonic() - began < 5
        policy.gate.set()
        # The late answer, of another observation, must not be taken for this one's.
        found, _ = infer_until_it_works(remote, observations[5])
        assert np.array_equal(found, play(observations[5:6], 1)[0])


def test_it_survives_a_server_that_dies_and_comes_back(policy, observations, play):
    with serving(policy, ServerConfig(port=0, max_batch=1)) as server:
        remote = RemotePolicy(server.url, timeout_s=20)
        remote.reset(4)
        remote.infer(observations[0])
    for _ in range(3):
        with pytest.raises(PolicyUnavailable):
            remote.infer(observations[0])
    with serving(policy, ServerConfig(port=port_of(server.url), max_batch=1)):
        # The episode goes on with its seed and an empty history.
        found, _ = infer_until_it_works(remote, observations[3])
        assert np.array_equal(found, play(observations[3:4], 4)[0])
        remote.close()
        with pytest.raises(PolicyUnavailable, match="was closed"):
            remote.infer(observations[0])


def test_a_connection_lost_between_two_episodes_is_made_again_at_once(policy, observations, play):
    config = ServerConfig(port=0, max_batch=1)
    with serving(policy, config) as server:
        remote = RemotePolicy(server.url, timeout_s=20)
        remote.infer(observations[0])
    with serving(policy, replace(config, port=port_of(server.url))), remote:
        remote.reset(2)
        assert np.array_equal(remote.infer(observations[1]), play(observations[1:2], 2)[0])


def test_after_a_fault_of_the_policy_the_episode_begins_anew(server, policy, observations, play):
    with RemotePolicy(server.url, timeout_s=20) as remote:
        policy.fault = KeyError("broken")
        with pytest.raises(PolicyUnavailable, match="policy failed: KeyError"):
            remote.infer(observations[0])
        policy.fault = None
        assert np.array_equal(remote.infer(observations[0]), play(observations[:1], 0)[0])


def test_a_wrong_observation_is_a_value_error_and_the_episode_goes_on(server, observations, play):
    with RemotePolicy(server.url, timeout_s=20) as remote:
        remote.reset(3)
        small = {key: image[:16] for key, image in observations[0].images.items()}
        for i, observation in enumerate(observations[:4]):
            with pytest.raises(ValueError, match=r"bad request: camera 'front_image' is uint8"):
                remote.infer(replace(observation, images=small))
            with pytest.raises(ValueError, match="'proprio', which the observation lacks"):
                remote.infer(replace(observation, state={}))
            assert np.array_equal(remote.infer(observation), play(observations[: i + 1], 3)[i])


@contextmanager
def answering(answer: Callable[[ServerConnection], None]) -> Iterator[str]:
    """A websocket server that does with each connection what `answer` does."""

    def quietly(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            answer(connection)

    with serve(quietly, "127.0.0.1", 0, compression=None) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{other.socket.getsockname()[1]}"
        finally:
            other.shutdown()
            thread.join()


def good(request: dict) -> dict:
    actions = np.zeros((2, 4), np.float32)
    return {"actions": actions, "server_timing": {}, "request_id": request["request_id"]}


GARBAGE = {
    "random bytes": lambda request: b"\xc1\x00garbage",
    "no map": lambda request: pack([1, 2, 3]),
    "no actions": lambda request: pack({**good(request), "actions": None}),
    "actions of another shape": lambda request: pack(
        {**good(request), "actions": np.zeros((1, 4), np.float32)}
    ),
    "actions of another type": lambda request: pack({**good(request), "actions": np.zeros((2, 4))}),
    "NaN": lambda request: pack({**good(request), "actions": np.full((2, 4), np.nan, np.float32)}),
    "an older answer": lambda request: pack(
        {**good(request), "request_id": request["request_id"] - 1}
    ),
    "no number of the request": lambda request: pack({"actions": np.zeros((2, 4), np.float32)}),
    "words": lambda request: "Traceback (most recent call last)",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_unavailable_and_never_an_action(policy, observations, name):
    turns = [0]

    def answer(connection: ServerConnection) -> None:
        connection.send(pack(metadata_of(policy.description)))
        while True:
            request = unpack(connection.recv())
            turns[0] += 1
            connection.send(GARBAGE[name](request) if turns[0] == 1 else pack(good(request)))

    with answering(answer) as url, RemotePolicy(url, timeout_s=20) as remote:
        with pytest.raises(PolicyUnavailable):
            remote.infer(observations[0])
        found, _ = infer_until_it_works(remote, observations[0])
        assert np.array_equal(found, np.zeros((2, 4)))


def test_a_frame_too_many_is_not_the_next_answer(policy, observations):
    def answer(connection: ServerConnection) -> None:
        connection.send(pack(metadata_of(policy.description)))
        while True:
            request = unpack(connection.recv())
            connection.send(pack(good(request)))
            connection.send(pack({**good(request), "actions": np.ones((2, 4), np.float32)}))

    with answering(answer) as url, RemotePolicy(url, timeout_s=20) as remote:
        for _ in range(5):
            found, _ = infer_until_it_works(remote, observations[0])
            assert np.array_equal(found, np.zeros((2, 4)))


def test_another_policy_behind_the_same_address_is_not_taken_for_the_old_one(policy, observations):
    seen = []

    def answer(connection: ServerConnection) -> None:
        description = policy.description
        if seen:
            action = replace(description.action, high=(0.5,) * 4)
            description = replace(description, action=action)
        seen.append(connection)
        connection.send(pack(metadata_of(description)))
        connection.recv()
        connection.close()

    with answering(answer) as url, RemotePolicy(url, timeout_s=20) as remote:
        with pytest.raises(PolicyUnavailable):
            remote.infer(observations[0])
        with pytest.raises(PolicyUnavailable, match="another policy answers now"):
            remote.infer(observations[0])


def test_another_policy_of_the_same_interface_ends_the_episode_and_is_taken_by_the_next(
    policy, observations
):
    with serving(policy, ServerConfig(port=0, max_batch=1)) as server:
        remote = RemotePolicy(server.url, timeout_s=20)
        remote.infer(observations[0])
    policy.description = replace(policy.description, policy_sha256="ab" * 32)
    config = ServerConfig(port=port_of(server.url), max_batch=1)
    with serving(policy, config), remote:
        for _ in range(2):
            with pytest.raises(PolicyChanged, match="another policy"):
                infer_until_it_works(remote, observations[0])
        remote.reset(2)
        remote.infer(observations[0])
        assert remote.description.policy_sha256 == "ab" * 32


@pytest.mark.parametrize("first", ["hello", b"\xc1", pack({"description": {}}), pack({})])
def test_another_kind_of_server_is_refused(first):
    said = answering(lambda connection: connection.send(first))
    with said as url, pytest.raises(PolicyUnavailable):
        RemotePolicy(url, connect_timeout_s=5)
