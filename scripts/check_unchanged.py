"""A record of what training, acting and evaluation give to the bit, to compare two versions.

It trains 30 updates of every method on small logs of every kind that it makes itself, and keeps
hashes of the weights and of the actions on recorded observations (torch and ONNX), and the outcomes
of 20 episodes. It runs on one thread, so one machine always gives one record; another processor may
give another, so both records are made on the same machine:

    git worktree add ../before OLD_COMMIT
    PYTHONPATH=../before .venv/bin/python scripts/check_unchanged.py --out before.json
    PYTHONPATH=. .venv/bin/python scripts/check_unchanged.py --compare before.json

It uses the command line and `open_policy` alone, so it measures any version that PYTHONPATH names.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("MUJOCO_GL", "egl")

import h5py
import numpy as np
import torch
from safetensors.numpy import load_file

import qsft_robot.cli
from qsft_robot.build import open_policy  # a path that earlier versions have, too
from qsft_robot.types import Observation

# The version that is measured, which need not be the one that this file belongs to.
ROOT = Path(qsft_robot.cli.__file__).parents[1]
# Words whose spelling differs between versions; the first that `train --help` has is used.
SPELLINGS = {
    "behavior_steps": ("--optim.behavior-steps", "--optim.behaviour-steps"),
    "discount": ("--discount", "--qsft.gamma"),
    "uniform": ("uniform_bins", "uniform"),
}
METHODS = {
    "sft": "--method sft",
    "filtered_sft": "--method filtered_sft",
    "return_conditioned": "--method return_conditioned",
    "qsft": "--method qsft",
    "qsft soft": "--qsft.lam 0.5 --qsft.backup soft",
    "qsft paper": "--preset paper",
    "ilql": "--method ilql",
}
_SMALL = "--model.width 32 --model.depth 1"
_BINS = "--tokenizer.kind {uniform} --tokenizer.n-bins 16"
_VLM = f"{_BINS} --model.lora-rank 4 --model.pretrained"
_STATE, _CAMERAS, _TEXTS = "--data.state-keys", "--data.cameras", "--data.text-keys"
_LOW_DIM = {_STATE: ("proprio", "target")}
_ONE_CAMERA = {_STATE: ("proprio",), _CAMERAS: ("front_image",)}
# Input -> data file, what is read of it, and the flags of its model.
INPUTS: dict[str, tuple[str, dict[str, tuple[str, ...]], str]] = {
    "low_dim": ("low_dim.hdf5", _LOW_DIM, f"{_SMALL} {_BINS}"),
    "history and chunks": (
        "low_dim.hdf5",
        _LOW_DIM,
        f"{_SMALL} --tokenizer.n-bins 16 --tokenizer.horizon 2 --model.history 3",
    ),
    "pixels": (
        "pixels.hdf5",
        {_STATE: ("proprio",), _CAMERAS: ("front_image", "wrist_image")},
        f"{_SMALL} {_BINS} --data.auxiliary-keys target",
    ),
    "commands": (
        "commands.hdf5",
        {_STATE: (), _TEXTS: ("feedback",)},
        f"{_SMALL} --tokenizer.kind commands --model.text-history 4",
    ),
    "language model": ("low_dim.hdf5", _LOW_DIM, f"{_VLM} models/gpt2"),
    "vision language model": ("pixels.hdf5", _ONE_CAMERA, f"{_VLM} models/smolvlm"),
}
# Runs that are exported as graphs, too: each takes as long as ten of the others.
GRAPHS = {
    "low_dim": ("return_conditioned", "qsft", "qsft paper", "ilql"),
    "history and chunks": ("qsft",),
    "pixels": ("qsft",),
    "language model": ("qsft",),
}
ACTING = {"k=2": {"k": 2.0}, "ratio": {"rule": "ratio", "beta": 20.0}, "likeliest": {"min_p": 1.0}}
OUTCOME = ("success_any", "success_last", "steps", "return", "failure_reason", "instruction")
ADMISSIBLE = "admissible_commands"


def cli(words: str, *more: str | Path) -> str:
    """Run a verb of the command line; what it printed."""
    arguments, said = [*words.split(), *map(str, more)], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = qsft_robot.cli.main(arguments)
    if status:
        raise SystemExit(f"qsft-robot {' '.join(arguments)}: status {status}\n{said.getvalue()}")
    return said.getvalue()


@cache
def spelled() -> dict[str, str]:
    """The words of SPELLINGS as the measured version writes them."""
    told = cli("train --help")
    known = re.findall(r"[\w.-]+", told)
    found = {name: next(x for x in each if x in known) for name, each in SPELLINGS.items()}
    # Later versions take settings by the logs, unless this preset is named.
    return {**found, "fixed": "--preset fixed" if "--preset fixed" in told else ""}


def make_logs() -> dict[str, str]:
    """The data files and the pretrained model, in the current folder; their hashes."""
    mixed = "--mixture expert=0.7 miss_grasp=0.3 --noise 0.1 --workers 1"
    cli(f"collect tabletop/pick --out low_dim.hdf5 --episodes 40 {mixed} --cameras")
    cli(f"collect tabletop/place --out pixels.hdf5 --episodes 8 --image-size 32 {mixed}")
    write_commands(Path("commands.hdf5"))
    build = [sys.executable, str(ROOT / "scripts/build_tiny_models.py"), "models"]
    subprocess.run([*build, "--families", "gpt2", "smolvlm"], check=True, capture_output=True)
    made = {str(path): hash_of(datasets_of(path)) for path in sorted(Path().glob("*.hdf5"))}
    return made | {
        str(x): hash_of([x.read_bytes()]) for x in Path("models").glob("*/*.safetensors")
    }


def write_commands(path: Path, logs: int = 60) -> None:
    """Logs of random text commands: bring the coin or the cup from room 2 to room 1."""
    rng, text = np.random.default_rng(0), h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = "{}"
        for number in range(logs):
            goal, room, hand, success = ("coin", "cup")[number % 2], 1, False, False
            said, listed, given = ["You are in room 1."], list[str](), list[str]()
            while not success and len(given) < 10:
                options = ["look around", f"go to room {3 - room}"]
                options += [f"drop {goal}"] if hand else [f"take {goal}"] if room == 2 else []
                listed.append("\n".join(options))
                given.append(str(rng.choice(options)))
                verb, *_, last = given[-1].split()
                room = int(last) if verb == "go" else room
                success = hand and verb == "drop" and room == 1
                hand = verb == "take" or (hand and verb != "drop")
                said.append(f"You {verb} {last}. You are in room {room}.")
            demo = file.create_group(f"data/demo_{number}")
            demo.create_dataset("actions", data=given, dtype=text)
            demo["rewards"] = np.eye(len(given), dtype=np.float32)[-1] * success
            demo["dones"] = np.eye(len(given), dtype=np.int64)[-1]
            for key, rows in {"feedback": said, ADMISSIBLE: [*listed, "look around"]}.items():
                demo.create_dataset(f"obs/{key}", data=rows[:-1], dtype=text)
                demo.create_dataset(f"next_obs/{key}", data=rows[1:], dtype=text)
            demo.attrs["num_samples"], demo.attrs["success"] = len(given), success
            demo.attrs["lang"] = f"bring the {goal} to room 1"


def datasets_of(path: Path) -> Iterator[bytes]:
    """The name and the content of every dataset of a data file, in the order of the names."""
    names: list[str] = []
    with h5py.File(path) as file:
        file.visit(names.append)
        for name in names:
            if isinstance(item := file[name], h5py.Dataset):
                text = h5py.check_string_dtype(item.dtype)
                rows = repr(item[()].tolist()).encode() if text else item[()].tobytes()
                yield from (name.encode(), rows)


def hash_of(what: Iterable[bytes]) -> str:
    """SHA-256, shortened, of one thing after the other."""
    digest = hashlib.sha256()
    for each in what:
        digest.update(each)
    return digest.hexdigest()[:16]


def observations(name: str, reads: Mapping[str, Sequence[str]]) -> list[list[Observation]]:
    """The first rows of three logs, as a policy gets them."""
    texts = [*reads[_TEXTS], ADMISSIBLE] if _TEXTS in reads else []

    def row(demo: h5py.Group, t: int) -> Observation:
        images = {key: demo[f"obs/{key}"][t] for key in reads.get(_CAMERAS, ())}
        state = {key: demo[f"obs/{key}"][t] for key in reads[_STATE]}
        said = {key: demo[f"obs/{key}"].asstr()[t] for key in texts}
        return Observation(images, state, demo.attrs["lang"], said)

    with h5py.File(name) as file:
        demos = [file[f"data/demo_{number}"] for number in range(3)]
        return [[row(demo, t) for t in range(min(10, len(demo["actions"])))] for demo in demos]


def acted(policy: Any, logs: Sequence[Sequence[Observation]]) -> dict[str, str]:
    """Hashes of the actions and of the values that a policy gives, each log with its own seed."""
    actions, values = list[bytes](), list[bytes]()
    for seed, log in enumerate(logs):
        memory = policy.begin_episode(seed)
        for seen in log:
            (decision,) = policy.infer_batch([seen], [memory])
            actions.append(repr(decision.actions.tolist()).encode())
            values.append(repr(decision.value).encode())
    return {"actions": hash_of(actions), "values": hash_of(values)}


def train(kind: str, method: str, flags: str, folder: str = "runs") -> Path:
    """Train a method on a kind of input; the run folder."""
    data, reads, model = INPUTS[kind]
    out = Path(folder, kind.replace(" ", "_"), method.replace(" ", "_"))
    keys = " ".join(" ".join((flag, *each)) for flag, each in reads.items())
    words = f"{{fixed}} {METHODS[method]} --data.path {data} {keys} {model} {flags}"
    cli(f"train {words.format(**spelled())} --out", out)
    return out


def results() -> Iterator[tuple[str, Any]]:
    """Everything that is compared, with its name; works in the current folder."""
    yield from make_logs().items()
    few = (
        "{behavior_steps} 15 --optim.value-steps 15 {discount} 0.97 "
        "--optim.batch-size 16 --optim.warmup-steps 2 --optim.learning-rate 3e-3 "
        "--optim.value-learning-rate 3e-3 --qsft.refresh-every 5"
    )
    for kind, (data, reads, _) in INPUTS.items():
        logs = observations(data, reads)
        for method in METHODS:
            run, name = train(kind, method, few), f"{kind}/{method}"
            weights = load_file(run / "checkpoint/weights.safetensors").values()
            # In the order of their bytes: versions name them differently.
            yield f"{name}/weights", hash_of(sorted(x.tobytes() for x in weights))
            policies = {"torch": open_policy(run / "policy", runtime="torch")}
            if method in GRAPHS.get(kind, ()):
                cli("export", run)
                policies["onnx"] = open_policy(run / "policy", runtime="onnx")
            if method == "qsft":
                policies |= {rule: open_policy(run, each) for rule, each in ACTING.items()}
            for how, policy in policies.items():
                for what, value in acted(policy, logs).items():
                    yield f"{name}/{how}/{what}", value


def closed_loop() -> Iterator[tuple[str, Any]]:
    """Outcomes of 20 episodes of a policy that succeeds in some, and the logs of four more."""
    steps = "{behavior_steps} 300 --optim.value-steps 300 --optim.batch-size 32"
    run = train("low_dim", "sft", f"{steps} --optim.learning-rate 2e-3", "closed_loop")
    cli("evaluate --episodes 20 --workers 1 --envs-per-worker 1", run)
    for line in (run / "evaluation/policy/episodes.jsonl").read_text().splitlines():
        episode = json.loads(line)
        yield f"episode/{episode['seed']}", {key: episode[key] for key in OUTCOME}
    cli("collect tabletop/pick --out own.hdf5 --episodes 4 --workers 1 --policy", run)
    yield "own.hdf5", hash_of(datasets_of(Path("own.hdf5")))


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each name whose result differs or stands on one side only."""
    return [
        f"{name}: {before.get(name, 'missing')} -> {after.get(name, 'missing')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def record(folder: Path) -> dict[str, Any]:
    """All results of the measured version, by name; its runs stay in `folder`."""
    torch.set_num_threads(1)
    print(f"measuring {ROOT}", file=sys.stderr)
    with contextlib.chdir(folder):
        os.environ["QSFT_CACHE"] = str(Path("cache").absolute())
        found = dict[str, Any]()
        for part in (results, closed_loop):
            for name, value in part():
                print(f"{name}: {value}", file=sys.stderr, flush=True)
                found[name] = value
    return found


def main() -> int:
    """Record, and compare with an earlier record; exit status 1 when something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, help="JSON file to write the record to")
    parser.add_argument("--compare", type=Path, help="an earlier record, made on this machine")
    parser.add_argument("--runs", type=Path, help="empty folder that keeps the runs")
    options = parser.parse_args()
    before = json.loads(options.compare.read_text()) if options.compare else None
    with tempfile.TemporaryDirectory() as folder:
        after = record(options.runs or Path(folder))
    if options.out:
        options.out.write_text(json.dumps(after, indent=1) + "\n")
    if before is None:
        return 0
    lines = differences(before, after)
    print("\n".join([*lines, f"{len(lines)} of {len(after)} results differ"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
