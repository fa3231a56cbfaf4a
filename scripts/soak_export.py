"""Kill the writing of an exported policy at random moments; what stands there must be whole."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from qsft_robot.export.recorded_observations import random_observations
from qsft_robot.policy.checkpoint import read_policy_folder, write_checkpoint
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.onnx_policy import load_onnx_policy
from qsft_robot.policy.token_policy import load_policy

Parts = tuple[PolicyDescription, Any, dict[str, bytes]]


def parts_of(folder: Path, seed: int) -> Parts:
    """The parts of an export: description (told apart by its seed), networks, other files."""
    description, _ = read_policy_folder(folder)
    files = {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix in (".onnx", ".md")}
    return replace(description, seed=seed), load_policy(folder).networks, files


def write_in_child(target: Path, parts: Parts) -> int:
    """Start a child that writes the folder, and nothing else; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            write_checkpoint(target, parts[0], parts[1], extra_files=parts[2])
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def check(target: Path, seeds: set[int]) -> int:
    """Load what stands at `target` with both runtimes and let each decide; its seed. Raises
    where it is not one of the whole policies."""
    graphs, eager = load_onnx_policy(target), load_policy(target)
    seed = graphs.description.seed
    if seed not in seeds:
        raise RuntimeError(f"{target}: a policy of seed {seed}, which nobody wrote")
    ((observation,),) = random_observations(eager.description, 1)
    if not np.array_equal(_act(graphs, observation), _act(eager, observation)):
        raise RuntimeError(f"{target}: the graphs and torch differ")
    return seed


def _act(policy: Any, observation: Any) -> np.ndarray:
    policy.reset(0)
    return policy.infer(observation)


def soak(folder: Path, kills: int, out: Path) -> dict[str, int | float]:
    """Write two policies in turn over each other (every fourth time onto nothing), killing each
    writer at a random moment of the time that a whole write takes."""
    rng, target = random.Random(0), out / "policy"
    versions = {1: parts_of(folder, 1), 2: parts_of(folder, 2)}
    started = time.monotonic()
    for seed in (1, 2, 1):
        os.waitpid(write_in_child(target, versions[seed]), 0)
    whole_s = (time.monotonic() - started) / 3
    counts = dict.fromkeys(("killed", "finished_first", "nothing", "old", "new"), 0)
    stands: int | None = check(target, {1})
    while counts["killed"] < kills:
        if rng.random() < 0.25:
            if target.exists():
                os.replace(target, out / f"aside_{time.monotonic_ns()}")
            stands = None
        seed = 2 if stands == 1 else 1
        child = write_in_child(target, versions[seed])
        time.sleep(rng.uniform(0.0, whole_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        counts["killed" if os.WIFSIGNALED(status) else "finished_first"] += 1
        if not target.exists():
            if stands is not None:
                raise RuntimeError("the earlier policy is gone")
            counts["nothing"] += 1
            continue
        found = check(target, {seed} if stands is None else {seed, stands})
        counts["new" if found == seed else "old"] += 1
        stands = found
    leftovers = sum(1 for f in out.iterdir() if f.name.startswith("."))
    return {"whole_write_s": round(whole_s, 3), **counts, "leftover_hidden_folders": leftovers}


def main() -> int:
    """Print the counts; exit status 1 where anything half-written loaded or a policy was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="exported policy with ONNX graphs")
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="qsft-soak-") as out:
        try:
            print(json.dumps(soak(options.folder, options.kills, Path(out)), indent=2))
        except (RuntimeError, ValueError, OSError) as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
