"""The policy server: openpi's websocket protocol, one episode a connection, batched inference."""

from __future__ import annotations

import asyncio
import http
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HandshakeRequest
from websockets.http11 import Response
from websockets.protocol import State

from qsft_robot.policy.description import LoadedPolicy
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.server.batching import Abandoned, Busy, DecisionBatches, PolicyFailed, Session
from qsft_robot.server.config import ServerConfig, bind, lets_in, tls_context
from qsft_robot.server.connection import POLICY_VIOLATION, bounded_connection
from qsft_robot.server.door import Door, reserve_files
from qsft_robot.server.metrics import CONTENT_TYPE, ServerMetrics
from qsft_robot.server.notes import ClientNotes
from qsft_robot.server.requests import (
    BAD_REQUEST,
    BUSY,
    FAILED,
    answer_message,
    message_limit,
    metadata_of,
    read_request,
)
from qsft_robot.server.secrecy import is_loopback
from qsft_robot.server.wire import pack

log = logging.getLogger("qsft_robot.server.server")
# The library's own lines tell of every broken frame; the metrics count what matters.
_quiet = logging.getLogger("qsft_robot.server.server.websockets")
_quiet.setLevel(logging.CRITICAL)

GOING_AWAY, INTERNAL_ERROR = 1001, 1011
# Answers that a client leaves unread, in bytes, before it is cut off.
UNREAD_LIMIT = 256 << 10
# Connections beyond the clients': handshakes under way, /healthz and /metrics.
MAX_STRANGERS = 64
# Frames that one message may come in; clients send one, or one every few KiB.
MAX_PARTS = 1024
# Parts of a message that are put together before the other connections get their turn.
PARTS_PER_PASS = 16
SHUTDOWN_S = 5.0
CLOSE_TIMEOUT_S = 2.0


class MessageRefused(Exception):
    """A message that is not read to its end; `reason` is what the metrics count it as."""

    def __init__(self, reason: str, words: str) -> None:
        super().__init__(words)
        self.reason = reason


