"""The losses: equal forms, closed-form minimizers, gradients, padding and precision."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from qsft_robot.algorithms.ilql import ilql_loss
from qsft_robot.algorithms.log_probs import chosen, legal_log_softmax
from qsft_robot.algorithms.qsft import qsft_loss, uniform_residual_loss, void_loss
from qsft_robot.algorithms.sft import sft_loss
from qsft_robot.token_data.batch import TokenBatch

B, N, V = 5, 3, 7


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def token_batch(action_ids, legal, token_mask=None) -> TokenBatch:
    b, _ = action_ids.shape
    empty = torch.zeros(b, 1, 0)
    mask = torch.ones_like(action_ids).bool() if token_mask is None else token_mask
    text = torch.zeros(b, 1, dtype=torch.long)
    return TokenBatch(empty, torch.ones(b, 1).bool(), text, action_ids, mask, legal)


@pytest.fixture
def batch(generator: torch.Generator) -> TokenBatch:
    """Random tokens, each legal; about half of the others are legal too; a padded tail."""
    legal = torch.rand(B, N, V, generator=generator) < 0.5
    ids = torch.randint(V, (B, N), generator=generator)
    legal.scatter_(-1, ids.unsqueeze(-1), True)
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[0, 1:] = False
    mask[3, 2] = False
    return token_batch(ids, legal, mask)


def normal(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def logits(generator: torch.Generator) -> torch.Tensor:
    return normal(B, N, V, generator=generator)


@pytest.fixture
def value_logits(generator: torch.Generator) -> torch.Tensor:
    return normal(B, N, generator=generator)


@pytest.fixture
def target(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(B, N, generator=generator, dtype=torch.float64)


def losses(logits, value_logits, batch, target):
    """Every loss of the module as (name, value)."""
    step_target = target[:, 0]
    return {
        "sft": sft_loss(logits, batch)[0],
        "qsft": qsft_loss(logits, value_logits, batch, target)[0],
        "qsft drawn": qsft_loss(logits, value_logits, batch, target, *halves(target))[0],
        "void": void_loss(logits, value_logits, batch, target)[0],
        "uniform residual": uniform_residual_loss(logits, batch, target)[0],
        "ilql": ilql_loss(logits, logits.flip(-1), value_logits, batch, step_target, 0.7, 0.1)[0],
    }


LOSSES = ("sft", "qsft", "qsft drawn", "void", "uniform residual", "ilql")


def halves(target):
    """Weights as the trainer gives them: the first rows carry the value, the others the policy."""
    value = torch.ones_like(target)
    value[len(target) // 2 :] = 0
    return value, (1 - value) * target / target.mean(-1, keepdim=True)


def test_the_factored_loss_equals_the_void_loss_to_rounding(logits, value_logits, batch, target):
    """logit V = logit of all legal tokens together against void: the log-sum-exp less void's."""
    legal_mass = torch.logsumexp(logits.masked_fill(~batch.legal, -torch.inf), -1)
    factored, metrics = qsft_loss(logits, value_logits, batch, target)
    joint, joint_metrics = void_loss(logits, legal_mass - value_logits, batch, target)
    torch.testing.assert_close(factored, joint, rtol=1e-12, atol=1e-12)
    for name in ("q/value_mean", "q/target_mean"):
        torch.testing.assert_close(metrics[name], joint_metrics[name], rtol=1e-6, atol=1e-6)


def test_the_factored_loss_and_the_void_loss_have_the_same_gradients(
    logits, value_logits, batch, target
):
    gradients = []
    for factored in (True, False):
        z, u = logits.clone().requires_grad_(), value_logits.clone().requires_grad_()
        mass = torch.logsumexp(z.masked_fill(~batch.legal, -torch.inf), -1)
        if factored:
            loss = qsft_loss(z, u, batch, target)[0]
        else:
            loss = void_loss(z, mass - u, batch, target)[0]
        gradients.append(torch.autograd.grad(loss, (z, u)))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_loss_of_one_token_is_the_hand_calculation():
    """Two legal tokens of three with logits 0 and log 3, V = 1/2, w = 1/4, the second taken:
    BCE = log 2 whatever w is, CE = log(4/3)."""
    one = token_batch(torch.tensor([[2]]), torch.tensor([[[True, False, True]]]))
    logits = torch.tensor([[[0.0, 9.0, math.log(3.0)]]])
    loss, metrics = qsft_loss(logits, torch.zeros(1, 1), one, torch.tensor([[0.25]]))
    assert float(loss) == pytest.approx(math.log(2) + 0.25 * math.log(4 / 3), rel=1e-6)
    assert float(metrics["loss/bce"]) == pytest.approx(math.log(2), rel=1e-6)
    assert float(metrics["loss/ce"]) == pytest.approx(0.25 * math.log(4 / 3), rel=1e-6)
    assert float(metrics["q/value_mean"]) == pytest.approx(0.5)
    loss, _ = uniform_residual_loss(logits, one, torch.tensor([[0.25]]))
    assert float(loss) == pytest.approx(0.25 * math.log(4 / 3) + 0.75 * math.log(4), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name, logits, value_logits, batch, target):
    z, u = logits.clone().requires_grad_(), value_logits.clone().requires_grad_()
    if name == "ilql":  # its goals are held constant, so each output is moved alone
        step, slow = target[:, 0], logits.flip(-1)
        assert gradcheck(lambda q: ilql_loss(q, slow, u, batch, step, 0.7, 0.1)[0], (z,))
        last = token_batch(batch.action_ids[:, :1], batch.legal[:, :1], batch.token_mask[:, :1])
        one = z[:, :1].detach()
        value = u[:, :1].detach().requires_grad_()
        assert gradcheck(lambda v: ilql_loss(one, one, v, last, step, 0.7, 0.1)[0], (value,))
        return
    assert gradcheck(lambda a, b: losses(a, b, batch, target)[name] + 0 * b.sum(), (z, u))


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_flows_into_targets(name, logits, value_logits, batch, target):
    if name == "sft":
        return
    weight = target.clone().requires_grad_()
    if name == "qsft drawn":
        value, policy = halves(target)
        loss = qsft_loss(
            logits.clone().requires_grad_(), value_logits, batch, weight, value, policy
        )[0]
    else:
        loss = losses(logits.clone().requires_grad_(), value_logits, batch, weight)[name]
    assert torch.autograd.grad(loss, weight, allow_unused=True)[0] is None


