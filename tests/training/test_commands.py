"""Q-SFT over text commands: legal sets row by row, texts and commands remembered, closed loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from text_environments import ITEMS, TRUSTED, Corridor, play
from text_runs import settings

from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.qsft_stage import QSFTStage
from qsft_robot.algorithms.targets import lambda_returns
from qsft_robot.cli import main
from qsft_robot.config.train import TrainConfig
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.policy.token_policy import TokenPolicy, load_policy
from qsft_robot.presets.look_up import with_settings
from qsft_robot.rollouts.evaluate import evaluate
from qsft_robot.token_data.run_data import RunData, read_run_data
from qsft_robot.training.describing import describe
from qsft_robot.training.run_model import build_run_model
from qsft_robot.training.train import train
from qsft_robot.types import ADMISSIBLE, Decision, Observation


def prepared(config: TrainConfig) -> tuple[RunData, PolicyNetworks, PolicyDescription]:
    data = read_run_data(config)
    torch.manual_seed(0)
    networks = PolicyNetworks(build_run_model(config, data))
    from qsft_robot.parts.models import describe_model

    return data, networks, describe(config, data, describe_model(networks.behavior))


def test_every_row_has_its_own_legal_sets_and_padding_is_masked(text_logs, tmp_path):
    data, _, _ = prepared(settings(text_logs, tmp_path))
    tokens, tokenizer = data.train, data.tokenizer
    batch = tokens.batch(torch.arange(60))
    at = 0
    for log in (play(i, (0.1, 0.9, 0.9)[i % 3]) for i in range(3)):
        for t, command in enumerate(log.actions):
            row = batch.action_ids[at][None].numpy()
            assert tokenizer.decode(row)[0, 0] == command
            assert batch.token_mask[at].sum() == 1 + len(command.split())
            first = {text.split()[0] for text in log.texts[ADMISSIBLE][t].split("\n")}
            legal = batch.legal[at, 0].nonzero()[:, 0] - 1
            assert {tokenizer.words[i] for i in legal} == first
            at += 1
    final = tokens.legal_first(tokens.final_rows[:5])
    for i in range(5):
        listed = play(i, (0.1, 0.9, 0.9)[i % 3]).texts[ADMISSIBLE][-1].split("\n")
        legal = final[i].nonzero()[:, 0] - 1
        assert {tokenizer.words[k] for k in legal} == {text.split()[0] for text in listed}


def test_a_command_that_the_log_does_not_list_is_legal_where_it_was_given(tmp_path):
    log = play(0)
    log.actions[1] = "look around"
    write_demonstrations(tmp_path / "a.hdf5", [log, play(3, 0.0)], Corridor(image=True).env_args)
    data, _, _ = prepared(settings(tmp_path / "a.hdf5", tmp_path))
    batch = data.train.batch(torch.arange(3))
    assert batch.legal.gather(-1, batch.action_ids[..., None]).all()
    assert "around" in data.tokenizer.words


@pytest.mark.parametrize("keys", [("feedback",), ()], ids=["texts", "commands alone"])
def test_the_policy_remembers_what_training_reads(text_logs, tmp_path, keys):
    cameras = () if keys else ("view_image",)
    config = settings(text_logs, tmp_path, data__text_keys=keys, data__cameras=cameras)
    data, networks, description = prepared(config)
    acting = replace(description.acting, rule="behavior")
    policy = TokenPolicy(replace(description, networks=("behavior",), acting=acting), networks)
    log, memory = play(1, 0.9), policy.begin_episode(0)
    first = int(data.train.first_row[1])
    for t in range(len(log)):
        seen = Observation(
            {key: log.observations[key][t] for key in cameras}, {}, log.instruction,
            {key: log.texts[key][t] for key in ("feedback", ADMISSIBLE)},
        )  # fmt: skip
        (context,) = policy.contexts([seen], [memory])
        memory.command = log.actions[t]
        stored = data.train.context(torch.tensor([first + t]))
        assert torch.equal(context[5], stored.words)
        assert torch.equal(context[3], stored.text_ids)


def test_what_was_said_before_changes_the_logits_and_an_earlier_log_does_not(text_logs, tmp_path):
    data, networks, _ = prepared(settings(text_logs, tmp_path))
    model = networks.behavior.eval()
    steps = torch.arange(40)
    batch = data.train.batch(steps)
    assert (batch.words[data.train.time_of_step[steps] == 0, :-1] == 0).all()
    base = teacher_forced(model, batch).logits
    for place in range(batch.words.shape[1]):
        words = batch.words.clone()
        words[:, place, 0] = 77
        changed = teacher_forced(model, replace(batch, words=words)).logits
        assert ((changed - base).abs().amax((1, 2)) > 1e-6).all()


def test_targets_of_tokens_follow_each_command_s_own_length():
    """Two decisions of 2 and 3 real tokens of 4, reward 1 at the end, backups told apart."""
    backups = torch.arange(12.0).reshape(1, 3, 4) / 100
    table = lambda_returns(
        torch.tensor([[0.0, 1.0]]), torch.tensor([2]), torch.tensor([True]), backups,
        discount=0.5, lam=0.0, token_level=True, real_tokens=torch.tensor([[2, 3]]),
    )  # fmt: skip
    first = [0.01, *[0.5 * 0.04] * 3]  # its 2nd token is its last: gamma * backup of the next step
    second = [0.05, 0.06, 1.0, 1.0]
    np.testing.assert_allclose(table[0], [first, second], rtol=1e-6)


@pytest.mark.parametrize("backup", ["soft", "max"])
def test_the_support_at_the_next_state_is_the_next_row_s_own(text_logs, tmp_path, backup):
    config = settings(text_logs, tmp_path, qsft__backup=backup, qsft__lam=0.5, data__max_episodes=8)
    data, networks, _ = prepared(config)
    networks.start_value_stage("void", data.tokenizer.vocab_size)
    stage = QSFTStage(networks, data.train, "cpu", config.qsft)
    rows = torch.cat([data.train.row_of_step[1:9], data.train.final_rows[:3]])
    phi = stage._phi_at_rows(rows)
    legal = data.train.legal_first(rows)
    assert ((phi > -1e8) == legal).all()
    np.testing.assert_allclose(phi.exp().masked_fill(~legal, 0).sum(-1), 1.0, atol=5e-3)
    assert torch.isfinite(stage.table).all()
    assert 0 < float(stage.table.mean()) < 1


def rate(policy: TokenPolicy, path: Path) -> float:
    args = {**Corridor().env_args, "env_kwargs": {"image": True}}
    result = evaluate(
        policy,
        args,
        range(500, 560),
        workers=1,
        envs_per_worker=30,
        progress=False,
        env_overrides=TRUSTED,
    )
    return result.success_any.rate


def test_q_sft_beats_sft_on_mixed_logs_of_commands(text_logs, tmp_path):
    train(settings(text_logs, tmp_path / "run"))
    policy = load_policy(tmp_path / "run" / "policy")
    sft = load_policy(tmp_path / "run" / "checkpoint").with_acting(rule="behavior")
    assert rate(policy, text_logs) > rate(sft, text_logs) + 0.2
    with pytest.raises(ValueError, match="text commands, not"):
        PolicySpec.of(policy.description)


def test_the_exported_policy_gives_the_checkpoints_commands_and_drives_no_arm(
    text_logs, tmp_path, capsys
):
    few = {"optim__behavior_steps": 10, "optim__value_steps": 5, "data__max_episodes": 20}
    run = tmp_path / "run"
    train(settings(text_logs, run, data__cameras=("view_image",), **few))
    policies = [load_policy(run / "checkpoint"), load_policy(run / "policy")]
    for seed in range(3):
        corridor, told = Corridor(image=True), []
        seen, info = corridor.reset(seed=seed)
        memories = [policy.begin_episode(seed) for policy in policies]
        for _ in range(6):
            observation = Observation.from_env(seen, info["instruction"])
            given = [
                policy.infer_batch([observation], [memory])[0]
                for policy, memory in zip(policies, memories, strict=True)
            ]
            assert given[0].actions[0] == given[1].actions[0]
            assert given[0].value == given[1].value
            told.append(given[0].actions[0])
            seen, *_ = corridor.step(told[-1])
        assert set(told) <= {"look"} | {f"{w} {x}" for w in ("take", "drop") for x in ITEMS} | {
            f"go to room {i}" for i in (1, 2, 3)
        }
    for words in (["run", str(run), "--out", str(tmp_path / "arm")], ["serve", str(run)]):
        assert main(words) == 2
        assert "answers with text commands, not" in capsys.readouterr().err


class Counted:
    """Counts the commands of a policy that its observation did not list."""

    def __init__(self, policy: TokenPolicy) -> None:
        self.policy, self.foreign, self.given = policy, 0, 0
        self.begin_episode = policy.begin_episode

    def infer_batch(self, observations, memories) -> list[Decision]:
        decisions = self.policy.infer_batch(observations, memories)
        for seen, decision in zip(observations, decisions, strict=True):
            self.given += 1
            self.foreign += decision.actions[0] not in seen.texts[ADMISSIBLE].split("\n")
        return decisions


@pytest.mark.parametrize("free", [False, True])
def test_free_decoding_says_what_is_not_admissible_and_the_evaluator_counts_it(
    text_logs, tmp_path, free
):
    changes = {"method": "sft", "optim__behavior_steps": 5, "optim__value_steps": 1}
    config = settings(
        text_logs, tmp_path / "run", tokenizer__free=free, data__max_episodes=20, **changes
    )
    policy = Counted(load_policy(train(config)).with_acting(min_p=0.0))
    args = {**Corridor().env_args, "env_kwargs": {"image": True}}
    result = evaluate(
        policy, args, range(6), workers=1, envs_per_worker=6, progress=False, env_overrides=TRUSTED
    )
    assert result.summary["refused_commands"]["count"] == policy.foreign
    assert (policy.foreign > 0) == free


def test_bad_input_is_refused_by_name(text_logs, tmp_path, logs):
    with pytest.raises(ValueError, match=r"text commands.*--tokenizer.kind commands"):
        read_run_data(settings(text_logs, tmp_path, tokenizer__kind="uniform_bins"))
    with pytest.raises(ValueError, match=r"numbers, which --tokenizer.kind commands"):
        read_run_data(settings(logs, tmp_path, tokenizer__free=True, data__text_keys=("proprio",)))
    with pytest.raises(ValueError, match=r"no observation key 'feedbak'.*feedback"):
        read_run_data(settings(text_logs, tmp_path, data__text_keys=("feedbak",)))
    with pytest.raises(ValueError, match=r"--data.text-keys view_image: this key holds no text"):
        read_run_data(settings(text_logs, tmp_path, data__text_keys=("view_image",)))
    _, networks, description = prepared(settings(text_logs, tmp_path))
    acting = replace(description.acting, rule="behavior")
    policy = TokenPolicy(replace(description, acting=acting), networks)
    with pytest.raises(ValueError, match=f"needs the text '{ADMISSIBLE}'"):
        policy.infer(Observation({}, {}, "bring the cup to room 1", {"feedback": "hello"}))


@pytest.mark.parametrize(("family", "cameras"), [("smolvlm", ("view_image",)), ("llama", ())])
def test_a_pretrained_model_reads_the_steps_in_its_prompt(
    text_logs, tmp_path, tiny_folder, family, cameras
):
    changes = {
        "model__pretrained": str(tiny_folder(family)), "model__action_tokens": "added",
        "model__text_length": 120, "model__text_history": 3, "model__width": None,
        "model__depth": None, "model__lora_rank": 4, "data__max_episodes": 12,
        "optim__behavior_steps": 2, "optim__value_steps": 2, "optim__batch_size": 8,
        "data__cameras": cameras,
    }  # fmt: skip
    config = settings(text_logs, tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=r"--model.action-tokens added"):
        train(with_settings(config, {"model.action_tokens": "least_used"}))
    policy = load_policy(train(config))
    data = read_run_data(config)
    model = build_run_model(config, data)
    log, memory = play(1, 0.9), policy.begin_episode(0)
    first = int(data.train.first_row[1])
    for t in range(5):
        said = {key: log.texts[key][t] for key in ("feedback", ADMISSIBLE)}
        seen = {camera: log.observations[camera][t] for camera in cameras}
        (context,) = policy.contexts([Observation(seen, {}, log.instruction, said)], [memory])
        memory.command = log.actions[t]
        stored = data.train.context(torch.tensor([first + t])).text_ids
        assert torch.equal(context[3], stored)
        text = model.prompt.tokenizer.decode(stored[0][stored[0] >= 0])
        assert log.instruction in text
        assert log.texts["feedback"][t] in text
        assert (f"> {log.actions[max(t - 1, 0)]}" in text) == (t > 0)
    policy.reset(3)
    seen, info = Corridor(image=True).reset(seed=3)
    command = policy.infer(Observation.from_env(seen, info["instruction"]))
    assert command[0] in seen[ADMISSIBLE].split("\n")
