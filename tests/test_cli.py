"""Every verb from end to end on small real logs, and what the command line says to mistakes."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from qsft_robot import cli
from qsft_robot.cli import VERBS, main
from qsft_robot.files import read_json, write_json, write_sums
from qsft_robot.presets.look_up import EVALUATION_SEED, PRESETS, RECIPES
from qsft_robot.printed_text import command
from qsft_robot.verbs.train_flags import defaults_for

# verb -> flags and arguments that its help has to name
HELP = {
    "prompt": ("--prompt.model", "--prompt.url", "--out"),
    "generate": ("--out", "--valid-unseen", "--seed"),
    "collect": ("--out", "--episodes", "--mixture", "--noise", "--seed", "--policy", "--ray"),
    "inspect": ("PATH", "--filter-key", "--log-end", "--success-reward"),
    "playback": ("PATH", "--demo", "--video"),
    "view": ("PATH", "--rrd", "--policy", "--logs", "--count"),
    "merge": ("PATH", "--out", "--env-args-from", "--common-keys"),
    "relabel": ("PATH", "--out", "--success", "--failure", "--failure-end"),
    "label": ("PATH", "--out", "--lerobot", "--rlinf", "--also", "--steps"),
    "import-npz": ("PATH", "--out", "--env", "--rewards", "--success-reward", "--max-length"),
    "import-lerobot": ("PATH", "--out", "--cameras", "--image-size", "--task", "--success"),
    "export-lerobot": ("PATH", "--out", "--state-keys", "--task", "--fps", "--codec"),
    "train": ("--preset", "--resume", "--out", "--method", "--data.path", "--qsft.lam", "--device"),
    "evaluate": (
        "PATH",
        "--episodes",
        "--harness",
        "--key-map",
        "--acting",
        "--videos",
        "--workers",
        "--ray",
        "--max-batch",
        "--run-to-limit",
    ),
    "compare": ("PATH", "--against", "--accept", "--json", "--page"),
    "fit-tokenizer": ("PATH", "--kind", "--horizon", "--out", "--plot"),
    "export": ("PATH", "--out", "--acting"),
    "report": ("PATH",),
    "serve": ("PATH", "--host", "--port", "--token-file", "--certificate", "--max-batch"),
    "run": ("STR", "--robot", "--control-hz", "--accept", "--limits-off", "--stop-after", "--out"),
    "info": ("versions", "presets", "recipes"),
    "demo": ("--out", "--quick", "--seed"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run of every verb in a row; what each returned and printed, and where things are."""
    folder = tmp_path_factory.mktemp("cli")
    logs, run = folder / "logs.hdf5", folder / "run"
    commands = {
        "collect": f"tabletop/place --out {logs} --episodes 6 --workers 1 --noise 0.1 --cameras "
        "--mixture expert=0.7 miss_grasp=0.3",
        "inspect": f"{logs} --filter-key train",
        "playback": f"{logs} --demo demo_2",
        "train": f"--preset tabletop/low_dim --data.path {logs} --out {run} --model.width 32 "
        "--model.depth 1 --optim.batch-size 16 --optim.behavior-steps 2 --optim.value-steps 2 "
        "--log-every 1",
        "evaluate": f"{run} --name first --episodes 2 --workers 1 --max-steps 12",
        "export": f"{run} --out {folder / 'exported'} --acting k=2 min_p=0.1",
        "report": f"{run}",
    }
    answers = {}
    for verb, words in commands.items():
        with contextlib.redirect_stdout(io.StringIO()) as said:
            status = main([verb, *words.split()])
        answers[verb] = SimpleNamespace(status=status, said=said.getvalue())
    return SimpleNamespace(logs=logs, run=run, exported=folder / "exported", answers=answers)


def test_every_verb_succeeds_in_turn(ran):
    assert {verb: answer.status for verb, answer in ran.answers.items()} == dict.fromkeys(
        ran.answers, 0
    )


def test_each_verb_says_what_it_made_and_where(ran):
    said = {verb: answer.said for verb, answer in ran.answers.items()}
    assert "6 demonstrations" in said["collect"]
    assert str(ran.logs) in said["collect"]
    assert "proprio" in said["inspect"]
    assert "accepted" in said["playback"]
    assert f"evaluate it: {command('evaluate', ran.run)}" in said["train"]
    assert str(ran.run / "evaluation" / "first" / "summary.json") in said["evaluate"]
    assert str(ran.exported) in said["export"]
    assert str(ran.run / "report.html") in said["report"]


def test_the_evaluation_keeps_seeds_limit_and_interval(ran):
    summary = read_json(ran.run / "evaluation" / "first" / "summary.json")
    assert (summary["n"], summary["seeds"]) == (2, [100_000, 100_001])
    assert summary["env_overrides"] == {"max_steps": 12}
    assert 0 <= summary["low"] <= summary["success_rate"] <= summary["high"] <= 1


