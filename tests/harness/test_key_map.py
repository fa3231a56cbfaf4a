"""Which of a benchmark's images and numbers a policy sees, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from qsft_robot.harness.key_map import KeyMap, Numbers, Part, read_key_map
from qsft_robot.harness.observations import ObservationReader, Shown, Wanted, fitted


def test_the_key_map_of_a_file(tmp_path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(
        "cameras:\n  front_image: agentview\nstate: {proprio: 'states[0:3]', grip: 'states[6:]'}\n"
        "image_size: [64, 48]\nturn: half\nactions: '[0:7]'\n"
    )
    base = KeyMap({"wrist_image": "wrist", "front_image": "other"}, image_size="policy")
    found = read_key_map(path, base)
    assert found == KeyMap(
        {"wrist_image": "wrist", "front_image": "agentview"},
        {"proprio": Part("states", Numbers(0, 3)), "grip": Part("states", Numbers(6))},
        (64, 48),
        "half",
        Numbers(0, 7),
    )
    assert [str(part) for part in found.state.values()] == ["states[0:3]", "states[6:]"]
    for text, line in (
        ("camera: {a: b}", "Did you mean 'cameras'"),
        ("cameras: [a]", "cameras is .*, where an object"),
        ("state: {a: 'states[1]'}", "state: a: .* a part, e.g. states"),
        ("image_size: 0", "image_size is 0"),
        ("image_size: big", "image_size is 'big'"),
        ("turn: left", "There are: none, half, flip"),
        ("actions: first", "give e.g."),
        ("{", "no YAML"),
        ("- a", "an object is expected"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path.name}.*{line}|{line}.*{path.name}|{line}"):
            read_key_map(path)


def test_observations_are_read_as_the_map_says(rng) -> None:
    image = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    message = {
        "images": {"agentview": image},
        "states": np.arange(8.0),
        "task_description": "put it there",
    }
    wanted = Wanted({"front_image": (4, 6)}, {"proprio": 3}, 7, follows_instructions=True)
    keys = KeyMap({"front_image": "agentview"}, {"proprio": Part("states", Numbers(2, 5))})
    seen = ObservationReader(wanted, keys).read(message, 9)
    assert (seen.images["front_image"] == image).all()
    assert seen.state["proprio"].tolist() == [2, 3, 4]
    assert (seen.instruction, seen.step, seen.paid) == ("put it there", 9, None)
    for turn, expected in (("half", image[::-1, ::-1]), ("flip", image[::-1])):
        turned = ObservationReader(wanted, KeyMap(keys.cameras, keys.state, turn=turn))
        assert (turned.read(message, 0).images["front_image"] == expected).all()
    small = Wanted({"front_image": (2, 3)}, {}, None)
    plain = {"images": {"agentview": np.full((4, 6, 3), 77, np.uint8)}}
    resized = ObservationReader(small, KeyMap(keys.cameras, image_size="policy")).read(plain, 0)
    assert (resized.images["front_image"] == np.full((2, 3, 3), 77)).all()
    for changed, line in (
        ({"images": {"top": image}}, "'front_image'.*no image 'agentview'; it sent: top"),
        ({"states": np.arange(4.0)}, "holds 2 numbers, but the policy's 'proprio' has 3"),
        ({"states": None}, "no 'states'; it sent: no numbers"),
        ({"states": np.full(8, np.nan)}, "'proprio' holds a number that is NaN"),
        ({"images": {"agentview": image[:2]}}, "shows 2x6 pixels.*image_size: policy"),
        ({"images": {"agentview": image / 255}}, "float64 of shape"),
        ({"task_description": ""}, "acts by an instruction"),
    ):
        with pytest.raises(ValueError, match=line):
            ObservationReader(wanted, keys).read({**message, **changed}, 0)


def test_a_policy_that_does_not_fit_is_refused_before_anything_runs() -> None:
    shown = Shown({"agentview": (256, 256), "wrist": (256, 256)}, {"states": 8}, 7)
    wanted = Wanted({"agentview": (256, 256)}, {"states": 8}, 7)
    assert fitted(KeyMap(), wanted, shown, "libero").cameras == {"agentview": "agentview"}
    only = Shown({"primary": None}, {"states": 8}, 7)
    alone = fitted(KeyMap(), Wanted({"front_image": (64, 64)}, {"proprio": 8}, 7), only, "simpler")
    assert alone.cameras == {"front_image": "primary"}
    assert alone.state == {"proprio": Part("states")}
    for cameras, state, dim, line in (
        ({"front": (256, 256)}, {}, 7, r"no 'front'; it shows: agentview \(256x256\)"),
        ({"agentview": (64, 64)}, {}, 7, "256x256 pixels, but the policy's camera.*64x64"),
        ({}, {"states": 3}, 7, "8 numbers of states, but the policy's 'states' has 3"),
        ({}, {"joints": 3, "states": 8}, 7, "state key 'joints'.*--key-map FILE with state"),
        ({}, {}, 4, "takes actions of 7 numbers, but the policy's have 4"),
    ):
        with pytest.raises(ValueError, match=line):
            fitted(KeyMap(), Wanted(cameras, state, dim), shown, "libero")
