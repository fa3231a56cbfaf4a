"""Whatever bytes come in, each is answered or closed, and the server serves on."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from qsft_robot.server.config import ServerConfig
from qsft_robot.server.running import serving
from qsft_robot.server.wire import pack, unpack

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
    | st.text(max_size=30) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(
        st.text(max_size=8) | st.sampled_from([b"__ndarray__", b"data", b"dtype", b"shape"]),
        inner, max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip
KEYS = (
    "observation/front_image",
    "wrist_image",
    "proprio",
    "prompt",
    "reset",
    "seed",
    "request_id",
)
ARRAY = st.fixed_dictionaries(
    {},
    optional={
        b"__ndarray__": st.booleans(),
        b"data": st.binary(max_size=64) | JUNK,
        b"dtype": st.sampled_from(["<f4", "|u1", "<f8", "|b1", "O", "<U4", "<c8", "|V4", "M8[s]"])
        | JUNK,
        b"shape": st.lists(st.integers(-2, 2**63), max_size=10) | JUNK,
    },
)


@pytest.fixture(scope="module")
def fuzzed(loaded, observations, play, as_message):
    """A server, a connection that outlives every bad message, and what is expected of it."""
    with (
        serving(loaded, ServerConfig(port=0, max_batch=2)) as server,
        connect(server.url, compression=None) as client,
    ):
        client.recv()
        good = as_message(observations[0], seed=1)
        expected = play(observations[:1], 1)[0]
        yield SimpleNamespace(server=server, client=client, good=good, expected=expected)


def check(fuzzed, frame: bytes) -> None:
    """The frame is answered, and a good one after it is answered as ever."""
    fuzzed.client.send(frame)
    answer = fuzzed.client.recv(timeout=20)
    if isinstance(answer, str):
        assert answer.startswith("bad request: ")
        assert "Traceback" not in answer
        assert len(answer) <= 1000
    else:
        assert unpack(answer)["actions"].shape == (2, 4)


def serves_on(fuzzed) -> None:
    fuzzed.client.send(pack(fuzzed.good))
    answer = fuzzed.client.recv(timeout=20)
    assert np.array_equal(unpack(answer)["actions"], fuzzed.expected)


@given(st.binary(max_size=300))
@FUZZ
def test_random_bytes_are_answered(fuzzed, frame):
    check(fuzzed, frame)


@given(st.text(max_size=100))
@FUZZ
def test_text_frames_are_answered(fuzzed, frame):
    check(fuzzed, frame)


@given(JUNK)
@FUZZ
def test_other_messages_are_answered(fuzzed, message):
    check(fuzzed, msgpack.packb(message))


@given(st.dictionaries(st.sampled_from(KEYS), ARRAY | JUNK, max_size=4))
@FUZZ
def test_observations_with_wrong_entries_are_answered(fuzzed, changes):
    check(fuzzed, pack({**fuzzed.good, **changes}))


@given(st.data())
@FUZZ
def test_damaged_observations_are_answered(fuzzed, data):
    frame = bytearray(pack(fuzzed.good))
    # The head, where the structure is; and anywhere.
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, 100) | st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    check(fuzzed, bytes(frame[: data.draw(st.just(len(frame)) | st.integers(0, len(frame)))]))


def test_after_all_that_it_serves_as_ever(fuzzed):
    serves_on(fuzzed)


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def closes(fuzzed, sent: bytes) -> None:
    """The server ends the connection after these bytes and the end of the stream."""
    stream = socket.create_connection(("127.0.0.1", int(fuzzed.server.url.rpartition(":")[2])))
    stream.settimeout(20)
    with stream:
        try:
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(1 << 16):
                pass
        except ConnectionError:
            return


@given(st.binary(max_size=300))
@settings(FUZZ, max_examples=80)
def test_random_bytes_instead_of_a_handshake_are_closed(fuzzed, sent):
    closes(fuzzed, sent)


@given(st.binary(max_size=300))
@settings(FUZZ, max_examples=80)
def test_random_bytes_instead_of_frames_are_closed(fuzzed, sent):
    closes(fuzzed, HANDSHAKE + sent)


MASK = bytes(4)
FRAMES = {
    "unmasked": bytes([0x82, 0x01, 0x80]),
    "reserved bits": bytes([0xF2, 0x80]) + MASK,
    "unknown kind": bytes([0x83, 0x80]) + MASK,
    "unknown control frame": bytes([0x8B, 0x80]) + MASK,
    "control frame in parts": bytes([0x09, 0x80]) + MASK,
    "long control frame": bytes([0x89, 0xFE, 0x01, 0x00]) + MASK + bytes(256),
    "a part of nothing": bytes([0x80, 0x80]) + MASK,
    "half a message, then another": bytes([0x02, 0x80]) + MASK + bytes([0x82, 0x80]) + MASK,
    "16 exabytes announced": bytes([0x82, 0xFF]) + b"\xff" * 8 + MASK,
    "1 gigabyte announced": bytes([0x82, 0xFF]) + (1 << 30).to_bytes(8, "big") + MASK,
    "text that is no UTF-8": bytes([0x81, 0x82]) + MASK + b"\xc3\x28",
    "close with one byte": bytes([0x88, 0x81]) + MASK + b"\x03",
    "close with a wrong code": bytes([0x88, 0x82]) + MASK + b"\x00\x01",
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_broken_frame_closes_its_connection_and_no_other(fuzzed, name):
    with connect(fuzzed.server.url, compression=None) as client:
        client.recv()
        client.socket.sendall(FRAMES[name])
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=20)
    serves_on(fuzzed)


def test_the_episode_is_as_it_was_after_malformed_messages(fuzzed, observations, play, as_message):
    expected = play(observations, 6)
    for i, observation in enumerate(observations):
        check(fuzzed, os.urandom(20))
        check(fuzzed, pack({**as_message(observation), "seed": 99, "proprio": None}))
        begin = {"seed": 6} if i == 0 else {}
        fuzzed.client.send(pack(as_message(observation, **begin)))
        assert np.array_equal(unpack(fuzzed.client.recv(timeout=20))["actions"], expected[i])
