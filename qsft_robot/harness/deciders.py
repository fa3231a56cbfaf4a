"""What decides behind a harness: a policy that runs here, or a server of openpi's protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from qsft_robot.harness.key_map import KeyMap
from qsft_robot.harness.observations import Wanted
from qsft_robot.policy.description import LoadedPolicy, PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.server.remote_policy import MAX_ANSWER
from qsft_robot.server.requests import PAID, PROMPT, RESET, SEED, STEP
from qsft_robot.server.secrecy import check_token
from qsft_robot.server.wire import pack, unpack
from qsft_robot.types import Decision, Observation


class Decider(Protocol):
    """Decisions for episodes side by side; a memory belongs to one episode."""

    wanted: Wanted
    # Of the policy behind it; None where nobody tells it.
    description: PolicyDescription | None
    # Actions of a chunk before the next decision; None: all.
    execute_steps: int | None

    def begin(self, seed: int) -> Any: ...

    def decide(
        self, observations: Sequence[Observation], memories: Sequence[Any]
    ) -> list[Decision]: ...

    def end(self, memory: Any) -> None: ...


class LocalDecider:
    """A policy of ours, in this process."""

    def __init__(self, policy: LoadedPolicy, execute_steps: int | None = None) -> None:
        self._policy = policy
        self.description: PolicyDescription | None = policy.description
        self.wanted = Wanted.of(PolicySpec.of(policy.description))
        self.execute_steps = execute_steps or policy.description.acting.execute

    def begin(self, seed: int) -> Any:
        return self._policy.begin_episode(seed)

    def decide(
        self, observations: Sequence[Observation], memories: Sequence[Any]
    ) -> list[Decision]:
        return self._policy.infer_batch(observations, memories)

    def end(self, memory: Any) -> None:
        pass


class _Upstream:
    """An episode on a server: its own connection, and the seed until it was sent."""

    def __init__(self, connection: ClientConnection, seed: int) -> None:
        self.connection = connection
        self.seed: int | None = seed


class OpenpiDecider:
    """Any server of openpi's protocol, ours or another's, with one connection an episode.

    Ours tells what it wants to be shown. Another's tells nothing: the key map names each of its
    image and state keys (`observation/image: agentview`).
    """

    def __init__(
        self,
        url: str,
        key_map: KeyMap,
        token: str | None = None,
        execute_steps: int | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Connect once to read the metadata. ConnectionError where nothing answers, ValueError
        where the token would be seen, and where the key map names nothing that a server of another
        kind could be sent."""
        mend = "serve with --certificate and --key and give wss://, or unset QSFT_TOKEN."
        check_token(url, token, url, mend)
        self._url, self._timeout_s = url, timeout_s
        self._headers = {} if token is None else {"Authorization": f"Api-Key {token}"}
        connection, told = self._connect()
        connection.close()
        description = told.get("description")
        self.description: PolicyDescription | None = None
        if isinstance(description, Mapping):
            self.description = PolicyDescription.from_json(
                description, f"{url}: the server's policy", served=True
            )
            self.wanted = Wanted.of(PolicySpec.of(self.description))
            self.execute_steps = execute_steps or self.description.acting.execute
        else:
            if not key_map.cameras and not key_map.state:
                raise ValueError(
                    f"{url}: the server does not tell which images and numbers it takes (its first "
                    "frame is no description of a qsft-robot policy): name them in --key-map FILE, "
                    "e.g. cameras: {observation/image: agentview}."
                )
            size = key_map.image_size
            known = size if isinstance(size, tuple) else None
            cameras = dict.fromkeys(key_map.cameras, known)
            self.wanted = Wanted(cameras, dict.fromkeys(key_map.state), None)
            self.execute_steps = execute_steps

    def begin(self, seed: int) -> _Upstream:
        return _Upstream(self._connect()[0], seed)

    def decide(
        self, observations: Sequence[Observation], memories: Sequence[Any]
    ) -> list[Decision]:
        """RuntimeError where the server refuses a request, ConnectionError where it is gone."""
        for observation, memory in zip(observations, memories, strict=True):
            self._send(observation, memory)
        return [self._answer(memory) for memory in memories]

    def end(self, memory: Any) -> None:
        memory.connection.close()

    def _connect(self) -> tuple[ClientConnection, Mapping[str, Any]]:
        try:
            connection = connect(
                self._url,
                additional_headers=self._headers,
                compression=None,
                max_size=MAX_ANSWER,
                open_timeout=self._timeout_s,
                close_timeout=1,
                proxy=None,
            )
            first = connection.recv(timeout=self._timeout_s)
            told = {} if isinstance(first, str) else unpack(first)
        except (OSError, WebSocketException, ValueError) as error:
            why = str(error) or type(error).__name__
            raise ConnectionError(f"{self._url}: no server of openpi's protocol: {why}") from error
        return connection, told if isinstance(told, Mapping) else {}

    def _send(self, observation: Observation, memory: _Upstream) -> None:
        message: dict[str, Any] = {PROMPT: observation.instruction}
        message |= observation.images
        message |= observation.state
        if self.description is not None:  # a server of another kind may take no more entries
            message[STEP] = observation.step
            if observation.paid is not None:
                message[PAID] = observation.paid
            if memory.seed is not None:
                message |= {RESET: True, SEED: memory.seed}
                memory.seed = None
        try:
            memory.connection.send(pack(message))
        except (OSError, WebSocketException) as error:
            raise ConnectionError(f"{self._url}: the server is gone: {error}") from error

    def _answer(self, memory: _Upstream) -> Decision:
        try:
            reply = memory.connection.recv(timeout=self._timeout_s)
        except (OSError, WebSocketException) as error:
            why = str(error) or f"no answer in {self._timeout_s:g} s"
            raise ConnectionError(f"{self._url}: {why}") from error
        if isinstance(reply, str):
            raise RuntimeError(f"{self._url}: {reply.strip()}")
        answer = unpack(reply)
        actions = answer.get("actions") if isinstance(answer, Mapping) else None
        if not isinstance(actions, np.ndarray) or actions.ndim not in (1, 2):
            raise RuntimeError(f"{self._url}: the answer holds no actions [h, d].")
        value = answer.get("value")
        chunk = np.atleast_2d(np.asarray(actions, np.float32))
        return Decision(chunk, None if value is None else float(value))
