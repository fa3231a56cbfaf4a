"""Text commands: what may be said is exactly what is admissible, row by row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_cases import COMMANDS, legal_ids

from tokenizers_action.commands import END, CommandTokenizer
from tokenizers_action.protocol import TextTokenizer, legal_along

words = st.sampled_from(["go", "to", "1", "10", "cup", "look", "in/on"])
commands = st.lists(words, min_size=1, max_size=4).map(" ".join)
rows = st.lists(st.lists(commands, min_size=1, max_size=6, unique=True), min_size=1, max_size=5)


def said_by(tokenizer, bound):
    """Every command that legal tokens lead to, row by row, by walking all of them."""
    found = [set() for _ in range(len(bound))]
    for row in range(len(bound)):
        one, prefixes = bound[np.array([row])], [()]
        for _ in range(tokenizer.n_tokens):
            prefixes = [
                (*prefix, int(token))
                for prefix in prefixes
                for token in np.flatnonzero(
                    one.legal_tokens(np.array([prefix], np.int64).reshape(1, -1))[0]
                )
            ]
        found[row] = {str(x) for x in tokenizer.decode(np.array(prefixes))[:, 0]}
    return found


@settings(deadline=None)
@given(rows)
def test_legal_tokens_lead_to_the_admissible_commands_and_to_no_other(listed):
    tokenizer = CommandTokenizer.fit(x for row in listed for x in row)
    bound = tokenizer.within(["\n".join(row) for row in listed])
    assert said_by(tokenizer, bound) == [set(row) for row in listed]


@settings(deadline=None)
@given(st.lists(commands, min_size=1, max_size=12))
def test_a_closed_tokenizer_says_exactly_the_commands_that_it_was_fit_on(known):
    fit = CommandTokenizer.fit(known, closed=True)
    for tokenizer in (fit, CommandTokenizer.from_json(fit.to_json())):
        assert tokenizer.free  # it reads no list of a row
        prefixes = [()]
        for _ in range(tokenizer.n_tokens):
            legal = tokenizer.legal_tokens(np.array(prefixes, np.int64).reshape(len(prefixes), -1))
            prefixes = [
                (*prefix, int(token))
                for prefix, row in zip(prefixes, legal, strict=True)
                for token in np.flatnonzero(row)
            ]
        said = tokenizer.decode(np.array(prefixes))[:, 0]
        assert sorted(said) == sorted(set(known))
    with pytest.raises(ValueError, match="begins none of the"):
        fit.legal_tokens(np.array([[fit.vocab_size]]))


@settings(deadline=None)
@given(rows, st.integers(0, 99))
def test_masked_random_ids_are_always_an_admissible_command(listed, seed):
    tokenizer = CommandTokenizer.fit(x for row in listed for x in row)
    bound = tokenizer.within(["\n".join(row) for row in listed])
    ids = legal_ids(bound, np.random.default_rng(seed), len(listed))
    for row, (command,) in zip(listed, tokenizer.decode(ids), strict=True):
        assert command in row
    legal = legal_along(bound, ids)
    assert np.take_along_axis(legal, ids[..., None], axis=2).all()


@settings(deadline=None)
@given(st.lists(commands, min_size=1, max_size=20))
def test_commands_come_back_and_only_what_fills_up_is_not_real(given_):
    tokenizer = CommandTokenizer.fit(given_)
    actions = np.array(given_, object)[:, None]
    ids = tokenizer.encode(actions)
    assert tokenizer.decode(ids).tolist() == actions.tolist()
    real = tokenizer.real_tokens(ids, np.ones(len(ids), int)).sum(1)
    assert real.tolist() == [1 + len(command.split()) for command in given_]


def test_the_end_tells_a_command_from_the_one_that_it_begins():
    tokenizer = CommandTokenizer.fit(["take cup", "take cup 1"])
    bound = tokenizer.within(["take cup\ntake cup 1", "take cup 1"])
    prefix = tokenizer.encode(np.array([["take cup"]] * 2, object))[:, :2]
    assert bound.legal_tokens(prefix)[:, END].tolist() == [True, False]


def test_free_decoding_takes_any_words_but_no_empty_and_no_open_command():
    tokenizer = CommandTokenizer.fit(COMMANDS, free=True)
    assert isinstance(tokenizer, TextTokenizer)
    said = tokenizer.decode(legal_ids(tokenizer, np.random.default_rng(0), 2000))[:, 0]
    lengths = [len(command.split()) for command in said]
    assert min(lengths) == 1
    assert max(lengths) == tokenizer.n_tokens - 1
    assert len(set(said) - set(COMMANDS)) > 1000
    with pytest.raises(ValueError, match="legal"):
        tokenizer.decode(np.zeros((1, tokenizer.n_tokens), np.int64))
    with pytest.raises(ValueError, match="legal"):
        tokenizer.decode(np.ones((1, tokenizer.n_tokens), np.int64))


def test_what_can_not_be_said_is_left_out_and_a_row_without_commands_is_refused():
    tokenizer = CommandTokenizer.fit(COMMANDS)
    bound = tokenizer.within(["look\nfly away", "look\nopen cabinet 10"])
    assert said_by(tokenizer, bound) == [{"look"}, {"look", "open cabinet 10"}]
    with pytest.raises(ValueError, match=r"row 1.*'fly away'.*'fly'"):
        tokenizer.within(["look", "fly away"])
    opened = tokenizer.encode(np.array([["open cabinet 10"]], object))
    with pytest.raises(ValueError, match=r"row 0.*begins none of its 1"):
        bound[np.array([0])].legal_tokens(opened[:, :1])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([["fly away"]], "'fly'"),
        ([["look  around"]], "look  around"),
        ([["look look look look look look look"]], "1 to 6 words"),
        ([[""]], "1 to 6 words"),
        ([["look", "look"]], "shape"),
    ],
)
def test_commands_that_have_no_ids_are_refused(action, message):
    tokenizer = CommandTokenizer.fit([*COMMANDS, "around"])
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(np.array(action, object))


def test_a_vocabulary_of_spaces_or_repeats_is_refused():
    for bad in (["a b"], [""], ["a", "a"], []):
        with pytest.raises(ValueError, match="vocabulary"):
            CommandTokenizer(bad, 3)
