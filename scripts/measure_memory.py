"""Measures the memory of each process that fine-tunes a language model, beside the estimate that is
printed before the load."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qsft_robot.parts.models import build_tiny_model

ROOT = Path(__file__).resolve().parent.parent
GIB = 1024**3
# A child that runs one command and tells the largest resident size of any process under it.
PEAK = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"rc": done.returncode, "peak": peak, "stderr": done.stderr}))
"""


@dataclass(frozen=True)
class Case:
    """One way to train."""

    name: str
    flags: str
    processes: int = 1
    pretrained: bool = True


CASES = [
    Case("the program, a tiny RT-style model", "--model.width 32 --model.depth 1", 1, False),
    Case("LoRA", ""),
    Case("LoRA, bfloat16", "--model.dtype bfloat16 --optim.precision bfloat16"),
    Case("LoRA, 2 processes", "", 2),
    Case("all weights", "--model.lora-rank 0"),
    Case("all weights, 2 processes", "--model.lora-rank 0", 2),
    Case("all weights, 2 processes, --optim.shard", "--model.lora-rank 0 --optim.shard", 2),
]

SMALL = 5  # so many run unless others are asked for


def run_verb(words: str, processes: int = 1) -> tuple[int, str]:
    """Run one `qsft-robot` command; the peak of its largest process in bytes, and what it told."""
    module = ["-m", "qsft_robot.cli", *shlex.split(words)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), *module]
    told = subprocess.run(
        [sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(told.stdout)
    if found["rc"]:
        raise RuntimeError(f"`qsft-robot {words}` failed:\n{found['stderr'][-3000:]}")
    return found["peak"], found["stderr"]


def main() -> None:
    """Print one table row a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "memory")
    parser.add_argument("--family", default="llama")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument(
        "--cases", type=int, nargs="+", choices=range(len(CASES)), default=range(SMALL),
        help=", ".join(f"{i}: {case.name}" for i, case in enumerate(CASES)) + " (the last two "
        "run only when asked for: at the default size all weights take 12 GiB a process)",
    )  # fmt: skip
    options = parser.parse_args()
    out = options.out.resolve()
    base, logs = out / "base", out / "logs.hdf5"
    if not (base / "config.json").exists():
        build_tiny_model(options.family, base, width=options.width, depth=options.depth)
    if not logs.exists():
        run_verb(f"collect tabletop/place --episodes 20 --cameras --out {logs}")
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    print(f"{options.family}, {weights / 4e6:.0f} M parameters, {weights / GIB:.2f} GiB in float32")
    print("| case | printed before the load | peak of the largest process, GiB |\n|---|---|---|")
    for case in (CASES[i] for i in options.cases):
        shutil.rmtree(out / "run", ignore_errors=True)
        model = f"--model.pretrained {base}" if case.pretrained else ""
        peak, told = run_verb(
            f"train --data.path {logs} --data.state-keys proprio target {model} {case.flags} "
            "--tokenizer.kind uniform_bins --tokenizer.n-bins 32 --optim.behavior-steps 2 "
            f"--optim.value-steps 2 --optim.batch-size {options.batch_size} --out {out / 'run'}",
            case.processes,
        )
        estimate = next((x for x in told.splitlines() if x.startswith("loading ")), "nothing")
        estimate = estimate.partition(": ")[2] or estimate
        print(f"| {case.name} | {estimate} | {peak / GIB:.2f} |", flush=True)


if __name__ == "__main__":
    main()
