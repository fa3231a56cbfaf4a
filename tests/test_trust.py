"""A folder from somebody else is data: opening it runs no code and fetches nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_logs import make
from policy_fixtures import describe, random_policy

from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.cli import main
from qsft_robot.config.json_form import to_json
from qsft_robot.config.train import TrainConfig
from qsft_robot.export.export import export_policy
from qsft_robot.files import read_json, write_json, write_sums
from qsft_robot.parts.models import build_model, describe_model
from qsft_robot.parts.simulators import build_env
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.policy.open import open_policy
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.training.train import resume_config
from qsft_robot.trust import Trust
from qsft_robot.types import Observation
from sim.registered import check_import
from vlm.tiny.models import build_tiny_model

# A Python file that a folder brings along: it leaves a mark where it is imported.
EVIL = """
from pathlib import Path
from transformers import GPT2Config
Path({mark!r}).write_text("ran")
class EvilConfig(GPT2Config):
    model_type = "gpt2"
"""
ASKS = {"AutoConfig": "evil.EvilConfig"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 with random weights."""
    return build_tiny_model("gpt2", tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="module")
def checkpoint(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that stands on that model; its policy reads a state and answers with tokens."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    told = describe(parts=["behavior"], acting={"rule": "behavior"})
    config = told.model["config"]
    shape = {key: config[key] for key in ("vocab_size", "n_tokens", "state_dim", "history")}
    torch.manual_seed(0)
    texts = told.data.instructions
    model = build_model("pretrained", base=str(base), **shape, lora_rank=2, instructions=texts)
    told = replace(told, model=describe_model(model))
    write_checkpoint(folder, told, PolicyNetworks(model))
    return folder


@pytest.fixture(scope="module")
def policy(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its exported policy, the base inside."""
    return export_policy(checkpoint, tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture
def copied(policy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(policy, tmp_path / "policy"))


def change(folder: Path, file: str, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Edit a JSON file of a folder, its SHA256SUMS rewritten to match, as a stranger would."""
    content = read_json(folder / file)
    edit(content)
    write_json(folder / file, content)
    write_sums(folder)
    return folder


def bring_code(folder: Path, mark: Path) -> None:
    """Let the base of a policy ask for a Python file that leaves `mark`."""
    (folder / "base" / "evil.py").write_text(EVIL.format(mark=str(mark)))
    change(folder, "base/config.json", lambda c: c.update(auto_map=ASKS, model_type="evil"))


def test_the_code_that_a_policy_folder_brings_is_not_run(copied, tmp_path, capsys):
    mark, logs = tmp_path / "mark", make(tmp_path / "logs.hdf5", np.random.default_rng(0))
    bring_code(copied, mark)
    change(copied, "policy.json", lambda p: p["model"]["config"].update(trust_remote_code=True))
    with pytest.raises(ValueError, match=r"trust_remote_code\) asks to run code.*--trust-remote-"):
        open_policy(copied)
    for words in (
        ["evaluate", copied, "--env", "tabletop/place"],
        ["export", copied, "--out", tmp_path / "again", "--no-onnx"],
        ["serve", copied, "--port", "0"],
        ["run", copied, "--robot", "mujoco", "--out", tmp_path / "robot"],
        ["collect", "tabletop/place", "--policy", copied, "--out", tmp_path / "a.hdf5"],
        ["inspect", logs, "--policy", copied],
    ):
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr().err.strip()
        assert "asks to run code" in said
        assert "\n" not in said
    main(["info", str(copied)])
    assert not mark.exists()
    assert not (tmp_path / "again").exists()


def test_an_auto_map_alone_is_refused_and_the_openers_word_runs_it(copied, tmp_path):
    mark = tmp_path / "mark"
    bring_code(copied, mark)
    with pytest.raises(ValueError, match=r"config\.json \(auto_map\) asks to run code"):
        open_policy(copied)
    assert not mark.exists()
    # The mark shows that the attack is one; the class it brings is no model.
    with pytest.raises(ValueError, match="evil"):
        open_policy(copied, trust_remote_code=True)
    assert mark.read_text() == "ran"


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, "auto_map"),
        ("config.json", {"attn_implementation": "someone/kernel"}, "attn_implementation"),
        ("generation_config.json", {"custom_generate": "someone/generate"}, "custom_generate"),
    ],
)
def test_other_ways_to_ask_for_code_are_refused(copied, file, edit, said):
    change(copied, f"base/{file}", lambda content: content.update(edit))
    with pytest.raises(ValueError, match=rf"{file} \({said}\) asks to run code"):
        open_policy(copied)