class PolicyServer:
    """One policy behind one port. `start`, then `wait_ready`, and `stop` at the end."""

    def __init__(
        self, policy: LoadedPolicy, config: ServerConfig, bound: socket.socket | None = None
    ) -> None:
        self._config = config
        self._bound = bind(config) if bound is None else bound
        host, port = self._bound.getsockname()[:2]
        scheme = "ws" if config.certificate is None else "wss"
        # Where clients connect to, and whether only this machine's can.
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self.on_loopback = is_loopback(host)
        self._description = policy.description
        self._spec = PolicySpec.of(policy.description)
        self._metadata = pack(metadata_of(policy.description))
        self.metrics = ServerMetrics()
        self.metrics.far_readings.update(dict.fromkeys(self._spec.state, 0))
        self._batches = DecisionBatches(
            policy,
            self._spec,
            self.metrics,
            max_batch=config.max_batch,
            window_s=config.window_ms / 1000,
            max_waiting=config.max_waiting,
        )
        self._settled = asyncio.Event()  # warmed up, failed to, or stopping
        self._answering: set[asyncio.Task[None] | None] = set()
        # Clients that never asked for anything, in the order of their coming, and since when.
        self._silent: dict[ServerConnection, float] = {}
        self._server: Server | None = None
        self._door: Door | None = None

    async def start(self) -> None:
        """Listen. Clients may connect at once and get the first frame after the warm-up."""
        config, tls = self._config, tls_context(self._config)
        reserve_files(config.max_connections + MAX_STRANGERS)
        self._door = Door(self._bound, MAX_STRANGERS)
        self._server = await serve(
            self._client,
            sock=self._door,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else config.open_timeout_s,
            ssl_shutdown_timeout=None if tls is None else CLOSE_TIMEOUT_S,
            process_request=self._handshake,
            compression=None,
            max_size=message_limit(self._spec),
            # A client has one request under way: more frames than these wait in its own socket.
            max_queue=2,
            open_timeout=config.open_timeout_s,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=config.ping_s,
            ping_timeout=config.ping_s,
            server_header=None,
            logger=_quiet,
            create_connection=bounded_connection(
                self.metrics, UNREAD_LIMIT + len(self._metadata), config.message_timeout_s
            ),
        )

    async def wait_ready(self) -> None:
        """Warm up. RuntimeError when the policy can't decide."""
        try:
            await self._batches.warm_up()
            self.metrics.ready = True
        finally:
            self._settled.set()

    async def stop(self) -> None:
        """Finish the running batch, send its answers, close every connection with 1001."""
        self.metrics.ready = False
        self._settled.set()
        await self._batches.stop()
        answering = [task for task in self._answering if task is not None]
        if answering:
            await asyncio.wait(answering, timeout=0.5)
        if self._server is not None:
            self._server.close()
            if self._door is not None:
                self._door.turn_out()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), SHUTDOWN_S)

    async def _handshake(
        self, connection: ServerConnection, request: HandshakeRequest
    ) -> Response | None:
        """Answer /healthz and /metrics; let in who has the token, before any policy work."""
        path = request.path.split("?", 1)[0]
        if path == "/healthz":
            status = http.HTTPStatus.OK if self.metrics.ready else http.HTTPStatus(503)
            return connection.respond(status, "OK\n" if self.metrics.ready else "warming up\n")
        if not lets_in(self._config.token, request.headers.get_all("Authorization")):
            self.metrics.refused["token"] += 1
            response = connection.respond(
                http.HTTPStatus.UNAUTHORIZED,
                "a token is needed: the header `Authorization: Api-Key <token>`\n",
            )
            response.headers["WWW-Authenticate"] = "Api-Key"
            return response
        if path == "/metrics":
            response = connection.respond(http.HTTPStatus.OK, self._metrics_page())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = CONTENT_TYPE
            return response
        if "Origin" in request.headers:
            # A page in this machine's browser could drive the robot through loopback.
            self.metrics.refused["origin"] += 1
            return connection.respond(http.HTTPStatus.FORBIDDEN, "browsers are not served\n")
        if not await self._has_room():
            self.metrics.refused["full"] += 1
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._config.max_connections} clients are connected already\n",
            )
        return None

    async def _has_room(self) -> bool:
        """Whether another client may come in: the oldest one that never asked for anything makes
        room, so that a few that only connect can't keep the others out for good."""
        metrics, most = self.metrics, self._config.max_connections
        if metrics.connections >= most and self._silent:
            silent, since = next(iter(self._silent.items()))
            if time.monotonic() - since >= self._config.silent_s:
                del self._silent[silent]
                metrics.cut_off["silent"] += 1
                silent.transport.abort()
                with suppress(TimeoutError):
                    await asyncio.wait_for(silent.wait_closed(), CLOSE_TIMEOUT_S)
                await asyncio.sleep(0)  # its own task counts it out
        return metrics.connections < most

    def _metrics_page(self) -> str:
        if self._door is not None:
            self.metrics.strangers = self._door.strangers
            self.metrics.refused["crowded_out"] = self._door.evicted
        return self.metrics.text()

    async def _client(self, connection: ServerConnection) -> None:
        """One connection from its metadata to its end."""
        metrics = self.metrics
        if metrics.connections >= self._config.max_connections:
            # Others came in between this one's handshake and here.
            metrics.refused["full"] += 1
            await connection.close(1013, "too many clients")
            return
        metrics.connections += 1
        metrics.connections_total += 1
        self._silent[connection] = time.monotonic()
        if self._door is not None:
            self._door.let_in(connection.transport.get_extra_info("socket").fileno())
        try:
            with suppress(ConnectionClosed), self._batches.session(_is_open(connection)) as session:
                await self._settled.wait()
                if not self.metrics.ready:
                    await connection.close(GOING_AWAY)
                    return
                await connection.send(self._metadata)
                await self._converse(connection, session)
        finally:
            metrics.connections -= 1
            self._silent.pop(connection, None)

    async def _converse(self, connection: ServerConnection, session: Session) -> None:
        task, description = asyncio.current_task(), self._description
        notes = ClientNotes(
            description, self._spec, self.metrics, refuse_far=self._config.refuse_far
        )
        previous_ms: float | None = None
        while True:
            try:
                frame = await self._message(connection)
            except MessageRefused as refusal:
                self.metrics.cut_off[refusal.reason] += 1
                await connection.close(POLICY_VIOLATION, str(refusal))
                return
            began = time.perf_counter()
            self._silent.pop(connection, None)
            self._answering.add(task)
            try:
                goes_on = await self._answer(connection, session, notes, frame, began, previous_ms)
            except (ConnectionClosed, Abandoned):
                self.metrics.requests["abandoned"] += 1
                return
            finally:
                self._answering.discard(task)
            if not goes_on:
                return
            took = time.perf_counter() - began
            self.metrics.request_seconds.observe(took)
            previous_ms = 1000 * took
            # What waits is read without a pause: one that sends much must not keep the others out.
            await asyncio.sleep(0)

    async def _message(self, connection: ServerConnection) -> bytes | str:
        """The next whole message; MessageRefused when its parts are too many or too slow."""
        parts: list[bytes | str] = []
        try:
            async with asyncio.timeout(None) as limit:
                async for part in connection.recv_streaming():
                    if limit.when() is None:
                        seconds = self._config.message_timeout_s
                        limit.reschedule(asyncio.get_running_loop().time() + seconds)
                    parts.append(part)
                    if len(parts) > MAX_PARTS:
                        raise MessageRefused("fragments", f"more than {MAX_PARTS} parts")
                    if not len(parts) % PARTS_PER_PASS:
                        await asyncio.sleep(0)
        except TimeoutError:
            raise MessageRefused("slow", "half a message, for too long") from None
        if parts and isinstance(parts[0], str):
            return "".join(part for part in parts if isinstance(part, str))
        return b"".join(part for part in parts if isinstance(part, bytes))

    async def _answer(
        self,
        connection: ServerConnection,
        session: Session,
        notes: ClientNotes,
        frame: bytes | str,
        began: float,
        previous_ms: float | None,
    ) -> bool:
        """Answer one request, or say in a text frame why not; False when the episode is lost."""
        requests = self.metrics.requests
        try:
            request = read_request(frame, self._spec)
            new = notes.look(request.observation)
        except ValueError as error:
            # The episode is as it was before, so the connection goes on.
            requests["bad_request"] += 1
            await connection.send(_line(BAD_REQUEST, error))
            return True
        try:
            answer = await self._batches.decide(session, request)
        except Busy as error:
            requests["busy"] += 1
            await connection.send(_line(BUSY, error))
            return True
        except PolicyFailed as error:
            requests["failed"] += 1
            await connection.send(_line(FAILED, error))
            await connection.close(INTERNAL_ERROR, "the policy failed")
            return False
        timing = {
            "infer_ms": 1000 * answer.infer_s,
            "queue_ms": 1000 * answer.queue_s,
            "total_ms": 1000 * (time.perf_counter() - began),
        }
        if previous_ms is not None:
            timing["prev_total_ms"] = previous_ms
        await connection.send(
            pack(answer_message(answer.decision, request.request_id, timing, new))
        )
        requests["answered"] += 1
        return True


def _is_open(connection: ServerConnection) -> Callable[[], bool]:
    return lambda: connection.protocol.state is State.OPEN


def _line(kind: str, error: Exception) -> str:
    """One line for a text frame: what was wrong, and never where in the code."""
    return f"{kind}{' '.join(str(error).split())}"[:1000]
