"""Training end to end on small real logs: two-step runs, exact resume, guards and stages."""

from __future__ import annotations

import filecmp
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from qsft_robot.algorithms.log_probs import legal_log_softmax
from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.qsft_stage import QSFTStage
from qsft_robot.algorithms.sft import shifted
from qsft_robot.export.export import export_policy
from qsft_robot.files import sha256_of
from qsft_robot.policy.checkpoint import read_policy_folder, read_training
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training import train as train_module
from qsft_robot.training.feature_cache import image_features, on_features
from qsft_robot.training.metrics import keep_until
from qsft_robot.training.run_model import build_run_model
from qsft_robot.training.train import TrainingStopped, resume_config, train

METHODS: dict[str, dict[str, Any]] = {
    "qsft": {},
    "qsft soft backup": {"qsft__backup": "soft", "qsft__lam": 0.5},
    "paper": {"preset": "paper"},
    "ilql": {"method": "ilql", "acting__rule": "advantage"},
    "monte_carlo": {"method": "monte_carlo", "acting__rule": "advantage"},
    "sft": {"method": "sft"},
    "filtered_sft": {"method": "filtered_sft"},
    "return_conditioned": {"method": "return_conditioned"},
}
METHOD = pytest.mark.parametrize("method", METHODS)


def settings(config, method: str, **more: Any):
    values = {**METHODS[method], **more}
    presets = [values.pop("preset")] if "preset" in values else []
    return config(*presets, **values)


def rows(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock measured."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: x for k, x in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def actions(folder: Path, observations) -> np.ndarray:
    policy = load_policy(folder)
    policy.reset(seed=3)
    return np.stack([policy.infer(o) for o in observations])


@METHOD
def test_two_steps_resumed_to_four_exported_and_loaded_act_the_same(config, method, observations):
    few = {"optim__behavior_steps": 2, "optim__value_steps": 2}
    setting = settings(config, method, **few)
    run = train(setting, stop_after=2)
    assert run == setting.out
    assert not (run / "policy").exists()
    policy = train(resume_config(run), resume=True)
    assert policy == run / "policy"
    assert [row["step"] for row in rows(run)] == [2, 4]
    exported = export_policy(run / "checkpoint", run / "again")
    found = actions(run / "checkpoint", observations)
    assert found.shape == (20, 1, 4)
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1
    assert len(np.unique(found)) > 4
    for folder in (policy, exported):
        assert np.array_equal(actions(folder, observations), found)


# Stops in the behavior stage, at its end, in the value stage and off the lines of metrics.
@pytest.mark.parametrize("stop_after", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("method", ["qsft", "qsft soft backup", "paper", "ilql", "sft"])
def test_a_resumed_run_ends_with_the_same_bits(config, tmp_path, method, stop_after):
    whole = settings(config, method, out=tmp_path / "whole")
    train(whole)
    parts = replace(whole, out=tmp_path / "parts")
    train(parts, stop_after=stop_after)
    train(resume_config(parts.out), resume=True)
    a, b = (run / "checkpoint/weights.safetensors" for run in (whole.out, parts.out))
    assert filecmp.cmp(a, b, shallow=False)
    a, b = (read_training(run / "checkpoint")[1] for run in (whole.out, parts.out))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a if not k.startswith("log.time/"))
    assert rows(whole.out) == rows(parts.out)


def test_a_run_resumes_to_the_same_bits_from_pixels_with_shifted_images(config, tmp_path):
    for frozen in (True, False):
        whole = config(pixels=True, model__frozen_features=frozen, out=tmp_path / f"a{frozen}",
                       optim__value_steps=3)  # fmt: skip
        train(whole)
        parts = replace(whole, out=tmp_path / f"b{frozen}")
        train(parts, stop_after=3)
        train(resume_config(parts.out), resume=True, stop_after=6)
        train(resume_config(parts.out), resume=True)
        a, b = (run / "checkpoint/weights.safetensors" for run in (whole.out, parts.out))
        assert filecmp.cmp(a, b, shallow=False)
        assert rows(whole.out) == rows(parts.out)


def test_a_run_that_was_killed_between_checkpoints_forgets_the_later_lines(config, tmp_path):
    whole = config(checkpoint_every=4, out=tmp_path / "whole")
    train(whole)
    killed = replace(whole, out=tmp_path / "killed")
    train(killed, stop_after=8)
    # What a kill during update 9 or 10 leaves: a later line and a cut one.
    with (killed.out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 10, "stage": "value"}) + "\n" + '{"step": 11, "sta')
    train(resume_config(killed.out), resume=True)
    assert rows(whole.out) == rows(killed.out)


