"""Updates of Q-SFT, table refreshes included, against updates of SFT on the same model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bench_rows import Row, compare, in_turns, seconds_of

from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.qsft_stage import QSFTStage
from qsft_robot.algorithms.sft import BehaviorStage
from qsft_robot.algorithms.stage import Stage
from qsft_robot.config.train import TrainConfig
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.parts.models import build_model
from qsft_robot.presets.look_up import apply_presets, with_settings
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training.feature_cache import on_features
from qsft_robot.training.metrics import MetricsLog
from qsft_robot.training.plan import BEHAVIOR, VALUE, StagePlan
from qsft_robot.training.tracking import open_tracker
from qsft_robot.training.train import run_stage
from qsft_robot.types import Episode

GROUP = "training"
CAMERAS = ("front_image", "wrist_image")
UNIT = "ms an update, the loop's own (draw, read, loss, gradients, AdamW, one refresh in {})"


def write_logs(path: Path, logs: int, steps: int) -> None:
    """Logs of the tabletop's shapes; what the numbers are does not change the time of an update."""
    rng = np.random.default_rng(0)
    env_args = {"env_name": "tabletop", "env_kwargs": {"cameras": []}}
    with DemonstrationWriter(path, env_args) as writer:
        for i in range(logs):
            state = {
                key: rng.normal(size=(steps + 1, size)).astype(np.float32)
                for key, size in (("proprio", 8), ("target", 13))
            }
            actions = rng.uniform(-1, 1, (steps, 4)).astype(np.float32)
            success = i % 3 == 0
            rewards = np.eye(steps, dtype=np.float32)[-1] * success
            # One in ten was cut, so that every refresh bootstraps at ends, too.
            cut = not success and i % 10 == 1
            writer.append(
                Episode("", state, actions, rewards, not cut, cut, success, "put the red cube away")
            )


def build_stages(
    config: TrainConfig, pixels: bool, lams: tuple[float, ...]
) -> tuple[Stage, dict[float, QSFTStage]]:
    """The SFT stage and a Q-SFT stage for each lambda, of the same model on the same data.

    With `pixels` all of them read cached image features, two cameras of 8 tokens.
    """
    torch.manual_seed(0)
    run_data = read_run_data(config)
    data, tokenizer = run_data.train, run_data.tokenizer
    shape = {"cameras": CAMERAS} if pixels else {"width": 64, "depth": 2}
    model = build_model(
        config.model.name,
        vocab_size=tokenizer.vocab_size,
        n_tokens=tokenizer.n_tokens,
        state_dim=data.state.shape[-1],
        dropout=config.model.dropout,
        **shape,
    )
    data.read_words(model.encode_words)
    if pixels:
        tokens, width = model.config.frame_image_tokens, model.config.width
        data = on_features(data, torch.randn(data.rows, tokens, width).half())
        for parameter in model.image_parameters():
            parameter.requires_grad_(False)
    sft = PolicyNetworks(model)
    values: dict[float, QSFTStage] = {}
    for lam in lams:
        networks = PolicyNetworks(model)
        networks.start_value_stage("void", tokenizer.vocab_size)
        values[lam] = QSFTStage(networks, data, "cpu", replace(config.qsft, lam=lam))
    return BehaviorStage(sft, data, "cpu"), values


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Low-dimensional observations with lambda 1 and .9, cached image features with .9."""
    updates, repeats = (5, 2) if quick else (200, 3)
    for pixels, logs, steps in ((False, 1500, 45), (True, 600, 45)):
        kind = "image features" if pixels else "low-dim"
        batch = 16 if quick else 128 if pixels else 256
        path = folder / f"{kind.replace(' ', '_')}.hdf5"
        say(f"{kind}: writing logs")
        write_logs(path, 12 if quick else logs, 15 if quick else steps)
        names = ["tabletop/pixels" if pixels else "tabletop/low_dim"]
        # The features stand in for the images, which the loop never reads then.
        keys = ("proprio",) if pixels else ("proprio", "target")
        config = with_settings(
            apply_presets(TrainConfig(device="cpu"), names),
            {
                "data.cameras": (),
                "data.auxiliary_keys": (),
                "data.state_keys": keys,
                "data.path": path,
                "optim.batch_size": batch,
                "optim.behavior_steps": updates,
                "optim.value_steps": updates,
                "qsft.refresh_every": updates,
                "log_every": updates,
                "checkpoint_every": 10**9,
            },
        )
        lams = (0.9,) if pixels else (1.0, 0.9)
        sft, values = build_stages(config, pixels, lams)
        log = MetricsLog(
            folder, [(BEHAVIOR, updates), (VALUE, updates)], open_tracker("tensorboard", folder, {})
        )

        def sft_ms(sft=sft, config=config, log=log) -> float:
            return 1e3 / updates * seconds_of(lambda: _run(BEHAVIOR, sft, config, log))

        def qsft_ms(stage: QSFTStage, config=config, log=log) -> float:
            def run() -> None:
                _run(VALUE, stage, config, log)
                stage.refresh()  # the one that the next update would begin with

            return 1e3 / updates * seconds_of(run)

        calls = {"sft": sft_ms} | {
            f"lambda {lam}": lambda stage=stage: qsft_ms(stage) for lam, stage in values.items()
        }
        say(f"{kind}: timing {updates} updates at a time")
        for call in calls.values():
            call()
        found = in_turns(calls, repeats)
        log.close()
        say(", ".join(f"{name} {x:.1f} ms" for name, x in found.items()))
        for lam in lams:
            name = f"qsft_update_vs_sft_{kind.replace(' ', '_').replace('-', '_')}_lambda_{lam:g}"
            unit = UNIT.format(updates)
            yield compare(GROUP, name, found[f"lambda {lam}"], found["sft"], unit, 1.3, "lower")


def _run(name: str, stage: Stage, config: TrainConfig, log: MetricsLog) -> None:
    steps = config.optim.value_steps
    plan = StagePlan(name, steps, 0, "train")
    run_stage(plan, stage, config, steps, log, lambda update, tensors: None)
