"""One batch in several parts: on one process, and on two that torchrun starts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.stage import WHOLE
from qsft_robot.config.json_form import to_json
from qsft_robot.config.train import OptimConfig, TrainConfig
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training.optimizer import check_parts, trainable
from qsft_robot.training.run_model import build_run_model
from qsft_robot.training.stages import BEHAVIOR, VALUE, build_stage
from qsft_robot.training.train import resume_config, train

pytest.importorskip("accelerate")
METHODS = {
    "qsft": {"tokenizer__horizon": 3},
    "weighted": {"qsft__balance": "weighted", "tokenizer__horizon": 3},
    "paper": {"preset": "paper"},
    "ilql": {"method": "ilql", "acting__rule": "advantage", "tokenizer__horizon": 3},
    "soft": {"qsft__backup": "soft", "qsft__lam": 0.5},
    "sft": {"method": "sft", "tokenizer__horizon": 3},
    "q_transformer": {"method": "q_transformer", "acting__rule": "value", "tokenizer__horizon": 3},
    "advantage_weighted": {
        "method": "advantage_weighted", "advantage_weighted__dropout": 0.0, "tokenizer__horizon": 3,
    },
    "by_value": {
        "method": "filtered_sft_by_value", "filtered_by_value__dropout": 0.0,
        "tokenizer__horizon": 3,
    },
}  # fmt: skip
# Runs both ends of the comparison: whole, and stopped and resumed.
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from qsft_robot.config.json_form import from_json
from qsft_robot.config.train import TrainConfig
from qsft_robot.training.train import resume_config, train

torch.set_num_threads(1)
for line in Path(sys.argv[1]).read_text().splitlines():
    values = json.loads(line)
    config = from_json(TrainConfig, values["config"])
    train(config, stop_after=values["stop_after"])
    if values["stop_after"] is not None:
        train(resume_config(config.out), resume=True)
"""


def settings(config, method: str, **more) -> TrainConfig:
    values = {"model__dropout": 0.0, **METHODS[method], **more}
    presets = [values.pop("preset")] if "preset" in values else []
    return config(*presets, **values)


def rows(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: x for k, x in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def close(a: list[dict], b: list[dict], tolerance: float = 1e-5) -> bool:
    assert len(a) == len(b) > 0
    return all(
        x == y if isinstance(x, str) else x == pytest.approx(y, abs=tolerance)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one.values(), other.values(), strict=True)
    )


@pytest.mark.parametrize("stage_name", [BEHAVIOR, VALUE])
@pytest.mark.parametrize("method", METHODS)
def test_the_parts_of_a_batch_have_its_loss_and_gradient_as_their_mean(config, method, stage_name):
    """With chunks of 3 actions the parts hold unequally many real tokens."""
    if stage_name == VALUE and method == "sft":
        pytest.skip("one stage")
    setting = settings(config, method)
    torch.manual_seed(0)
    data = read_run_data(setting)
    networks = PolicyNetworks(build_run_model(setting, data))
    stage = build_stage(stage_name, setting, networks, data, False, setting.out)
    generator = torch.Generator().manual_seed(3)
    drawn = stage.draw(24, generator)

    def gradient(count: int):
        total, told = 0.0, {}
        for p in trainable(stage.trained()):
            p.grad = None
        seen = []
        for index in range(count):
            steps, scale = stage.part(drawn, index, count)
            assert count > 1 or (scale == WHOLE and torch.equal(steps, drawn))
            seen.append(steps)
            loss, metrics = stage.loss(stage.read(steps, generator), steps, scale)
            (loss / count).backward()
            total += float(loss.detach()) / count
            told = {k: told.get(k, 0.0) + float(x) / count for k, x in metrics.items()}
        assert torch.equal(torch.cat(seen).sort().values, drawn.sort().values)
        grads = [p.grad.clone() for p in trainable(stage.trained()) if p.grad is not None]
        return total, told, grads

    whole, told, grads = gradient(1)
    for count in (2, 3):
        parts, told_parts, grads_parts = gradient(count)
        assert parts == pytest.approx(whole, abs=1e-5)
        assert told_parts == pytest.approx(told, abs=1e-5)
        for a, b in zip(grads, grads_parts, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_run_that_accumulates_gives_the_losses_of_whole_batches(config, tmp_path):
    whole = settings(config, "qsft", out=tmp_path / "whole", log_every=1)
    train(whole)
    parts = replace(whole, out=tmp_path / "parts", optim=replace(whole.optim, accumulate=4))
    train(parts)
    assert close(rows(whole.out), rows(parts.out))


def test_a_batch_that_can_not_be_shared_out_is_refused():
    with pytest.raises(ValueError, match=r"--optim\.batch-size 30 .* multiple of 8"):
        check_parts(OptimConfig(batch_size=30, accumulate=2), 2)
    with pytest.raises(ValueError, match=r"--optim\.shard .*accelerate launch or torchrun"):
        check_parts(OptimConfig(shard=True), 1)
    check_parts(OptimConfig(batch_size=31), 1)
    with pytest.raises(ValueError, match=r"--optim\.accumulate"):
        OptimConfig(accumulate=0)


def start_two(jobs: list[tuple[TrainConfig, int | None]], folder: Path) -> None:
    """Train the jobs one after the other by two processes on this machine."""
    script, list_of_jobs = folder / "train_jobs.py", folder / "jobs.jsonl"
    script.write_text(SCRIPT)
    lines = [json.dumps({"config": to_json(c), "stop_after": stop}) for c, stop in jobs]
    list_of_jobs.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(list_of_jobs)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def test_two_processes_give_the_losses_of_one_and_resume_to_the_bit(config, pretrained, tmp_path):
    def both(name: str, setting: TrainConfig) -> TrainConfig:
        one = replace(setting, out=tmp_path / "one" / name, log_every=1)
        train(one)
        return replace(one, out=tmp_path / "two" / name)

    short = {"optim__behavior_steps": 2, "optim__value_steps": 4}
    compared = {
        "qsft": both("qsft", settings(config, "qsft", **short)),
        "vlm": both("vlm", pretrained("smolvlm", pixels=True, **short)),
    }
    # FSDP: what is trained, and the frozen base, lies on both.
    spread = replace(compared["vlm"].optim, shard=True)
    compared["vlm sharded"] = replace(
        compared["vlm"], out=tmp_path / "two" / "vlm sharded", optim=spread
    )
    drop = config(model__dropout=0.3, **short, out=tmp_path / "two" / "drop")
    broken = {
        "drop": replace(drop, out=tmp_path / "two" / "drop resumed"),
        "vlm sharded": replace(compared["vlm sharded"], out=tmp_path / "two" / "vlm resumed"),
    }
    jobs = [(c, None) for c in (*compared.values(), drop)]
    start_two([*jobs, *((c, 3) for c in broken.values())], tmp_path)
    for name, setting in compared.items():
        one = tmp_path / "one" / name.split()[0]
        assert close(rows(one), rows(setting.out)), name
        assert (setting.out / "policy" / "policy.json").is_file()
    for name, setting in broken.items():
        whole = drop if name == "drop" else compared[name]
        a, b = (read_policy_folder(c.out / "checkpoint")[1] for c in (whole, setting))
        assert all(torch.equal(a[k], b[k]) for k in a), name
    # One process goes on where two stopped.
    config_of_two = json.loads((compared["qsft"].out / "config.json").read_text())
    assert config_of_two["taken"]["device"] == "cpu"
    train(resume_config(compared["qsft"].out), resume=True)
