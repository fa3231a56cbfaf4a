"""Updates of the demo's model alone and beside a busy program, by how threads share the work."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qsft_robot.presets.look_up import recipe
from qsft_robot.rollouts.collect import CollectPart, collect

# Name -> what the environment and the command line say.
WAYS: dict[str, tuple[dict[str, str], list[str]]] = {
    "threads in every operation, busy waiting": ({"OMP_WAIT_POLICY": "ACTIVE"}, []),
    "threads in every operation": ({"OMP_WAIT_POLICY": "PASSIVE"}, []),
    "one thread": ({"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}, []),
    "a part of the batch for each of two threads": (
        {"OMP_WAIT_POLICY": "PASSIVE"},
        ["--optim.parallel", "2"],
    ),
}


def logs_with_cameras(path: Path) -> None:
    """A few logs of the demo's kind."""
    chosen = recipe("tabletop/place")
    kwargs = {**chosen.env_kwargs, "cameras": list(chosen.cameras), "image_size": chosen.image_size}
    env_args = {"env_name": chosen.env_name, "env_kwargs": kwargs}
    collect(env_args, path, [CollectPart(12)], progress=False)


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Programs that hold a core each while the block runs."""
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def train(way: str, logs: Path, out: Path, updates: int, precision: str) -> tuple[float, float]:
    """Median seconds of an update, and processor seconds of the whole run an update."""
    environment, flags = WAYS[way]
    words = [
        sys.executable, "-m", "qsft_robot.cli", "train", "--preset", "tabletop/pixels",
        "--method", "sft", "--data.path", str(logs), "--out", str(out), "--device", "cpu",
        "--optim.precision", precision, "--optim.behavior-steps", str(updates),
        "--optim.value-steps", "1", "--log-every", "1", *flags,
    ]  # fmt: skip
    kept = {k: x for k, x in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, env={**kept, **environment}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["time/update_s"] for line in lines[2:]]  # the first ones warm up
    return statistics.median(seconds), (after.ru_utime - before.ru_utime) / (updates + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--others", type=int, default=1, help="busy programs beside it")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs_with_cameras(folder / "logs.hdf5")
        for repeat in range(options.repeats):
            for others in (0, options.others):  # in turns, so that both see the same machine
                for i, way in enumerate(WAYS):
                    out = folder / f"run_{repeat}_{others}_{i}"
                    with busy_programs(others):
                        took = train(
                            way, folder / "logs.hdf5", out, options.updates, options.precision
                        )
                    found.setdefault((way, others), []).append(took)
                    print(
                        f"{way}, {others} beside it: {took[0]:.3f} s", file=sys.stderr, flush=True
                    )
    print(f"load before {os.getloadavg()[2]:.1f}; median seconds (processor seconds) an update\n")
    print("| threads | alone | beside a busy program | ratio |\n|---|---|---|---|")
    for way in WAYS:
        alone, beside = (
            tuple(statistics.median(x) for x in zip(*found[way, n], strict=True))
            for n in (0, options.others)
        )
        print(
            f"| {way} | {alone[0]:.3f} ({alone[1]:.2f}) | {beside[0]:.3f} ({beside[1]:.2f}) | "
            f"{beside[0] / alone[0]:.1f} |"
        )


if __name__ == "__main__":
    main()
