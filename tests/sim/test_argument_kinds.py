"""Arguments of simulators, from logs, policies and flags, are of their kind or refused by name."""

import json
from collections.abc import Sequence

import h5py
import pytest
from gymnasium.envs.registration import register

from qsft_robot.cli import main
from qsft_robot.parts.simulators import build_env
from sim.argument_kinds import checked_arguments, kinds_of


class Annotated:
    def __init__(
        self,
        flag: bool = True,
        *,
        sides: int | Sequence[int] = 64,
        names: Sequence[str] = (),
        rate: float = 1.0,
        limit: int | None = None,
        anything=None,
        shown=False,
    ) -> None: ...


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"flag": 0}, {"flag": False}),
        ({"sides": 50.0}, {"sides": 50}),
        ({"sides": [48.0, 64]}, {"sides": [48, 64]}),
        ({"limit": None, "rate": 3}, {"limit": None, "rate": 3}),
        ({"anything": "false", "names": ("a", "b")}, {"anything": "false", "names": ["a", "b"]}),
    ],
)
def test_what_is_of_its_kind_is_read_as_it(given, read):
    assert checked_arguments("env_kwargs", kinds_of(Annotated), given) == read


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("flag", "false", "true or false"),
        ("flag", 2, "true or false"),
        ("shown", "0", "true or false"),
        ("sides", True, "a whole number or a list"),
        ("sides", 1.5, "a whole number"),
        ("names", "front", "a list"),
        ("rate", "10", "a number"),
        ("limit", [3], "a whole number"),
    ],
)
def test_what_is_not_is_refused_by_name(name, value, wanted):
    with pytest.raises(ValueError, match=f"env_kwargs: {name} is .*{value}.*, where {wanted}"):
        checked_arguments("env_kwargs", kinds_of(Annotated), {name: value})


@pytest.mark.parametrize("word", ["false", "0", "no"])
def test_every_simulator_refuses_a_word_for_a_truth_value(word):
    register(id="kinds/Annotated-v0", entry_point=f"{__name__}:Annotated")
    names = ["tabletop", "gymnasium:kinds/Annotated-v0"]
    for name, key in zip(names, ["terminate_on_success", "flag"], strict=True):
        with pytest.raises(ValueError, match=f"{key} is '{word}', where true or false"):
            build_env({"env_name": name, "env_kwargs": {key: word}})


@pytest.mark.parametrize("key", ["terminate_on_success", "lite_physics", "use_camera_obs"])
def test_robosuite_too(key):
    pytest.importorskip("robosuite")
    section = {"renderer_config": {"qsft_robot": {key: "false"}}}
    there = {key: "false"} if key != "terminate_on_success" else section
    with pytest.raises(ValueError, match=f"{key} is 'false', where true or false"):
        build_env({"env_name": "Lift", "env_kwargs": there})


def test_a_flag_and_a_log_are_answered_in_one_line(tmp_path, capsys):
    words = ["collect", "tabletop/place", "--episodes", "1", "--out", str(tmp_path / "x.hdf5")]
    assert main([*words, "--env-kwargs", "terminate_on_success=False"]) == 2
    assert "terminate_on_success is 'False', where true or false" in capsys.readouterr().err
    assert main([*words, "--workers", "1", "--cameras"]) == 0
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["env_kwargs"]["max_steps"] = "120"
        file["data"].attrs["env_args"] = json.dumps(env_args)
    capsys.readouterr()
    assert main(["playback", str(tmp_path / "x.hdf5"), "--demo", "demo_0"]) == 2
    assert "max_steps is '120', where a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["12", True])
def test_reset_options_too(value):
    env = build_env({"env_name": "tabletop", "env_kwargs": {"cameras": []}})
    with pytest.raises(ValueError, match=f"max_steps is {value!r}"):
        env.reset(options={"max_steps": value})
    env.close()
