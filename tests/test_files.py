"""Files and checkpoint folders that appear whole or not at all, whatever ends the writing."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from policy_fixtures import describe

from qsft_robot.files import (
    ABANDONED,
    atomic_file,
    atomic_folder,
    check_sums,
    read_json,
    write_json,
)
from qsft_robot.policy.checkpoint import (
    load_optimizer_tensors,
    optimizer_tensors,
    read_policy_folder,
    read_training,
    write_checkpoint,
)


def layer(value: float) -> torch.nn.Linear:
    linear = torch.nn.Linear(40, 40)
    torch.nn.init.constant_(linear.weight, value)
    return linear


DESCRIBED = json.dumps(describe().to_json())
TRAINING = {"stage": "value", "update": 3, "total": 5}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    tensors = {"optimizer.0.step": torch.tensor(3.0)}
    write_checkpoint(folder, describe("sft"), layer(1.0), TRAINING, tensors)
    return folder


def test_a_checkpoint_comes_back_to_the_bit(checkpoint):
    description, weights = read_policy_folder(checkpoint)
    assert description.method == "sft"
    assert (weights["weight"] == 1).all()
    training, tensors = read_training(checkpoint)
    assert training == TRAINING
    assert float(tensors["optimizer.0.step"]) == 3


def test_the_sums_are_those_of_sha256sum(checkpoint):
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=checkpoint, check=True)


def test_a_new_checkpoint_takes_the_old_ones_place_and_nothing_is_left_beside_it(checkpoint):
    write_checkpoint(checkpoint, describe("qsft"), layer(2.0))
    description, weights = read_policy_folder(checkpoint)
    assert description.method == "qsft"
    assert (weights["weight"] == 2).all()
    assert not (checkpoint / "training.json").exists()
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_the_folder_takes_its_place_where_the_system_has_no_exchange(checkpoint, monkeypatch):
    monkeypatch.setattr("qsft_robot.files._exchange", lambda a, b: False)
    write_checkpoint(checkpoint, describe("qsft"), layer(2.0))
    assert read_policy_folder(checkpoint)[0].method == "qsft"
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


@pytest.mark.parametrize("file", ["weights.safetensors", "policy.json", "training.safetensors"])
def test_a_changed_byte_is_found_and_the_file_named(checkpoint, file):
    content = bytearray((checkpoint / file).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file}: does not match SHA256SUMS"):
        read_policy_folder(checkpoint)


@pytest.mark.parametrize("file", ["weights.safetensors", "training.json"])
def test_a_missing_file_is_named(checkpoint, file):
    (checkpoint / file).unlink()
    with pytest.raises(ValueError, match=rf"{file} is listed in SHA256SUMS but missing"):
        read_policy_folder(checkpoint)


def test_an_interrupted_checkpoint_without_sums_is_refused(checkpoint):
    (checkpoint / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="no SHA256SUMS, so the folder is incomplete"):
        read_policy_folder(checkpoint)


def test_a_folder_that_is_no_policy_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no policy.json.*notes\.txt"):
        read_policy_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_policy_folder(tmp_path / "nothing")


def test_another_format_is_refused(tmp_path):
    with atomic_folder(tmp_path / "p") as temporary:
        write_json(temporary / "policy.json", {"format": "another policy 1"})
    with pytest.raises(ValueError, match=r"'another policy 1'.*reads 'qsft-robot policy 2'"):
        read_policy_folder(tmp_path / "p")


def test_a_weights_file_that_is_none_is_refused_with_its_name(tmp_path):
    with atomic_folder(tmp_path / "p") as temporary:
        write_json(temporary / "policy.json", describe().to_json())
        (temporary / "weights.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors: not a readable safetensors"):
        read_policy_folder(tmp_path / "p")


def test_an_exported_policy_is_not_trained_on(tmp_path):
    write_checkpoint(tmp_path / "p", describe(), layer(1.0))
    with pytest.raises(ValueError, match="resume its run folder"):
        read_training(tmp_path / "p")


def test_the_optimizers_state_comes_back_to_the_bit():
    def optimizer(model):
        return torch.optim.AdamW(model.parameters(), lr=0.1)

    a, b = layer(0.3), layer(0.3)
    b.load_state_dict(a.state_dict())
    first, second = optimizer(a), optimizer(b)
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        a(x).square().mean().backward()
        first.step()
    b.load_state_dict(a.state_dict())
    load_optimizer_tensors(second, {k: x.clone() for k, x in optimizer_tensors(first).items()})
    for model, adam in ((a, first), (b, second)):
        adam.zero_grad()
        model(x).square().mean().backward()
        adam.step()
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, layer(0.3).weight)


def test_an_error_inside_the_block_leaves_the_earlier_file_and_folder(tmp_path, checkpoint):
    def write_half(atomic, path: Path, inside: str) -> None:
        with atomic(path) as temporary:
            (temporary / inside).write_text("half")
            raise RuntimeError("stop")

    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(RuntimeError, match="stop"):
        write_half(atomic_file, file, "")
    with pytest.raises(RuntimeError, match="stop"):
        write_half(atomic_folder, checkpoint, "policy.json")
    assert read_json(file) == {"a": 1}
    assert read_policy_folder(checkpoint)[0].method == "sft"
    assert sorted(tmp_path.iterdir()) == [file, checkpoint]


def test_what_a_kill_left_goes_with_the_next_write_after_a_day(tmp_path, checkpoint):
    def leave(name: str, age: float, inside: str = "") -> Path:
        left = tmp_path / f".{name}.tmp"
        (left / inside).parent.mkdir(exist_ok=True)
        (left / inside).write_text("half")
        for path in {left, left / inside}:
            os.utime(path, (time.time() - age,) * 2)
        return left

    file = tmp_path / "a[1].json"
    gone = [leave("a[1].json.01234567", 2 * ABANDONED)]
    kept = [
        leave("a[1].json.76543210", 0.5 * ABANDONED),
        leave("a1.json.01234567", 2 * ABANDONED),
    ]
    write_json(file, 1)
    gone.append(leave(f"{checkpoint.name}.01234567", 2 * ABANDONED, "weights"))
    growing = leave(f"{checkpoint.name}.76543210", 2 * ABANDONED, "weights")
    (growing / "weights").write_text("more")
    os.utime(growing, (1, 1))
    with atomic_folder(checkpoint) as temporary:
        (temporary / "policy.json").write_text("{}")
    assert sorted(tmp_path.iterdir()) == sorted([file, checkpoint, growing, *kept])
    assert not any(left.exists() for left in gone)


def test_a_value_that_json_lacks_leaves_the_earlier_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


def test_sums_cover_files_in_subfolders(tmp_path):
    with atomic_folder(tmp_path / "p") as temporary:
        (temporary / "assets").mkdir()
        (temporary / "assets" / "a.txt").write_text("a")
    check_sums(tmp_path / "p")
    (tmp_path / "p" / "assets" / "a.txt").write_text("b")
    with pytest.raises(ValueError, match=r"assets/a\.txt"):
        check_sums(tmp_path / "p")


# Each child is killed (SIGKILL) just before it executes the next line of the two files that write
# a checkpoint, from the first line to the last.
KILLED = """
import dataclasses, json, os, signal, sys
from pathlib import Path
import torch
from qsft_robot import files
from qsft_robot.policy import checkpoint
from qsft_robot.policy.description import PolicyDescription

