"""Wordle: the rules on lists, the game, its players, and what is wrong with a word list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_robot.parts.simulators import build_env, build_expert
from sim.games.wordle.env import UNKNOWN, WordleEnv
from sim.games.wordle.rules import BOARD_SIZE, YELLOW_RULES, WordTable, board, code_of, color
from sim.games.wordle.words import OWN_LIST, read_words

OWN = read_words(None)
TABLES = {rule: WordTable(OWN, rule) for rule in YELLOW_RULES}
words = st.sampled_from(OWN)
letters = st.text("abc", min_size=5, max_size=5)


def play(env, player, seed):
    """One game; the return and the guesses."""
    env.reset(seed=seed)
    total, over = 0.0, False
    actor = build_expert(env, *player, np.random.default_rng([seed, 1]))
    while not over:
        _, reward, ended, cut, _ = env.step(actor.act())
        total, over = total + reward, ended or cut
    return total, [guess for guess, _ in env.guesses]


@pytest.mark.parametrize(
    ("guess", "word", "present", "counted"),
    [
        ("raise", "raise", "ggggg", "ggggg"),
        ("eerie", "after", "yyyby", "ybybb"),
        ("geese", "there", "bygbg", "bbgbg"),
        ("level", "allow", "ybbby", "ybbby"),
        ("sassy", "glass", "yyygb", "yybgb"),
        ("allow", "label", "yyybb", "yyybb"),
    ],
)
def test_colors_of_letters_that_stand_twice(guess, word, present, counted):
    assert color(guess, word) == present
    assert color(guess, word, "counted") == counted


@given(letters, letters)
def test_counted_colors_are_the_largest_matching_and_present_ones_hide_no_letter(guess, word):
    counted, present = color(guess, word, "counted"), color(guess, word)
    for letter in set(guess):
        told = sum(c != "b" for c, x in zip(counted, guess, strict=True) if x == letter)
        assert told == min(guess.count(letter), word.count(letter))
    for colors in (counted, present):
        assert [c == "g" for c in colors] == [a == b for a, b in zip(guess, word, strict=True)]
    assert [c == "b" for c in present] == [letter not in word for letter in guess]


@pytest.mark.parametrize("rule", YELLOW_RULES)
@given(guess=words, word=words)
def test_the_table_has_the_colors_of_every_pair(rule, guess, word):
    table = TABLES[rule]
    code = table.codes[table.index[guess], table.index[word]]
    assert code == code_of(color(guess, word, rule))


@pytest.mark.parametrize("rule", YELLOW_RULES)
@given(word=words, guesses=st.lists(words, max_size=4))
def test_the_hidden_word_always_fits_and_what_fits_has_the_same_colors(rule, word, guesses):
    table = TABLES[rule]
    said = [(guess, color(guess, word, rule)) for guess in guesses]
    fitting = table.consistent(said)
    assert table.index[word] in fitting
    for other in fitting[:10]:
        assert [color(g, table.words[other], rule) for g in guesses] == [c for _, c in said]


@pytest.mark.parametrize("rule", YELLOW_RULES)
@given(word=words, guesses=st.lists(words, max_size=6))
def test_the_board_fits_exactly_the_words_that_the_colors_fit(rule, word, guesses):
    table = TABLES[rule]
    said = [(guess, color(guess, word, rule)) for guess in guesses]
    told = board([*said, ("zz", "")])  # a guess outside of the list says nothing
    assert told.shape == (BOARD_SIZE,)
    assert told[-6:].sum() == min(len(guesses) + 1, 6)
    places, has = told[:130].reshape(26, 5), told[130:156]
    spelled = np.array([[ord(x) - ord("a") for x in each] for each in table.words])
    there = np.zeros((len(spelled), 26, 5), bool)
    there[np.arange(len(spelled))[:, None], spelled, np.arange(5)] = True
    inside = there.any(2)
    fits = ((places <= 0) | there).all((1, 2)) & ((places >= 0) | ~there).all((1, 2))
    fits &= ((has <= 0) | inside).all(1) & ((has >= 0) | ~inside).all(1)
    found, wanted = set(np.flatnonzero(fits)), set(table.consistent(said))
    assert found == wanted if rule == "present" else found >= wanted


def test_the_most_informative_guess_splits_best_and_the_best_return_is_what_it_plays():
    table = TABLES["present"]
    everything = np.arange(len(OWN))

    def entropy(guess):
        share = np.bincount(table.codes[guess]) / len(OWN)
        return -sum(p * np.log2(p) for p in share if p > 0)

    best = table.most_informative(everything)
    assert entropy(best) == pytest.approx(max(entropy(i) for i in everything), abs=1e-9)
    env = WordleEnv()
    returns = []
    for word in OWN:
        env.reset(options={"word": word})
        actor = build_expert(env, None, 0.0, np.random.default_rng(0))
        total, over = 0.0, False
        while not over:
            _, reward, ended, cut, _ = env.step(actor.act())
            total, over = total + reward, ended or cut
        returns.append(total)
    assert np.mean(returns) == pytest.approx(table.best_return())
    # Two words: the first guess is right for one of them, the second for the other.
    assert WordTable(("aaaaa", "bbbbb")).best_return() == -0.5


def test_more_random_guesses_lose_more_and_a_seed_gives_the_same_game():
    env = build_env({"env_name": "wordle", "env_kwargs": {}})
    mean = {
        noise: np.mean([play(env, ("consistent", noise), seed)[0] for seed in range(300)])
        for noise in (0.0, 0.67, 1.0)
    }
    assert mean[0.0] > mean[0.67] + 1 > mean[1.0] + 2
    assert play(env, ("consistent", 0.5), 7) == play(env, ("consistent", 0.5), 7)
    assert len({env.reset(seed=seed)[1]["word"] for seed in range(50)}) > 30
    for _ in range(3):  # without a seed the games go on, another word each
        assert env.reset()[1]["word"] in OWN


@settings(deadline=None)
@given(st.lists(st.one_of(words, st.sampled_from(["zzzzz", "cat", "", "123", "été"])), min_size=6))
def test_every_wrong_guess_costs_one_and_one_outside_of_the_list_its_penalty(guesses):
    env = WordleEnv(outside_reward=-10.0)
    env.reset(options={"word": "water"})
    for i, guess in enumerate(guesses[:6]):
        said, reward, ended, cut, info = env.step(" ".join(guess))
        assert info["invalid_command"] == (guess not in OWN) == (said["feedback"] == UNKNOWN)
        assert reward == (0.0 if guess == "water" else -1.0 if guess in OWN else -10.0)
        assert ended == info["success"] == (guess == "water")
        assert cut == (i == 5 and not ended)
        if ended or cut:
            break
        if guess in OWN:
            colors = color(guess, "water")
            assert said["feedback"] == " ".join(colors)
            marks = [f"{x}{i}{c}" for i, (x, c) in enumerate(zip(guess, colors, strict=True), 1)]
            assert said["marks"] == " ".join(marks)
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("water")


def test_after_the_end_nothing_more_is_lost_where_a_game_runs_to_its_limit():
    env = WordleEnv(terminate_on_success=False)
    env.reset(options={"word": "water"})
    rewards = [env.step(guess)[1] for guess in ("w h e r e", "water", "where", "xxxxx")]
    assert rewards == [-1.0, 0.0, 0.0, 0.0]
    assert env.render().shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "0 words; a game needs at least 2"),
        (b"water\n", "1 words"),
        (b"water\nwaters\n", r"line 2 is 'waters'; a word list has one word of 5 letters"),
        (b"water\n\nWHERE\n", "line 3 is 'WHERE'"),
        (b"water\nwhere\nwater\n", "line 3 has 'water' again, which stands in line 1"),
        (b"wat\xe9r\nwhere\n", "not a text file"),
    ],
)
def test_a_bad_word_list_is_answered_with_file_and_line(tmp_path, text, said):
    file = tmp_path / "list.txt"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=said) as error:
        WordleEnv(str(file))
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"yellow": "green"}, "present, counted"),
        ({"outside_reward": 1.0}, "penalty: give 0 or less"),
        ({"outside_reward": float("nan")}, "penalty"),
        ({"max_steps": 0}, "at least 1"),
        ({"word": "water"}, "Did you mean 'words'"),
        ({"words": 3}, "text is expected"),
    ],
)
def test_bad_arguments_are_answered(kwargs, said):
    with pytest.raises(ValueError, match=said):
        build_env({"env_name": "wordle", "env_kwargs": kwargs})
    env = WordleEnv()
    with pytest.raises(ValueError, match="none of the"):
        env.reset(options={"word": "zzzzz"})
    with pytest.raises(ValueError, match="there is: word"):
        env.reset(options={"target": "water"})


def test_the_shipped_list_is_sorted_and_has_every_letter():
    assert list(OWN) == sorted(OWN)
    assert set("".join(OWN)) == set("abcdefghijklmnopqrstuvwxyz")
    assert OWN_LIST.read_text().endswith("\n")
