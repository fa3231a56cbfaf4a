"""The server with openpi's own client: the same actions as at home, and clear words otherwise."""

from __future__ import annotations

import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from qsft_robot.server.config import ServerConfig
from qsft_robot.server.running import serving
from qsft_robot.server.wire import pack, unpack


def client_of(server, **options) -> WebsocketClientPolicy:
    host, _, port = server.url.removeprefix("ws://").rpartition(":")
    return WebsocketClientPolicy(host, int(port), **options)


def page(server, path: str, **headers) -> tuple[int, str]:
    request = urllib.request.Request(f"http{server.url[2:]}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_until(true) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def drive(as_message):
    """An episode's actions through a client of openpi's."""

    def run(client, observations, seed: int) -> np.ndarray:
        found = []
        for i, observation in enumerate(observations):
            begin = {"reset": True, "seed": seed} if i == 0 else {}
            found.append(client.infer(as_message(observation, **begin))["actions"])
        return np.stack(found)

    return run


def test_openpis_client_gets_the_local_policys_actions(server, observations, play, drive):
    client = client_of(server)
    assert client.get_server_metadata()["action_horizon"] == 2
    for seed in (3, 4, 3):  # the third episode is the first again
        found = drive(client, observations, seed)
        assert found.dtype == np.float32
        assert np.array_equal(found, play(observations, seed))


def test_an_answer_has_its_value_and_its_milliseconds(server, observations, as_message):
    client = client_of(server)
    answers = [client.infer(as_message(observations[0])) for _ in range(2)]
    assert 0 <= answers[0]["value"] <= 1
    timing = answers[1]["server_timing"]
    assert set(timing) == {"infer_ms", "queue_ms", "total_ms", "prev_total_ms"}
    assert timing["total_ms"] >= timing["infer_ms"] > 0


def test_a_connection_is_an_episode_of_its_own(server, observations, play, as_message):
    first, second = client_of(server), client_of(server)
    expected = play(observations, 0)
    for i, observation in enumerate(observations):
        assert np.array_equal(first.infer(as_message(observation))["actions"], expected[i])
        if i % 2 == 0:
            answer = second.infer(as_message(observations[i // 2]))["actions"]
            assert np.array_equal(answer, expected[i // 2])


def test_clients_that_wait_together_are_decided_together_as_each_alone(
    server, policy, observations, play, drive
):
    policy.gate.clear()
    clients = [client_of(server) for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        driven = [threads.submit(drive, c, observations, i) for i, c in enumerate(clients)]
        wait_until(lambda: sum(policy.batches) + server.metrics.waiting == 6)
        policy.gate.set()
        for i, each in enumerate(driven):
            np.testing.assert_allclose(each.result(), play(observations, i), atol=1e-6)
    assert 1 < max(policy.batches) <= 4
    assert sum(policy.batches) == 6 * len(observations)


def test_a_window_waits_for_every_client_and_no_longer(policy, observations, drive):
    with serving(policy, ServerConfig(port=0, max_batch=8, window_ms=1000)) as server:
        clients = [client_of(server) for _ in range(3)]
        policy.batches = []
        began = time.monotonic()
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda c: drive(c, observations, 0), clients))
        # Whoever has all it can get does not wait; had it, 12 batches would take 12 s.
        assert policy.batches == [3] * len(observations)
        assert time.monotonic() - began < 6


def test_a_bad_observation_is_answered_and_the_episode_goes_on_as_it_was(
    server, policy, observations, play, as_message
):
    client = client_of(server)
    expected = play(observations, 2)
    found = []
    for i, observation in enumerate(observations):
        begin = {"reset": True, "seed": 2} if i == 0 else {}
        calls = policy.calls
        wrong = as_message(observation, reset=True, seed=9, proprio=np.zeros(3))
        with pytest.raises(RuntimeError, match="bad request: 'proprio' is float64") as raised:
            client.infer(wrong)
        assert "Traceback" not in str(raised.value)
        assert policy.calls == calls
        found.append(client.infer(as_message(observation, **begin))["actions"])
    assert np.array_equal(np.stack(found), expected)


def test_a_message_beyond_the_limit_closes_the_connection(server, policy, observations):
    with connect(server.url, compression=None) as raw:
        raw.recv()
        raw.send(bytes(1 << 20))
        with pytest.raises(ConnectionClosed) as closed:
            raw.recv(timeout=10)
        assert closed.value.rcvd.code == 1009
    assert policy.calls == 0


def test_clients_that_come_during_the_warm_up_wait_for_it(policy, observations, as_message):
    policy.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        config = ServerConfig(port=0, max_batch=2)
        running = serving(policy, config, wait=False)
        with running as server:
            assert page(server, "/healthz") == (503, "warming up\n")
            assert "qsft_ready 0" in page(server, "/metrics")[1]
            coming = threads.submit(client_of, server)
            time.sleep(0.1)
            assert not coming.done()
            policy.gate.set()
            client = coming.result(timeout=20)
            assert page(server, "/healthz") == (200, "OK\n")
            assert client.infer(as_message(observations[0]))["actions"].shape == (2, 4)
    # A few decisions at each batch size came first.
    assert policy.batches[:-1] == [1] * 3 + [2] * 3


def test_metrics_are_prometheus_text_and_count(server, observations, as_message):
    client = client_of(server)
    for observation in observations[:3]:
        client.infer(as_message(observation))
    with pytest.raises(RuntimeError):
        client.infer({})
    status, text = page(server, "/metrics")
    assert status == 200
    for line in text.splitlines():
        assert re.fullmatch(
            r"# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z]+=\"[^\"]*\"\})? [0-9.e+-]+", line
        ), line
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert samples['qsft_requests_total{outcome="answered"}'] == "3"
    assert samples['qsft_requests_total{outcome="bad_request"}'] == "1"
    assert samples["qsft_connections"] == "1"
    assert samples["qsft_inference_seconds_count"] == "3"
    assert samples['qsft_batch_size_bucket{le="1"}'] == "3"
    assert samples['qsft_request_seconds_bucket{le="+Inf"}'] == "4"
    assert float(samples["process_resident_memory_bytes"]) > 1e6


def test_a_policy_that_raises_costs_its_episode_and_shows_no_code(
    server, policy, observations, caplog, as_message
):
    client, other = client_of(server), client_of(server)
    policy.fault = KeyError("a secret")
    with pytest.raises(RuntimeError, match="policy failed: KeyError; the server's log") as raised:
        client.infer(as_message(observations[0]))
    assert "secret" not in str(raised.value)
    assert "Traceback" not in str(raised.value)
    assert "a secret" in caplog.text
    policy.fault = None
    with pytest.raises(ConnectionClosed):
        client.infer(as_message(observations[0]))
    assert other.infer(as_message(observations[0]))["actions"].shape == (2, 4)


def test_an_action_that_is_no_number_never_reaches_a_robot(
    server, policy, loaded, observations, as_message
):
    def broken(seen, memories):
        found = loaded.infer_batch(seen, memories)
        found[0].actions[0, 0] = np.nan
        return found

    policy.infer_batch = broken
    with pytest.raises(RuntimeError, match="policy failed: it gave an action that is NaN"):
        client_of(server).infer(as_message(observations[0]))


def test_more_waiting_requests_than_allowed_are_refused_as_busy(policy, observations, as_message):
    config = ServerConfig(port=0, max_batch=1, max_waiting=1)
    with serving(policy, config) as server, ThreadPoolExecutor(2) as threads:
        clients = [client_of(server) for _ in range(3)]
        policy.gate.clear()
        policy.batches = []
        under_way = threads.submit(clients[0].infer, as_message(observations[0]))
        wait_until(lambda: policy.batches)
        waiting = threads.submit(clients[1].infer, as_message(observations[0]))
        wait_until(lambda: server.metrics.waiting == 1)
        with pytest.raises(RuntimeError, match="busy: 1 requests wait already"):
            clients[2].infer(as_message(observations[0]))
        policy.gate.set()
        assert under_way.result()["actions"].shape == waiting.result()["actions"].shape
        assert clients[2].infer(as_message(observations[0]))["actions"].shape == (2, 4)


def test_more_clients_than_allowed_are_refused(policy):
    with serving(policy, ServerConfig(port=0, max_batch=1, max_connections=2)) as server:
        clients = [client_of(server) for _ in range(2)]
        with pytest.raises(Exception, match="HTTP 503"):
            client_of(server)
        clients[0]._ws.close()
        wait_until(lambda: server.metrics.connections < 2)
        client_of(server)


def test_the_request_of_a_client_that_has_gone_is_not_decided(
    server, policy, observations, as_message
):
    policy.gate.clear()
    clients = [client_of(server) for _ in range(2)]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(clients[0].infer, as_message(observations[0]))
        wait_until(lambda: policy.batches)
        with connect(server.url, compression=None) as leaving:
            leaving.recv()
            leaving.send(pack(as_message(observations[1])))
            wait_until(lambda: server.metrics.waiting == 1)
        policy.gate.set()
        first.result()
    clients[1].infer(as_message(observations[0]))
    assert policy.batches == [1, 1]
    assert server.metrics.requests["abandoned"] == 1


def test_an_orderly_stop_answers_the_running_batch_and_closes_with_1001(
    policy, observations, as_message
):
    with ThreadPoolExecutor(1) as threads, serving(policy, ServerConfig(port=0)) as server:
        idle = ExitStack().enter_context(connect(server.url, compression=None))
        idle.recv()
        client = client_of(server)
        warm = len(policy.batches)
        policy.gate.clear()
        under_way = threads.submit(client.infer, as_message(observations[0]))
        wait_until(lambda: len(policy.batches) > warm)
        threading.Timer(0.2, policy.gate.set).start()
    assert under_way.result()["actions"].shape == (2, 4)
    with pytest.raises(ConnectionClosed) as closed:
        idle.recv(timeout=10)
    assert closed.value.rcvd.code == 1001


def test_tls_with_ones_own_certificate(policy, observations, tmp_path):
    from qsft_robot.server.remote_policy import RemotePolicy

    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    files = f"-keyout {tmp_path / 'key.pem'} -out {tmp_path / 'certificate.pem'}"
    names = "-addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run(["openssl", *f"{words} {files} {names}".split()], check=True)
    except FileNotFoundError:
        pytest.skip("no openssl command to make a certificate with")
    pair = {"certificate": tmp_path / "certificate.pem", "key": tmp_path / "key.pem"}
    with serving(policy, ServerConfig(port=0, open_timeout_s=30, **pair)) as server:
        assert server.url.startswith("wss://127.0.0.1:")
        with RemotePolicy(server.url, ca_file=pair["certificate"], timeout_s=20) as remote:
            assert remote.infer(observations[0]).shape == (2, 4)
        with pytest.raises(ConnectionError, match="certificate verify failed"):
            RemotePolicy(server.url, connect_timeout_s=30)
    with pytest.raises(ValueError, match="go together"):
        ServerConfig(certificate=pair["certificate"])
    bad = ServerConfig(port=0, certificate=pair["key"], key=pair["key"])
    with pytest.raises(ValueError, match="no PEM certificate"), serving(policy, bad):
        pass


def test_unpack_reads_the_first_frame(server):
    with connect(server.url, compression=None) as raw:
        assert unpack(raw.recv())["description"]["state_keys"] == ["proprio"]


def test_a_request_that_can_not_be_decided_costs_no_other_episode(
    server, policy, observations, play, as_message
):
    decided = policy.infer_batch

    def choosy(seen, memories):
        policy.batches.append(len(seen))
        assert policy.gate.wait(30)
        if any("very long" in o.instruction for o in seen):
            raise ValueError("the instruction has too many words")
        return decided(seen, memories)

    policy.infer_batch = choosy
    policy.gate.clear()
    clients = [client_of(server) for _ in range(4)]
    messages = [as_message(observations[0], reset=True, seed=i) for i in range(4)]
    messages[2]["prompt"] = "a very long story"
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(c.infer, m) for c, m in zip(clients, messages, strict=True)]
        wait_until(lambda: sum(policy.batches) + server.metrics.waiting == 4)
        policy.gate.set()
        for i, answer in enumerate(answers):
            if i == 2:
                with pytest.raises(RuntimeError, match="policy failed: ValueError"):
                    answer.result()
            else:
                np.testing.assert_allclose(
                    answer.result()["actions"], play(observations[:1], i)[0], atol=1e-6
                )
