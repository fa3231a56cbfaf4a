"""Who gets in: a token off loopback, no browsers, and nobody who holds a door half open."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from qsft_robot.cli import main
from qsft_robot.server.config import ServerConfig, bind, lets_in
from qsft_robot.server.remote_policy import PolicyUnavailable, RemotePolicy
from qsft_robot.server.running import serving
from qsft_robot.verbs.serve import how_to_connect

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def guarded(loaded):
    """A server with a token; its policy is watched after the warm-up."""
    calls = []

    class Watched:
        description = loaded.description

        def begin_episode(self, seed):
            calls.append("begin")
            return loaded.begin_episode(seed)

        def infer_batch(self, observations, memories):
            calls.append("infer")
            return loaded.infer_batch(observations, memories)

    with serving(Watched(), ServerConfig(port=0, max_batch=1, token=TOKEN)) as server:
        calls.clear()
        yield SimpleNamespace(server=server, calls=calls, port=int(server.url.rpartition(":")[2]))


def test_the_right_token_gets_in_from_both_clients(guarded, observations, as_message):
    client = WebsocketClientPolicy("127.0.0.1", guarded.port, api_key=TOKEN)
    assert client.infer(as_message(observations[0]))["actions"].shape == (2, 4)
    with RemotePolicy(guarded.server.url, token=TOKEN, timeout_s=20) as remote:
        assert remote.infer(observations[0]).shape == (2, 4)


def test_the_printed_lines_of_both_clients_connect(guarded):
    for line in how_to_connect(guarded.server.url, needs_token=True).splitlines()[1:]:
        module, _, call = line.strip().partition("(")[0].rpartition(".")
        names = {call: getattr(importlib.import_module(module), call), "token": TOKEN}
        client = eval(call + "(" + line.partition("(")[2], names)
        assert type(client) in (WebsocketClientPolicy, RemotePolicy)
        getattr(client, "close", lambda: None)()


def refuse(url: str, status: int, **options) -> None:
    """Connect, and be refused with this HTTP status."""
    with pytest.raises(InvalidStatus) as raised, connect(url, **options):
        pass
    assert raised.value.response.status_code == status


HEADER = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)


@given(
    st.sampled_from(["Api-Key ", "Bearer ", "Basic ", "", TOKEN + " "]),
    HEADER | st.sampled_from([TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"{TOKEN},{TOKEN}"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_wrong_token_never_reaches_the_policy(guarded, scheme, token):
    guarded.calls.clear()
    refused = guarded.server.metrics.refused["token"]
    refuse(guarded.server.url, 401, additional_headers={"Authorization": scheme + token})
    assert guarded.server.metrics.refused["token"] == refused + 1
    assert not guarded.calls


def test_no_token_two_tokens_and_metrics_without_one_are_refused(guarded):
    guarded.calls.clear()
    for headers in ([], [("Authorization", f"Api-Key {TOKEN}")] * 2):
        refuse(guarded.server.url, 401, additional_headers=headers)
    with pytest.raises(PolicyUnavailable, match="401"):
        RemotePolicy(guarded.server.url)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http{guarded.server.url[2:]}/metrics")
    with urllib.request.urlopen(f"http{guarded.server.url[2:]}/healthz") as answer:
        assert answer.read() == b"OK\n"
    assert not guarded.calls


@given(st.text(max_size=60))
def test_only_the_token_itself_lets_in(text):
    assert lets_in(TOKEN, [f"Api-Key {text}"]) == (text.strip() == TOKEN)
    assert lets_in(None, [text])


def test_a_page_in_a_browser_is_refused(server, policy):
    refuse(server.url, 403, origin="http://localhost")
    assert policy.calls == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_off_loopback_a_token_is_needed(host):
    with pytest.raises(ValueError, match="set QSFT_TOKEN or give --token-file"):
        bind(ServerConfig(host=host, port=0))
    if host == "0.0.0.0":
        bind(ServerConfig(host=host, port=0, token=TOKEN, token_in_clear=True)).close()


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut"])
def test_a_token_that_no_header_can_carry_is_refused(token):
    with pytest.raises(ValueError, match="token"):
        ServerConfig(token=token)


def test_the_configuration_does_not_show_its_token():
    assert TOKEN not in repr(ServerConfig(token=TOKEN))


def test_the_command_line_answers_in_one_line(folder, tmp_path, monkeypatch, capsys):
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    (tmp_path / "empty").write_text("\n")
    for words, said in (
        (["--port", port], f"port {port} of 127.0.0.1 can't be taken"),
        (["--host", "0.0.0.0"], "so a token is needed"),
        (["--token-file", str(tmp_path / "none")], "no such file"),
        (["--token-file", str(tmp_path / "empty")], "holds no token"),
        (["--certificate", "x.pem"], "go together"),
        (["--max-batch", "0"], "--max-batch is 0; at least 1"),
        (["--max-batch", "1000000000"], "at most 1024"),
        (["--window-ms", "nan"], "between 0 and 1000"),
        (["--threads", "0"], "--threads 0: give at least 1"),
        (["--acting", "k=nan"], "--acting k: nan is no finite number"),
    ):
        monkeypatch.delenv("QSFT_TOKEN", raising=False)
        assert main(["serve", str(folder), *words]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert len(error.splitlines()) == 1
    assert main(["serve", str(tmp_path / "nothing"), "--port", "0"]) == 2
    assert "no such folder" in capsys.readouterr().err
    taken.close()


@contextmanager
def ending(words, **others):
    """A process that ends with the block: one left alone would keep a failed test waiting."""
    with subprocess.Popen(words, **others) as process:
        patience = threading.Timer(300, process.kill)
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


def test_a_policy_that_exits_ends_no_server(policy, observations, as_message):
    with serving(policy, ServerConfig(port=0, max_batch=1)) as server:
        policy.fault = SystemExit(0)
        with pytest.raises(RuntimeError, match="failed"):
            WebsocketClientPolicy(server.url).infer(as_message(observations[0]))
        policy.fault = None
        assert WebsocketClientPolicy(server.url).infer(as_message(observations[0]))


def test_the_verb_serves_until_sigterm(folder, observations, as_message):
    words = [sys.executable, "-m", "qsft_robot.cli", "serve", str(folder), "--port", "0"]
    environment = {**os.environ, "QSFT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    with ending(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if "RemotePolicy(" in line:
                break
        url = next(line.split()[2] for line in said if line.startswith("listening on"))
        assert f'RemotePolicy("{url}", token=token)' in said[-1]
        assert TOKEN not in "".join(said)
        client = WebsocketClientPolicy(url, api_key=TOKEN)
        assert client.infer(as_message(observations[0]))["actions"].shape == (2, 4)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=120)[0].splitlines()[-1] == "stopped"
        assert process.returncode == 0


def closed_within(stream: socket.socket, seconds: float) -> bool:
    stream.settimeout(seconds)
    try:
        while stream.recv(4096):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_half_a_handshake_and_half_a_message_are_given_up(policy, observations, as_message):
    limits = {"open_timeout_s": 0.3, "message_timeout_s": 0.3, "ping_s": 0.5}
    with serving(policy, ServerConfig(port=0, max_batch=1, **limits)) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        half = socket.create_connection(address)
        half.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert closed_within(half, 10)
        with connect(server.url, compression=None) as client:
            client.recv()
            # The first part of a message, and a client that lives on and answers pings.
            client.socket.sendall(bytes([0x02, 0x81, 0, 0, 0, 0, 0x81]))
            assert closed_within_library(client)
        with connect(server.url, compression=None) as client:
            client.recv()
            # Half a frame: the server's ping can't be answered in the middle of it.
            client.socket.sendall(bytes([0x82, 0xFE, 0x04, 0x00, 0, 0, 0, 0, 0x81]))
            assert closed_within_library(client)
        assert WebsocketClientPolicy(server.url).infer(as_message(observations[0]))


def closed_within_library(client) -> bool:
    with pytest.raises(ConnectionClosed):
        client.recv(timeout=15)
    return True


def test_one_that_never_reads_is_cut_off(server):
    """Pings ask for answers: whoever sends them without reading would fill the server's memory."""
    stream = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    head = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    stream.sendall(f"{head}{key}\r\n".encode())
    ping = bytes([0x89, 0x80 | 125, 0, 0, 0, 0]) + bytes(125)
    stream.settimeout(30)

    def flood() -> None:
        for _ in range(10_000):
            stream.sendall(1000 * ping)

    with pytest.raises(ConnectionError):
        flood()
    while server.metrics.connections:
        time.sleep(0.01)
