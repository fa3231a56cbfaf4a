"""Batches of images from an uncompressed HDF5 file: ours against robomimic's SequenceDataset."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_rows import Row, compare, in_turns, seconds_of

from qsft_robot.config.data import DataConfig
from qsft_robot.config.train import TrainConfig
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.types import Episode

GROUP, BATCH = "loader", 64
CAMERA, STATE = "agentview_image", "robot0_eef_pos"
UNIT = "samples/s (84x84 image, next image, state, actions; batch 64)"


def write_logs(path: Path, demos: int, steps: int) -> None:
    """An uncompressed file with one 84x84 camera, observations and next observations."""
    rng = np.random.default_rng(0)
    with DemonstrationWriter(path, {"env_name": "Lift", "type": 1, "env_kwargs": {}}) as writer:
        for _ in range(demos):
            writer.append(
                Episode(
                    "",
                    {
                        CAMERA: rng.integers(0, 256, (steps + 1, 84, 84, 3), np.uint8),
                        STATE: rng.normal(size=(steps + 1, 3)).astype(np.float32),
                    },
                    rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
                    np.eye(steps, dtype=np.float32)[-1],
                    terminated=True,
                    truncated=False,
                    success=True,
                )
            )


def our_batches(path: Path) -> Iterator[Any]:
    """Endless batches through the frame cache: this frame, the next one, state and tokens."""
    config = TrainConfig(data=DataConfig(path=path, state_keys=(STATE,), cameras=(CAMERA,)))
    data = read_run_data(config).train
    generator = torch.Generator().manual_seed(0)
    while True:
        for steps in torch.randperm(len(data), generator=generator).split(BATCH):
            if len(steps) == BATCH:
                yield data.batch(steps), data.context(data.next_rows(steps)[0])


def their_batches(path: Path, cache: str | None, workers: int) -> Iterator[Any]:
    """Endless batches of robomimic's SequenceDataset through torch's DataLoader."""
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    obs_utils.initialize_obs_modality_mapping_from_dict({"low_dim": [STATE], "rgb": [CAMERA]})
    dataset = SequenceDataset(
        str(path),
        (CAMERA, STATE),
        ("actions", "rewards", "dones"),
        hdf5_cache_mode=cache,
        hdf5_use_swmr=True,
        load_next_obs=True,
    )
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip
    while True:
        yield from loader


CONTESTANTS: dict[str, Callable[[Path], Iterator[Any]]] = {
    "ours": our_batches,
    "no cache": lambda path: their_batches(path, None, 0),
    "no cache, 2 workers": lambda path: their_batches(path, None, 2),
    "full cache": lambda path: their_batches(path, "all", 0),
}


def memory(path: Path, contestant: str, batches: int) -> int:
    """Resident bytes that loading adds in this process."""
    # Imports and the first tensors belong to both.
    import robomimic.utils.dataset  # noqa: F401

    torch.zeros(1).add_(1)
    before = _resident()
    stream = CONTESTANTS[contestant](path)
    for _ in range(batches):
        next(stream)
    return _resident() - before


def _resident() -> int:
    words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(words["VmRSS"].split()[0]) * 1024


def _memory_of(path: Path, contestant: str, batches: int) -> int:
    words = [sys.executable, __file__, str(path), contestant, str(batches)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """The loader's rows, speed first."""
    demos, steps = (4, 40) if quick else (100, 60)
    repeats = 2 if quick else 7
    os.environ["QSFT_CACHE"] = str(folder / "cache")
    path = folder / "images.hdf5"
    say(f"writing {demos} logs of {steps} steps")
    write_logs(path, demos, steps)
    names = [name for name in CONTESTANTS if not (quick and "workers" in name)]
    streams = {}
    for name in names:
        say(f"opening: {name}")
        streams[name] = CONTESTANTS[name](path)
        next(streams[name])  # the caches are filled before the clock starts

    def speed(name: str) -> float:
        time.sleep(0.5)  # for the workers of the one before, who fetch ahead
        batches = 2 if quick else 20 if name.startswith("no cache") else 200
        taken = seconds_of(lambda: [next(streams[name]) for _ in range(batches)])
        return batches * BATCH / taken

    say("timing")
    found = in_turns({name: lambda name=name: speed(name) for name in names}, repeats)
    say(", ".join(f"{name} {x:,.0f}/s" for name, x in found.items()))
    uncached = max(x for name, x in found.items() if name.startswith("no cache"))
    full = found["full cache"]
    yield compare(
        GROUP, "loader_vs_robomimic_no_cache", found["ours"], uncached, UNIT, 10, "higher"
    )
    yield compare(GROUP, "loader_vs_robomimic_full_cache", found["ours"], full, UNIT, 1, "higher")
    say("memory, each in a process of its own")
    passes = max(1, demos * steps // BATCH)
    ours, theirs = (_memory_of(path, name, passes) for name in ("ours", "full cache"))
    unit = "MB resident after one pass over the data"
    name = "loader_memory_vs_robomimic_full_cache"
    yield compare(GROUP, name, max(ours, 1) / 1e6, max(theirs, 1) / 1e6, unit, 0.33, "lower")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the resident bytes that one loader adds.")
    parser.add_argument("path", type=Path)
    parser.add_argument("contestant", choices=list(CONTESTANTS))
    parser.add_argument("batches", type=int)
    options = parser.parse_args()
    print(json.dumps(memory(options.path, options.contestant, options.batches)))
