"""A token goes to this machine, through TLS, or in clear text where that was asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qsft_robot.cli import main
from qsft_robot.server.config import ServerConfig, bind
from qsft_robot.server.remote_policy import PolicyUnavailable, RemotePolicy
from qsft_robot.server.running import serving
from qsft_robot.server.secrecy import check_token
from qsft_robot.verbs.serve import read_token

TOKEN = "correct-horse-battery-staple"
# Addresses that are reserved for documentation: nothing is there, and nothing is sent.
ELSEWHERE = ["192.0.2.7", "[2001:db8::7]", "robot.example", "localhost.robot.example"]


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_token_is_not_sent_in_clear_text(host, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "qsft_robot.server.remote_policy.connect", lambda url, **options: tried.append(url)
    )
    with pytest.raises(ValueError, match=r"clear text.*wss://.*--token-in-clear"):
        RemotePolicy(f"ws://{host}:8000", token=TOKEN)
    assert not tried


@pytest.mark.parametrize("url", ["ws://me:word@192.0.2.7:8000", "wss://me@192.0.2.7", "ws://[x"])
def test_an_address_holds_neither_name_nor_password(url, monkeypatch):
    monkeypatch.setattr("qsft_robot.server.remote_policy.connect", lambda url, **options: 1 / 0)
    with pytest.raises(ValueError, match="address") as caught:
        RemotePolicy(url)
    assert "word@" not in str(caught.value)
    if "word" in url:
        with pytest.raises(ValueError, match="clear text"):
            check_token(url, None, "here", "use TLS.")


@pytest.mark.parametrize("data", [b"a\nb", b"caf\xc3\xa9", b"\xff\xfe", b"\x1b[0m", b" \n"])
def test_a_token_that_is_none_is_named_with_its_file(data, tmp_path):
    path = tmp_path / "token"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"--token-file {path} holds no token"):
        read_token(path)
    path.write_bytes(TOKEN.encode() + b"\r\n")
    assert read_token(path) == TOKEN


@pytest.mark.parametrize("host", ELSEWHERE)
def test_nor_does_an_evaluation_in_a_harness_send_it(host, monkeypatch):
    from qsft_robot.harness import deciders
    from qsft_robot.harness.key_map import KeyMap

    tried = []
    monkeypatch.setattr(deciders, "connect", lambda url, **options: tried.append(url))
    with pytest.raises(ValueError, match=r"clear text.*wss://"):
        deciders.OpenpiDecider(f"ws://{host}:8000", KeyMap(), TOKEN)
    assert not tried


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ws://192.0.2.7:8000", {"token": TOKEN, "token_in_clear": True}),
        ("ws://192.0.2.7:8000", {}),
        ("wss://192.0.2.7:8000", {"token": TOKEN}),
        ("ws://127.0.0.1:8000", {"token": TOKEN}),
        ("ws://[::1]:8000", {"token": TOKEN}),
        ("ws://localhost:8000", {"token": TOKEN}),
    ],
)
def test_else_it_connects(url, options, monkeypatch):
    def connect(address, **found):
        assert (address, "Authorization" in found["additional_headers"]) == (
            url,
            "token" in options,
        )
        # A proxy of the environment would be another machine.
        assert (found["proxy"] is None) == ("192" not in url)
        raise OSError("connected")

    monkeypatch.setattr("qsft_robot.server.remote_policy.connect", connect)
    with pytest.raises(PolicyUnavailable, match="connected"):
        RemotePolicy(url, **options)


def test_off_loopback_the_server_asks_for_tls_too():
    with pytest.raises(ValueError, match="--certificate and --key, or --token-in-clear"):
        bind(ServerConfig(host="0.0.0.0", port=0, token=TOKEN))
    bind(ServerConfig(host="0.0.0.0", port=0, token=TOKEN, token_in_clear=True)).close()


def test_the_verb_run_trusts_the_certificate_that_it_is_given(policy, tmp_path, capsys):
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    try:
        subprocess.run(
            [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out",
             certificate], check=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no openssl command to make a certificate with")
    config = ServerConfig(port=0, max_batch=1, certificate=certificate, key=key)
    with serving(policy, config) as server:
        run = ["run", server.url, "--out", str(tmp_path / "out"), "--policy-timeout", "60"]

        def answer(*others: str | Path) -> str:
            assert main([*run, *map(str, others)]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            return said

        assert "--ca-file" in answer()
        # Let in, it gets as far as the robot's own flags.
        assert "needs --robot-from" in answer("--ca-file", certificate, "--robot", "own")
        assert "no such file" in answer("--ca-file", tmp_path / "none.pem")
        assert "no PEM certificate" in answer("--ca-file", key)
    run = ["run", "ws://127.0.0.1:1", "--out", str(tmp_path / "out")]
    assert "does not speak TLS" in answer("--ca-file", certificate)
