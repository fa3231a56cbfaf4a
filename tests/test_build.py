import pytest

from qsft_robot.parts.models import build_model
from qsft_robot.parts.simulators import build_env
from qsft_robot.parts.tokenizers import load_tokenizer

LIFT = {"env_name": "Lift", "type": 1, "env_version": "1.5.2", "env_kwargs": {"control_freq": 20}}


def test_what_stands_beside_env_kwargs_does_not_reach_the_environment():
    kwargs = {"task": "pick", "cameras": []}
    env_args = {"env_name": "tabletop", "type": 2, "control_hz": 10.0, "env_kwargs": kwargs}
    env = build_env(env_args, max_steps=7)
    assert (env.task, env.max_steps) == ("pick", 7)
    again = build_env(env.env_args)
    assert again.env_args == env.env_args
    env.close()
    again.close()


def test_the_language_of_a_robosuite_file_reaches_the_environment():
    pytest.importorskip("robosuite")
    env = build_env({**LIFT, "language": "raise the cube"}, max_steps=5)
    assert env.reset(seed=0)[1]["instruction"] == "raise the cube"
    assert env.max_steps == 5
    again = build_env(env.env_args)
    assert again.reset(seed=0)[1]["instruction"] == "raise the cube"
    env.close()
    again.close()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: build_env({"env_name": "PickPlaceCna"}), "Did you mean 'PickPlaceCan'"),
        (lambda: build_model("rt_tinny"), "Did you mean 'rt_tiny'"),
        (lambda: load_tokenizer({"kind": "quantile_bin"}), "Did you mean 'quantile_bins'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(call, words):
    with pytest.raises(ValueError, match=words):
        call()
