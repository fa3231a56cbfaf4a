"""No verb talks to anybody whom it was not asked to talk to, nor leaves an identity behind."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys

import pytest

# In every Python process that the verbs start: what is asked of a network is written down.
HOOK = """
import os, socket, sys
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
           "socket.gethostbyaddr", "socket.sendto", "socket.sendmsg")

def watch(event, arguments):
    if event in NETWORK and getattr(arguments[0], "family", None) != socket.AF_UNIX:
        with open(os.environ["NETWORK_ASKED"], "a") as file:
            told = [each for each in arguments if not hasattr(each, "family")]
            file.write(f"{event} {told}\\n")

sys.addaudithook(watch)
"""
VERBS = """
import os, sys
from qsft_robot.cli import VERBS, main
run, logs, out = sys.argv[1:]
few = ["--model.width", "16", "--model.depth", "1", "--optim.batch-size", "8"]
few += ["--optim.behavior-steps", "1", "--optim.value-steps", "1"]
data, trained, policy = out + "/collected.hdf5", out + "/run", out + "/policy"
said = [
    ["info"], ["info", run + "/checkpoint"], ["--version"], ["inspect", logs],
    ["collect", "tabletop/place", "--out", data, "--episodes", "2", "--workers", "1"],
    ["relabel", data, "--out", out + "/again.hdf5", "--success", "demo_0"],
    ["merge", data, out + "/again.hdf5", "--out", out + "/merged.hdf5"],
    ["export-lerobot", logs, "--out", out + "/lerobot", "--task", "put it there"],
    ["import-lerobot", out + "/lerobot", "--out", out + "/imported.hdf5"],
    ["playback", data, "--demo", "demo_0"],
    ["train", "--preset", "tabletop/low_dim", "--data.path", data, "--out", trained, *few],
    ["evaluate", trained, "--episodes", "2", "--workers", "1", "--max-steps", "3"],
    ["export", run, "--out", policy, "--data", logs],
    ["run", policy, "--seconds", "0.3", "--out", out + "/robot"],
    ["report", trained],
]
for words in said:
    assert main(words) in (0, 1) if words[0] == "run" else main(words) == 0, words
"""
SERVED = """
import fcntl, os, re, socket, struct, subprocess, sys
from qsft_robot.cli import main
policy, out = sys.argv[1:]
if os.environ.get("ALONE"):  # loopback is down in a network of one's own: SIOCSIFFLAGS, IFF_UP
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))
words = [sys.executable, "-m", "qsft_robot.cli", "serve", policy, "--port", "0"]
with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
    for line in server.stdout:
        if found := re.search(r"listening on (ws://\\S+)", line):
            break
    status = main(["run", found[1], "--seconds", "0.3", "--out", out + "/robot"])
    server.terminate()
    server.communicate()  # it says more, into a pipe that is still read
print(found[1].rpartition(":")[2], server.returncode, status)
"""
# Whether a network of its own can be had, in which there is no one to talk to.
ALONE = ["unshare", "-rn"]


def can_be_alone() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode
    )


@pytest.fixture
def watched(tmp_path, repository):
    """The environment of a process that is watched, and the file of what it asked."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "home").mkdir()
    environment = {k: x for k, x in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment.pop("XDG_CACHE_HOME", None)
    asked = tmp_path / "asked"
    asked.touch()
    return environment | {
        "HOME": str(tmp_path / "home"), "QSFT_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": f"{tmp_path / 'hook'}:{repository}", "NETWORK_ASKED": str(asked),
    }, asked  # fmt: skip


def test_verbs_open_no_socket_and_leave_no_identity_in_the_home_folder(folder, tmp_path, watched):
    environment, asked = watched
    logs = folder.parents[1] / "logs.hdf5"
    words = [sys.executable, "-c", VERBS, folder.parent, logs, tmp_path]
    done = subprocess.run(
        [*(ALONE if can_be_alone() else []), *words], env=environment, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert asked.read_text() == ""
    # onnxruntime's telemetry keeps a device id and a queue of what it could not send.
    home = tmp_path / "home"
    named = [str(file.relative_to(home)).lower() for file in home.rglob("*")]
    assert not [name for name in named if "microsoft" in name or "onnxruntime" in name]


def test_a_server_and_its_robot_talk_to_each_other_alone(folder, tmp_path, watched):
    environment, asked = watched
    alone = can_be_alone()
    done = subprocess.run(
        [*(ALONE if alone else []), sys.executable, "-c", SERVED, folder, tmp_path],
        env=environment | ({"ALONE": "1"} if alone else {}), text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    port, server_status, status = map(int, done.stdout.split()[-3:])
    assert server_status == 0
    assert status in (0, 1)
    # The server binds; the robot looks up and connects to the address that it was given.
    told = asked.read_text().splitlines()
    assert [line for line in told if "socket.bind" in line] == ["socket.bind [('127.0.0.1', 0)]"]
    connected = [line for line in told if "socket.connect" in line]
    assert connected
    assert set(connected) == {f"socket.connect [('127.0.0.1', {port})]"}
    assert all("'127.0.0.1'" in line for line in told)


def test_the_hook_sees_processes_that_a_process_starts(watched):
    environment, asked = watched
    inner = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0))"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    subprocess.run([sys.executable, "-c", outer], env=environment, check=True)
    assert "socket.bind" in asked.read_text()


def test_one_module_imports_onnxruntime_when_it_is_loaded(repository):
    places = []
    for top in ("qsft_robot", "sim", "vlm", "tokenizers_action", "scripts"):
        for file in (repository / top).rglob("*.py"):
            for node in ast.parse(file.read_text()).body:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "onnxruntime" for name in names):
                    places.append(str(file.relative_to(repository)))
    assert places == ["qsft_robot/policy/onnx_session.py"]
