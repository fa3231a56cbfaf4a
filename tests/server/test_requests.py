"""Requests: what a client may leave out, name otherwise or get wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from openpi_client import msgpack_numpy

from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.server.requests import message_limit, metadata_of, read_request, request_message
from qsft_robot.server.wire import pack, unpack


@pytest.fixture
def seen(observations):
    return observations[0]


def equal(a, b) -> bool:
    return a.instruction == b.instruction and all(
        np.array_equal(x[key], y[key]) and x[key].dtype == y[key].dtype
        for x, y in ((a.images, b.images), (a.state, b.state))
        for key in x
    )


def test_a_request_arrives_as_it_was_sent(seen, spec):
    request = read_request(pack(request_message(seen, spec, 7, 3)), spec)
    assert equal(request.observation, replace(seen, state={"proprio": seen.state["proprio"]}))
    assert (request.seed, request.request_id) == (7, 3)


def test_only_what_the_policy_needs_is_sent(seen, spec):
    keys = set(request_message(seen, spec, None, 1))
    assert keys == {
        "observation/front_image", "observation/wrist_image", "observation/proprio",
        "prompt", "request_id",
    }  # fmt: skip


def test_keys_come_with_or_without_the_prefix_and_others_are_left_unused(seen, spec, as_message):
    bare = {**seen.images, **seen.state, "prompt": seen.instruction, "more": [1, {"a": None}]}
    mixed = as_message(seen)
    for message in (bare, mixed):
        request = read_request(msgpack_numpy.packb(message), spec)
        assert set(request.observation.state) == {"proprio"}
        assert np.array_equal(request.observation.images["wrist_image"], seen.images["wrist_image"])


@pytest.mark.parametrize(
    ("others", "seed"),
    [
        ({}, None),
        ({"reset": False}, None),
        ({"reset": True}, 0),
        ({"reset": np.bool_(True), "seed": 5}, 5),
        ({"seed": np.int64(6)}, 6),
        ({"reset": False, "seed": 0}, 0),
    ],
)
def test_reset_or_a_seed_begins_an_episode(seen, spec, others, seed, as_message):
    assert read_request(pack(as_message(seen, **others)), spec).seed == seed


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int32, list])
def test_state_comes_in_any_numbers_and_is_float32(seen, spec, kind, as_message):
    value = np.arange(8)
    sent = value.tolist() if kind is list else value.astype(kind)
    found = read_request(pack(as_message(seen, proprio=sent)), spec).observation.state["proprio"]
    assert found.dtype == np.float32
    assert np.array_equal(found, value)


WRONG = {
    "no camera": ({"observation/front_image": None}, "camera 'front_image'"),
    "camera of another size": (
        {"observation/front_image": np.zeros((64, 64, 3), np.uint8)},
        r"uint8 of shape \(64, 64, 3\); the policy takes uint8 RGB of shape \(32, 32, 3\)",
    ),
    "camera of floats": ({"front_image": np.zeros((32, 32, 3), np.float32)}, "float32 of shape"),
    "camera as a list": ({"front_image": [1, 2]}, "is a list"),
    "state of another size": ({"proprio": np.zeros(3)}, "the policy takes 8 numbers"),
    "state in rows": ({"proprio": np.zeros((1, 8))}, "the policy takes 8 numbers"),
    "state as words": ({"proprio": "12345678"}, "is a str"),
    "state as nested lists": ({"proprio": [[0.0]] * 8}, "not one of 8 numbers"),
    "NaN": ({"proprio": np.full(8, np.nan)}, "NaN, infinite or beyond 1e"),
    "infinite": ({"proprio": np.full(8, -np.inf)}, "NaN, infinite or beyond 1e"),
    "beyond any unit": ({"proprio": np.full(8, -2e9, np.float32)}, "NaN, infinite or beyond 1e"),
    "beyond float32": ({"proprio": np.full(8, 1e300)}, "NaN, infinite or beyond 1e"),
    "prompt of numbers": ({"prompt": 3}, "'prompt' is a string"),
    "endless prompt": ({"prompt": "a" * 5000}, "at most 2000 characters"),
    "reset as a word": ({"reset": "yes"}, "'reset' is true or false, not str"),
    "negative seed": ({"seed": -1}, "'seed' is -1"),
    "seed of halves": ({"seed": 0.5}, "'seed' is a whole number, not float"),
    "seed as truth": ({"seed": True}, "'seed' is a whole number, not bool"),
    "huge seed": ({"seed": 2**63}, "'seed' is 9223372036854775808"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_by_name(seen, spec, name, as_message):
    changes, said = WRONG[name]
    message = {k: x for k, x in as_message(seen).items() if changes.get(k, 0) is not None}
    plain = {k.removeprefix("observation/") for k in changes}
    message = {k: x for k, x in message.items() if k.removeprefix("observation/") not in plain}
    message |= {k: x for k, x in changes.items() if x is not None}
    with pytest.raises(ValueError, match=said):
        read_request(pack(message), spec)


def test_a_frame_that_is_no_map_is_refused(spec):
    with pytest.raises(ValueError, match="a text frame"):
        read_request("hello", spec)
    with pytest.raises(ValueError, match="is a list; an observation is a map"):
        read_request(pack([1, 2]), spec)


def test_a_client_that_lacks_a_camera_is_told_before_anything_is_sent(seen, spec):
    with pytest.raises(ValueError, match=r"camera 'front_image', which the observation lacks"):
        request_message(replace(seen, images={}), spec, None, 1)


def test_the_message_limit_has_room_for_what_a_robot_sends_beyond_the_policys_needs(
    seen, spec, as_message
):
    more = {f"{key}_2": image for key, image in seen.images.items()}
    state = {key: np.asarray(x, np.float64) for key, x in seen.state.items()}
    message = as_message(replace(seen, images={**seen.images, **more}, state=state), seed=1)
    size = len(msgpack_numpy.packb(message))
    assert size < message_limit(spec) < 20 * size


def test_a_step_and_how_many_actions_to_execute_are_told(seen, spec, as_message, loaded):
    sent = request_message(replace(seen, step=12), spec, None, 1)
    assert read_request(pack(sent), spec).observation.step == 12
    assert read_request(pack(as_message(seen)), spec).observation.step is None
    with pytest.raises(ValueError, match="'step' is -1"):
        read_request(pack({**as_message(seen), "step": -1}), spec)
    paid = read_request(pack({**as_message(seen), "paid": 2}), spec).observation.paid
    assert paid == 2.0
    for wrong in (float("nan"), "2", True, 1e12):
        with pytest.raises(ValueError, match="'paid' is"):
            read_request(pack({**as_message(seen), "paid": wrong}), spec)
    assert metadata_of(loaded.description)["execute_steps"] == 2
    acting = replace(loaded.description.acting, execute=1)
    changed = metadata_of(replace(loaded.description, acting=acting))
    assert changed["execute_steps"] == 1
    changed["description"]["acting"]["execute"] = 3
    with pytest.raises(ValueError, match="its chunks have 2"):
        PolicyDescription.from_json(changed["description"], "a policy", served=True)


def test_metadata_tell_the_interface_and_survive_openpi(loaded, spec):
    message = msgpack_numpy.unpackb(pack(metadata_of(loaded.description)))
    assert message == unpack(pack(metadata_of(loaded.description)))
    assert message["cameras"] == {"front_image": [32, 32], "wrist_image": [32, 32]}
    assert message["state"] == {"proprio": 8}
    assert (message["action_horizon"], message["action_dim"]) == (2, 4)
    told = PolicyDescription.from_json(message["description"], "a policy", served=True)
    found = PolicySpec.of(told)
    assert (found.cameras, found.state, found.control_hz) == (
        spec.cameras,
        spec.state,
        spec.control_hz,
    )
    assert np.array_equal(found.action_low, spec.action_low)
    assert np.array_equal(found.action_high, spec.action_high)
    assert found.instructions == spec.instructions
