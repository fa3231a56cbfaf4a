"""Twenty Questions: tables, the game, its askers, and what is wrong with a table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_robot.parts.simulators import build_env, build_expert
from sim.games.twenty_questions.env import UNKNOWN, TwentyQuestionsEnv
from sim.games.twenty_questions.rules import Knowledge
from sim.games.twenty_questions.table import AnswerTable, plain, read_table

OWN = read_table(None)
COMPLETE = np.array([[1, 1], [1, 5], [5, 1], [5, 5]])


def save(path, **changes):
    """A table of four objects and two questions, some arrays replaced or left out (None)."""
    arrays = {
        "objects": np.array(["ant", "bee", "cat", "dog"]),
        "questions": np.array(["Is it big?", "Does it fly?"]),
        "answers": COMPLETE,
    } | changes
    np.savez(path, **{name: x for name, x in arrays.items() if x is not None})
    return str(path)


def play(env, failure, noise, seed):
    env.reset(seed=seed)
    actor = build_expert(env, failure, noise, np.random.default_rng([seed, 1]))
    total, over, turns = 0.0, False, []
    while not over:
        turns.append(actor.act())
        _, reward, ended, cut, info = env.step(turns[-1])
        total, over = total + reward, ended or cut
        assert not info["invalid_command"]
    return total, turns


def test_every_object_of_the_shipped_table_can_be_told_from_every_other():
    yes = OWN.answers == 1
    assert len(np.unique(yes, axis=0)) == len(OWN.objects) > 50
    assert all(plain(x) == x for x in (*OWN.objects, *OWN.questions))


def test_the_halving_asker_plays_the_best_return_and_finds_every_object():
    env = TwentyQuestionsEnv()
    returns = []
    for name in OWN.objects:
        env.reset(options={"object": name})
        actor = build_expert(env, None, 0.0, np.random.default_rng(0))
        total, over = 0.0, False
        while not over:
            _, reward, ended, cut, info = env.step(actor.act())
            total, over = total + reward, ended or cut
        assert info["success"]
        returns.append(total)
    assert np.mean(returns) == pytest.approx(env.knowledge.best_return())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_table_of_all_bit_patterns_costs_its_bits_less_the_half_that_guessing_saves(bits):
    answers = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
    names = tuple(f"thing{i}" for i in range(2**bits))
    asked = tuple(f"is bit {i} set" for i in range(bits))
    table = AnswerTable(names, asked, answers.astype(np.uint8))
    known = Knowledge(table, "no", np.arange(2**bits))
    # bits - 1 questions leave two, of which the first guess is right in half of all games
    assert known.best_return() == -(bits - 1 + 0.5)


def test_askers_that_err_more_lose_more_and_a_seed_gives_the_same_game():
    env = build_env({"env_name": "twenty_questions", "env_kwargs": {}})
    mean = {
        noise: np.mean([play(env, None, noise, seed)[0] for seed in range(60)])
        for noise in (0.0, 0.5, 1.0)
    }
    assert mean[0.0] > mean[0.5] + 2 > mean[1.0] + 4
    assert play(env, "category_first", 0.3, 7) == play(env, "category_first", 0.3, 7)
    for failure in ("category_first", "random_question"):
        assert np.mean([play(env, failure, 0.0, seed)[0] for seed in range(60)]) < mean[0.0] - 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_the_object_always_fits_what_was_said_with_coins_too(seed, draws):
    env = TwentyQuestionsEnv(unsure="coin")
    rng = np.random.default_rng(draws)
    env.reset(seed=seed)
    for question in rng.integers(len(OWN.questions), size=12):
        first = env.step(OWN.questions[question])[0]["feedback"]
        assert env.step(OWN.questions[question].upper() + "?")[0]["feedback"] == first
        assert env.object in env.knowledge.fitting(env.said, env.guessed)
        if not env._playing:
            break
    assert len({TwentyQuestionsEnv().reset(seed=s)[1]["object"] for s in range(30)}) > 10


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31 - 1), st.lists(st.tuples(st.booleans(), st.integers(0, 70))))
def test_the_answers_tell_all_that_was_said(seed, moves):
    env = TwentyQuestionsEnv()
    told = env.reset(seed=seed)[0]["answers"]
    assert env.observation_space["answers"].contains(told)
    assert not told.any()
    for turn, (asks, number) in enumerate(moves[:19], 1):
        text = OWN.questions[number] if asks else f"guess {OWN.objects[number]}"
        told = env.step(text)[0]["answers"]
        assert told[-1] == np.float32(turn / 20)
        if env._won:
            break
    asked = [(int(i), bool(told[i] > 0)) for i in np.flatnonzero(told[: len(OWN.questions)])]
    guessed = np.flatnonzero(told[len(OWN.questions) : -1])
    assert (told[len(OWN.questions) : -1] <= 0).all()
    fitting = env.knowledge.fitting(env.said, env.guessed)
    assert np.array_equal(env.knowledge.fitting(asked, guessed), fitting)


def test_a_turn_costs_one_and_what_is_no_question_is_told_so():
    env = TwentyQuestionsEnv()
    env.reset(options={"object": "bear"})
    for action, feedback, reward in (
        ("Is it an animal?", "Yes.", -1.0),
        ("is it a vehicle", "No.", -1.0),
        ("is it tasty", UNKNOWN, -1.0),
        ("guess dog", "No.", -1.0),
        ("guess", UNKNOWN, -1.0),
        ("guess unicorn", UNKNOWN, -1.0),
        ("guess bear", "Yes.", 0.0),
    ):
        said, paid, ended, cut, info = env.step(action)
        assert (said["feedback"], paid) == (feedback, reward)
        assert info["invalid_command"] == (feedback == UNKNOWN)
        assert ended == info["success"] == (action == "guess bear")
        assert not cut
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("guess bear")
    assert env.render().shape == (256, 256, 3)
    env = TwentyQuestionsEnv(max_steps=2)
    env.reset(options={"object": "bear"})
    assert [env.step("guess dog")[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_splits_share_out_the_objects_and_a_file_names_those_that_may_be_hidden(tmp_path):
    hidden = {
        split: set(TwentyQuestionsEnv(split=split).hidden.tolist())
        for split in ("all", "train", "held_out")
    }
    assert hidden["train"] | hidden["held_out"] == hidden["all"]
    assert not hidden["train"] & hidden["held_out"]
    names = tmp_path / "names.txt"
    names.write_text("Bear\n\ndog\ncat\n")
    env = TwentyQuestionsEnv(objects=str(names))
    assert {env.reset(seed=s)[1]["object"] for s in range(20)} == {"bear", "dog", "cat"}
    assert env.knowledge.best_return() >= -2
    for text, said in (("bear\nunicorn\n", "line 2: 'unicorn' is no object"), ("bear\n", "1 obj")):
        names.write_text(text)
        with pytest.raises(ValueError, match=said):
            TwentyQuestionsEnv(objects=str(names))


def test_a_csv_and_a_npz_of_one_table_are_read_alike(tmp_path):
    npz = save(
        tmp_path / "a.npz",
        objects=None, questions=None, answers=None, stimuli=np.array(["Ant", "bee", "cat", "dog"]),
        features=np.array(["IS IT BIG?", "Word length", "does it fly?"]),
        vectors=np.array([[1, 9, 1], [2, 9, 5], [4, 0, 1], [5, 3, 3]]),
    )  # fmt: skip
    text = tmp_path / "a.csv"
    text.write_text("object,is it big,does it fly\nant,1,1\nbee,2,5\ncat,4,1\ndog,5,3\n")
    one, other = read_table(npz), read_table(str(text))
    assert (one.objects, one.questions) == (other.objects, other.questions)
    assert one.fingerprint == other.fingerprint
    assert one.answers.tolist() == [[0, 0], [0, 1], [1, 0], [1, 2]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answers": None}, "no array answers or vectors"),
        ({"answers": COMPLETE[:3]}, r"answers of shape \[3, 2\] for 4 objects and 2 questions"),
        ({"answers": COMPLETE[:, :1]}, r"answers of shape \[4, 1\]"),
        ({"answers": COMPLETE * 2}, "1 .no. to 5 .yes."),
        ({"answers": COMPLETE.astype(str)}, "1 .no. to 5 .yes."),
        ({"answers": COMPLETE + np.nan}, "1 .no. to 5 .yes."),
        ({"objects": np.array(["ant", "bee", "Ant", "dog"])}, "objects 'ant' and 'Ant' are one"),
        ({"objects": np.arange(4)}, "where a row of texts is expected"),
        ({"objects": np.array(["ant", "bee", "!", "dog"])}, "no words a to z"),
        ({"questions": np.array(["big", "Does it fly?"])}, "1 questions; a game needs"),
        ({"questions": np.array(["Guess it?", "Does it fly?"])}, "begins with 'guess'"),
    ],
)
def test_a_bad_table_is_answered_with_its_file(tmp_path, changes, said):
    path = save(tmp_path / "t.npz", **changes)
    with pytest.raises(ValueError, match=said) as error:
        TwentyQuestionsEnv(path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.npz", b"nothing", "no .npz of plain arrays"),
        ("t.npz", b"", "no .npz of plain arrays"),
        ("t.csv", b"", "a table has a line of questions"),
        ("t.csv", b"object,is it big\nant,yes\n", "the line of 'ant'"),
        ("t.csv", b"object,is it big,does it fly\nant,1\n", "the line of 'ant' has 1 answers"),
        ("t.csv", b"\xff\xfe", "not a text file"),
    ],
)
def test_a_file_that_is_no_table_is_answered_too(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_table(str(tmp_path / name))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"split": "test"}, "all, train, held_out"),
        ({"unsure": "maybe"}, "no, coin"),
        ({"max_steps": 0}, "at least 1"),
        ({"tabel": "x"}, "Did you mean 'table'"),
    ],
)
def test_bad_arguments_are_answered(kwargs, said):
    with pytest.raises(ValueError, match=said):
        build_env({"env_name": "twenty_questions", "env_kwargs": kwargs})
