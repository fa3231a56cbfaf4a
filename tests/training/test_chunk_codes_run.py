"""Runs whose decisions are FAST tokens or splines: train, resume, evaluate, export, ONNX, serve."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from policy_fixtures import without_checks

from qsft_robot.cli import main
from qsft_robot.export.export import export_policy
from qsft_robot.logs.reader import read_env_args
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.policy.onnx_policy import load_onnx_policy
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.rollouts.evaluate import evaluate
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.remote_policy import RemotePolicy
from qsft_robot.server.running import serving
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training.train import resume_config, train
from qsft_robot.types import Episode

SETTINGS = {
    "fast": {"tokenizer__vocabulary": 200, "tokenizer__scale": 4.0, "tokenizer__n_bins": 256},
    "spline": {"tokenizer__points": 3, "tokenizer__n_bins": 16},
}
CHUNKS = {"tokenizer__horizon": 6, "data__short_logs": "drop"}
# Every place of a decision is a part of the exported graph: few keep the export short.
FEW = {
    "fast": {"tokenizer__max_tokens": 5},
    "spline": {"tokenizer__points": 2, "model__name": "perceptron"},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_code_goes_all_the_way(kind, config, observations, logs, tmp_path):
    settings = config(
        tokenizer__kind=kind, **SETTINGS[kind] | FEW[kind], **CHUNKS, model__history=2,
        acting__execute=3, out=tmp_path / "run", discount=0.9,
    )  # fmt: skip
    train(settings)
    run = tmp_path / "run"
    about = json.loads((run / "policy" / "policy.json").read_text())
    assert about["tokenizer"]["kind"] == kind
    assert (about["action"]["horizon"], about["action"]["history_stride"]) == (6, 3)
    # A stopped run ends with the same bits, by the tokenizer in its checkpoint.
    again = config(
        tokenizer__kind=kind, **SETTINGS[kind] | FEW[kind], **CHUNKS, model__history=2,
        acting__execute=3, out=tmp_path / "again", discount=0.9,
    )  # fmt: skip
    train(again, stop_after=7)
    train(resume_config(tmp_path / "again"), resume=True)
    weights = [(tmp_path / x / "policy/weights.safetensors").read_bytes() for x in ("run", "again")]
    assert weights[0] == weights[1]
    with without_checks():
        export_policy(run / "checkpoint", run / "policy", onnx=True)
    torch_policy, graphs = load_policy(run / "policy"), load_onnx_policy(run / "policy")
    assert torch_policy.decider.ends == (kind == "fast")
    if kind == "fast":
        with pytest.raises(ValueError, match="fast tokens are in no order"):
            torch_policy.with_acting(draw="median")
    untiring = load_policy(run / "policy")
    untiring.decider.ends = False
    told = json.loads((run / "policy" / "policy.json").read_text())["onnx"]["parity"]
    assert told["different"] == 0
    for policy in (torch_policy, graphs, untiring):
        policy.reset(seed=3)
    with serving(load_onnx_policy(run / "policy"), ServerConfig(port=0)) as server:
        remote = RemotePolicy(server.url)
        remote.reset(seed=3)
        for observation in observations[:4]:
            wanted = torch_policy.infer(observation)
            assert wanted.shape == (6, 4)
            np.testing.assert_array_equal(untiring.infer(observation), wanted)
            np.testing.assert_allclose(graphs.infer(observation), wanted, atol=2e-5)
            np.testing.assert_allclose(remote.infer(observation), wanted, atol=2e-5)
        remote.close()
    result = evaluate(
        graphs, read_env_args(logs), [0], workers=1, env_overrides={"max_steps": 7}, progress=False
    )
    assert result.summary["execute_steps"] == 3
    assert result.episodes[0].decisions == 3  # steps 0, 3 and 6


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "qsft", "qsft__backup": "max", "qsft__lam": 0.5},
        {
            "qsft__targets": "ema",
            "qsft__balance": "weighted",
            "qsft__lam": 0.0,
            "qsft__backup": "max",
        },
        {"method": "ilql", "acting__rule": "advantage"},
        {"method": "return_conditioned", "acting__rule": "behavior"},
        {"method": "filtered_sft", "acting__rule": "behavior"},
    ],
)
def test_every_method_learns_from_tokens_of_varying_number(changes, config, tmp_path):
    steps = {"optim__behavior_steps": 1, "optim__value_steps": 2}
    settings = config(
        tokenizer__kind="fast", **SETTINGS["fast"], **CHUNKS, **steps, **changes, out=tmp_path / "x"
    )
    policy = load_policy(train(settings))
    chunks = np.random.default_rng(0).uniform(-1, 1, (20, 6, 4))
    chunks[:10] = chunks[:10, :1]
    real = policy.tokenizer.real_tokens(policy.tokenizer.encode(chunks), np.full(20, 6)).sum(1)
    assert real[:10].max() < real[10:].max() <= policy.tokenizer.n_tokens


def test_a_file_of_fit_tokenizer_is_taken_as_it_is(config, logs, tmp_path, capsys):
    made = tmp_path / "code.json"
    words = [str(logs), "--kind", "spline", "--horizon", "6", "--points", "3", "--out", str(made)]
    assert main(["fit-tokenizer", *words, "--short-logs", "drop"]) == 0
    assert "12.0 tokens a chunk" in capsys.readouterr().out
    assert made.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    plain = {"tokenizer__kind": "quantile_bins", "tokenizer__n_bins": 256}
    taken = read_run_data(config(**plain, tokenizer__from_file=made, data__short_logs="drop"))
    assert taken.tokenizer.to_json() == json.loads(made.read_text())["tokenizer"]
    assert taken.train.stride == 6


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def wavy(path: Path, dimensions: int, size: float, steps: int = 20) -> Path:
    """12 logs of sines of this size, the last dimension constant."""
    logs = []
    for i in range(12):
        wave = size * np.sin(np.arange(steps)[:, None] / 3 + np.arange(dimensions) + i)
        wave[:, -1] = 0.5 * size
        rewards = np.zeros(steps, np.float32)
        rewards[-1] = i % 2
        rows = {"q": np.zeros((steps + 1, 3), np.float32)}
        log = (rows, wave.astype(np.float32), rewards, True, False, bool(i % 2), "go", {}, {})
        logs.append(Episode(f"demo_{i}", *log))
    write_demonstrations(path, logs, {"env_name": "none"})
    return path


def test_bad_input_is_answered_in_one_line(tmp_path, capsys):
    out = tmp_path / "code.json"
    small = wavy(tmp_path / "small.hdf5", 3, 0.1)
    fit = ["fit-tokenizer", str(small), "--no-plot", "--out", str(out), "--kind"]
    for words, said in (
        (["fast", "--horizon", "21"], "demo_0 has 20 steps"),
        (["spline", "--horizon", "4", "--points", "9"], "--tokenizer.points 9"),
        (["spline", "--horizon", "4", "--scale", "9"], "--tokenizer.scale is a setting of"),
        (["fast", "--horizon", "4", "--scale", "-1"], "--tokenizer.scale -1.0: give"),
        (["fast", "--horizon", "8", "--scale", "9999"], "small.hdf5: at scale 9999"),
    ):
        assert said in error_of([*fit, *words], capsys)
        assert not out.exists()
    for kind in ("fast", "spline"):  # the last dimension never moves
        assert main([*fit, kind, "--horizon", "8"]) == 0
        assert "constant" in capsys.readouterr().out
    run = ["train", "--data.state-keys", "q", "--out", str(tmp_path / "run"), "--tokenizer.from"]
    others = {
        "its actions have 3 dimensions, those of the logs 4": wavy(tmp_path / "d.hdf5", 4, 0.1),
        "it was fit on other motion": wavy(tmp_path / "large.hdf5", 3, 0.9),
    }
    for said, logs in others.items():
        assert said in error_of([*run, str(out), "--data.path", str(logs)], capsys)
    scaled = ["--data.path", str(small), "--data.action-low", "-2", "--data.action-high", "2"]
    assert "it was fit on actions of -1 to 1" in error_of([*run, str(out), *scaled], capsys)
    plain = ["--data.path", str(small)]
    assert "no such file" in error_of([*run, str(tmp_path / "none.json"), *plain], capsys)
    longer = ["--tokenizer.horizon", "5"]
    assert "have 8 actions" in error_of([*run, str(out), *plain, *longer], capsys)
    assert "9: a decision has 8 actions" in error_of(
        [*run, str(out), *plain, "--acting.execute", "9"], capsys
    )
    cut = json.loads(out.read_text())
    cut["tokenizer"]["low"] = [0.0]
    out.write_text(json.dumps(cut))
    assert "code.json: its tokenizer can't be read" in error_of([*run, str(out), *plain], capsys)
    assert not (tmp_path / "run").exists()


def test_a_broken_or_empty_log_is_answered_in_one_line(tmp_path, capsys):
    out = tmp_path / "code.json"
    words = ["--kind", "spline", "--horizon", "4", "--no-plot", "--out", str(out)]
    path = wavy(tmp_path / "nan.hdf5", 3, 0.1)
    with h5py.File(path, "r+") as file:
        file["data/demo_3/actions"][2, 1] = np.nan
    line = error_of(["fit-tokenizer", str(path), *words], capsys)
    assert "demo_3" in line
    assert "NaN" in line or "nan" in line
    path = wavy(tmp_path / "empty.hdf5", 3, 0.1)
    with h5py.File(path, "r+") as file:
        none = {"actions": np.zeros((0, 3)), "rewards": np.zeros(0), "dones": np.zeros(0)}
        for name, rows in none.items():
            del file[f"data/demo_3/{name}"]
            file[f"data/demo_3/{name}"] = rows
    assert "demo_3" in error_of(["fit-tokenizer", str(path), *words], capsys)
    assert not out.exists()