folder = Path(sys.argv[1])
DESCRIPTION = PolicyDescription.from_json(json.loads(sys.argv[2]), "a policy")

def save(value):
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 8)
    torch.nn.init.constant_(linear.weight, value)
    description = dataclasses.replace(DESCRIPTION, seed=int(value))
    training = {"stage": "value", "update": int(value), "total": 2}
    checkpoint.write_checkpoint(folder, description, linear, training, {})

def kill_at(line):
    seen = 0
    def trace(frame, event, _):
        nonlocal seen
        if frame.f_code.co_filename not in (files.__file__, checkpoint.__file__):
            return None
        seen += event == "line"
        if seen == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

save(1.0)
line, killed = 0, 0
while True:
    line += 1
    child = os.fork()
    if child == 0:
        kill_at(line)
        save(2.0)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    killed += 1
    # As if a day went by, so that the next write is killed while it removes this one's leftovers.
    for left in [*folder.parent.glob(".*"), *folder.parent.glob(".*/**/*")]:
        os.utime(left, (1, 1))
    value = checkpoint.read_policy_folder(folder)[0].seed
    training = checkpoint.read_training(folder)[0]["update"]
    weights = checkpoint.read_policy_folder(folder)[1]["weight"]
    assert value == training == float(weights.min()) == float(weights.max()), (line, value)
    if value == 2.0:
        save(1.0)
