import json
import shutil

import h5py
import numpy as np
import pytest

from qsft_robot.cli import main
from qsft_robot.config.data import DataConfig
from qsft_robot.config.train import TrainConfig
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.parts.simulators import build_env
from qsft_robot.token_data.run_data import discount_note, read_run_data
from qsft_robot.training.describing import describe
from qsft_robot.training.run_model import build_run_model
from qsft_robot.types import Episode


def described(path, env_args):
    """The description of a policy of one log of noise in an environment."""
    rng = np.random.default_rng(0)
    log = Episode(
        "demo_0",
        {"state": rng.normal(size=(6, 3)).astype(np.float32)},
        rng.uniform(-1, 1, (5, 4)).astype(np.float32),
        np.eye(5, dtype=np.float32)[-1],
        terminated=True,
        truncated=False,
        success=True,
        attributes={"seed": 0},
    )
    write_demonstrations(path, [log], env_args)
    config = TrainConfig(data=DataConfig(path=path, state_keys=("state",)))
    return describe(config, read_run_data(config), {"kind": "rt", "config": {}})


def test_a_policy_knows_the_control_rate_of_tabletop_logs(tmp_path):
    env = build_env({"env_name": "tabletop", "env_kwargs": {"cameras": []}})
    action = described(tmp_path / "logs.hdf5", env.env_args).action
    assert action.control_hz == env.control_hz == 10.0
    env.close()


@pytest.mark.parametrize("rate", [None, 10])
def test_a_policy_knows_the_control_rate_of_robosuite_logs(tmp_path, rate):
    pytest.importorskip("robosuite")
    kwargs = {} if rate is None else {"control_freq": rate}
    env = build_env({"env_name": "Lift", "env_kwargs": kwargs})
    action = described(tmp_path / "logs.hdf5", env.env_args).action
    assert action.control_hz == env.control_hz == (rate or 20)
    env.close()


def test_logs_of_an_unknown_rate_leave_it_open(tmp_path):
    env_args = {"env_name": "gymnasium:Pendulum-v1", "env_kwargs": {}}
    assert described(tmp_path / "logs.hdf5", env_args).action.control_hz is None


def test_a_discount_that_hides_the_end_is_told_with_one_that_does_not(config):
    longest = read_run_data(config()).longest_success
    seen = 0.2 ** (1 / longest)
    far, near = config(discount=seen - 0.01), config(discount=seen + 0.001)
    assert discount_note(near, read_run_data(near)) is None
    note = discount_note(far, read_run_data(far))
    assert f"{longest} steps" in note
    assert float(note.split()[-4]) ** longest == pytest.approx(0.3, rel=0.01)
    assert discount_note(config(method="sft", discount=0.5), read_run_data(far)) is None


def test_held_out_logs_are_not_trained_on(config):
    everything = read_run_data(config()).train.names
    for filter_key in (None, "train"):
        data = read_run_data(config(data__filter_key=filter_key, data__valid_key="valid"))
        assert data.valid.names == ["demo_0", "demo_1"]
        assert [*data.valid.names, *data.train.names] == everything
    with pytest.raises(ValueError, match=r"--data\.valid-key valid holds every log out"):
        read_run_data(config(data__filter_key="valid", data__valid_key="valid"))


def test_held_out_logs_have_to_keep_to_the_declared_returns(config, logs, tmp_path):
    path = shutil.copy(logs, tmp_path / "logs.hdf5")
    with h5py.File(path, "r+") as file:
        file["data/demo_1/rewards"][-1] = 2
    with pytest.raises(ValueError, match=r"demo_1.*outside the declared range"):
        read_run_data(config(data__path=path, data__filter_key="train", data__valid_key="valid"))


@pytest.mark.parametrize("env_args", [{}, {"env_name": "my arm", "env_kwargs": None}])
def test_logs_of_no_simulator_are_trained_on(tmp_path, env_args):
    path, run = tmp_path / "logs.hdf5", tmp_path / "run"
    described(path, env_args)
    small = "--model.width 16 --model.depth 1 --optim.behavior-steps 1 --optim.value-steps 1"
    words = f"--method sft --data.state-keys state --optim.batch-size 4 {small}"
    assert main(["train", *words.split(), "--data.path", str(path), "--out", str(run)]) == 0
    found = json.loads((run / "policy" / "policy.json").read_text())
    assert found["env_args"] == {k: x for k, x in env_args.items() if x is not None}
    assert found["action"]["control_hz"] is None


@pytest.mark.parametrize(("words", "length"), [(5, 16), (16, 16), (17, 17), (40, 40)])
def test_a_model_reads_the_longest_instruction_of_its_logs(config, words, length):
    setting = config(data__instruction=" ".join(f"word{i}" for i in range(words)))
    data = read_run_data(setting)
    model = build_run_model(setting, data)
    assert model.config.text_length == length
    assert data.train.text_ids.shape == (len(data.train.names), length)
    assert data.train.text_ids.count_nonzero(-1).tolist() == [words] * len(data.train.names)
    with pytest.raises(ValueError, match=f"the model reads {length}"):
        model.encode_words("go " * (length + 1))
