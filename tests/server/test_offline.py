"""No verb talks to anybody whom it was not asked to talk to, nor leaves an identity behind."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

VERBS = """
import json, os, socket, sys
found = []
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
           "socket.sendto")

def watch(event, arguments):
    if event in NETWORK and getattr(arguments[0], "family", None) != socket.AF_UNIX:
        found.append([event, str(arguments[1:])])

sys.addaudithook(watch)
from qsft_robot.cli import main
run, logs, out = sys.argv[1:]
for words in (["info"], ["info", run + "/checkpoint"], ["inspect", logs],
              ["export", run, "--out", out + "/policy", "--data", logs],
              ["run", out + "/policy", "--seconds", "0.3", "--out", out + "/robot"],
              ["report", run]):
    assert main(words) == 0, words
print("FOUND " + json.dumps(found))
"""


def test_verbs_open_no_socket_and_leave_no_identity_in_the_home_folder(folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: x for k, x in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "QSFT_CACHE": str(tmp_path / "cache")}
    environment.pop("XDG_CACHE_HOME", None)
    logs = folder.parents[1] / "logs.hdf5"
    done = subprocess.run(
        [sys.executable, "-c", VERBS, folder.parent, logs, tmp_path], env=environment, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "FOUND []"
    # onnxruntime's telemetry keeps a device id and a queue of what it could not send.
    named = [str(file.relative_to(home)).lower() for file in home.rglob("*")]
    assert not [name for name in named if "microsoft" in name or "onnxruntime" in name]


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