assert checkpoint.read_policy_folder(folder)[0].seed == 2.0
assert [each.name for each in folder.parent.iterdir()] == [folder.name]
print(killed)
"""


def test_a_kill_at_any_line_leaves_a_whole_checkpoint(tmp_path, repository):
    words = [sys.executable, "-c", KILLED, tmp_path / "checkpoint", DESCRIBED]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


# A limit on the size of files makes a write fail as a full disk does, with an error in its middle.
FULL = """
import json, resource, sys
from pathlib import Path
import torch
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.files import write_json

folder, bytes_left = Path(sys.argv[1]), int(sys.argv[2])
described = PolicyDescription.from_json(json.loads(sys.argv[3]), "a policy")
resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, bytes_left))
for write in (
    lambda: write_checkpoint(folder / "checkpoint", described, torch.nn.Linear(300, 300), {}, {}),
    lambda: write_json(folder / "a.json", list(range(100_000))),
):
    try:
        write()
    except OSError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_earlier_checkpoint_and_file_and_says_so(
    tmp_path, checkpoint, repository
):
    write_json(tmp_path / "a.json", [1])
    words = [sys.executable, "-c", FULL, tmp_path, "100000", DESCRIBED]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights, file = done.stdout.splitlines()
    assert "weights.safetensors" in weights
    assert "File too large" in file
    assert read_policy_folder(checkpoint)[0].method == "sft"
    assert json.loads((tmp_path / "a.json").read_text()) == [1]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.json", checkpoint]


def test_a_folder_of_someone_else_is_not_replaced(tmp_path):
    mine = tmp_path / "policies"
    (mine / "arm").mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"policies: .*is not replaced"), atomic_folder(mine):
        pytest.fail("the block was entered")
    assert (mine / "notes.txt").read_text() == "mine"
    assert (mine / "arm").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["policies"]
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("a")
    check_sums(tmp_path / "empty")


def edit_sums(folder: Path, edit) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(edit(lines)))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda lines: lines[1:], "not listed in SHA256SUMS"),
        (lambda lines: [*lines, lines[0]], "is listed twice"),
        (lambda lines: [*lines, "no digest\n"], "line 5: 'no digest' is not a SHA-256 digest"),
        (lambda lines: [*lines, f"{'0' * 64}  ../a\n"], "not a path inside of"),
        (lambda lines: [*lines, f"{'0' * 64}  /etc/passwd\n"], "not a path inside of"),
    ],
)
def test_sums_list_every_file_once_and_nothing_else(checkpoint, edit, said):
    edit_sums(checkpoint, edit)
    with pytest.raises(ValueError, match=said):
        read_policy_folder(checkpoint)


@pytest.mark.parametrize("kind", ["file", "link out", "link to a folder", "pipe"])
def test_what_was_added_to_a_folder_is_refused(checkpoint, tmp_path, kind):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("a")
    added = checkpoint / "added"
    if kind == "file":
        added.write_text("a")
    elif kind == "link out":
        added.symlink_to(tmp_path / "elsewhere" / "a")
    elif kind == "link to a folder":
        added.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(added)
    with pytest.raises(ValueError, match=r"added"):
        read_policy_folder(checkpoint)


def test_hidden_files_and_links_into_the_hubs_blobs_are_no_additions(checkpoint, tmp_path):
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123"
    blobs = snapshot.parents[1] / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in checkpoint.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    (snapshot / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert read_policy_folder(snapshot)[0].method == "sft"


def test_every_file_of_a_folder_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        write_checkpoint(tmp_path / "p", describe(), layer(1.0), {}, {})
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "p").iterdir()} == {0o644}


def test_a_pipe_in_a_files_place_is_named_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json: not a regular file"):
        read_json(tmp_path / "a.json")
