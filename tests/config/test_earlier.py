"""Settings of earlier versions: read under today's names, and named when given as flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsft_robot import cli
from qsft_robot.config.earlier import RENAMED, upgrade_settings
from qsft_robot.config.json_form import from_json, to_json
from qsft_robot.config.train import TrainConfig


def test_settings_of_today_stay_as_they_are() -> None:
    settings = to_json(TrainConfig())
    assert upgrade_settings(settings) == settings


def test_settings_of_an_earlier_version_are_read_under_todays_names() -> None:
    settings = to_json(TrainConfig(behavior_from=Path("runs/a")))
    settings["behaviour_from"] = settings.pop("behavior_from")
    settings["optim"]["behaviour_steps"] = settings["optim"].pop("behavior_steps") + 1
    settings["acting"]["rule"] = "behaviour"
    read = from_json(TrainConfig, upgrade_settings(settings))
    assert read.behavior_from == Path("runs/a")
    assert read.optim.behavior_steps == TrainConfig().optim.behavior_steps + 1
    assert read.acting.rule == "behavior"


def test_runs_that_said_bf16_compute_as_they_did() -> None:
    for old, new in ((True, "bfloat16"), (False, "float32")):
        settings = to_json(TrainConfig())
        del settings["optim"]["precision"]
        settings["optim"]["bf16"] = old
        assert from_json(TrainConfig, upgrade_settings(settings)).optim.precision == new


@pytest.mark.parametrize(
    ("old", "weights"),
    [({}, "all"), ({"from_scratch": False, "reinitialise": None}, "all"),
     ({"from_scratch": True, "lora_rank": 0}, "none"),
     ({"from_scratch": False, "reinitialize": "head"}, "body")],
)  # fmt: skip
def test_runs_that_began_with_other_weights_go_on_with_them(old, weights) -> None:
    settings = to_json(TrainConfig())
    settings["model"] |= {"pretrained": "a/b", **old}
    del settings["pretrained_weights"]
    assert from_json(TrainConfig, upgrade_settings(settings)).pretrained_weights == weights


@pytest.mark.parametrize(
    ("old", "new"),
    [("--model.from-scratch", "none"), ("--model.no-from-scratch", "all"),
     ("--model.reinitialise", "body"), ("--model.reinitialize", "body")],
)  # fmt: skip
def test_a_flag_of_weights_is_answered_with_the_setting(old, new, capsys) -> None:
    assert cli.main(["train", old, "head"]) == 2
    assert capsys.readouterr().err == f"error: {old} is called --pretrained-weights {new} now.\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [("--optim.bf16", "bfloat16"), ("--optim.no-bf16", "float32"), ("--optim.no_bf16", "float32")],
)
def test_the_switch_of_bf16_is_answered_with_the_precision(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", old]) == 2
    assert capsys.readouterr().err == f"error: {old} is called --optim.precision {new} now.\n"


@pytest.mark.parametrize("old", RENAMED)
def test_a_flag_of_an_earlier_version_is_answered_with_todays_name(
    old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag, new = ("--" + name.replace("_", "-") for name in (old, RENAMED[old]))
    for words in ([flag, "3"], [f"{flag}=3"]):
        assert cli.main(["train", *words]) == 2
        assert capsys.readouterr().err == f"error: {flag} is called {new} now.\n"