def test_a_finished_run_that_is_resumed_exports_the_same_policy(config):
    policy = train(config())
    before = sha256_of(policy / "weights.safetensors")
    shutil.rmtree(policy)
    train(resume_config(config().out), resume=True)
    assert sha256_of(policy / "weights.safetensors") == before


def test_another_seed_gives_another_policy(config, tmp_path):
    weights = [
        (train(config(seed=s, out=tmp_path / str(s))) / "weights.safetensors").read_bytes()
        for s in (0, 1)
    ]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("method", ["qsft", "ilql", "sft"])
def test_bfloat16_trains_to_finite_weights(config, method):
    policy = train(settings(config, method, optim__precision="bfloat16"))
    assert all(x.isfinite().all() for x in read_policy_folder(policy)[1].values())
    assert all(math.isfinite(row["loss/total"]) for row in rows(policy.parent))


@pytest.mark.parametrize("update", [3, 7])
def test_numbers_that_are_not_finite_stop_the_run_name_the_logs_and_keep_the_checkpoint(
    config, monkeypatch, observations, update
):
    """A state of one log turns to NaN as the run goes on: the batch that holds it is named."""
    setting, seen = config(optim__batch_size=64), 0
    original = train_module.schedule

    def poison(*arguments):
        nonlocal seen
        seen += 1
        if seen == update:  # the schedule is read once an update
            data[0].train.state[:] = torch.nan
        return original(*arguments)

    data = []

    def keep_data(*arguments):
        data.append(read_run_data(*arguments))
        return data[0]

    monkeypatch.setattr(train_module, "schedule", poison)
    monkeypatch.setattr(train_module, "read_run_data", keep_data)
    stage, at = ("behavior", update) if update < 4 else ("value", update - 4)
    with pytest.raises(TrainingStopped, match=rf"{stage} update {at}: loss nan.*demo_\d+:\d+"):
        train(setting)
    saved, _ = read_training(setting.out / "checkpoint")
    assert saved["total"] == update - update % 2
    weights = read_policy_folder(setting.out / "checkpoint")[1]
    assert all(x.isfinite().all() for x in weights.values())
    assert np.isfinite(actions(setting.out / "checkpoint", observations)).all()
    # Once the data is well again the run goes on to its end.
    monkeypatch.undo()
    assert train(resume_config(setting.out), resume=True).is_dir()


def test_a_run_folder_is_not_overwritten(config):
    train(config(), stop_after=2)
    with pytest.raises(ValueError, match="holds a run already"):
        train(config())


def test_what_can_not_be_resumed_is_refused(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        resume_config(tmp_path)
    run = train(config(), stop_after=2)
    other = shutil.copy(config().data.path, tmp_path / "other.hdf5")
    with h5py.File(other, "a") as file:
        file["data"].attrs["note"] = "changed"
    with pytest.raises(ValueError, match=r"exact resume needs the same file"):
        train(replace(resume_config(run), data=replace(config().data, path=other)), resume=True)


def test_the_behavior_of_another_run_gives_the_same_value_stage(config, tmp_path):
    whole = train(config())
    run = tmp_path / "from"
    taken = train(replace(config(), out=run, behavior_from=config().out))
    weights = [(p / "weights.safetensors").read_bytes() for p in (whole, taken)]
    assert weights[0] == weights[1]
    assert [row["step"] for row in rows(run)] == [6, 8, 10]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"tokenizer__n_bins": 9}, "model"),
        ({"tokenizer__horizon": 2}, "model"),
        ({"tokenizer__kind": "quantile_bins"}, "tokenizer"),
        ({"data__state_keys": ("target", "proprio")}, "state_keys|norm_stats"),
        ({"data__action_low": (-2.0,), "data__action_high": (2.0,)}, "norm_stats"),
    ],
)
def test_the_behavior_of_another_action_space_or_observation_is_refused(
    config, tmp_path, change, part
):
    train(config(), stop_after=4)
    other = replace(config(**change), out=tmp_path / "other", behavior_from=config().out)
    with pytest.raises(ValueError, match=rf"its ({part}) differs"):
        train(other)


