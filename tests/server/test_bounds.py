"""What a client can hold or cost is bounded, before and after it has shown who it is."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from qsft_robot.server import connection as connections
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.door import Door, reserve_files
from qsft_robot.server.metrics import ServerMetrics
from qsft_robot.server.remote_policy import PolicyUnavailable, RemotePolicy
from qsft_robot.server.running import serving
from qsft_robot.server.server import MAX_PARTS, MAX_STRANGERS, PolicyServer
from qsft_robot.server.wire import MAX_ENTRIES, WireError, pack, unpack

MASK = bytes(4)
PONG, PING = bytes([0x8A, 0x80]) + MASK, bytes([0x89, 0x80]) + MASK
FIRST, PART = bytes([0x02, 0x81]) + MASK + b"\x81", bytes([0x00, 0x80]) + MASK


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A certificate of one's own for loopback, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    files = {"certificate": folder / "certificate.pem", "key": folder / "key.pem"}
    try:
        subprocess.run(
            [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", files["key"],
             "-out", files["certificate"]], check=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no openssl command to make a certificate with")
    return files


def address_of(server: PolicyServer) -> tuple[str, int]:
    return "127.0.0.1", int(server.url.rpartition(":")[2])


def closed(stream: socket.socket) -> bool:
    """Whether the other side has ended the connection, without waiting for it."""
    try:
        return stream.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_clients_that_only_connect_make_room_for_those_that_ask(policy, observations, pair, tls):
    config = ServerConfig(
        port=0, max_batch=1, max_connections=3, silent_s=0.0, **(pair if tls else {})
    )
    ca_file = pair["certificate"] if tls else None
    with serving(policy, config) as server, ExitStack() as stack:

        def newcomer():
            return stack.enter_context(RemotePolicy(server.url, timeout_s=60, ca_file=ca_file))

        asking = newcomer()
        asking.infer(observations[0])
        silent = [newcomer() for _ in range(2)]
        for _ in range(2):
            assert newcomer().infer(observations[0]).shape == (2, 4)
        assert server.metrics.cut_off["silent"] == 2
        assert server.metrics.connections == 3
        asking.infer(observations[1])
        with pytest.raises(PolicyUnavailable, match="503"):
            newcomer()
        with pytest.raises(PolicyUnavailable):
            silent[0].infer(observations[0])


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "half hello"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_half_open_connections_are_few_and_keep_nobody_out(policy, observations, pair, tls, first):
    config = ServerConfig(port=0, max_batch=1, open_timeout_s=600, **(pair if tls else {}))
    ca_file = pair["certificate"] if tls else None
    with serving(policy, config) as server, ExitStack() as stack:
        held = []
        for _ in range(3 * MAX_STRANGERS):
            stream = stack.enter_context(socket.create_connection(address_of(server)))
            stream.sendall(first)
            stream.setblocking(False)
            held.append(stream)
        wait_until(lambda: sum(map(closed, held)) >= len(held) - MAX_STRANGERS)
        with RemotePolicy(server.url, timeout_s=60, ca_file=ca_file) as remote:
            assert remote.infer(observations[0]).shape == (2, 4)
            # The newest are still there: it was not by dropping everybody that one got in.
            assert not closed(held[-1])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12))
@settings(deadline=None, max_examples=20)
def test_who_comes_last_is_let_in_and_the_oldest_of_the_greediest_goes(hosts):
    async def come() -> None:
        with ExitStack() as stack:
            door = stack.enter_context(Door(socket.create_server(("127.0.0.1", 0)), 3))
            door.setblocking(False)
            inside: list[tuple[int, socket.socket]] = []
            for host in hosts:
                client = stack.enter_context(
                    socket.create_connection(
                        door.getsockname(), source_address=(f"127.0.0.{host}", 0)
                    )
                )
                client.setblocking(False)
                while True:
                    await asyncio.sleep(0)
                    with suppress(BlockingIOError):
                        stack.enter_context(door.accept()[0])
                        break
                if len(inside) == 3:
                    counts = [sum(a == b for b, _ in inside) for a, _ in inside]
                    _, gone = inside.pop(counts.index(max(counts)))
                    assert closed(gone)
                inside.append((host, client))
                assert door.strangers == len(inside)
                assert not any(closed(client) for _, client in inside)

    asyncio.run(come())


def test_the_files_that_the_connections_need_are_reserved_or_refused(monkeypatch):
    now, given = [100, 4096], []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: given.append(limits))
    reserve_files(64)
    assert given == [(64 + 128, 4096)]
    with pytest.raises(ValueError, match=r"--max-connections.*4096.*ulimit -Hn"):
        reserve_files(5000)


@pytest.mark.parametrize("frame", [PING, PONG], ids=["pings", "pongs"])
def test_a_flood_of_control_frames_ends_its_own_connection_alone(
    server, observations, as_message, frame
):
    with connect(server.url, compression=None) as honest, connect(server.url) as flooding:
        honest.recv(), flooding.recv()
        with suppress(ConnectionError):
            flooding.socket.sendall(5000 * frame)
        with pytest.raises(ConnectionClosed):
            flooding.recv(timeout=60)
        assert server.metrics.cut_off["control_frames"] == 1
        honest.send(pack(as_message(observations[0])))
        assert unpack(honest.recv(timeout=60))["actions"].shape == (2, 4)


def test_as_many_control_frames_as_an_honest_client_sends_are_answered(server):
    with connect(server.url, compression=None) as client:
        client.recv()
        for _ in range(connections.CONTROL_BURST // 2):
            assert client.ping().wait(60)
    assert not server.metrics.cut_off["control_frames"]


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[str, list[int]]]:
    """A server on bounded connections that sends back what is no "x", and how many frames each
    pass of theirs took."""
    passes: list[int] = []
    kind: Any = connections.bounded_connection(ServerMetrics(), 1 << 24, 60.0)

    class Counting(kind):
        def _parse(self) -> None:
            super()._parse()
            passes.append(self._frames)

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            if message != b"x":
                await connection.send(message)

    async def run() -> None:
        async with serve(
            answer, "127.0.0.1", 0, compression=None, max_queue=2, create_connection=Counting
        ) as server:
            ports.append(server.sockets[0].getsockname()[1])
            ready.set()
            await over.wait()

    ports: list[int] = []
    ready, loop, over = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(60)
    yield f"ws://127.0.0.1:{ports[0]}", passes
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def test_one_client_takes_a_bounded_share_of_a_pass(echo):
    url, passes = echo
    tiny = bytes([0x82, 0x81]) + MASK + b"x"
    with connect(url, compression=None) as client:
        client.socket.sendall(20_000 * tiny)
        client.send(b"done")
        assert client.recv(timeout=60) == b"done"
    # The last slice may hold as many frames as fit into it.
    assert max(passes) <= connections.FRAMES_PER_PASS + connections.SLICE // len(tiny) + 1


@given(st.lists(st.integers(2, 3000), min_size=1, max_size=12), st.randoms())
@settings(deadline=None, max_examples=8)
def test_messages_come_out_the_same_however_their_bytes_arrive(echo, sizes, random):
    frames = []
    for i, size in enumerate(sizes):
        head = bytes([0x82, 0x80 | 126]) + size.to_bytes(2, "big") + MASK
        frames.append(head + bytes([i % 256]) * size)
    whole = b"".join(frames)
    with connect(echo[0], compression=None, max_size=None) as client:
        at = 0
        while at < len(whole):
            to = at + random.choice((1, 5, 1024, 5000, 1 << 18))
            client.socket.sendall(whole[at:to])
            at = to
        for i, size in enumerate(sizes):
            assert client.recv(timeout=60) == bytes([i % 256]) * size


@pytest.mark.parametrize("part", [PART, bytes([0x00, 0x81]) + MASK + b"a"], ids=["empty", "byte"])
def test_a_message_of_too_many_parts_ends_its_connection(server, part):
    with connect(server.url, compression=None) as client:
        client.recv()
        with suppress(ConnectionError):
            client.socket.sendall(FIRST + 2 * MAX_PARTS * part)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=60)
    assert server.metrics.cut_off["fragments"] == 1


def test_a_message_in_parts_is_one_message(server, observations, as_message):
    whole = pack(as_message(observations[0]))
    with connect(server.url, compression=None) as client:
        client.recv()
        client.send(whole[i : i + 100] for i in range(0, len(whole), 100))
        assert unpack(client.recv(timeout=60))["actions"].shape == (2, 4)


def test_half_a_frame_has_a_time_limit_of_its_own(policy):
    config = ServerConfig(port=0, max_batch=1, message_timeout_s=0.3, ping_s=600)
    with serving(policy, config) as server, connect(server.url, compression=None) as client:
        client.recv()
        client.socket.sendall(bytes([0x82, 0xFE, 0x04, 0x00]) + MASK + b"\x81")
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=60)
        assert server.metrics.cut_off["slow"] == 1


def test_a_request_of_very_many_small_entries_is_refused(server):
    words = b"\xdc" + (MAX_ENTRIES + 1).to_bytes(2, "big") + b"\xa2ab" * (MAX_ENTRIES + 1)
    nested = b"\xdc\x10\x00" + b"\x95\x01\x01\x01\x01\x01" * 4096
    for frame in (words, nested):
        with pytest.raises(WireError):
            unpack(frame, MAX_ENTRIES)
        with connect(server.url, compression=None) as client:
            client.recv()
            client.send(frame)
            assert client.recv(timeout=60).startswith("bad request: ")
