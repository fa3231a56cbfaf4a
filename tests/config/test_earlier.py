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


@pytest.mark.parametrize("old", RENAMED)
def test_a_flag_of_an_earlier_version_is_answered_with_todays_name(
    old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag, new = ("--" + name.replace("_", "-") for name in (old, RENAMED[old]))
    for words in ([flag, "3"], [f"{flag}=3"]):
        assert cli.main(["train", *words]) == 2
        assert capsys.readouterr().err == f"error: {flag} is called {new} now.\n"