def test_filtered_sft_needs_a_success(config):
    with pytest.raises(ValueError, match=r"none of the 1 logs is successful|all rewards"):
        train(config(method="filtered_sft", data__filter_key="valid", data__max_episodes=1))


def value_stage(setting, pixels: bool = False):
    """A value stage at step 0 on real data, its theta a copy of a random phi."""
    torch.manual_seed(0)
    data = read_run_data(setting)
    networks = PolicyNetworks(build_run_model(setting, data)).eval()
    networks.start_value_stage("void", data.tokenizer.vocab_size)
    tokens = data.train
    if pixels:
        tokens = on_features(tokens, image_features(networks, tokens, "cpu"))
    return networks, data, QSFTStage(networks, tokens, "cpu", setting.qsft)


def test_at_step_0_v_is_the_mean_return_of_the_data_and_the_policy_is_the_behavior(config):
    networks, data, stage = value_stage(config())
    tokens = data.train
    values = stage.values_at(torch.arange(tokens.rows))
    known = tokens.terminated[tokens.episode_of_step]
    returns = stage.table[:, 0]
    steps_left = (tokens.steps[tokens.episode_of_step] - tokens.time_of_step).double()
    expected = tokens.success[tokens.episode_of_step] * 0.97 ** (steps_left - 1)
    torch.testing.assert_close(returns[known].double(), expected[known], rtol=1e-4, atol=1e-6)
    assert float(values.std()) < 1e-7
    # The log that was cut counted as 0 when V was started.
    mean = float(torch.where(known, expected, 0.0).mean())
    assert float(values[0]) == pytest.approx(mean, rel=1e-4)
    batch = tokens.batch(torch.arange(0, len(tokens), 5))
    with torch.no_grad():
        phi, theta = (teacher_forced(m.eval(), batch).logits for m in networks.trunks())
    assert torch.equal(phi, theta)


def test_the_cut_log_bootstraps_from_v_and_the_others_do_not(config):
    _, data, stage = value_stage(config())
    cut = data.train.episode_of_step == int((~data.train.terminated).nonzero())
    value = float(stage.values_at(data.train.final_rows[-1:]))
    expected = value * 0.97 ** torch.arange(7, 0, -1).double()
    torch.testing.assert_close(stage.table[cut, 0].double(), expected, rtol=1e-4, atol=0)


def test_a_weight_of_the_value_term_leaves_the_policy_term(config):
    setting = config(tokenizer__horizon=3)
    networks, _, stage = value_stage(setting)
    networks.eval()
    steps = stage.draw(24, torch.Generator().manual_seed(0))
    batch = stage.read(steps, torch.Generator())
    found = {}
    for weight in (1.0, 0.25):
        stage.config = replace(setting.qsft, value_weight=weight)
        found[weight] = stage.loss(batch, steps)[1]
    whole, quarter = found[1.0], found[0.25]
    torch.testing.assert_close(quarter["loss/bce"], 0.25 * whole["loss/bce"])
    torch.testing.assert_close(quarter["loss/ce"], whole["loss/ce"])
    assert quarter["q/value_mean"] == whole["q/value_mean"]


@pytest.mark.parametrize("count", [2, 3])
def test_the_parts_of_a_batch_give_the_whole_loss(config, count):
    """Rows for the policy are drawn in proportion to w, the rest uniformly; every process gets
    its part of either kind."""
    setting = config(qsft__policy_share=0.7, qsft__value_weight=0.3, tokenizer__horizon=3)
    networks, _, stage = value_stage(setting)
    networks.eval()
    steps = stage.draw(23, torch.Generator().manual_seed(0))
    assert (stage.table[steps[-stage.policy_rows(23) :]].mean(-1) > 0).all()
    assert stage.policy_rows(23) == 16
    whole = stage.loss(stage.read(steps, torch.Generator()), steps)[0]
    parts = [stage.part(steps, i, count) for i in range(count)]
    assert sorted(torch.cat([part for part, _ in parts]).tolist()) == sorted(steps.tolist())
    losses = [stage.loss(stage.read(p, torch.Generator()), p, scale)[0] for p, scale in parts]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)


