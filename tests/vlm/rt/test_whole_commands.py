"""Whole commands: the tokens' probabilities are those of the commands that go on with them."""

from __future__ import annotations

import itertools

import pytest
import torch

from vlm.rt.config import RTConfig
from vlm.rt.sizes import whole_commands
from vlm.rt.whole_commands import NOTHING, WholeCommands, tree

COMMANDS = ((1, 2, 0), (1, 3, 0), (2, 0, 0), (2, 1, 0), (3, 3, 0))
V, N = 4, 3


@pytest.fixture(params=[1, 2])
def model(request) -> WholeCommands:
    torch.manual_seed(0)
    made = whole_commands(V, N, 2, width=16, commands=COMMANDS, mixture=request.param)
    torch.nn.init.normal_(made.token_scores.weight)
    return made.eval()


def test_every_beginning_has_a_number_and_leads_to_its_commands() -> None:
    following, own = tree(COMMANDS, V)
    beginnings = {command[:i] for command in COMMANDS for i in range(N + 1)}
    assert len(following) == len(beginnings) + 1
    for command, numbers in zip(COMMANDS, own.tolist(), strict=True):
        at = 1
        for token, number in zip(command, numbers, strict=True):
            at = int(following[at, token])
            assert at == number
    assert not following[0].any()
    assert int((following > 0).sum()) == len(beginnings) - 1


def test_a_decision_is_as_likely_token_by_token_as_it_is_whole(model) -> None:
    state = torch.randn(6, 1, 2)
    frame_mask, text = torch.ones(6, 1, dtype=torch.bool), torch.zeros(6, 16, dtype=torch.int64)
    with torch.no_grad():
        tokens, _ = model._context(None, state, frame_mask, text, None, None)
        whole = model.command_log_probs(model._joined(tokens))
        torch.testing.assert_close(whole.logsumexp(1), torch.zeros(6), atol=1e-5, rtol=0)
        for number, command in enumerate(COMMANDS):
            ids = torch.tensor(command).expand(6, N)
            logs = model(None, state, frame_mask, text, ids).logits.log_softmax(-1)
            told = logs.gather(-1, ids[..., None]).sum((1, 2))
            torch.testing.assert_close(told, whole[:, number], atol=1e-4, rtol=0)


def test_what_is_no_command_has_no_probability(model) -> None:
    state, frame_mask = torch.randn(1, 1, 2), torch.ones(1, 1, dtype=torch.bool)
    text = torch.zeros(1, 16, dtype=torch.int64)
    for ids in itertools.product(range(V), repeat=N):
        logits = model(None, state, frame_mask, text, torch.tensor([ids])).logits[0]
        for i in range(N):
            for token in range(V):
                begins = any(c[: i + 1] == (*ids[:i], token) for c in COMMANDS)
                assert begins == bool(logits[i, token] > NOTHING)


def test_one_softmax_of_sums_is_no_mixture_of_two_players_and_two_are() -> None:
    """Half of the time any command, half of the time the first: a product of places can't say it
    where commands share their tokens, two of them can."""
    commands = tuple((*pair, 0) for pair in itertools.product((1, 2, 3), repeat=2))
    wanted = torch.full((len(commands),), 0.5 / len(commands))
    wanted[4] += 0.5
    entropy = -(wanted * wanted.log()).sum()
    lacking = {}
    for mixture in (1, 2):
        torch.manual_seed(1)
        model = whole_commands(V, N, 1, width=16, commands=commands, mixture=mixture)
        context = torch.zeros(1, 16)
        optimizer = torch.optim.Adam([*model.modes.parameters(), *model.token_scores.parameters(),
                                      *model.norm.parameters()], lr=0.05)  # fmt: skip
        for _ in range(300):
            loss = -(wanted * model.command_log_probs(context)[0]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        lacking[mixture] = float(loss.detach() - entropy)
    assert lacking[1] > 0.1
    assert lacking[2] < 0.01


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="commands belong to whole_commands"):
        RTConfig(V, N, 2, trunk="whole_commands")
    with pytest.raises(ValueError, match="commands belong to whole_commands"):
        RTConfig(V, N, 2, commands=COMMANDS)
    with pytest.raises(ValueError, match="has 4 token ids"):
        RTConfig(V, 4, 2, trunk="whole_commands", commands=COMMANDS)
