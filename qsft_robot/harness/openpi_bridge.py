"""A vla-eval model server behind openpi's protocol: what speaks openpi asks it for actions."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from vla_eval.protocol.messages import (
    Message,
    MessageType,
    make_hello_payload,
    pack_message,
    unpack_message,
)
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from qsft_robot.harness.key_map import KeyMap
from qsft_robot.harness.observations import IMAGES, STATES, TASK
from qsft_robot.harness.serving import HOST, stopped_by_signals
from qsft_robot.server.config import ServerConfig, bind
from qsft_robot.server.remote_policy import MAX_ANSWER
from qsft_robot.server.requests import BAD_REQUEST, FAILED, PREFIX, PROMPT, RESET, SEED
from qsft_robot.server.wire import MAX_ENTRIES, pack, unpack
from qsft_robot.types import is_image

log = logging.getLogger("qsft_robot.harness")
_OURS = {PROMPT, RESET, SEED}


class _Upstream:
    """A connection to the model server, and the episode on it."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s, self._sent = url, timeout_s, 0
        self.begun = False
        try:
            self._connection: ClientConnection = connect(
                url, compression=None, max_size=MAX_ANSWER, open_timeout=timeout_s, proxy=None
            )
            self._send(MessageType.HELLO, make_hello_payload())
            self.hello = self._receive().payload
        except (OSError, WebSocketException, ValueError) as error:
            why = str(error) or type(error).__name__
            raise ConnectionError(f"{url}: no model server of vla-eval's: {why}") from error

    def begin(self, seed: int) -> None:
        """Begin an episode; the model server numbers its samples by the index."""
        if self.begun:
            self._send(MessageType.EPISODE_END, {})
        self._send(MessageType.EPISODE_START, {"task": {"name": "openpi", "episode_idx": seed}})
        self.begun = True

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """The actions, float32 [h, d]. RuntimeError where the model server tells an error."""
        asked = self._send(MessageType.OBSERVATION, dict(observation))
        while (told := self._receive()).seq != asked:  # an error of the episode's begin
            log.warning("%s: %s", self._url, told.payload)
        if told.type == MessageType.ERROR or "actions" not in told.payload:
            raise RuntimeError(f"{self._url}: {told.payload.get('error', 'no actions')}")
        return np.atleast_2d(np.asarray(told.payload["actions"], np.float32))

    def close(self) -> None:
        self._connection.close()

    def _send(self, kind: MessageType, payload: dict[str, Any]) -> int:
        self._sent += 1
        self._connection.send(pack_message(Message(kind, payload, self._sent)))
        return self._sent

    def _receive(self) -> Message:
        frame = self._connection.recv(timeout=self._timeout_s)
        return unpack_message(frame if isinstance(frame, bytes) else frame.encode())


def observation_of(message: Mapping[str, Any], key_map: KeyMap) -> dict[str, Any]:
    """A request of openpi's as an observation of the harness: images and numbers by their names
    without `observation/`, or as the key map calls them (there: the client's key -> the model
    server's). ValueError where there is neither."""
    images: dict[str, np.ndarray] = {}
    numbers: dict[str, np.ndarray] = {}
    for key, value in message.items():
        if key in _OURS or not isinstance(value, np.ndarray | list):
            continue
        name, array = str(key).removeprefix(PREFIX), np.asarray(value)
        if is_image(array):
            images[key_map.cameras.get(key, key_map.cameras.get(name, name))] = array
        elif array.dtype.kind in "biuf":
            part = key_map.state.get(key, key_map.state.get(name))
            numbers[part.name if part is not None else name] = np.asarray(array, np.float32)
    if not images and not numbers:
        raise ValueError("the message holds neither an image nor numbers.")
    if STATES not in numbers and len(numbers) == 1:  # the one state is the state
        numbers[STATES] = next(iter(numbers.values()))
    return {**numbers, IMAGES: images, TASK: str(message.get(PROMPT) or "")}


@contextmanager
def bridging(
    model_server: str, key_map: KeyMap, port: int = 0, timeout_s: float = 600.0
) -> Iterator[str]:
    """The bridge on loopback, in a thread, until the block ends; gives its address. Each client has
    a connection to the model server of its own. ConnectionError where no model server answers."""
    first = _Upstream(model_server, timeout_s)
    first.close()
    bind(ServerConfig(host=HOST, port=port)).close()

    def converse(client: ServerConnection) -> None:
        try:
            upstream = _Upstream(model_server, timeout_s)
        except ConnectionError as error:
            client.send(f"{FAILED}{error}")
            return
        try:
            client.send(pack({"server": "vla-eval", "hello": _plain(upstream.hello)}))
            for frame in client:
                client.send(_answer(upstream, frame, key_map))
        except (ConnectionClosed, OSError):
            pass
        finally:
            upstream.close()

    # No page in this machine's browser drives it: those send an origin.
    with serve(
        converse, HOST, port, compression=None, max_size=MAX_ANSWER, origins=[None]
    ) as server:
        thread = threading.Thread(target=server.serve_forever, name="bridge")
        thread.start()
        try:
            yield f"ws://{HOST}:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def _answer(upstream: _Upstream, frame: bytes | str, key_map: KeyMap) -> bytes | str:
    try:
        message = {} if isinstance(frame, str) else unpack(frame, MAX_ENTRIES)
        if not isinstance(message, Mapping):
            raise ValueError("an observation is a map.")
        observation = observation_of(message, key_map)
        seed = message.get(SEED)
        if not upstream.begun or message.get(RESET) or seed is not None:
            upstream.begin(int(seed or 0))
    except (TypeError, ValueError) as error:
        return f"{BAD_REQUEST}{error}"
    try:
        return pack({"actions": upstream.act(observation)})
    except RuntimeError as error:
        return f"{FAILED}{error}"


def _plain(value: Any) -> Any:
    """What a model server tells of itself, in types that openpi's messages have."""
    if isinstance(value, Mapping):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def bridge_until_signal(
    model_server: str, key_map: KeyMap, port: int, tell: Callable[[str], None]
) -> None:
    """The bridge until SIGINT or SIGTERM; `tell` gets its address."""
    with bridging(model_server, key_map, port) as url, stopped_by_signals() as stop:
        tell(url)
        stop.wait()
