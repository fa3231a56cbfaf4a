"""Where every distribution is a table: minimizers in closed form, fixed points of random MDPs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from qsft_robot.algorithms.acting import Distributions, acting_log_probs
from qsft_robot.algorithms.qsft import backup, q_values, qsft_loss, uniform_residual_loss, void_loss
from qsft_robot.algorithms.sft import sft_loss
from qsft_robot.algorithms.targets import lambda_returns
from qsft_robot.config.acting import ActingConfig
from qsft_robot.token_data.batch import TokenBatch


def act(config, legal, *said, **more):
    return acting_log_probs(config, legal, Distributions(*said, **more))


GAMMA = 0.9


def rows_of(states: Tensor, actions: Tensor, count: int) -> TokenBatch:
    """Rows of a tabular data set as a batch: the state is the row's number in a table of logits."""
    b = len(states)
    return TokenBatch(
        state=states.double()[:, None, None],
        frame_mask=torch.ones(b, 1).bool(),
        text_ids=torch.zeros(b, 1).long(),
        action_ids=actions[:, None],
        token_mask=torch.ones(b, 1).bool(),
        legal=torch.ones(b, 1, count).bool(),
    )


def minimize(loss, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Minimize `loss(*parameters)` over free float64 parameters, from 0."""
    parameters = [torch.zeros(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=2000, tolerance_grad=1e-10, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        optimizer.zero_grad()
        value = loss(*parameters)
        value.backward()
        return float(value.detach())

    optimizer.step(closure)
    return [p.detach() for p in parameters]


@dataclass
class Logs:
    """Single decisions in `s` states with `a` actions: state, action and target of each row."""

    states: Tensor
    actions: Tensor
    targets: Tensor
    shape: tuple[int, int]

    @property
    def batch(self) -> TokenBatch:
        return rows_of(self.states, self.actions, self.shape[1])

    def mean(self, values: Tensor) -> Tensor:
        """Empirical mean of `values` per (state, action), times how often the action is taken."""
        table = torch.zeros(self.shape, dtype=torch.float64)
        table.index_put_((self.states, self.actions), values.double(), accumulate=True)
        visits = torch.bincount(self.states, minlength=self.shape[0])
        return table / visits[:, None]

    @property
    def beta(self) -> Tensor:
        return self.mean(torch.ones(len(self.states)))


@pytest.fixture
def logs() -> Logs:
    """Every action in every state 2 to 9 times, with targets in quarters that differ by row."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, 5)
    counts = torch.randint(2, 10, (20,), generator=generator)
    index = torch.repeat_interleave(torch.arange(20), counts)
    targets = torch.randint(0, 5, (len(index),), generator=generator).double() / 4
    return Logs(index // 5, index % 5, targets, shape)


def value_and_policy(logs: Logs) -> tuple[Tensor, Tensor]:
    """V and p~ of the closed form: p_theta(a|s) = E[w|s, a] pi_beta(a|s)."""
    p_theta = logs.mean(logs.targets)
    value = p_theta.sum(-1)
    return value, p_theta / value[:, None]


def test_the_minimizer_is_the_target_times_the_behavior(logs):
    def loss(z, u):
        return qsft_loss(
            z[logs.states][:, None], u[logs.states][:, None], logs.batch, logs.targets[:, None]
        )[0]

    logits, value_logits = minimize(loss, logs.shape, logs.shape[:1])
    value, policy = value_and_policy(logs)
    torch.testing.assert_close(value_logits.sigmoid(), value, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits.softmax(-1), policy, rtol=0, atol=1e-6)
    q = q_values(value_logits.sigmoid(), logits.log_softmax(-1), logs.beta.log())
    torch.testing.assert_close(q, logs.mean(logs.targets) / logs.beta, rtol=0, atol=1e-5)


def test_the_void_losss_minimizer_is_the_same(logs):
    def loss(z, void):
        return void_loss(
            z[logs.states][:, None], void[logs.states][:, None], logs.batch, logs.targets[:, None]
        )[0]

    logits, void = minimize(loss, logs.shape, logs.shape[:1])
    p_theta = torch.cat([logits, void[:, None]], 1).softmax(-1)[:, :-1]
    torch.testing.assert_close(p_theta, logs.mean(logs.targets), rtol=0, atol=1e-6)


def test_rows_drawn_in_proportion_to_the_target_have_the_same_minimizer_as_weights(logs):
    """Targets are in quarters, so w * 4 copies of a row are a draw in exact proportion."""
    copies = torch.repeat_interleave(torch.arange(len(logs.states)), (logs.targets * 4).long())
    rows = torch.cat([torch.arange(len(logs.states)), copies])
    states, targets = logs.states[rows], logs.targets[rows][:, None]
    batch = rows_of(states, logs.actions[rows], logs.shape[1])
    value_weight = torch.ones_like(targets)
    value_weight[len(logs.states) :] = 0

    def loss(z, u):
        return qsft_loss(
            z[states][:, None], u[states][:, None], batch, targets, value_weight, 1 - value_weight
        )[0]

    logits, value_logits = minimize(loss, logs.shape, logs.shape[:1])
    value, policy = value_and_policy(logs)
    torch.testing.assert_close(value_logits.sigmoid(), value, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits.softmax(-1), policy, rtol=0, atol=1e-6)


def test_the_uniform_residuals_minimizer_spreads_failure_over_all_other_actions(logs):
    def loss(z):
        return uniform_residual_loss(z[logs.states][:, None], logs.batch, logs.targets[:, None])[0]

    (logits,) = minimize(loss, logs.shape)
    expected = residual_minimizer(logs.beta, logs.mean(logs.targets) / logs.beta)
    torch.testing.assert_close(logits.softmax(-1), expected, rtol=0, atol=1e-6)


def residual_minimizer(beta: Tensor, w: Tensor) -> Tensor:
    """p(a|s) = pi_beta w + the (1 - w) pi_beta of the others, shared evenly (Eq. 3)."""
    lost = beta * (1 - w)
    return beta * w + (lost.sum(-1, keepdim=True) - lost) / (beta.shape[-1] - 1)


def test_lambda_1_and_gamma_1_is_filtered_sft():
    """Random logs with a reward on success: the policy of Q-SFT is what SFT learns of the
    successful logs alone, and V is the success rate of the logs through each state."""
    generator = torch.Generator().manual_seed(1)
    e, t, s, a = 60, 6, 3, 4
    states = torch.randint(s, (e, t), generator=generator)
    actions = torch.randint(a, (e, t), generator=generator)
    steps = torch.randint(2, t + 1, (e,), generator=generator)
    success = torch.rand(e, generator=generator) < 0.4
    rewards = torch.zeros(e, t, dtype=torch.float64)
    rewards[torch.arange(e), steps - 1] = success.double()
    anything = torch.rand(e, t + 1, 1, generator=generator, dtype=torch.float64)
    table = lambda_returns(rewards, steps, torch.ones(e).bool(), anything, discount=1.0, lam=1.0)[
        ..., 0
    ]
    real = torch.arange(t) < steps[:, None]
    data = Logs(states[real], actions[real], table[real], (s, a))
    kept = real & success[:, None]
    good = rows_of(states[kept], actions[kept], a)

    (filtered,) = minimize(lambda z: sft_loss(z[states[kept]][:, None], good)[0], (s, a))
    logits, value_logits = minimize(
        lambda z, u: qsft_loss(
            z[data.states][:, None], u[data.states][:, None], data.batch, data.targets[:, None]
        )[0],
        (s, a), (s,),
    )  # fmt: skip
    torch.testing.assert_close(logits.softmax(-1), filtered.softmax(-1), rtol=0, atol=1e-6)
    rate = torch.stack([success.double()[:, None].expand(e, t)[real & (states == i)].mean()
                        for i in range(s)])  # fmt: skip
    torch.testing.assert_close(value_logits.sigmoid(), rate, rtol=0, atol=1e-6)


@dataclass
class MDP:
    """Each action wins (reward 1, the end), fails (the end) or goes on to one of two states."""

    onward: Tensor  # [s, a, s]: probability to go on to a state
    win: Tensor  # [s, a]
    beta: Tensor  # [s, a]: the behavior

    @property
    def legal(self) -> Tensor:
        return torch.ones_like(self.beta).bool()

    def optimal_value(self) -> Tensor:
        value = torch.zeros(len(self.beta), dtype=torch.float64)
        for _ in range(500):
            value = (self.win + GAMMA * self.onward @ value).amax(-1)
        return value

    def value_of(self, policy: Tensor) -> Tensor:
        """Exact value of a policy, by solving the linear system."""
        moves = torch.einsum("sa,sat->st", policy, self.onward)
        eye = torch.eye(len(moves), dtype=torch.float64)
        return torch.linalg.solve(eye - GAMMA * moves, (policy * self.win).sum(-1))

    def targets(self, backups: Tensor) -> Tensor:
        """E[w | s, a] over one-step logs of every outcome, each log's w by `lambda_returns`:
        terminal with reward 1, terminal with 0, or cut before one of the states."""
        s = len(backups)
        rewards = torch.zeros(s + 2, 1, dtype=torch.float64)
        rewards[0] = 1.0
        ends = torch.arange(s + 2) < 2
        after = torch.zeros(s + 2, 2, 1, dtype=torch.float64)
        after[2:, 1, 0] = backups
        steps = torch.ones(s + 2).long()
        table = lambda_returns(rewards, steps, ends, after, discount=GAMMA, lam=0.0)[:, 0, 0]
        return self.win * table[0] + self.onward @ table[2:]

    def fixed_point(self, kind: str, **settings: float) -> tuple[Tensor, Tensor, Tensor]:
        """(backup, V, log p~) where the closed-form minimizer and its own targets agree."""
        log_beta = self.beta.log()
        value, log_policy = torch.full((len(self.beta),), 0.5).double(), log_beta
        for _ in range(120):
            q = self.targets(backup(kind, value, log_policy, log_beta, self.legal, **settings))
            value = (self.beta * q).sum(-1)
            log_policy = log_beta + q.clamp(min=1e-30).log() - value[:, None].log()
        return (
            backup(kind, value, log_policy, log_beta, self.legal, **settings), value, log_policy
        )  # fmt: skip


def random_mdp(seed: int, s: int = 10, a: int = 8, goal: float = 0.1) -> MDP:
    """A share `goal` of the actions may win, by a third at most; a third of them may fail."""
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> Tensor:
        return torch.rand(s, a, generator=generator, dtype=torch.float64)

    win = uniform() * (uniform() < goal) / 3
    fail = 0.8 * (uniform() < 1 / 3) * (1 - win)
    onward = torch.zeros(s, a, s, dtype=torch.float64)
    share = uniform()
    for part in (share, 1 - share):
        state = torch.randint(s, (s, a, 1), generator=generator)
        onward.scatter_add_(-1, state, part[..., None])
    beta = -((uniform().log()) ** 3)  # uneven: most actions are rare
    beta = (beta / beta.sum(-1, keepdim=True)).clamp(min=1e-5)
    return MDP(onward * (1 - win - fail)[..., None], win, beta / beta.sum(-1, keepdim=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_max_backup_reaches_the_optimal_value(seed):
    mdp = random_mdp(seed)
    best = mdp.optimal_value()
    highest, value, log_policy = mdp.fixed_point("max")
    torch.testing.assert_close(highest, best, rtol=0, atol=1e-3)
    acting = ActingConfig(rule="ratio", beta=1e4, support=0.0, min_p=0.0)
    policy = act(acting, mdp.legal, mdp.beta.log(), log_policy, value).exp()
    torch.testing.assert_close(mdp.value_of(policy), best, rtol=0, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_value_backup_reaches_the_behaviors_value_and_improves_on_it(seed):
    mdp = random_mdp(seed)
    behavior = mdp.value_of(mdp.beta)
    handed_back, value, log_policy = mdp.fixed_point("value")
    torch.testing.assert_close(value, behavior, rtol=0, atol=1e-6)
    torch.testing.assert_close(handed_back, value)
    improved = mdp.value_of(log_policy.exp())  # k = 1
    assert (improved > behavior).all()
    assert float(improved.mean()) > 1.5 * float(behavior.mean())


def test_the_soft_backup_lies_between_and_grows_with_its_sharpness():
    mdp = random_mdp(0)
    soft = [mdp.fixed_point("soft", softness=b)[0] for b in (1e-3, 4.0, 1e4)]
    behavior, best = mdp.value_of(mdp.beta), mdp.optimal_value()
    torch.testing.assert_close(soft[0], behavior, rtol=0, atol=1e-2)
    assert (soft[0] <= soft[1] + 1e-9).all()
    assert (soft[1] <= soft[2] + 1e-9).all()
    torch.testing.assert_close(soft[2], best, rtol=0, atol=2e-2)


@pytest.mark.parametrize("seed", range(3))
def test_the_uniform_residual_fails_with_many_actions_where_the_void_outcome_does_not(seed):
    """Eq. 3 gives rare actions the failures of the others: p / pi_beta is largest where pi_beta is
    least, the backup saturates at 1 and the extracted policy is bad."""
    mdp = random_mdp(seed, s=8, a=256, goal=0.02)
    best, log_beta = mdp.optimal_value(), mdp.beta.log()
    ones, log_p = torch.ones(8, dtype=torch.float64), log_beta
    for _ in range(120):
        w = mdp.targets(backup("max", ones, log_p, log_beta, mdp.legal))
        log_p = residual_minimizer(mdp.beta, w).log()
    uniform = backup("max", ones, log_p, log_beta, mdp.legal)
    highest, value, log_policy = mdp.fixed_point("max")
    assert float(best.max()) < 0.85
    assert float(uniform.min()) > 0.99  # whatever the state is worth
    torch.testing.assert_close(highest, best, rtol=0, atol=1e-3)

    def extracted(log_policy: Tensor, value: Tensor, rule: str) -> float:
        acting = ActingConfig(rule=rule, beta=1e4, support=0.0, min_p=0.0)
        log_probs = act(acting, mdp.legal, log_beta, log_policy, value)
        return float(mdp.value_of(log_probs.exp()).mean())

    for rule in ("ratio", "paper"):
        assert extracted(log_p, ones, rule) < 0.3 * float(best.mean())
    assert extracted(log_policy, value, "ratio") > 0.99 * float(best.mean())


def two_token_fixed_point(mdp: MDP, kind: str) -> Tensor:
    """The backup at the first of two tokens that spell one action, by the token-level recursion:
    the first token's target is the backup at the second, the second's is the step's target."""
    s, side = len(mdp.beta), round(mdp.beta.shape[1] ** 0.5)
    joint = mdp.beta.unflatten(1, (side, side))
    first = joint.sum(-1)
    log_first, log_second = first.log(), (joint / first[..., None]).log()
    legal = torch.ones(s, side, side).bool()
    outer = torch.full((s,), 0.5).double()
    steps, cut = torch.ones(s * side * side).long(), torch.zeros(s * side * side).bool()
    inner_value, inner_policy = torch.full((s, side), 0.5).double(), log_second
    for _ in range(120):
        inner = backup(kind, inner_value, inner_policy, log_second, legal)
        # One log a decision (state, first, second): its last token's target is given as reward.
        reward = mdp.targets(outer).reshape(-1, 1)
        backups = torch.zeros(len(reward), 2, 2, dtype=torch.float64)
        backups[:, 0, 1] = inner[..., None].expand(s, side, side).reshape(-1)
        table = lambda_returns(
            reward, steps, cut, backups, discount=1.0, lam=0.0, token_level=True
        )[:, 0].unflatten(0, (s, side, side))
        q = table[..., 1]
        inner_value = (log_second.exp() * q).sum(-1)
        inner_policy = log_second + q.clamp(min=1e-30).log() - inner_value[..., None].log()
        q = table[..., 0, 0]
        value = (first * q).sum(-1)
        policy = log_first + q.clamp(min=1e-30).log() - value[:, None].log()
        outer = backup(kind, value, policy, log_first, legal[:, 0])
    return outer


@pytest.mark.parametrize("kind", ["max", "soft"])
def test_cutting_an_action_into_tokens_changes_no_backup(kind):
    mdp = random_mdp(3, a=16)
    whole = mdp.fixed_point(kind)[0]
    torch.testing.assert_close(two_token_fixed_point(mdp, kind), whole, rtol=0, atol=1e-4)
