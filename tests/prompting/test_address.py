"""An address is asked as OpenAI's protocol has it; what else happens is one line that names it."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qsft_robot.prompting.address import Address

ASKED = [{"role": "user", "content": "act:"}]


def chat(text) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Server:
    """A loopback server that gives its answers in turn, the last one for ever."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []
        self.stop = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.seen.append((self.path, dict(self.headers), json.loads(body)))
                answers = server.answers
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if answer is None:
                    server.stop.wait(10)
                    return
                status, said = answer if isinstance(answer, tuple) else (200, answer)
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", said.decode())
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.stop.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve():
    servers = []

    def start(*answers):
        servers.append(Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ask(url, **settings):
    return Address(url, "small", pauses=(0.0, 0.0), **settings).ask(ASKED, 7, 0.5, 3)


def test_an_answer_comes_back_and_the_question_says_all(serve):
    server = serve(chat("act: r a i s e"))
    assert ask(server.url + "/", token="secret") == "act: r a i s e"
    ((path, headers, body),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {
        "model": "small",
        "messages": ASKED,
        "max_tokens": 7,
        "temperature": 0.5,
        "seed": 3,
    }


def test_a_server_that_is_busy_is_asked_again_and_not_for_ever(serve):
    server = serve((503, b"loading"), (429, b"slow down"), chat("done"))
    assert ask(server.url) == "done"
    with pytest.raises(ConnectionError, match=r"v1: answered 503 .*: still loading"):
        ask(serve((503, b"still\nloading")).url)


GARBAGE = {
    "nothing": b"",
    "a page": b"<html>\nhello</html>",
    "no UTF-8": b"\xff\xfe\x00",
    "no choices": b'{"error": "so"}',
    "an empty list": b'{"choices": []}',
    "no text": chat(None),
    "a list": chat(["act"]),
    "nested": b"[" * 100_000,
    "escapes": b"\x1b[2J{",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_named_in_one_printable_line(serve, name):
    server = serve(GARBAGE[name])
    with pytest.raises(ValueError, match="no answer of a chat") as caught:
        ask(server.url)
    line = str(caught.value)
    assert line.startswith(server.url)
    assert line.isprintable()
    assert len(line) < 600


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, b"who are you"), "answered 401 Unauthorized: who are you. Give its token"),
        ((404, b""), "answered 404 Not Found. The address ends before /chat/completions"),
        ((200, b"x" * ((1 << 20) + 1)), "an answer of more than 1 MiB"),
        (None, r"no answer within 0.3 s \(--prompt.timeout-s\)"),
    ],
)
def test_what_a_server_refuses_is_said(serve, answer, words):
    server = serve(answer)
    with pytest.raises((ValueError, OSError), match=words) as caught:
        ask(server.url, timeout_s=0.3 if answer is None else 5.0)
    assert str(caught.value).startswith(server.url)
    assert len(server.seen) == 1


def test_a_token_follows_no_redirect(serve):
    other = serve(chat("mine now"))
    server = serve((307, f"{other.url}/chat/completions".encode()))
    with pytest.raises(ConnectionError, match=r"answered 307 .* name that address"):
        ask(server.url, token="secret")
    assert not other.seen


def test_nobody_at_an_address_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ConnectionError, match=r"no answer \(.*refused.*Is the server running"):
            ask(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8000", "is no address"),
        ("ftp://127.0.0.1/v1", "is no address"),
        ("http://", "is no address"),
        ("http://127.0.0.1:port/v1", "is no address"),
        ("http://me:secret@127.0.0.1/v1", "a token goes into a file"),
        ("http://192.0.2.1/v1", "the token would cross the network in clear text"),
        ("http://localhost.example/v1", "the token would cross the network in clear text"),
    ],
)
def test_an_address_that_is_none_or_would_show_the_token_is_refused(url, words):
    with pytest.raises(ValueError, match=words):
        Address(url, "small", token="secret")
    for here in ("http://127.0.0.1:1/v1", "http://[::1]:1/v1", "http://localhost:1/v1"):
        Address(here, "small", token="secret")
    Address("https://192.0.2.1/v1", "small", token="secret")