def test_the_exported_folder_holds_the_changed_acting_rule_and_both_networks(ran):
    for folder, k, networks in (
        (ran.run / "policy", 1.0, ["value", "void"]),
        (ran.exported, 2.0, ["behavior", "value", "void"]),
    ):
        policy = read_json(folder / "policy.json")
        assert policy["acting"]["k"] == k
        assert sorted(policy["networks"]) == networks


def test_the_page_shows_the_evaluation(ran):
    page = (ran.run / "report.html").read_text()
    assert "first" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_another_acting_rule_is_evaluated_from_the_checkpoint(ran, capsys):
    words = ["--name", "k4", "--episodes", "1", "--workers", "1", "--max-steps", "2"]
    assert main(["evaluate", str(ran.run), *words, "--acting", "k=4"]) == 0
    assert "success 0.000" in capsys.readouterr().out


def test_a_finished_run_resumes_to_the_same_policy(ran):
    policy = ran.run / "policy" / "weights.safetensors"
    before = policy.read_bytes()
    assert main(["train", "--resume", str(ran.run)]) == 0
    assert policy.read_bytes() == before


def test_a_second_run_into_the_same_folder_is_refused(ran, capsys):
    words = ["--preset", "tabletop/low_dim", "--data.path", str(ran.logs), "--out", str(ran.run)]
    config = (ran.run / "config.json").read_bytes()
    assert_refused(["train", *words], "--resume", capsys)
    assert (ran.run / "config.json").read_bytes() == config


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_flags_and_what_they_are_for(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"qsft-robot {verb}" in text
    assert not [flag for flag in HELP[verb] if flag not in text]
    summary = (VERBS[verb].__doc__ or "").splitlines()[0]
    assert " ".join(summary.split()[:4]) in text
    # The boxes; without a terminal they are drawn in blanks.
    assert max(len(line) for line in text.splitlines() if line[:1] in ("│", " ")) <= 100


def test_the_first_help_lists_every_verb(capsys):
    for words in ([], ["-h"], ["--help"]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert all(f"  {verb} " in text for verb in VERBS)


def test_a_warning_of_ours_is_a_line_for_people_and_others_stay_as_they_are():
    usual = warnings.formatwarning
    with cli._warnings_as_notes():
        said = warnings.formatwarning
    assert warnings.formatwarning is usual
    assert said("two constant", UserWarning, cli.__file__, 1) == "note: two constant\n"
    for category, file in ((UserWarning, json.__file__), (DeprecationWarning, cli.__file__)):
        assert said("old", category, file, 1) == usual("old", category, file, 1)


def test_info_lists_versions_presets_and_recipes(capsys):
    for what, words in (
        ("versions", ("torch", "numpy")),
        ("presets", PRESETS),
        ("recipes", RECIPES),
    ):
        assert main(["info", what]) == 0
        text = capsys.readouterr().out
        assert not [word for word in words if word not in text]


def test_info_describes_a_policy_folder(ran, capsys):
    assert main(["info", str(ran.run / "policy")]) == 0
    text = capsys.readouterr().out
    assert "'method': 'qsft'" in text
    assert "parameters" in text


MISTAKES = [
    (["evalute", "runs/a"], "Did you mean 'evaluate'?"),
    (["train", "--preset", "papre"], "Did you mean 'paper'?"),
    (["train", "--preset"], "unknown preset"),
    (["train", "--resume", "no/run"], "no run to resume"),
    (["train", "--resume", "no/run", "--seed", "1"], "--resume takes the run folder"),
    (["train", "--data.path", "no.hdf5"], "no.hdf5: no such file"),
    (["collect", "tabletop/plcae", "--out", "a.hdf5"], "Did you mean 'tabletop/place'?"),
    (["collect", "tabletop/place", "--out", "a.hdf5", "--mixture", "expert"], "give name=value"),
    (["collect", "tabletop/place", "--out", "a.hdf5", "--mixture", "expert=x"], "not a number"),
    (["collect", "alfwrld", "--out", "a.hdf5"], "Did you mean 'alfworld'?"),
    (["collect", "alfworld", "--out", "a.hdf5", "--env-kwargs", "train"], "give name=value"),
    (["collect", "tabletop/pick", "--out", "a.hdf5", "--env-kwargs", "tsk=1"], "mean 'task'"),
    (["collect", "ogbench/cube-singel", "--out", "a.hdf5"], "Did you mean 'ogbench/cube-single"),
    (["import-npz", "no.npz", "--out", "a.hdf5"], "no.npz: no such file"),
    (["import-npz", "no.npz", "--out", "a.hdf5", "--env", "ogbnch"], "Did you mean 'ogbench'?"),
    (["generate", "alfred"], "Did you mean 'alfworld'?"),
    (["evaluate", "runs/a", "--acting", "minp=1"], "Did you mean 'min_p'?"),
    (["evaluate", "runs/a", "--acting", "k=four"], "'four' is not a number"),
    (["evaluate", "runs/a"], "no such folder"),
    (["inspect", "no.hdf5"], "no.hdf5: no such file"),
    (["inspect", "no.hdf5", "--log-end", "over"], "--data.log-end 'over'"),
    (["playback", "no.hdf5"], "no.hdf5: no such file"),
    (["report", "no/run"], "no/run"),
    (["info", "preset"], "Did you mean 'presets'?"),
]


def assert_refused(words, expected, capsys):
    assert main(words) == 2
    said, told = capsys.readouterr()
    assert said == ""
    error = "\n".join(line for line in told.splitlines() if not line.startswith("device: "))
    first = error.splitlines()[0]
    assert first.startswith("error: ")
    assert expected in first
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=lambda x: " ".join(x)[:40])
def test_a_mistake_is_answered_in_one_line(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = assert_refused(words, expected, capsys)
    if words[0] in VERBS:
        assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate", "runs/a", "--epsiodes", "3"], "--episodes"),
        (["train", "--optim.batchsize", "3"], "--optim.batch-size"),
        (["train", "--optim.batch-size", "1"], "must be at least 2"),
        (["train", "--method", "qsfft"], "filtered_sft"),
        (["collect", "tabletop/place"], "--out"),
    ],
    ids=lambda x: " ".join(x)[:40],
)
def test_a_flag_that_does_not_exist_or_fit_is_answered_with_those_that_do(words, expected, capsys):
    assert main(words) == 2
    said, error = capsys.readouterr()
    assert said == ""
    assert expected in error
    assert "Traceback" not in error


