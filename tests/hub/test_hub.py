"""Hub ids in a folder's place, against a stand-in of the Hub on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hub_server import TOKEN
from lerobot_logs import make
from policy_fixtures import describe, random_policy

from qsft_robot.cli import main
from qsft_robot.export.recorded_observations import random_observations
from qsft_robot.files import check_sums, write_json, write_sums
from qsft_robot.hub.ids import HubId, hub_id, parse_hub_id
from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.policy.open import open_policy
from qsft_robot.robots.choose import open_local_or_remote
from qsft_robot.verbs.evaluate import _evaluation_folder

ENV_ARGS = {"env_name": "tabletop", "type": 2, "env_kwargs": {"task": "place", "max_steps": 50}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random networks, evaluated, but for the episodes."""
    run = tmp_path_factory.mktemp("trained") / "mine"
    told = describe()
    write_checkpoint(run / "checkpoint", told, random_policy(told).networks)
    folder = run / "evaluation" / "policy"
    folder.mkdir(parents=True)
    lines = [{"seed": i, "success_any": i > 0, "success_last": i > 0, "steps": 9} for i in range(4)]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "summary.json", {
        "n": 4, "success_rate": 0.75, "low": 0.3, "high": 0.95, "env_args": ENV_ARGS,
        "env_overrides": {}, "reset_options": None, "run_to_limit": False, "execute_steps": None,
        "broken": 0, "seeds": [0, 1, 2, 3], "command": "evaluate secret/place", "versions": {},
    })  # fmt: skip
    return run


def push(run: Path, *words: str, out: str = "exported") -> int:
    return main(["export", str(run), "--no-onnx", "--out", out, "--push", *words])


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line with which a command ends."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    return said.err


def decisions(name: str) -> list[np.ndarray]:
    policy = open_policy(name, device="cpu")
    policy.reset(seed=3)
    seen = random_observations(policy.description, 8, steps=8, seed=1)
    return [policy.infer(each) for each in seen[0]]


