"""A policy that runs on a server: observations go over a websocket, action chunks come back."""

from __future__ import annotations

import socket
import ssl
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.server.requests import BAD_REQUEST, BUSY, NOTES, REQUEST_ID, request_message
from qsft_robot.server.secrecy import check_token, on_this_machine
from qsft_robot.server.wire import WireError, pack, unpack
from qsft_robot.types import Observation, PolicyChanged

# Bytes of one answer or of the metadata; the actions of a chunk are a few KiB.
MAX_ANSWER = 16 << 20
MAX_TIMEOUT_S = 3600.0
MAX_NOTES = 8  # of one answer
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
# A message that fits into the sockets' buffers is sent without waiting for the other side.
SURELY_BUFFERED = 16 << 10


class PolicyUnavailable(ConnectionError):
    """No answer came in time, or the connection is down; the next call tries again."""


class RemotePolicy:
    """A `Policy` behind the address that `qsft-robot serve` printed; for one thread at a time.

    `infer` returns within `timeout_s` or raises PolicyUnavailable: the connection is then given
    up, so that its late answer can't be taken for the answer of a newer observation, and made
    again in the background, with growing pauses, while `infer` is called. An episode goes on
    after that with the same seed and an empty history.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 1.0,
        connect_timeout_s: float = 10.0,
        ca_file: Path | None = None,
        token_in_clear: bool = False,
    ) -> None:
        """Connect and read the metadata, waiting for the server for up to `connect_timeout_s`.

        `ca_file`: PEM certificate that signed the server's, for wss:// with one's own. A token is
        sent over ws:// to this machine alone, unless `token_in_clear`. Raises PolicyUnavailable
        when there is no server, ValueError when the url is none or the token would be seen.
        """
        if not url.startswith(("ws://", "wss://")):
            raise ValueError(f"{url!r} is no address of a policy server, such as ws://host:8000")
        try:
            named = urlsplit(url).username is not None
        except ValueError as error:
            raise ValueError(f"{url!r} is no address of a policy server ({error})") from None
        if named:
            raise ValueError(
                f"{url.partition('://')[0]}://{url.rpartition('@')[2]}: leave name and password "
                "out of the address; the server asks for a token (QSFT_TOKEN, --token-file)"
            )
        for name, seconds in (
            ("--policy-timeout (timeout_s)", timeout_s),
            ("connect_timeout_s", connect_timeout_s),
        ):
            if not 0 < seconds <= MAX_TIMEOUT_S:
                raise ValueError(
                    f"{name} {seconds}: give seconds above 0, at most {MAX_TIMEOUT_S:g}"
                )
        self._here = on_this_machine(url)
        if not token_in_clear:
            check_token(
                url,
                token,
                url,
                "serve with --certificate and --key and connect to wss://, or give "
                "--token-in-clear where the network is yours alone.",
            )
        self.url = url
        self.timeout_s = timeout_s
        self._headers = {} if token is None else {"Authorization": f"Api-Key {token}"}
        self._connect_timeout_s = connect_timeout_s
        self._tls = None if ca_file is None else _trusting(url, ca_file)
        # Joined by nobody: a call under way ends by its own time limit.
        self._background = ThreadPoolExecutor(1, thread_name_prefix="reconnect")
        self._pending: Future[ClientConnection] | None = None
        self._retry_at, self._pause_s = 0.0, FIRST_PAUSE_S
        self._closed = False
        self._description: PolicyDescription | None = None
        self._told: dict[str, Any] = {}  # the same, as it came
        self._spec: PolicySpec | None = None
        self._seed = 0
        self._begins = True
        # Whether another policy answers than the one that began the episode.
        self._changed = False
        self._request_id = 0
        self.last_value: float | None = None
        self.last_timing_ms: dict[str, float] = {}
        self._connection: ClientConnection | None = self._connect_first()

    @property
    def description(self) -> PolicyDescription:
        """The description that the server sends, another one after it took another policy."""
        assert self._description is not None
        return self._description

    @property
    def spec(self) -> PolicySpec:
        """Cameras, state keys, actions and rate of the policy."""
        assert self._spec is not None
        return self._spec

    def reset(self, seed: int = 0) -> None:
        """Begin an episode with the next observation; nothing is sent yet."""
        self._seed, self._begins, self._changed = seed, True, False

    def infer(self, observation: Observation) -> np.ndarray:
        """The action chunk, float32 [h, d], in the robot's own action units.

        PolicyUnavailable when it did not come within `timeout_s`; ValueError when the server, or
        this client, finds the observation wrong.
        """
        deadline = time.monotonic() + self.timeout_s
        if self._closed:
            raise PolicyUnavailable(f"{self.url}: this client was closed")
        connection = self._connected(deadline)
        if self._changed:
            raise PolicyChanged(
                f"{self.url}: the server came back with another policy, so this episode can't go "
                "on; reset() takes the new one"
            )
        self._request_id += 1
        seed = self._seed if self._begins else None
        frame = pack(request_message(observation, self.spec, seed, self._request_id))
        try:
            reply = self._exchange(connection, frame, deadline)
        except (TimeoutError, OSError, WebSocketException) as error:
            self._drop()
            raise PolicyUnavailable(f"{self.url}: {self._why(error)}") from None
        if isinstance(reply, str):
            if reply.startswith(BAD_REQUEST):
                raise ValueError(f"{self.url}: {reply}")
            if not reply.startswith(BUSY):
                self._drop()  # as the server does: this episode can't go on
            raise PolicyUnavailable(f"{self.url}: {reply[:1000]}")
        try:
            actions = self._actions(reply)
        except ValueError as error:
            self._drop()
            raise PolicyUnavailable(f"{self.url}: {error}") from None
        self._begins = False
        return actions

    def close(self) -> None:
        """Close the connection; later calls raise PolicyUnavailable."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, WebSocketException):
                connection.close()
        if self._pending is not None:
            self._pending.add_done_callback(_close_result)
        self._background.shutdown(wait=False)

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _exchange(self, connection: ClientConnection, frame: bytes, deadline: float) -> bytes | str:
        timer = None
        if len(frame) > SURELY_BUFFERED:
            # Sending has no time limit of its own: a server that stopped reading would hold it.
            timer = Timer(max(0.0, deadline - time.monotonic()), _abort, [connection])
            timer.daemon = True
            timer.start()
        try:
            connection.send(frame)
            return connection.recv(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            if timer is not None:
                timer.cancel()

    def _actions(self, reply: bytes) -> np.ndarray:
        """The actions of an answer to the newest request; ValueError for anything else."""
        message = unpack(reply)
        if not isinstance(message, dict) or message.get(REQUEST_ID) != self._request_id:
            raise ValueError("the server sent something else than the answer to this request")
        actions = message.get("actions")
        shape = (self.spec.horizon, self.spec.action_dim)
        if (
            not isinstance(actions, np.ndarray)
            or actions.shape != shape
            or actions.dtype != np.float32
            or not np.isfinite(actions).all()
        ):
            raise ValueError(f"the server's actions are not finite float32 of shape {shape}")
        value, timing = message.get("value"), message.get("server_timing")
        self.last_value = float(value) if isinstance(value, int | float) else None
        self.last_timing_ms = dict(timing) if isinstance(timing, dict) else {}
        self._tell(message.get(NOTES))
        return actions.copy()

    def _tell(self, notes: object) -> None:
        """Warn of what the server finds odd about a request."""
        if isinstance(notes, list):
            for note in notes[:MAX_NOTES]:
                words = " ".join(str(note)[:300].split())
                warnings.warn(f"{self.url}: {words}", stacklevel=4)

    def _connected(self, deadline: float) -> ClientConnection:
        """The connection; a lost one is made again on a thread that outlives this call."""
        if self._connection is not None:
            if self._connection.protocol.state is State.OPEN:
                return self._connection
            self._drop()
        if self._pending is None:
            if time.monotonic() < self._retry_at:
                raise PolicyUnavailable(f"{self.url}: not connected; trying again in a moment")
            self._pending = self._background.submit(self._connect, self._connect_timeout_s)
        try:
            self._connection = self._pending.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise PolicyUnavailable(f"{self.url}: still connecting") from None
        except PolicyUnavailable:
            self._pending = None
            self._retry_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            raise
        self._pending, self._pause_s = None, FIRST_PAUSE_S
        self._begins = True
        return self._connection

    def _connect_first(self) -> ClientConnection:
        """Try until the server is there or the time is over."""
        deadline = time.monotonic() + self._connect_timeout_s
        while True:
            try:
                return self._connect(max(0.1, deadline - time.monotonic()))
            except PolicyUnavailable as error:
                refused = isinstance(error.__cause__, ConnectionRefusedError)
                if not refused or time.monotonic() + FIRST_PAUSE_S > deadline:
                    raise
                time.sleep(FIRST_PAUSE_S)

    def _connect(self, timeout_s: float) -> ClientConnection:
        """A connection whose metadata were read and are those of the same policy interface."""
        deadline = time.monotonic() + timeout_s
        try:
            # Entered, as websockets wants it from 17.1; `close` or `_abort` is the way out.
            connection = ExitStack().enter_context(
                connect(
                    self.url,
                    ssl=self._tls,
                    additional_headers=self._headers,
                    compression=None,
                    max_size=MAX_ANSWER,
                    open_timeout=timeout_s,
                    close_timeout=1,
                    # A proxy of the environment is for other machines.
                    proxy=None if self._here else True,
                )
            )
        except (OSError, WebSocketException, ValueError) as error:
            raise PolicyUnavailable(f"{self.url}: {self._why(error)}") from error
        try:
            self._meet(connection.recv(timeout=max(0.0, deadline - time.monotonic())))
        except (OSError, WebSocketException, ValueError, KeyError, TypeError) as error:
            _abort(connection)
            raise PolicyUnavailable(f"{self.url}: {self._why(error)}") from error
        return connection

    def _meet(self, first: bytes | str) -> None:
        """Read the metadata frame."""
        message = None if isinstance(first, str) else unpack(first)
        if not isinstance(message, dict) or not isinstance(message.get("description"), dict):
            raise ValueError("this is no server of qsft-robot: its first frame names no policy")
        told = message["description"]
        description = PolicyDescription.from_json(told, "the server's policy", served=True)
        spec = PolicySpec.of(description)
        if self._spec is not None and not _same_interface(spec, self._spec):
            raise ValueError(
                "another policy answers now, with other cameras, state keys or actions; make a "
                "new RemotePolicy for it"
            )
        if told == self._told:
            return
        self._changed = self._description is not None
        self._description, self._spec, self._told = description, spec, told

    def _drop(self) -> None:
        """Give the connection up at once; its answers can't come any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _abort(connection)

    def _why(self, error: BaseException) -> str:
        if isinstance(error, WireError):
            return f"the server sent garbage ({error})"
        if isinstance(error, TimeoutError):
            return f"no answer in time ({error or self.timeout_s})"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{error}; for a certificate of one's own: --ca-file (ca_file)"
        return str(error) or type(error).__name__


def _trusting(url: str, ca_file: Path) -> ssl.SSLContext:
    """TLS that trusts this certificate alone; ValueError when it is none or has no use."""
    if not url.startswith("wss://"):
        raise ValueError(f"--ca-file {ca_file}: {url} does not speak TLS; give wss://...")
    if not ca_file.is_file():
        raise FileNotFoundError(f"--ca-file {ca_file}: no such file")
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except ssl.SSLError as error:
        raise ValueError(f"--ca-file {ca_file}: no PEM certificate ({error})") from None


def _abort(connection: ClientConnection) -> None:
    """Shut the socket without a closing handshake, which a hung server would not answer."""
    with suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


def _close_result(pending: Future[ClientConnection]) -> None:
    if pending.exception() is None:
        _abort(pending.result())


def _same_interface(a: PolicySpec, b: PolicySpec) -> bool:
    return (
        (a.cameras, a.state, a.horizon, a.action_dim, a.control_hz)
        == (b.cameras, b.state, b.horizon, b.action_dim, b.control_hz)
        and np.array_equal(a.action_low, b.action_low)
        and np.array_equal(a.action_high, b.action_high)
    )
