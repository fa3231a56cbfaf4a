import numpy as np
import pytest

from qsft_robot.build import build_env
from qsft_robot.config import DataConfig, TrainConfig
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.training.run_data import describe, discount_note, read_run_data
from qsft_robot.types import Episode


def described(path, env_args):
    """policy.json's parts for one log of noise in an environment."""
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
    action = described(tmp_path / "logs.hdf5", env.env_args)["action"]
    assert action["control_hz"] == env.control_hz == 10.0
    env.close()


@pytest.mark.parametrize("rate", [None, 10])
def test_a_policy_knows_the_control_rate_of_robosuite_logs(tmp_path, rate):
    pytest.importorskip("robosuite")
    kwargs = {} if rate is None else {"control_freq": rate}
    env = build_env({"env_name": "Lift", "env_kwargs": kwargs})
    action = described(tmp_path / "logs.hdf5", env.env_args)["action"]
    assert action["control_hz"] == env.control_hz == (rate or 20)
    env.close()


def test_logs_of_an_unknown_rate_leave_it_open(tmp_path):
    env_args = {"env_name": "gymnasium:Pendulum-v1", "env_kwargs": {}}
    assert described(tmp_path / "logs.hdf5", env_args)["action"]["control_hz"] is None


def test_a_discount_that_hides_the_end_is_told_with_one_that_does_not(config):
    longest = read_run_data(config()).longest_success
    seen = 0.2 ** (1 / longest)
    far, near = config(qsft__gamma=seen - 0.01), config(qsft__gamma=seen + 0.001)
    assert discount_note(near, read_run_data(near)) is None
    note = discount_note(far, read_run_data(far))
    assert f"{longest} steps" in note
    assert float(note.split()[-4]) ** longest == pytest.approx(0.3, rel=0.01)
    assert discount_note(config(method="sft", qsft__gamma=0.5), read_run_data(far)) is None
