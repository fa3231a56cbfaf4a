"""The policy: one robot or many, history and chunks inside, clear answers to wrong inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from qsft_robot.algorithms.log_probs import legal_log_softmax
from qsft_robot.algorithms.networks import teacher_forced
from qsft_robot.policy.token_policy import TokenPolicy, load_policy
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training.train import train
from qsft_robot.types import Observation

ACTING = {
    "k = 1": {},
    "k = 3": {"k": 3.0},
    "ratio": {"rule": "ratio"},
    "paper": {"rule": "paper"},
    "behavior": {"rule": "behavior"},
    "likeliest": {"temperature": 0.0},
    "candidates": {"candidates": 4},
    "likeliest candidate": {"candidates": 4, "judge": "likelihood"},
    "tilted candidate": {"candidates": 4, "judge": "tilted", "beta": 2.0},
}


@pytest.fixture
def policy(config) -> TokenPolicy:
    """History of 3 frames, chunks of 2 actions."""
    setting = config(model__history=3, tokenizer__horizon=2, critic__updates=2)
    train(setting)
    return load_policy(setting.out / "checkpoint")


@pytest.fixture
def pixel_policy(config) -> TokenPolicy:
    setting = config(pixels=True, model__history=2, model__frozen_features=False)
    train(setting)
    return load_policy(setting.out / "checkpoint")


def play(policy: TokenPolicy, observations, seed: int) -> np.ndarray:
    policy.reset(seed)
    return np.stack([policy.infer(o) for o in observations])


@pytest.mark.parametrize("name", ACTING)
def test_an_episode_is_repeated_by_its_seed(policy, observations, name):
    policy = policy.with_acting(**ACTING[name])
    first = play(policy, observations, 1)
    assert first.shape == (20, 2, 4)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1
    assert np.array_equal(play(policy, observations, 1), first)
    other = play(policy, observations, 2)
    assert np.array_equal(other, first) == (name == "likeliest")


@pytest.mark.parametrize("name", ACTING)
def test_a_batch_decides_as_each_episode_alone(policy, observations, name):
    """Episodes of different ages, so that some histories are full and some are not."""
    policy = policy.with_acting(**ACTING[name])
    alone = [play(policy, observations[i:], seed=i) for i in range(4)]
    values = []
    memories = [policy.begin_episode(i) for i in range(4)]
    for step in range(16):
        active = [i for i in range(4) if step >= 2 * i]  # a later one joins every other step
        decisions = policy.infer_batch(
            [observations[i + step - 2 * i] for i in active], [memories[i] for i in active]
        )
        for i, decision in zip(active, decisions, strict=True):
            np.testing.assert_allclose(decision.actions, alone[i][step - 2 * i], atol=1e-6)
            values.append(decision.value)
    assert all(value is not None and 0 <= value <= 1 for value in values)


def test_the_critic_takes_the_best_of_its_candidates(policy, observations):
    """The candidates are the decisions that the same noise draws one by one."""
    several = policy.with_acting(candidates=6)
    torch.nn.init.normal_(several.networks.critic.action_value[0][-1].weight)
    seen = observations[:5]
    memories = [several.begin_episode(i) for i in range(5)]
    contexts, noise = several.contexts(seen, memories), several.noise(memories)
    found, _, finite = several.decider.decide(
        contexts, several.legal, noise, numbers=several.numbers
    )
    assert finite.all()
    drawn = [
        policy.decider.decide(contexts, policy.legal, noise[:, i : i + 1])[0] for i in range(6)
    ]
    scores = torch.stack(
        [several.decider.scores(contexts[-1], ids, several.numbers) for ids in drawn]
    )
    best = torch.stack(drawn)[scores.argmax(0), torch.arange(5)]
    assert torch.equal(found, best)
    assert len(scores.argmax(0).unique()) > 1


def test_the_likeliest_of_the_candidates_is_that_of_the_whole_decision(policy, observations):
    """Its log-probability is that of a whole forward pass; the critic may have a say in it."""
    several = policy.with_acting(candidates=6, judge="likelihood", min_p=0.0, temperature=1.5)
    model = several.networks.value
    torch.nn.init.normal_(model.head.weight)
    seen = observations[:5]
    memories = [several.begin_episode(i) for i in range(5)]
    contexts, noise = several.contexts(seen, memories), several.noise(memories)
    found, _, finite = several.decider.decide(contexts, several.legal, noise)
    assert finite.all()
    one = several.with_acting(candidates=1, judge="likelihood", min_p=0.0, temperature=1.5)
    drawn = [one.decider.decide(contexts, one.legal, noise[:, i : i + 1])[0] for i in range(6)]
    likelihoods, c = [], contexts[-1]
    for ids in drawn:
        logits = model(c.features, c.state, c.frame_mask, c.text_ids, ids).logits
        for i in range(ids.shape[1]):
            logits[:, i].masked_fill_(~several.legal(ids[:, :i]), -torch.inf)
        tokens = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        likelihoods.append(tokens.sum(-1))
    best = torch.stack(likelihoods).argmax(0)
    assert torch.equal(found, torch.stack(drawn)[best, torch.arange(5)])
    assert len(best.unique()) > 1
    # The same candidates by likelihood and critic together, from the one to the other.
    scores = torch.stack(
        [several.decider.scores(contexts[-1], ids, several.numbers) for ids in drawn]
    )
    for beta in (0.0, 30.0, 1e6):
        tilted = several.with_acting(judge="tilted", beta=beta)
        found = tilted.decider.decide(contexts, tilted.legal, noise, numbers=tilted.numbers)[0]
        best = (torch.stack(likelihoods) + beta * scores).argmax(0)
        assert torch.equal(found, torch.stack(drawn)[best, torch.arange(5)])
    assert torch.equal(best, scores.argmax(0))


def test_candidates_without_a_critic_are_refused(config):
    setting = config()
    train(setting)
    policy = load_policy(setting.out / "policy")
    with pytest.raises(ValueError, match=r"4 candidates need a critic .*--critic\.updates"):
        policy.with_acting(candidates=4)
    assert policy.with_acting(candidates=4, judge="likelihood").acting.candidates == 4


def test_a_decision_does_not_depend_on_its_neighbors(policy, observations):
    strange = replace(observations[0], state={k: 50 + x for k, x in observations[0].state.items()})
    values = []
    for neighbor in (observations[5], strange):
        memories = [policy.begin_episode(0), policy.begin_episode(1)]
        values.append(policy.infer_batch([observations[3], neighbor], memories)[0])
    assert np.array_equal(values[0].actions, values[1].actions)
    assert values[0].value == pytest.approx(values[1].value, abs=1e-6)


def test_the_policy_remembers_as_many_frames_as_it_was_trained_on_and_reset_forgets(
    policy, observations
):
    sure = policy.with_acting(temperature=0.0)

    def value(*seen: Observation) -> float:
        memory = sure.begin_episode(0)
        return [sure.infer_batch([o], [memory])[0].value for o in seen][-1]

    a, b, c, d = observations[:20:5]
    assert value(a, b, c, d) == value(b, b, c, d)  # the fourth frame back is forgotten
    assert value(a, b, c) != value(d, b, c)
    sure.reset()
    first = sure.infer(a)
    for o in (b, c):
        sure.infer(o)
    sure.reset()
    assert np.array_equal(sure.infer(a), first)


def test_the_policy_decides_by_the_distribution_that_training_saw(policy, config):
    """Tokens that the policy samples at a step of the logs, against teacher-forced logits."""
    setting = config(model__history=3, tokenizer__horizon=2)
    data = read_run_data(setting).train
    step = torch.tensor([40])
    batch = data.batch(step)
    rows = data.row_of_step[step] - torch.tensor([4, 2, 0])  # one decision a chunk
    assert bool(batch.frame_mask.all())
    greedy = policy.with_acting(temperature=0.0, min_p=0.0)
    stats = greedy.norm_stats
    memory = greedy.begin_episode(0)
    decision = None
    for row in rows:
        # Back from normalized state to the observation that the policy is given.
        flat, state, at = data.state[row].numpy(), {}, 0
        for key in greedy.state_keys:
            size = len(stats.mean[key])
            state[key] = (flat[at : at + size] * stats.std[key] + stats.mean[key]).astype("f4")
            at += size
        episode = int(data.episode_of_row[row])
        observation = Observation({}, state, instruction_of(setting, data.names[episode]))
        decision = greedy.infer_batch([observation], [memory])[0]
    assert decision is not None
    ids = greedy.tokenizer.encode(decision.actions[None])
    forced = replace(batch, action_ids=torch.from_numpy(ids))
    with torch.no_grad():
        output = teacher_forced(greedy.networks.value, forced)
        value = torch.sigmoid(greedy.networks.head(output.hidden))[0, 0]
    likeliest = legal_log_softmax(output.logits, batch.legal).argmax(-1)
    assert likeliest.tolist() == ids.tolist()
    assert decision.value == pytest.approx(float(value), abs=1e-5)


def instruction_of(setting, name: str) -> str:
    from qsft_robot.logs.reader import read_episodes

    return next(e.instruction for e in read_episodes(setting.data.path) if e.name == name)


def test_a_policy_with_cameras_sees_them_and_the_instruction(pixel_policy, pixel_observations):
    policy = pixel_policy

    def value(observation: Observation) -> float:
        return policy.infer_batch([observation], [policy.begin_episode(0)])[0].value

    seen = pixel_observations[0]
    black = {camera: np.zeros_like(x) for camera, x in seen.images.items()}
    assert value(replace(seen, images=black)) != value(seen)
    assert value(replace(seen, instruction="open the drawer")) != value(seen)
    extra = {**seen.images, "other_image": seen.images["front_image"]}
    assert value(replace(seen, images=extra)) == value(seen)


def test_a_missing_camera_or_key_is_named_with_what_there_is(pixel_policy, pixel_observations):
    seen = pixel_observations[0]
    front = {"front_image": seen.images["front_image"]}
    with pytest.raises(ValueError, match=r"'wrist_image', which.*\['front_image'\]"):
        pixel_policy.infer(replace(seen, images=front))
    with pytest.raises(ValueError, match=r"'proprio'; the observation has \['objects'\]"):
        pixel_policy.infer(replace(seen, state={"objects": seen.state["objects"]}))


def test_inputs_of_another_size_or_type_are_refused(pixel_policy, pixel_observations):
    seen = pixel_observations[0]
    large = {camera: np.zeros((64, 64, 3), np.uint8) for camera in seen.images}
    with pytest.raises(ValueError, match=r"\(64, 64, 3\), but the policy was trained on \(32, 32"):
        pixel_policy.infer(replace(seen, images=large))
    floats = {camera: x / np.float32(255) for camera, x in seen.images.items()}
    with pytest.raises(ValueError, match="gives float32; the policy takes uint8"):
        pixel_policy.infer(replace(seen, images=floats))
    with pytest.raises(ValueError, match=r"'proprio' has \(3,\) dimensions"):
        pixel_policy.infer(replace(seen, state={"proprio": np.zeros(3, np.float32)}))


def test_a_refused_observation_leaves_the_episode_as_it_was(policy, observations):
    expected = play(policy, observations[:3], 1)
    policy.reset(1)
    found = []
    for o in observations[:3]:
        with pytest.raises(ValueError, match="needs the observation key"):
            policy.infer(replace(o, state={}))
        spoiled = {key: np.full_like(x, np.nan) for key, x in o.state.items()}
        with pytest.raises(ValueError, match="NaN, infinite or beyond"):
            policy.infer(replace(o, state=spoiled))
        found.append(policy.infer(o))
    assert np.array_equal(np.stack(found), expected)


def test_a_rule_that_the_networks_can_not_serve_is_refused(policy, config, tmp_path):
    with pytest.raises(ValueError, match="unknown acting rule"):
        policy.with_acting(rule="powr")
    with pytest.raises(ValueError, match=r"'advantage'.*power, ratio, paper, behavior"):
        policy.with_acting(rule="advantage")
    sft = load_policy(train(config(method="sft", out=tmp_path / "sft")))
    with pytest.raises(ValueError, match="needs a value network"):
        sft.with_acting(rule="power")


def test_the_return_conditioned_policy_obeys_the_return_it_is_asked_for(config, observations):
    setting = config(method="return_conditioned", optim__behavior_steps=40)
    policy = load_policy(train(setting)).with_acting(temperature=0.0, min_p=0.0)
    found = [
        play(policy.with_acting(target_return=r), observations, 0) for r in (0.0, 1.0, 1.0, 30.0)
    ]
    assert np.array_equal(found[1], found[2])
    assert not np.array_equal(found[0], found[3])
