"""Every command that docs/results.json records is understood, down to the flags of `train`."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from qsft_robot.report.study_rows import on_ray
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


def test_a_prompted_model_is_shown_the_logs_of_its_seed(tmp_path: Path, monkeypatch) -> None:
    study = script("run_language_study")
    ran = []
    monkeypatch.setattr(study, "run_verb", lambda words, log, root: ran.append(words))
    words = ["games/wordle:tenth closed", "--methods", "react", "--seeds", "1"]
    with pytest.raises(SystemExit):
        study.options_of(words)
    options = study.options_of(
        [*words, "--prompt", "--prompt.model smol", "--prompt-episodes", "5", "--out", "runs"]
    )
    there = study.Study(tmp_path, 1)
    monkeypatch.setattr(there, "logs", lambda setting, seed: tmp_path / "logs.hdf5")
    with pytest.raises(FileNotFoundError):  # nothing ran, so nothing was written
        next(study.rows(there, options.chosen[0], options))
    (verb,) = ran
    assert verb.startswith("prompt games/wordle --prompt.model smol --prompt.thoughts")
    assert f"--prompt.examples {tmp_path / 'logs.hdf5'} --name policy --episodes 5" in verb


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


LAMO_WORDS = ["reacher2d", "tabletop/place", "gymnasium/Hopper", "--trunk", "base.gguf"]
LAMO_WORDS += ["--text", "words.txt", "--agents", "agents"]


def test_the_lamo_studys_methods_see_the_same_logs_and_as_many_decisions() -> None:
    study = script("run_lamo_study")
    options = study.options_of([*LAMO_WORDS, "--updates", "30", "--batch", "4"])
    seen = {}
    for setting in options.chosen:
        for method in study.methods_of(setting):
            words = study.train_words(setting, method, options)
            config = train_config(shlex.split(f"{setting.train} {words} --data.path a --out b"))
            assert config.method == method
            assert config.optim.behavior_steps + config.optim.value_steps == 30
            seen_at_once = study.HISTORY if method == "lamo" else 1
            assert config.optim.batch_size * seen_at_once == 80
            share = int(setting.name.split("-")[1])
            seen.setdefault((setting.task, share), set()).add(
                (setting.collect, config.data.max_episodes, config.data.path)
            )
            assert config.data.max_episodes == 10 * share
            if method == "lamo":
                base = "scratch" if "scratch" in setting.name else str(options.trunk)
                random = setting.name.startswith("reinitialized")
                assert config.model.trunk == base
                assert config.pretrained_weights == ("none" if random else "all")
                assert (config.lamo.text is not None) == setting.name.endswith("text")
    assert len(seen) == 9
    assert all(len(logs) == 1 for logs in seen.values())


def test_pretrained_and_reinitialized_differ_in_their_first_weights_alone() -> None:
    study = script("run_lamo_study")
    options, found = study.options_of(LAMO_WORDS), {}
    for setting in options.chosen:
        if setting.name in ("pretrained-10", "reinitialized-10") and setting.task == "reacher2d":
            words = study.train_words(setting, "lamo", options)
            found[setting.name] = train_config(shlex.split(f"{setting.train} {words}"))
    one, other = found.values()
    assert one != other
    assert replace(one, pretrained_weights="none") == replace(other, pretrained_weights="none")


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["reacher2d:reinitialized-1"], "needs --trunk"),
        (["reacher2d:pretrained-10-text", "--trunk", "gpt2"], "needs --text"),
        (["reacher2d:scratch-1", "--updates", "1"], "--updates"),
        (["gymnasium/Hopper:logs-1"], "gymnasium/Hopper needs --agents"),
        (["reacher2d:scratch-2"], "no setting matches"),
    ],
)
def test_a_lamo_study_that_cannot_run_is_refused(words, flag, capsys) -> None:
    with pytest.raises(SystemExit):
        script("run_lamo_study").options_of(words)
    assert flag in capsys.readouterr().err


def test_a_lamo_study_records_the_agents_that_it_is_given(tmp_path: Path) -> None:
    study, asked = script("run_lamo_study"), []

    class Told(study.Study):
        def logs(self, setting, seed):
            asked.append(setting.collect)
            return tmp_path

        def train(self, setting, method, words, seed, extra):
            asked.append(method)
            return tmp_path

        def evaluate(self, setting, run, name, flags=""):
            asked.extend((setting.episodes, flags))
            raise LookupError  # no row is made here

    words = ["gymnasium/Hopper:logs-1", "--agents", str(tmp_path / "my agents"), "--updates", "50"]
    words += ["--methods", "qsft", "--seeds", "1", "--first-seed", "101", "--episodes", "7"]
    options = study.options_of(words)
    with pytest.raises(LookupError):
        next(study.rows(Told(tmp_path, 1), options.chosen[0], options))
    recorded = shlex.split(asked[0])
    assert recorded[0] == "hopper/medium"
    assert recorded[-2:] == ["--agents", str(tmp_path / "my agents")]
    assert asked[1:] == ["qsft-50x8", 7, "--seed 5000"]


def test_a_studys_interrupted_run_goes_on_at_its_checkpoint(tmp_path: Path, monkeypatch) -> None:
    study = script("run_study")
    asked = []
    monkeypatch.setattr(study, "run_verb", lambda words, log, root: asked.append(words))
    runs, setting = study.Study(tmp_path, 1), study.SETTINGS[0]
    run = runs.train(setting, "sft", "--method sft", 0, "")
    (run / "checkpoint").mkdir(parents=True)
    runs.train(setting, "sft", "--method sft", 0, "")
    assert [words.split()[0] for words in asked] == ["collect", "train", "collect", "train"]
    assert asked[3] == f"train --resume {run}"
    (run / "policy").mkdir()
    runs.train(setting, "sft", "--method sft", 0, "")
    assert len(asked) == 4


def test_trunks_on_one_share_of_the_logs_stand_in_one_table_with_their_difference() -> None:
    study, writer = script("run_lamo_study"), script("write_results")
    lamo = {"task": "reacher2d", "observations": "low_dim", "method": "lamo"}
    rows = [
        {**lamo, "setting": setting.name, "by_seed": by_seed}
        for setting, by_seed in zip(study.SETTINGS.values(), [[5.0, 9.0, 7.0]] * 13, strict=False)
    ]
    assert {writer.table_of(row)[2] for row in rows} == {"logs-1", "logs-10", "logs-100"}
    rows = [
        {**lamo, "setting": "pretrained-10", "by_seed": [5.0, 9.0, 7.0]},
        {**lamo, "setting": "pretrained-10-lora-text", "by_seed": [0.0, 0.0, 0.0]},
        {**lamo, "setting": "reinitialized-10", "by_seed": [4.0, 7.0, 4.0]},
        {**lamo, "setting": "logs-10", "method": "qsft", "by_seed": [1.0, 1.0, 1.0]},
    ]
    assert [writer.name_of(row) for row in rows] == [
        *("lamo pretrained", "lamo pretrained-lora-text", "lamo reinitialized", "qsft"),
    ]
    # Differences 1, 2, 3: mean 2, deviation 1, and Student's 4.303 of two degrees of freedom.
    (told,) = writer.pretraining(rows)
    assert "seed by seed: 2.00 (-0.48 to 4.48" in told
    assert writer.pretraining(rows[:2]) == writer.pretraining([rows[0], rows[3]]) == []


def test_a_studys_collections_and_evaluations_go_to_its_cluster_and_nothing_else_does() -> None:
    words = "evaluate runs/a --workers 1 --envs-per-worker 16"
    assert on_ray(words, "auto") == "evaluate runs/a --envs-per-worker 16 --ray auto"
    assert on_ray("collect tabletop/place", "a:1") == "collect tabletop/place --ray a:1"
    for same in (on_ray("train --out runs/a", "auto"), on_ray("train --out runs/a", None)):
        assert same == "train --out runs/a"
    assert on_ray(words, None) == words
    row = min(ROWS, key=lambda row: len(row["command"]))
    _, path, *given = shlex.split(row["command"])
    assert script(Path(path).stem).options_of([*given, "--ray", "auto"]).ray == "auto"
