"""Makes the archive beside it. Run by a version of format 2 alone, in an empty folder:

    mkdir made && cd made
    PYTHONPATH=../../../.. OMP_NUM_THREADS=1 python ../make.py

Weights are cut to a few bits and instruction words that no log has to 0, so that they pack well;
the exports are made of what is left.
"""

# The modules are those of that version.
import json
import tarfile
from pathlib import Path
from typing import Any

import h5py
import onnx
import torch

from qsft_robot.cli import main
from qsft_robot.files import write_sums
from qsft_robot.policy.checkpoint import read_policy_folder, write_checkpoint
from qsft_robot.policy.open import open_policy
from qsft_robot.types import Observation
from vlm.words import hash_words

TRAIN = (
    "train --preset fixed --data.path logs.hdf5 --data.state-keys proprio target "
    "--model.width 16 --model.depth 1 --tokenizer.kind uniform_bins --tokenizer.n-bins 8 "
    "--tokenizer.horizon 2 --optim.batch-size 16 --optim.learning-rate 3e-3 "
    "--optim.value-learning-rate 3e-3 --optim.behavior-steps 60 --optim.value-steps 30 "
    "--qsft.refresh-every 7 --discount 0.97 --out run"
)
STATE = ("proprio", "target")
POLICIES = {"policy": "k=1", "policy_k2": "k=2"}


def cli(words: str) -> None:
    if main(words.split()):
        raise SystemExit(words)


def cut(folder: Path) -> None:
    """Few bits of the weights' fractions are left, and no rows of other words."""
    description, weights = read_policy_folder(folder)
    words = torch.zeros(4096, dtype=torch.bool)
    for instruction in description.data.instructions:
        words[hash_words(instruction)] = True
    for name, x in weights.items():
        if x.dtype == torch.float32 and x.ndim > 0:
            kept = (x.contiguous().view(torch.int32) & ~((1 << 20) - 1)).view(torch.float32)
            weights[name] = torch.where(words[:, None], kept, 0.0) if len(x) == 4096 else kept
    write_checkpoint(folder, description, weights)


def observations() -> list[list[Observation]]:
    found = []
    with h5py.File("logs.hdf5") as file:
        for name in ("demo_0", "demo_4"):
            log = file["data"][name]
            state = [{key: log[f"obs/{key}"][t] for key in STATE} for t in range(6)]
            found.append([Observation({}, each, log.attrs["lang"]) for each in state])
    return found


def acted(policy: Any) -> dict[str, list[Any]]:
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


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    torch.set_num_threads(1)
    cli(
        "collect tabletop/pick --out logs.hdf5 --episodes 6 --mixture expert=0.5 miss_grasp=0.5 "
        "--noise 0.1 --workers 1 --seed 3 --env-kwargs max_steps=16 --cameras"
    )
    cli(TRAIN)
    cut(Path("run/checkpoint"))
    expected: dict[str, Any] = {}
    for name, acting in POLICIES.items():
        cli(f"export run --out {name} --acting {acting} --data logs.hdf5")
        without_traces(Path(name))
        for runtime in ("torch", "onnx"):
            expected[f"{name}/{runtime}"] = acted(open_policy(name, runtime=runtime))
    seen = [[{key: x.state[key].tolist() for key in STATE} for x in log] for log in observations()]
    texts = [log[0].instruction for log in observations()]
    expected["observations"] = {"state": seen, "instructions": texts}
    with tarfile.open("policies.tar.xz", "w:xz", preset=9) as file:
        for name in POLICIES:
            file.add(name, filter=plain)
    Path("expected.json").write_text(json.dumps(expected) + "\n")
    print(Path("policies.tar.xz").stat().st_size, Path("expected.json").stat().st_size)