def test_the_table_and_the_slow_copy_agree_on_one_step_targets(config):
    """Before any update the slow copy is theta, so both give the same numbers with lambda 0."""
    for horizon in (1, 3):
        setting = config(
            qsft__lam=0.0, qsft__backup="max", qsft__balance="weighted", tokenizer__horizon=horizon
        )
        networks, _, stage = value_stage(setting)
        slow = QSFTStage(networks, stage.data, "cpu", replace(setting.qsft, targets="ema"))
        stage.refresh()
        steps = torch.arange(len(stage.data))
        batch = stage.read(steps, torch.Generator())
        real = batch.token_mask
        torch.testing.assert_close(
            slow.targets(batch, steps)[real], stage.table[real], rtol=0, atol=1e-5
        )


def test_the_value_stage_on_frozen_features_equals_the_one_that_reads_images(config):
    setting = config(pixels=True, qsft__lam=0.5)
    networks, data, frozen = value_stage(setting, pixels=True)
    reading = QSFTStage(networks, data.train, "cpu", setting.qsft)
    networks.eval()
    torch.testing.assert_close(frozen.table, reading.table, rtol=0, atol=2e-3)
    steps = frozen.draw(32, torch.Generator().manual_seed(0))
    losses = []
    for stage in (frozen, reading):
        stage.table = frozen.table
        batch = stage.read(steps, torch.Generator())
        assert (batch.images is None) == (stage is frozen)
        losses.append(stage.loss(batch, steps)[0])
    torch.testing.assert_close(*losses, rtol=2e-3, atol=0)


def test_the_behavior_is_frozen_in_the_value_stage_and_theta_moves(config):
    run = config().out
    train(config(), stop_after=4)
    before = read_policy_folder(run / "checkpoint")[1]
    train(resume_config(run), resume=True)
    after = read_policy_folder(run / "checkpoint")[1]
    phi = [k for k in before if k.startswith("behavior.")]
    assert all(torch.equal(before[k], after[k]) for k in phi)
    moved = [k for k in phi if not torch.equal(after[k], after[k.replace("behavior", "value")])]
    assert len(moved) > len(phi) / 2


def test_training_lowers_the_behaviors_loss_and_follows_the_targets(config):
    setting = config(
        optim__behavior_steps=150, optim__value_steps=400, optim__batch_size=64, log_every=50,
        optim__value_learning_rate=3e-3, model__dropout=0.0, checkpoint_every=1000,
    )  # fmt: skip
    train(setting)
    found = rows(setting.out)
    assert found[2]["loss/total"] < 0.8 * found[0]["loss/total"]
    assert abs(found[-1]["q/value_mean"] - found[-1]["q/target_mean"]) < 0.1
    calibration = json.loads((setting.out / "calibration.json").read_text())
    value, outcome = np.array(calibration["value"]), np.array(calibration["success"])
    assert value[outcome].mean() > value[~outcome].mean() + 0.3
    assert calibration["rise"]["success"] > calibration["rise"]["other"]


def test_a_window_of_frames_is_shifted_as_one(config):
    data = read_run_data(config(pixels=True, model__history=3)).train
    batch = data.batch(torch.arange(20))
    still = {camera: x[:, -1:].expand_as(x) for camera, x in batch.images.items()}
    moved = shifted(replace(batch, images=still), 3, torch.Generator().manual_seed(0)).images
    for camera, x in moved.items():
        assert x.shape == still[camera].shape
        assert torch.equal(x, x[:, -1:].expand_as(x))
        assert not torch.equal(x, still[camera])
    assert shifted(batch, 0, torch.Generator()) is batch


def test_lines_after_a_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in (2, 4, 6)))
    keep_until(path, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4]


def test_masked_legal_tokens_alone_have_probability_after_training(config):
    """With a quantile tokenizer a dimension may have fewer bins than the vocabulary."""
    setting = config(tokenizer__kind="quantile_bins", tokenizer__n_bins=40)
    train(setting)
    data = read_run_data(setting).train
    batch = data.batch(torch.arange(0, len(data), 9))
    policy = load_policy(setting.out / "checkpoint")
    logits = teacher_forced(policy.networks.value, batch).logits
    assert not legal_log_softmax(logits, batch.legal).exp()[~batch.legal].any()