def test_unknown_acting_settings_are_listed_before_any_policy_is_read(ran, capsys):
    error = assert_refused(["export", str(ran.run), "--acting", "kk=3"], "'k'", capsys)
    assert "temperature" in error


@pytest.mark.parametrize("flag", [("--model.pretrained", "some/model"), ("--model.pretrained=x",)])
def test_a_preset_sizes_the_rt_model_alone(flag):
    for preset in ("alfworld/text_image", "tabletop/low_dim"):
        sized = PRESETS[preset]["model.width"]
        assert defaults_for((), (preset,)).model.width == sized
        found = defaults_for(flag, (preset,))
        assert (found.model.width, found.model.depth) == (None, None)
        assert (found.model.image_shrink, found.data.auxiliary_commands) == (1, False)
        assert found.tokenizer.kind == PRESETS[preset]["tokenizer.kind"]


def test_a_break_says_what_became_of_the_work(capsys, monkeypatch):
    def interrupted(what: str = "") -> None:
        """Interrupt."""
        raise KeyboardInterrupt(*filter(None, [what]))

    monkeypatch.setitem(VERBS, "info", interrupted)
    for words, expected in (
        ([], "interrupted\n"),
        (["--what", "3 of 9 written"], "3 of 9 written\n"),
    ):
        assert main(["info", *words]) == 130
        assert capsys.readouterr().err == expected


def test_the_traceback_is_there_for_those_who_ask(monkeypatch):
    monkeypatch.setenv("QSFT_DEBUG", "1")
    with pytest.raises(FileNotFoundError, match=r"no\.hdf5"):
        main(["inspect", "no.hdf5"])


def test_the_run_keeps_its_settings_as_json(ran):
    config = json.loads((ran.run / "config.json").read_text())
    assert config["tokenizer"]["n_bins"] == 32
    assert config["optim"]["batch_size"] == 16
    assert EVALUATION_SEED == 100_000


@pytest.mark.parametrize("given", [[], ["--version"], ["inspect", "--help"]])
def test_output_that_nobody_reads_any_more_is_no_error(given):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "qsft_robot.cli", *given]
    try:
        done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode in (1, 141)  # rich leaves with 1


def test_an_exported_folder_is_evaluated_beside_itself_and_in_another_environment(
    ran, capsys, monkeypatch
):
    words = [
        "--name",
        "x",
        "--episodes",
        "1",
        "--workers",
        "1",
        "--max-steps",
        "3",
        "--env",
        "tabletop/pick",
    ]
    before = {path.name for path in ran.exported.iterdir()}
    assert main(["evaluate", str(ran.exported), *words]) == 0
    assert {path.name for path in ran.exported.iterdir()} == before
    summary = read_json(ran.exported.parent / "exported.evaluation" / "x" / "summary.json")
    kwargs = summary["env_args"]["env_kwargs"]
    assert (kwargs["task"], kwargs["cameras"]) == ("pick", [])  # the policy has no cameras
    monkeypatch.chdir(ran.run / "policy")
    before = {path.name for path in Path().iterdir()}
    assert main(["evaluate", ".", *words]) == 0
    assert {path.name for path in Path().iterdir()} == before
    assert (ran.run / "evaluation" / "x" / "summary.json").is_file()


def test_a_policy_of_logs_without_a_simulator_is_told_how_to_evaluate_it(ran, capsys, tmp_path):
    folder = shutil.copytree(ran.run / "policy", tmp_path / "policy")
    write_json(folder / "policy.json", read_json(folder / "policy.json") | {"env_args": {}})
    write_sums(folder)
    error = assert_refused(["evaluate", str(folder)], "name no simulator", capsys)
    assert "--env" in error


def test_no_verbs_threads_wait_in_busy_loops_unless_they_are_told_to(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    main(["--help"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["--help"])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