def test_a_pushed_policy_opens_by_its_id_and_acts_the_same(hub, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(trained, "me/arm", "--private") == 0
    held = hub.repositories["models", "me/arm"]
    (commit,) = held.commits
    assert f"{hub.url}/me/arm: commit {commit}" in capsys.readouterr().out
    assert held.private
    there = {p.relative_to("exported").as_posix() for p in Path("exported").rglob("*.*")}
    own = {"SHA256SUMS", "evaluation/policy/summary.json", "evaluation/policy/episodes.jsonl"}
    assert set(held.commits[commit]) == there | own
    card = held.commits[commit]["README.md"].decode()
    for words in (
        "library_name: qsft-robot",
        "qsft-robot evaluate me/arm",
        "success 0.750 (95 % Wilson interval 0.300 to 0.950; n = 4, seeds 0 to 3)",
    ):
        assert words in card
    assert not any(b"secret/place" in content for content in held.commits[commit].values())
    check_sums(Path("exported"))  # as export wrote it

    np.testing.assert_array_equal(decisions("me/arm"), decisions("exported"))
    assert f"me/arm: {len(held.commits[commit])} files of commit {commit}\n" in (
        capsys.readouterr().err
    )
    np.testing.assert_array_equal(decisions(f"me/arm@{commit}"), decisions("exported"))
    _, described = open_local_or_remote("me/arm", acting={}, token=None, timeout_s=1.0)
    assert described.policy_sha256
    assert main(["info", "me/arm"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert main(["export", "me/arm", "--no-onnx", "--out", "again"]) == 0
    assert sum(path.startswith("HEAD") for path in hub.asked) == len(held.commits[commit])


def test_pushing_again_leaves_no_file_of_before_and_replaces_nothing_else(
    hub, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(trained, "me/arm") == 0
    held = hub.repositories["models", "me/arm"]
    first, files = next(iter(held.commits.items()))
    held.commit({**files, "decide.onnx": b"of before", "LICENSE": b"mine", ".gitattributes": b""})
    assert push(trained, "me/arm") == 0
    assert set(held.commits[held.find("main")]) == {*files, "LICENSE", ".gitattributes"}
    export = ["export", str(trained), "--no-onnx", "--out", "never", "--push"]
    assert "is public already" in refused(capsys, [*export, "me/arm", "--private"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"another model")
    hub.add("me/other", tmp_path / "other")
    assert "holds something else (model.safetensors" in refused(capsys, [*export, "me/other"])
    assert not Path("never").exists()
    assert len(hub.repositories["models", "me/other"].commits) == 1
    assert first != held.find("main")


def test_evaluations_are_compared_by_id(hub, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("me/a", "me/b"):
        assert push(trained, name) == 0
    capsys.readouterr()
    hub.asked.clear()
    assert main(["compare", "me/a", "me/b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert not [path for path in hub.asked if "safetensors" in path]  # no weights for that
    # One that was made here goes before, and never lies in the Hub's cache.
    here = _evaluation_folder(Path("me/a"))
    assert here == Path("me--a.evaluation")
    shutil.copytree(trained / "evaluation" / "policy", here / "policy")
    hub.asked.clear()
    assert main(["compare", "me/a", "me/b", "--json"]) == 0
    assert not [path for path in hub.asked if "me/a" in path]


def test_only_an_evaluation_of_that_policy_goes_with_it(hub, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = Path(shutil.copytree(trained, tmp_path / "later"))
    os.utime(run / "evaluation" / "policy" / "summary.json", (0, 0))
    for name, words in (("me/old", [run, "me/old"]), ("me/rule", [trained, "me/rule"])):
        acting = ["--acting", "k=1"] if name == "me/rule" else []
        assert push(*words, *acting, out=name.replace("/", "-")) == 0
        held = hub.repositories["models", name]
        files = held.commits[held.find("main")]
        assert not [file for file in files if file.startswith("evaluation")]
        assert b"## Evaluation" not in files["README.md"]


def test_a_lerobot_set_is_imported_by_its_id(hub, tmp_path, capsys):
    logs = make(tmp_path / "logs.hdf5", np.random.default_rng(0), cameras=("front_image",))
    folder = export_lerobot(logs, tmp_path / "set", codec="h264")
    (folder / "loading_script.py").write_text("raise SystemExit")
    commit = hub.add("someone/set", folder, "datasets")
    for source, out in ((str(folder), "a.hdf5"), ("someone/set", "b.hdf5")):
        assert main(["import-lerobot", source, "--out", out]) == 0
    assert f"commit {commit}" in capsys.readouterr().err
    with h5py.File("a.hdf5") as a, h5py.File("b.hdf5") as b:
        names: list[str] = []
        a.visit(names.append)
        assert len(names) > 20
        for name in names:
            assert dict(a[name].attrs).keys() == dict(b[name].attrs).keys()
            if isinstance(a[name], h5py.Dataset):
                np.testing.assert_array_equal(a[name][()], b[name][()])
        assert dict(a["data"].attrs) == dict(b["data"].attrs)
    assert not [path for path in hub.asked if path.endswith(".py")]


def test_code_and_pickles_are_not_fetched_and_changed_files_are_refused(
    hub, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(trained, "me/arm") == 0
    held = hub.repositories["models", "me/arm"]
    files = held.commits[held.find("main")]
    held.commit({**files, "model.py": b"", "weights.bin": b"", "sub/optimizer.pt": b""})
    hub.asked.clear()
    decisions("me/arm")
    assert not [x for x in hub.asked if x.endswith((".py", ".bin", ".pt"))]
    held.commit({**files, "policy.json": files["policy.json"] + b" "})
    assert "policy.json: does not match SHA256SUMS" in said_of(capsys, ["info", "me/arm"])
    # A folder that lists code can't be whole without it.
    code = Path(shutil.copytree("exported", tmp_path / "code"))
    (code / "model.py").write_text("print('ran')")
    write_sums(code)
    hub.add("evil/code", code)
    assert "model.py" in said_of(capsys, ["info", "evil/code"])
    # Nor is such a folder pushed.
    from qsft_robot.hub.repository import push as push_folder

    with pytest.raises(ValueError, match=r"model\.py is no file that is fetched"):
        push_folder(code, HubId("me/code"))
    assert ("models", "me/code") not in hub.repositories


def said_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The error line of a command, after the one that says what was fetched."""
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, lines
    assert lines[1].startswith("error: ")
    return lines[1]


def test_what_is_not_there_or_not_given_is_one_line(hub, trained, tmp_path, monkeypatch, capsys):
    hub.add("someone/gated", trained / "checkpoint", gated=True)
    hub.add("someone/arm", trained / "checkpoint")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "model.pt").write_bytes(b"")
    hub.add("someone/pickled", tmp_path / "pickled")
    for word, said in {
        "someone/nothing": "someone/nothing: no such folder here, and .*set HF_TOKEN",
        "someone/arm@v9": "someone/arm@v9: .* no branch, tag or commit 'v9'",
        "someone/gated": "someone/gated: gated: .*Ask for it at http.*then set HF_TOKEN",
        "someone/pickled": "has no file of those that are read",
        "someone/re--po": "someone/re--po: no such folder, and no id",
    }.items():
        line = refused(capsys, ["info", word])
        assert re.search(said, line), line
    words = ["import-lerobot", "someone/arm", "--out", "x.hdf5"]
    assert "no dataset repository of that name" in refused(capsys, words)
    for words in (
        ["evaluate", "someone/nothing"],
        ["serve", "someone/nothing", "--port", "0"],
        ["run", "someone/nothing"],
        ["compare", "someone/nothing", "someone/arm"],
        ["label", "someone/nothing", "logs.hdf5", "--out", "x.hdf5"],
        ["collect", "tabletop/place", "--policy", "someone/nothing", "--out", "x.hdf5"],
        ["export", "someone/nothing", "--out", "x"],
    ):
        assert "someone/nothing: no such folder here" in refused(capsys, words)
    export = ["export", str(trained), "--no-onnx", "--push"]
    assert "no token" in refused(capsys, [*export, "me/arm"])
    assert "main branch" in refused(capsys, [*export, "me/arm@v1"])
    assert "owner/name" in refused(capsys, [*export, "arm"])
    assert "--push" in refused(capsys, ["export", str(trained), "--private"])
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "refuses (401: Invalid credentials" in refused(capsys, ["info", "someone/arm"])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    capsys.readouterr()
    assert push(trained, "else/arm") == 2
    said = capsys.readouterr()
    assert said.out == "exported\n"  # which is whole
    assert "error: else/arm: " in said.err
    assert "refuses (403: You don't have the rights" in said.err
    assert said.err.count("\n") == 1


def test_a_folder_goes_before_an_id_and_mistyped_paths_are_not_asked_for(
    hub, trained, tmp_path, monkeypatch, capsys
):
    hub.add("me/arm", trained / "checkpoint")
    shutil.copytree(trained / "checkpoint", "me/arm")
    decisions("me/arm")
    assert "no such folder" in refused(capsys, ["info", "runs/mine"])
    assert "write me/leg@main" in refused(capsys, ["info", "me/leg"])
    for word in (
        "arm",
        "./me/arm2",
        "/me/arm",
        "a/b/c",
        "../arm",
        "~/arm",
        "ws://host:80/x",
        "é/x",
    ):
        assert hub_id(word) is None
    assert not hub.asked
    decisions("me/arm@main")
    assert hub.asked
    assert hub_id("a/b.c_d-e@refs/pr/1") == HubId("a/b.c_d-e", "refs/pr/1")
    for word in ("a/b--c", "a/b..c", "a/b.git", "a-/b", "a/b."):
        with pytest.raises(ValueError, match="no id of a Hub repository"):
            parse_hub_id(word)


def test_what_was_fetched_opens_without_the_hub(hub, trained, monkeypatch, capsys):
    from huggingface_hub import constants

    hub.add("someone/arm", trained / "checkpoint")
    decisions("someone/arm")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    capsys.readouterr()
    decisions("someone/arm")
    assert "from the cache (HF_HUB_OFFLINE)" in capsys.readouterr().err
    line = refused(capsys, ["info", "someone/other"])
    assert "someone/other: no such folder here, and not (wholly) in the Hub's cache" in line
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    line = refused(capsys, ["export", str(trained), "--push", "me/arm"])
    assert "HF_HUB_OFFLINE is set" in line
    assert not hub.asked


SCRIPT = """
import sys
from qsft_robot.cli import main
from huggingface_hub import constants
for words in sys.argv[1:]:
    main(words.split())
constants.ENDPOINT = "http://127.0.0.1:9"  # nothing listens at the port of "discard"
main(["info", "someone/other"])
"""


def test_the_librarys_variables_are_honored(hub, trained, tmp_path, repository):
    hub.add("someone/arm", trained / "checkpoint", private=True)
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "own"), "HF_TOKEN": TOKEN}
    own |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}  # whatever this process was told
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "info someone/arm"],
        env={**os.environ, **own, "PYTHONPATH": str(repository), "NO_PROXY": "127.0.0.1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fetched, failed = done.stderr.splitlines()
    assert fetched.startswith("someone/arm: ")
    assert list((tmp_path / "own" / "hub").glob("models--someone--arm"))
    assert "error: someone/other: " in failed
    assert "http://127.0.0.1:9 is not reached" in failed
