"""A language model behind an OpenAI-compatible address: an answer, or a line that says why not."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from qsft_robot.printed_text import one_line
from qsft_robot.server.secrecy import check_token

# Bytes of an answer that are read: more is no answer to a question of a few hundred words.
_LARGEST = 1 << 20
# Seconds before a server that is busy (429) or failing (5xx) is asked again.
_PAUSES = (0.5, 2.0, 5.0)


class Address:
    """Asks one address; for many threads at a time."""

    def __init__(
        self,
        url: str,
        model: str,
        token: str | None = None,
        timeout_s: float = 60.0,
        pauses: Sequence[float] = _PAUSES,
    ) -> None:
        """ValueError where the url is none, or the token would cross the network in clear text."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ValueError(
                f"--prompt.url {url!r} is no address, such as http://127.0.0.1:8000/v1."
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "--prompt.url is an address alone: a token goes into a file, --prompt.token-file."
            )
        check_token(url, token, f"--prompt.url {url}", "use https, or a server on this machine.")
        self.url, self.model, self.timeout_s = url, model, timeout_s
        self._parts, self._port, self._pauses = parts, port, tuple(pauses)
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(
        self, messages: Sequence[Mapping[str, str]], tokens: int, temperature: float, seed: int
    ) -> str:
        """The text of one answer. TimeoutError, ConnectionError and ValueError name the address and
        what it did; one that is busy or fails is asked again a few times."""
        body = json.dumps(
            {
                "model": self.model,
                "messages": list(messages),
                "max_tokens": tokens,
                "temperature": temperature,
                "seed": seed,
            }
        ).encode()
        for pause in (*self._pauses, None):
            status, reason, said = self._exchange(body)
            if status == 200:
                return self._text_of(said)
            if pause is None or not (status == 429 or status >= 500):
                break
            time.sleep(pause)
        more = ""
        if status in (401, 403):
            more = " Give its token: --prompt.token-file."
        elif status == 404:
            more = " The address ends before /chat/completions, mostly in /v1."
        elif 300 <= status < 400:
            more = " It sends elsewhere, where nothing is sent: name that address."
        told = f": {_short(said)}" if said else ""
        raise ConnectionError(f"{self.url}: answered {status} {reason}{told}.{more}")

    def _exchange(self, body: bytes) -> tuple[int, str, bytes]:
        host, parts = self._parts.hostname or "", self._parts
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, self._port, timeout=self.timeout_s, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(host, self._port, timeout=self.timeout_s)
        path = f"{parts.path.rstrip('/')}/chat/completions"
        deadline = time.monotonic() + self.timeout_s
        try:
            connection.request("POST", path, body, self._headers)
            response = connection.getresponse()
            said = bytearray()
            while chunk := response.read1(1 << 16):
                said += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(said) > _LARGEST:
                    raise ValueError(f"{self.url}: an answer of more than {_LARGEST >> 20} MiB.")
            return response.status, one_line(response.reason), bytes(said)
        except TimeoutError:
            raise TimeoutError(
                f"{self.url}: no answer within {self.timeout_s:g} s (--prompt.timeout-s)."
            ) from None
        except (http.client.HTTPException, socket.gaierror, OSError) as error:
            said_so = one_line(error) or type(error).__name__
            raise ConnectionError(
                f"{self.url}: no answer ({said_so}). Is the server running, and --prompt.url its "
                "address?"
            ) from error
        finally:
            connection.close()

    def _text_of(self, said: bytes) -> str:
        try:
            answer: Any = json.loads(said)
            text = answer["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise ValueError(
                f"{self.url}: no answer of a chat (choices[0].message.content), but: "
                f"{_short(said) or 'nothing'}"
            )
        return text


def _short(said: bytes) -> str:
    return one_line(said[:160].decode(errors="replace"))
