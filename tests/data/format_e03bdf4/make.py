"""Makes the archives beside it. Run by the version at e03bdf4 alone, in an empty folder:

    git worktree add ../old e03bdf4 && mkdir made && cd made
    PYTHONPATH=../../old OMP_NUM_THREADS=1 python ../make.py

Weights and optimizer state are cut to a few bits, and instruction words that no log has to 0, so
that they pack well; all of it is then read, trained on and exported by that version as ever.
"""

# The modules are those of that version.
# ruff: noqa: I001
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import h5py
import onnx
import torch

from qsft_robot.policy.open import open_policy
from qsft_robot.checkpoint import read_policy_folder, read_training, write_checkpoint
from qsft_robot.cli import main
from qsft_robot.files import write_sums
from qsft_robot.train import resume_config, train
from qsft_robot.types import Observation
from vlm.words import hash_words

TRAIN = (
    "train --data.path logs.h5 --data.state-keys proprio target --model.width 16 --model.depth 1 "
    "--tokenizer.kind uniform --tokenizer.n-bins 8 --optim.batch-size 16 --optim.learning-rate 3e-3"
    " --optim.value-learning-rate 3e-3 --optim.behaviour-steps 60 --optim.value-steps 30 "
    "--qsft.refresh-every 7 --qsft.gamma 0.97 --log-every 5 --out"
)
STATE = ("proprio", "target")


def cli(words: str) -> None:
    if main(words.split()):
        raise SystemExit(words)


def small_logs() -> None:
    """logs.h5: six logs, the keys that are read alone."""
    cli(
        "collect tabletop/pick --out all.hdf5 --episodes 6 --mixture expert=0.5 miss_grasp=0.5 "
        "--noise 0.1 --workers 1 --seed 3 --env-kwargs max_steps=16 --cameras"
    )
    with h5py.File("all.hdf5") as source, h5py.File("logs.h5", "w", libver="latest") as file:
        data = file.create_group("data")
        data.attrs.update(source["data"].attrs)
        for name, log in source["data"].items():
            mine = data.create_group(name)
            mine.attrs.update(log.attrs)
            seen = [f"{when}/{key}" for when in ("obs", "next_obs") for key in STATE]
            for key in ("actions", "rewards", "dones", "terminated", "truncated", *seen):
                mine[key] = log[key][()]


def cut(tensors: dict, bits: int, words: torch.Tensor) -> dict:
    """Tensors with few bits of their fractions left, and without the rows of other words."""
    found = {}
    for name, x in tensors.items():
        found[name] = x
        if x.dtype == torch.float32 and x.ndim > 0 and not name.startswith(("stage", "log")):
            kept = x.contiguous().view(torch.int32) & ~((1 << (23 - bits)) - 1)
            found[name] = kept.view(torch.float32)
            if len(x) == 4096:
                found[name] = torch.where(words[:, None], found[name], 0.0)
    return found


def cut_checkpoint(folder: Path) -> None:
    description, weights = read_policy_folder(folder)
    training, tensors = read_training(folder)
    words = torch.zeros(4096, dtype=torch.bool)
    for instruction in description["data"]["instructions"]:
        words[hash_words(instruction)] = True
    write_checkpoint(folder, description, cut(weights, 3, words), training, cut(tensors, 0, words))


def observations() -> list[list[Observation]]:
    found = []
    with h5py.File("logs.h5") as file:
        for name in ("demo_0", "demo_4"):
            log = file["data"][name]
            state = [{key: log[f"obs/{key}"][t] for key in STATE} for t in range(12)]
            found.append([Observation({}, each, log.attrs["lang"]) for each in state])
    return found


def acted(policy) -> dict[str, list]:
    """Actions and values, each log with its own seed."""
    actions, values = [], []
    for seed, log in enumerate(observations()):
        memory = policy.begin_episode(seed)
        decisions = [policy.infer_batch([seen], [memory])[0] for seen in log]
        actions.append([each.actions.tolist() for each in decisions])
        values.append([each.value for each in decisions])
    return {"actions": actions, "values": values}


def without_traces(folder: Path) -> None:
    """Takes the exporter's notes, which name folders of this machine, out of the graph."""
    model = onnx.load(folder / "decision.onnx")
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    onnx.save(model, folder / "decision.onnx")
    write_sums(folder)


def pack(archive: str, *names: str) -> None:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return None if "tensorboard" in member.name else member

    with tarfile.open(archive, "w:xz", preset=9) as file:
        for name in names:
            file.add(name, filter=plain)
    print(archive, Path(archive).stat().st_size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    small_logs()
    expected = {}
    cli(f"{TRAIN} whole")
    cut_checkpoint(Path("whole/checkpoint"))
    for name, acting in {
        "policy": "k=1",
        "policy_k2": "k=2",
        "policy_behaviour": "rule=behaviour",
    }.items():
        cli(f"export whole --out {name} --acting {acting}")
        without_traces(Path(name))
        for runtime in ("torch", "onnx"):
            expected[f"{name}/{runtime}"] = acted(open_policy(name, runtime=runtime))
    for run, stop_after in (("run_behaviour", 58), ("run_value", 83)):
        setting = replace(resume_config(Path("whole")), out=Path(run))
        train(setting, stop_after=stop_after)
        cut_checkpoint(Path(run, "checkpoint"))
    pack("policies.tar.xz", "policy", "policy_k2", "policy_behaviour")
    pack("runs.tar.xz", "logs.h5", "run_behaviour", "run_value")
    for run in ("run_behaviour", "run_value"):
        cli(f"train --resume {run}")
        expected[run] = acted(open_policy(Path(run, "policy"), runtime="torch"))
        lines = Path(run, "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        expected[run]["metrics"] = {k: x for k, x in last.items() if not k.startswith("time/")}
        expected[run]["lines"] = len(lines)
    seen = [
        [{**{key: each.state[key].tolist() for key in STATE}} for each in log]
        for log in observations()
    ]
    expected["observations"] = {
        "state": seen,
        "instructions": [x[0].instruction for x in observations()],
    }
    Path("expected.json").write_text(json.dumps(expected) + "\n")
