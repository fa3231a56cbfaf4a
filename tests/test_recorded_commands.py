"""Every command that docs/results.json records is understood, down to the flags of `train`."""

from __future__ import annotations

import json
import shlex
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from qsft_robot.verbs.train_flags import train_config

ROOT = Path(__file__).resolve().parents[1]
ROWS = json.loads((ROOT / "docs" / "results.json").read_text())


def script(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize("command", sorted({row["command"] for row in ROWS}))
def test_a_recorded_command_is_understood(command: str) -> None:
    python, path, *words = shlex.split(command)
    assert python == "python"
    options = script(Path(path).stem).options_of(words)
    assert options.methods


def test_the_studies_flags_of_train_are_understood() -> None:
    study = script("run_study")
    sweep = [f"--method qsft {words}" for words in study.SWEEP.values()]
    plain = [words for name, words in study.METHODS.items() if name != study.FREE]
    first, games = study.SETTINGS[0], next(x for x in study.SETTINGS if x.splits)
    # Every setting and every method once: a flag of one is understood beside any of the other.
    pairs = [(games, study.METHODS[study.FREE]), *((first, words) for words in [*plain, *sweep])]
    for setting, words in [*pairs, *((each, plain[0]) for each in study.SETTINGS)]:
        config = train_config(shlex.split(f"{setting.train} {words} --data.path a --out b"))
        assert config.out == Path("b")
    for words in {setting.encoder for setting in study.SETTINGS if setting.encoder}:
        assert train_config(shlex.split(words)).method == "sft"


def test_development_plays_other_games_than_test_rows(tmp_path: Path) -> None:
    study = script("run_language_study")
    asked = []

    class Told(study.Study):
        def logs(self, setting, seed):
            return tmp_path

        def train(self, setting, method, words, seed, extra):
            return tmp_path

        def evaluate(self, setting, run, name, flags=""):
            asked.append(flags)
            raise LookupError  # no row is made here

    for first in ("0", "101"):
        words = ["games/wordle:tenth closed", "--methods", "sft", "--seeds", "1"]
        options = study.options_of([*words, "--first-seed", first])
        with pytest.raises(LookupError):
            next(study.rows(Told(tmp_path, 1), options.chosen[0], options))
    assert asked == ["", " --seed 5000"]


def test_the_language_studys_flags_of_train_are_understood() -> None:
    study = script("run_language_study")
    lowest = {"games/wordle": -6, "games/twenty_questions": -20}
    for setting in study.SETTINGS:
        for words in study.METHODS.values():
            config = train_config(shlex.split(f"{setting.train} {words} --data.path a --out b"))
            assert config.data.return_low == lowest.get(setting.task, 0)
            assert config.tokenizer.closed == ("closed" in setting.name)
            assert config.tokenizer.free == ("legal" not in setting.name)


def test_policies_are_evaluated_on_objects_and_goals_that_no_log_had(tmp_path: Path) -> None:
    study = script("run_language_study")
    asked = {}

    class Told(study.Study):
        def logs(self, setting, seed):
            asked[setting.task, setting.name.split()[0]] = [setting.collect]
            return tmp_path

        def train(self, setting, method, words, seed, extra):
            return tmp_path

        def evaluate(self, setting, run, name, flags=""):
            asked[setting.task, setting.name.split()[0]].append(flags)
            raise LookupError  # no row is made here

    for setting in study.SETTINGS:
        options = study.options_of(["webshop", "--methods", "sft", "--seeds", "1"])
        with pytest.raises(LookupError):
            next(study.rows(Told(tmp_path, 1), setting, options))
    collect, flags = asked["games/twenty_questions", "held-out"]
    assert (collect.split("split=")[1], flags) == ("train", "--env-kwargs split=held_out")
    assert asked["webshop", "full"][1] == "--env-kwargs split=test"
    assert asked["games/wordle", "full"][1] == ""