def test_a_base_that_asked_for_code_and_was_trained_without_it_is_exported_without(base, tmp_path):
    asking = Path(shutil.copytree(base, tmp_path / "asking"))
    config = read_json(asking / "config.json")
    write_json(asking / "config.json", {**config, "auto_map": {"AutoModel": "other.Model"}})
    told = describe(parts=["behavior"], acting={"rule": "behavior"})
    shape = {k: told.model["config"][k] for k in ("vocab_size", "n_tokens", "state_dim")}
    model = build_model("pretrained", base=str(asking), **shape, lora_rank=2)
    told = replace(told, model=describe_model(model))
    write_checkpoint(tmp_path / "run" / "checkpoint", told, PolicyNetworks(model))
    exported = export_policy(tmp_path / "run" / "checkpoint", tmp_path / "policy")
    assert "auto_map" not in (exported / "base" / "config.json").read_text()
    open_policy(exported)


@pytest.mark.parametrize("name", ["../elsewhere", "/{elsewhere}", "linked"])
def test_a_base_outside_of_the_folder_is_not_read(copied, base, tmp_path, name):
    shutil.copytree(copied / "base", tmp_path / "elsewhere")
    if name == "linked":
        shutil.rmtree(copied / "base")
        (copied / "linked").symlink_to(tmp_path / "elsewhere")
    name = name.replace("/{elsewhere}", str(tmp_path / "elsewhere"))
    change(copied, "policy.json", lambda p: p["model"].update(inside=name))
    with pytest.raises(ValueError, match=r"not a path inside of|a link to a folder"):
        open_policy(copied)


def test_a_weights_index_names_files_beside_it_only(copied, tmp_path):
    shutil.copy(copied / "base" / "model.safetensors", tmp_path / "other.safetensors")
    index = {"weight_map": {"a": "../../other.safetensors"}}
    (copied / "base" / "model.safetensors.index.json").write_text(json.dumps(index))
    write_sums(copied)
    with pytest.raises(ValueError, match=r"'\.\./\.\./other.safetensors' is not a file beside it"):
        open_policy(copied)


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "/elsewhere"}),
        ("config.json", {"transformers_weights": "../../elsewhere/model.safetensors"}),
        ("processor_config.json", {"audio_tokenizer": {"audio_tokenizer_name_or_path": "a/b"}}),
    ],
)
def test_a_base_that_leads_elsewhere_is_refused(copied, file, edit):
    """The fingerprint is the folder's own word: a stranger leaves it out."""
    change(copied, "policy.json", lambda p: p["model"]["config"].update(fingerprint=""))
    there = copied / "base" / file
    write_json(there, {**(read_json(there) if there.exists() else {}), **edit})
    write_sums(copied)
    with pytest.raises(ValueError, match=rf"{file} \(.*no part of the base"):
        open_policy(copied)


def test_a_base_of_a_billion_layers_is_refused_before_it_is_made(copied):
    change(copied, "policy.json", lambda p: p["model"]["config"].update(fingerprint=""))
    change(copied, "base/config.json", lambda c: c.update(n_layer=10**9))
    with pytest.raises(ValueError, match=r"base/config\.json\.n_layer is 1000000000, more than"):
        open_policy(copied)