def test_ilql_takes_no_gradient_from_its_slow_values_or_the_next_tokens_value(
    logits, value_logits, batch, target
):
    q_target = logits.flip(-1).clone().requires_grad_()
    v = value_logits.clone().requires_grad_()
    z = logits.clone().requires_grad_()
    loss = ilql_loss(z, q_target, v, batch, target[:, 0], 0.7, 0.0)[0]
    slow, value = torch.autograd.grad(loss, (q_target, v), allow_unused=True)
    assert slow is None
    gap = chosen(q_target, batch.action_ids).detach() - v.detach()
    share = torch.where(gap > 0, 0.7, 0.3) * batch.token_mask
    torch.testing.assert_close(value, -2 * share * gap / batch.token_mask.sum())


@pytest.mark.parametrize("name", LOSSES)
def test_padding_has_no_effect_on_loss_or_gradient(name, logits, value_logits, batch, target):
    def everything(z, u, tokens, w):
        z, u = z.clone().requires_grad_(), u.clone().requires_grad_()
        loss = losses(z, u, tokens, w)[name]
        return loss, *torch.autograd.grad(loss + 0 * u.sum(), (z, u))

    padding = ~batch.token_mask
    z, u, w = logits.clone(), value_logits.clone(), target.clone()
    z[padding], u[padding] = 30.0, -30.0
    w[:, 1:] = torch.where(padding[:, 1:], 1 - w[:, 1:], w[:, 1:])
    ids = batch.action_ids.masked_fill(padding, 0)
    legal = batch.legal.clone()
    legal[padding] = True
    if name == "qsft drawn":  # the draw's weights share a step's mean target out: keep it
        w = target
    before = everything(logits, value_logits, batch, target)
    after = everything(z, u, token_batch(ids, legal, batch.token_mask), w)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not before[1][padding].any()
    assert not before[2][padding].any()


@pytest.mark.parametrize("name", LOSSES)
def test_illegal_tokens_have_no_effect_and_no_probability(
    name, logits, value_logits, batch, target
):
    other = torch.where(batch.legal, logits, logits + 20)
    if name == "ilql":  # the slow values are read at the token taken, legal by definition
        step = target[:, 0]
        a = ilql_loss(logits, logits, value_logits, batch, step, 0.7, 0.1)[0]
        b = ilql_loss(other, other, value_logits, batch, step, 0.7, 0.1)[0]
    else:
        a = losses(logits, value_logits, batch, target)[name]
        b = losses(other, value_logits, batch, target)[name]
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    log_p = legal_log_softmax(other, batch.legal)
    assert not log_p.exp()[~batch.legal].any()
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(B, N, dtype=torch.float64))


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_logits_give_finite_losses_and_gradients(
    name, logits, value_logits, batch, target
):
    z = (20 * logits).bfloat16().requires_grad_()
    u = (20 * value_logits).bfloat16().requires_grad_()
    for extreme in (target.float(), torch.zeros(B, N), torch.ones(B, N)):
        if name == "qsft drawn" and not extreme.any():
            continue  # nothing is drawn in proportion to zeros
        loss = losses(z, u, batch, extreme)[name]
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        for gradient in torch.autograd.grad(loss + 0 * u.float().sum(), (z, u)):
            assert gradient.isfinite().all()


def test_a_batch_without_a_real_token_costs_nothing(logits, value_logits, batch, target):
    empty = token_batch(batch.action_ids, batch.legal, torch.zeros_like(batch.token_mask))
    assert {float(x) for x in losses(logits, value_logits, empty, target).values()} == {0.0}


def test_a_decision_with_one_legal_token_has_no_policy_term(target):
    ids = torch.zeros(B, N, dtype=torch.long)
    legal = torch.zeros(B, N, V, dtype=torch.bool)
    legal[..., 0] = True
    batch, logits = token_batch(ids, legal), torch.randn(B, N, V)
    assert float(sft_loss(logits, batch)[0]) == 0
    assert float(uniform_residual_loss(logits, batch, target)[0]) == 0
    _, metrics = qsft_loss(logits, torch.zeros(B, N), batch, target)
    assert float(metrics["loss/ce"]) == 0


def test_ilql_goals_are_the_next_tokens_value_and_the_steps_target_at_the_last_real_token():
    """Three tokens, the third one padded; Q = 0, so the Q term is the mean square of the goals."""
    legal = torch.ones(1, 3, 2, dtype=torch.bool)
    mask = torch.tensor([[True, True, False]])
    batch = token_batch(torch.zeros(1, 3, dtype=torch.long), legal, mask)
    q, v = torch.zeros(1, 3, 2), torch.tensor([[0.1, 0.3, 0.9]])
    _, metrics = ilql_loss(q, q, v, batch, torch.tensor([0.5]), 0.7, 0.0)
    assert float(metrics["loss/q"]) == pytest.approx((0.3**2 + 0.5**2) / 2)
    assert float(metrics["loss/v"]) == pytest.approx(0.3 * (0.1**2 + 0.3**2) / 2)
    assert float(metrics["q/target_mean"]) == pytest.approx((0.3 + 0.5) / 2)
