"""Messages of server and client: metadata, request, answer, refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np

from qsft_robot.observations import MAX_STATE, check_state
from qsft_robot.policy.description import KEPT_BACK, PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.server.wire import MAX_ENTRIES, WireError, unpack
from qsft_robot.types import Decision, Observation

PREFIX = "observation/"
PROMPT, RESET, SEED, REQUEST_ID = "prompt", "reset", "seed", "request_id"
STEP, PAID = "step", "paid"
NOTES = "notes"
MAX_PROMPT = 2000  # characters
MAX_SEED = 2**63 - 1
# A text frame instead of an answer is a refusal; its first word says who can fix it.
BAD_REQUEST, BUSY, FAILED = "bad request: ", "busy: ", "policy failed: "


@dataclass(frozen=True)
class Request:
    """One observation, and whether an episode begins with it."""

    observation: Observation
    # The seed of the episode that begins here; None goes on with the connection's episode.
    seed: int | None
    # Given back in the answer when the client sent one.
    request_id: int | None


def metadata_of(description: PolicyDescription) -> dict[str, Any]:
    """The first frame of a connection: the policy's interface, and its description."""
    spec = PolicySpec.of(description)
    return {
        "server": f"qsft-robot {version('qsft-robot')}",
        "cameras": {key: list(size) for key, size in spec.cameras.items()},
        "state": dict(spec.state),
        "action_horizon": spec.horizon,
        # Actions of a chunk to execute before the next request.
        "execute_steps": description.acting.execute or spec.horizon,
        "action_dim": spec.action_dim,
        "action_low": spec.action_low.tolist(),
        "action_high": spec.action_high.tolist(),
        "control_hz": spec.control_hz,
        "instructions": list(spec.instructions),
        "description": {k: x for k, x in description.to_json().items() if k not in KEPT_BACK},
    }


def message_limit(spec: PolicySpec) -> int:
    """Bytes that one request may have: twice what the policy needs (a robot may send cameras that
    the policy leaves unused; state may come as float64), and 64 KiB for names and words."""
    images = sum(height * width * 3 for height, width in spec.cameras.values())
    return 2 * (images + 8 * sum(spec.state.values())) + (1 << 16)


def request_message(
    observation: Observation, spec: PolicySpec, seed: int | None, request_id: int
) -> dict[str, Any]:
    """The client's side of `read_request`: what the policy needs and nothing else.

    ValueError names a camera or key that the observation lacks.
    """
    message: dict[str, Any] = {PROMPT: observation.instruction, REQUEST_ID: request_id}
    for kind, keys, found in (
        ("camera", spec.cameras, observation.images),
        ("state key", spec.state, observation.state),
    ):
        for key in keys:
            if key not in found:
                raise ValueError(
                    f"the policy needs the {kind} {key!r}, which the observation lacks; it has "
                    f"{sorted(found)}."
                )
            message[PREFIX + key] = np.asarray(found[key])
    if observation.step is not None:
        message[STEP] = observation.step
    if observation.paid is not None:
        message[PAID] = float(observation.paid)
    return message if seed is None else {**message, RESET: True, SEED: seed}


def answer_message(
    decision: Decision,
    request_id: int | None,
    timing_ms: Mapping[str, float],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The server's answer: actions float32 [h, d], V where there is one, milliseconds, and notes
    on the request where there are any."""
    message: dict[str, Any] = {"actions": decision.actions, "server_timing": dict(timing_ms)}
    if notes:
        message[NOTES] = list(notes)
    if decision.value is not None:
        message["value"] = float(decision.value)
    return message if request_id is None else {**message, REQUEST_ID: request_id}


def read_request(frame: bytes | str, spec: PolicySpec) -> Request:
    """A client's frame as a request. ValueError says what is wrong with it.

    Keys are `<key>` or `observation/<key>`; other keys are left unused. `prompt` is the
    instruction, which a policy that was trained with instructions must get. `reset: True` or a
    `seed` begins an episode (seed 0 when not given). `step` counts its control steps, for policies
    with a history; `paid` is the sum of its rewards, for those that are asked for a return.
    """
    if isinstance(frame, str):
        raise WireError("a text frame; observations come as binary frames of msgpack")
    message = unpack(frame, MAX_ENTRIES)
    if not isinstance(message, dict):
        raise ValueError(f"the message is a {type(message).__name__}; an observation is a map")
    images = {key: _image(message, key, size) for key, size in spec.cameras.items()}
    state = {key: _state(message, key, size) for key, size in spec.state.items()}
    prompt = message.get(PROMPT)
    prompt = "" if prompt is None else prompt
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT:
        raise ValueError(f"{PROMPT!r} is a string of at most {MAX_PROMPT} characters")
    if spec.follows_instructions and not prompt.strip():
        known = "; ".join(spec.instructions[:5])
        raise ValueError(
            f"the policy acts by an instruction and {PROMPT!r} holds none; it was trained on: "
            f"{known}. {_has(message)}"
        )
    reset = message.get(RESET, False)
    if not isinstance(reset, bool | np.bool_):
        raise ValueError(f"{RESET!r} is true or false, not {type(reset).__name__}")
    seed = _whole(message, SEED)
    if seed is None and reset:
        seed = 0
    seen = Observation(images, state, prompt, step=_whole(message, STEP), paid=_paid(message))
    return Request(seen, seed, _whole(message, REQUEST_ID))


def _entry(message: Mapping[Any, Any], key: str, kind: str) -> Any:
    for name in (key, PREFIX + key):
        if name in message:
            return message[name]
    raise ValueError(f"the policy needs the {kind} {key!r} (or {PREFIX + key!r}). {_has(message)}")


def _has(message: Mapping[Any, Any]) -> str:
    return f"The message has: {', '.join(sorted(str(name)[:60] for name in islice(message, 30)))}"


def _image(message: Mapping[Any, Any], key: str, size: tuple[int, int]) -> np.ndarray:
    image = _entry(message, key, "camera")
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != (*size, 3):
        raise ValueError(
            f"camera {key!r} is {_kind(image)}; the policy takes uint8 RGB of shape "
            f"({size[0]}, {size[1]}, 3)"
        )
    return image


def _state(message: Mapping[Any, Any], key: str, size: int) -> np.ndarray:
    given = _entry(message, key, "state key")
    value = given
    if isinstance(given, list):
        # A client without numpy sends plain numbers.
        if len(given) != size or not all(type(x) in (int, float) for x in given):
            raise ValueError(f"{key!r} is a list, but not one of {size} numbers")
        value = np.array(given, np.float64)
    elif isinstance(given, int | float | np.generic) and not isinstance(given, bool):
        value = np.asarray(given, np.float64)
    if not isinstance(value, np.ndarray) or value.size != size or value.ndim > 1:
        raise ValueError(f"{key!r} is {_kind(given)}; the policy takes {size} numbers")
    check_state(key, value)
    return value.astype(np.float32).reshape(size)


def _whole(message: Mapping[Any, Any], key: str) -> int | None:
    value = message.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{key!r} is a whole number, not {type(value).__name__}")
    if not 0 <= int(value) <= MAX_SEED:
        raise ValueError(f"{key!r} is {int(value)}; it lies between 0 and {MAX_SEED}")
    return int(value)


def _paid(message: Mapping[Any, Any]) -> float | None:
    value = message.get(PAID)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{PAID!r} is a number, not {type(value).__name__}")
    paid = float(value)
    if not abs(paid) <= MAX_STATE:  # which NaN is not either
        raise ValueError(f"{PAID!r} is {paid:g}; it is a sum of rewards")
    return paid


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}"