def test_a_hub_id_in_a_bases_place_is_fetched_only_when_the_opener_says_so(
    checkpoint, tmp_path, monkeypatch
):
    asked = []

    def snapshot_download(repository: str, **settings: Any) -> str:
        asked.append((repository, settings.get("local_files_only", False)))
        raise OSError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    change(folder, "policy.json", lambda p: p["model"]["config"].update(base="some/model"))
    with pytest.raises(FileNotFoundError, match=r"has nothing fetched.*--allow-downloads"):
        open_policy(folder)
    with pytest.raises(FileNotFoundError, match="nor a model that the hub gave"):
        open_policy(folder, allow_downloads=True)
    assert asked == [("some/model", True), ("some/model", False)]


def test_a_run_folders_config_does_not_decide_what_resuming_it_runs(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    values = to_json(TrainConfig(out=run))
    values["model"] |= {"pretrained": "some/model", "trust_remote_code": True}
    write_json(run / "config.json", values)
    assert main(["train", "--resume", str(run)]) == 2
    assert "config.json: its model.trust_remote_code asks to run code" in capsys.readouterr().err
    assert resume_config(run, Trust(remote_code=True)).model.trust_remote_code


def test_a_template_that_leaves_the_sandbox_fails_in_one_line(base, tmp_path):
    # gpt2's plain tokenizer reads a template as every other; it may not reach Python's objects.
    mark, folder = tmp_path / "mark", Path(shutil.copytree(base, tmp_path / "base"))
    reach = "''.__class__.__mro__[1].__subclasses__()"
    (folder / "chat_template.jinja").write_text(
        "{% for c in " + reach + " %}{% if c.__name__ == '_wrap_close' %}"
        "{{ c.__init__.__globals__['system']('touch " + str(mark) + "') }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match=r"its chat template fails: .*unsafe"):
        build_model("pretrained", base=str(folder), vocab_size=8, n_tokens=1, state_dim=2)
    assert not mark.exists()


MODULE = "from pathlib import Path\nPath({mark!r}).write_text('imported')\n"


def test_a_module_that_an_environments_name_imports_needs_the_callers_word(
    tmp_path, monkeypatch, capsys
):
    mark = tmp_path / "mark"
    (tmp_path / "evil_env.py").write_text(MODULE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    env_args = {"env_name": "gymnasium:evil_env:Evil-v0", "env_kwargs": {}}
    with pytest.raises(ValueError, match=r"imports the module 'evil_env'.*--import-env evil_env"):
        build_env(env_args)
    told = replace(describe(), env_args=env_args)
    write_checkpoint(tmp_path / "policy", told, random_policy(told).networks)
    for words in (
        ["evaluate", str(tmp_path / "policy"), "--episodes", "1"],
        ["run", str(tmp_path / "policy"), "--robot", "env", "--out", str(tmp_path / "robot")],
    ):
        assert main(words) == 2
        assert "--import-env evil_env" in capsys.readouterr().err
    assert not mark.exists()
    with pytest.raises(ValueError, match="Evil"):
        build_env(env_args, imports=["evil_env"])
    assert mark.exists()


def test_environments_that_installed_packages_register_need_no_word(monkeypatch):
    build_env({"env_name": "gymnasium:Pendulum-v1"}).close()
    for name in ("evil:X-v0", "a:b:X-v0", "os.path:X-v0"):
        with pytest.raises(ValueError, match="imports the module"):
            check_import(name, ())

    class Point:
        value = "offered_envs.registration:register_all"

    monkeypatch.setattr("sim.registered.entry_points", lambda group: [Point()])
    check_import("offered_envs:X-v0", ())
    check_import("offered_envs.more:X-v0", ())


def test_the_policy_still_acts(policy):
    opened = load_policy(policy)
    rng = np.random.default_rng(0)
    state = {"joints": rng.normal(size=4), "gripper": rng.normal(size=1)}
    seen = Observation({}, {k: x.astype(np.float32) for k, x in state.items()}, "lift the cube")
    assert opened.infer(seen).shape == (1, 2)
    assert os.stat(policy / "base" / "model.safetensors").st_mode & 0o777 == (
        os.stat(policy / "policy.json").st_mode & 0o777
    )
