"""The whole job on the embedded simulator: logs, three policies, success rates, video, report."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qsft_robot.config.run_config import read_config
from qsft_robot.config.train import TrainConfig
from qsft_robot.extras import EXTRAS, require_packages
from qsft_robot.files import write_json
from qsft_robot.hardware import choose_device
from qsft_robot.intervals import wilson
from qsft_robot.logs.inspection import inspect
from qsft_robot.presets.look_up import EVALUATION_SEED, apply_presets, recipe, with_settings
from qsft_robot.printed_text import command
from qsft_robot.rollouts.collect import CollectPart, collect
from qsft_robot.rollouts.evaluate import EvaluationResult, evaluate
from qsft_robot.rollouts.playback import playback

RECIPE, PRESET = "tabletop/place", "tabletop/pixels"
# Q-SFT first: the others go on from its behavior stage, so all have the same image features.
METHODS = ("qsft", "sft", "filtered_sft")
# All that it writes into its folder.
_WRITES = {"logs.hdf5", "demo_0.mp4", "policy", "summary.json", "report.html", *METHODS}
# Sizes of the demo, and of `--quick`: logs, updates of the behavior and value stage, episodes.
FULL = {"logs": 600, "behavior": 1500, "value": 800, "episodes": 100}
QUICK = {"logs": 12, "behavior": 4, "value": 4, "episodes": 4}


def run_demo(out: Path, quick: bool = False, seed: int = 0, device: str = "auto") -> None:
    """Collect mixed logs, train SFT, filtered SFT and Q-SFT from pixels and words, evaluate all
    three on the same episodes, export, reload, film and report, everything under `out`."""
    require_packages("the demo", *EXTRAS["train"])  # before minutes of collecting
    size = QUICK if quick else FULL
    console, began = Console(), time.monotonic()
    _make_empty(out)
    logs = out / "logs.hdf5"

    def say(step: str) -> None:
        console.rule(f"[bold]{step}[/bold]  ({time.monotonic() - began:.0f} s)", align="left")

    say("1/6 collect: logs of mixed quality, two cameras, an instruction each")
    chosen = recipe(RECIPE)
    part = chosen.parts[0]
    cameras = {"cameras": list(chosen.cameras), "image_size": chosen.image_size}
    env_args = {"env_name": chosen.env_name, "env_kwargs": {**chosen.env_kwargs, **cameras}}
    print(collect(env_args, logs, [CollectPart(size["logs"], part.mixture, part.noise)], seed=seed))
    say("2/6 inspect, and replay one log as the acceptance test of the file")
    inspect(logs)
    print(playback(logs, "demo_0", video=out / "demo_0.mp4"))
    say("3/6 train: the same model, data and number of updates for each method")
    policies = {method: _train(method, out, logs, size, seed, device) for method in METHODS}
    say(f"4/6 evaluate: {size['episodes']} episodes, the same seeds for every policy")
    results = {name: _evaluate(name, folder, size, device) for name, folder in policies.items()}
    say("5/6 export and reload")
    _export(out, policies["qsft"])
    say("6/6 report")
    order = sorted(METHODS, key=lambda name: name == "qsft")  # the best known last
    rows = [_logs_row(logs), *(_row(name, results[name]) for name in order)]
    write_json(out / "summary.json", rows)
    from qsft_robot.report.report import write_report

    page = write_report(out)
    console.print(_table(rows))
    print(f"policy   {out / 'policy'}")
    graphs = command("export", out / "qsft", "--out", out / "policy")
    print(f"graphs   {graphs}  # to run without torch")
    print(f"summary  {out / 'summary.json'}")
    print(f"report   {page}")
    for video in results["qsft"].videos:
        print(f"video    {video}")
    print(f"{time.monotonic() - began:.0f} s in all")


def _make_empty(out: Path) -> None:
    """Make the folder, and remove an earlier demo from it; FileExistsError where it holds anything
    that no demo writes."""
    if out.exists():
        foreign = sorted(x.name for x in out.iterdir() if not _is_ours(x.name))
        if foreign:
            raise FileExistsError(
                f"{out}: holds what no demo wrote ({', '.join(foreign[:5])}), so it is not "
                "replaced. Give the name of a new folder (--out)."
            )
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _is_ours(name: str) -> bool:
    return name in _WRITES or (name.startswith(".") and ".tmp" in name)


def _train(
    method: str, out: Path, logs: Path, size: dict[str, int], seed: int, device: str
) -> Path:
    from qsft_robot.training.train import train

    config = apply_presets(TrainConfig(), [PRESET])
    config = with_settings(
        config,
        {
            "data.path": logs,
            "data.filter_key": "train",
            "data.valid_key": "valid",
            "optim.behavior_steps": size["behavior"],
            "optim.value_steps": size["value"],
            # Two threads that meet once an update, whatever else the two cores do.
            "optim.parallel": 2,
            "device": device,
        },
    )
    if method != METHODS[0]:
        # Timed once: all methods compute in the precision that the first one took.
        taken = read_config(out / METHODS[0]).optim.precision
        config = with_settings(config, {"optim.precision": taken})
        config = replace(config, behavior_from=out / METHODS[0])
    print(f"\n{method}:")
    return train(replace(config, method=method, out=out / method, seed=seed))


def _evaluate(name: str, policy: Path, size: dict[str, int], device: str) -> EvaluationResult:
    import torch

    from qsft_robot.policy.token_policy import load_policy

    loaded = load_policy(policy, choose_device(device)[0])
    print(f"\n{name}:")
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + size["episodes"])
    videos = 4 if name == "qsft" else 1
    out = policy.parent / "evaluation" / "place"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the cores are the simulators'
    result = evaluate(loaded, loaded.description.env_args, seeds, videos=videos, out=out)
    torch.set_num_threads(threads)
    print(result)
    return result


def _export(out: Path, policy: Path) -> None:
    """Copy the exported folder to its place and show that it acts as the checkpoint does."""
    from qsft_robot.logs.reader import read_episodes
    from qsft_robot.policy.token_policy import load_policy
    from qsft_robot.types import Observation

    shutil.copytree(policy, out / "policy")
    exported, checkpoint = load_policy(out / "policy"), load_policy(policy.parent / "checkpoint")
    log = read_episodes(out / "logs.hdf5", filter_key="valid", require_reward=False)[0]
    for i in range(len(log)):
        row = {key: x[i] for key, x in log.observations.items()}
        seen = Observation.from_env(row, log.instruction)
        if not np.array_equal(exported.infer(seen), checkpoint.infer(seen)):
            raise RuntimeError(f"{out / 'policy'} and the checkpoint differ at step {i}.")
    print(f"{out / 'policy'}: the same {len(log)} actions as the checkpoint, to the bit")


def _row(method: str, result: EvaluationResult) -> dict[str, Any]:
    rate = result.success_any
    return {
        "task": "tabletop/place",
        "observations": "pixels",
        "method": method,
        "n": rate.n,
        "success_rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
    }


def _logs_row(logs: Path) -> dict[str, Any]:
    from qsft_robot.logs.reader import read_episodes

    episodes = read_episodes(logs, keys=["proprio"])
    rate = wilson(sum(e.success for e in episodes), len(episodes))
    return {
        "task": "tabletop/place",
        "observations": "pixels",
        "method": "the logs themselves",
        "n": rate.n,
        "success_rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="tabletop/place from pixels and words")
    for column in ("policy", "success", "95 % interval", "n"):
        table.add_column(column)
    for row in rows:
        interval = f"{row['low']:.2f} to {row['high']:.2f}"
        table.add_row(row["method"], f"{row['success_rate']:.2f}", interval, str(row["n"]))
    return table
