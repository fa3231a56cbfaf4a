"""Captions say what is true, from the camera's point of view."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qsft_robot.captions.model import build_tokenizer
from qsft_robot.captions.questions import (
    KINDS,
    PHRASES,
    Relation,
    converse,
    place_words,
    relations,
    say,
    seen,
)
from qsft_robot.captions.scenes import CaptionScene, sample_scenes
from qsft_robot.parts.simulators import build_env, build_expert

# Which pixels of an image are of a thing's colour: low and high corner, RGB.
PAINT = {
    "red cube": ((150, 0, 0), (255, 80, 80)),
    "green cube": ((0, 110, 0), (90, 255, 110)),
    "yellow brick": ((100, 80, 0), (255, 255, 40)),
    "blue bowl": ((0, 0, 110), (90, 110, 255)),
}


@pytest.fixture(scope="module")
def scenes() -> list[CaptionScene]:
    return list(sample_scenes(60, seed=3))


def painted_centre(scene: CaptionScene, name: str) -> tuple[float, float] | None:
    """Mean column and row, 0 to 1, of the front image's pixels that look like a thing; None where
    something hides a part of it."""
    if scene.truth.sightings["front"][name].share < 1:
        return None
    return centre_of_colour(scene.images["front"], name)


def centre_of_colour(image: np.ndarray, name: str) -> tuple[float, float] | None:
    """Mean column and row, 0 to 1, of the pixels in a thing's colour; None for a handful."""
    low, high = PAINT[name]
    rows, columns = np.nonzero((image >= low).all(-1) & (image <= high).all(-1))
    if len(rows) < 8:
        return None
    return (columns.mean() + 0.5) / image.shape[1], (rows.mean() + 0.5) / image.shape[0]


def tabletop(task: str) -> Any:
    return build_env({"env_name": "tabletop", "env_kwargs": {"task": task, "image_size": 64}})


def test_a_seed_decides_scenes_and_questions_to_the_bit(scenes: list[CaptionScene]) -> None:
    again = list(sample_scenes(12, seed=3))
    for one, other in zip(scenes, again, strict=False):
        for camera, image in one.images.items():
            np.testing.assert_array_equal(image, other.images[camera])
        rngs = np.random.default_rng(0), np.random.default_rng(0)
        assert converse(one, rngs[0], 9) == converse(other, rngs[1], 9)
    assert (again[0].images["front"] != scenes[-1].images["front"]).any()


def test_left_and_behind_are_those_of_the_picture(scenes: list[CaptionScene]) -> None:
    checked = {"left": 0, "behind": 0}
    for scene in scenes:
        for relation in relations(scene.truth, "front"):
            if relation.word not in checked or {relation.subject, relation.other} - PAINT.keys():
                continue
            subject = painted_centre(scene, relation.subject)
            other = painted_centre(scene, relation.other)
            if subject is None or other is None:
                continue
            # What stands farther from a camera that looks down stands higher in its picture.
            axis = 0 if relation.word == "left" else 1
            assert subject[axis] < other[axis], relation
            checked[relation.word] += 1
    assert min(checked.values()) > 30


def test_told_places_are_where_the_colour_is(scenes: list[CaptionScene]) -> None:
    errors = []
    for scene in scenes:
        for name in set(seen(scene.truth, "front")) & PAINT.keys():
            centre = painted_centre(scene, name)
            if centre is not None:
                told = place_words(scene.truth, "front", name).removeprefix(name).split()
                errors.append(np.abs(np.array(told, float) / 100 - centre).max())
    assert len(errors) > 60
    # A finger may still hide a corner, which moves the middle of what is left.
    assert np.median(errors) < 0.03
    assert np.max(errors) < 0.12


def test_a_relation_and_its_converse_hold_together(scenes: list[CaptionScene]) -> None:
    converses = {"left": "right", "right": "left", "front": "behind", "behind": "front"}
    converses |= {"near": "near", "far": "far"}
    for scene in scenes:
        found = set(relations(scene.truth, "front"))
        for relation in found:
            if relation.word in converses:
                back = Relation(relation.other, converses[relation.word], relation.subject)
                assert back in found


def test_every_phrasing_names_both_things() -> None:
    for word, phrases in PHRASES.items():
        rng = np.random.default_rng(0)
        said = {say(Relation("red cube", word, "blue bowl"), rng) for _ in range(40)}
        assert said == {f"the red cube is {phrase} the blue bowl." for phrase in phrases}


def test_what_the_gripper_holds_and_where_it_is_put_is_told() -> None:
    env = tabletop("place")
    options = {"object": "green cube", "receptacle": "blue bowl"}
    observation, _ = env.reset(seed=4, options=options)
    expert = build_expert(env, None, 0.0, np.random.default_rng(0))
    told: list[tuple[str, str, str]] = []
    over = False
    rng = np.random.default_rng(0)
    while not over:
        observation, _, terminated, truncated, info = env.step(expert.act())
        over = terminated or truncated
        images = {name: observation[f"{name}_image"] for name in ("front", "wrist")}
        scene = CaptionScene(images, env.unwrapped.truth())
        answers = {t.kind: t.answer for t in converse(scene, rng, 12, ("holding", "inside"))}
        told.append((answers.get("holding", ""), answers.get("inside", ""), scene.truth.held))
    env.close()
    assert info["success"]
    assert told[0][0] == "nothing."
    assert "the green cube." in [holding for holding, _, _ in told]
    assert told[-1][2] is None
    assert scene.truth.inside == {"green cube": "blue bowl"}


def test_what_a_closed_drawer_hides_is_not_spoken_of() -> None:
    env = tabletop("drawer")
    for drawer, opening in (("open", "the drawer is open."), ("closed", "the drawer is closed.")):
        env.reset(seed=1, options={"drawer": drawer})
        truth = env.unwrapped.truth()
        assert truth.inside == {"red cube": "drawer"}
        assert ("red cube" in seen(truth, "front")) == (drawer == "open")
        turns = converse(CaptionScene({}, truth), np.random.default_rng(0), 20, ("drawer",))
        assert {turn.answer for turn in turns} == {opening}
    env.close()


def test_every_kind_of_question_occurs(scenes: list[CaptionScene]) -> None:
    rng = np.random.default_rng(0)
    kinds = {turn.kind for scene in scenes for turn in converse(scene, rng, 30)}
    assert kinds == set(KINDS)


def test_the_vocabulary_has_instructions_whole_and_hundreds_of_ids_to_spare(
    scenes: list[CaptionScene],
) -> None:
    rng = np.random.default_rng(0)
    turns = [turn for scene in scenes for turn in converse(scene, rng, 40)]
    # Questions stand behind images, without a space, and behind a word.
    tokenizer = build_tokenizer([f"{t.prompt}\nUser: {t.prompt} {t.answer}\n" for t in turns])
    instructions = [
        "put the yellow brick in the white tray",
        "pick up the red cube",
        "open the drawer and pick up the green cube",
    ]
    for text in instructions:
        assert len(tokenizer(text)["input_ids"]) <= len(text.split()) + 1
    texts = [*instructions, *(t.prompt for t in turns), *(f" {t.answer}" for t in turns)]
    used = {i for ids in tokenizer(texts)["input_ids"] for i in ids}
    assert not used & set(range(len(tokenizer) - 280, len(tokenizer)))
    for number in range(100):
        assert len(tokenizer(f" {number}")["input_ids"]) == 1


def test_sentences_that_are_too_few_for_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="give more sentences or a smaller vocabulary"):
        build_tokenizer(["put it down"], vocab_size=5000)
