"""Count tokens and measure errors and speed of bins, FAST and splines, on chunks of 20 and 50."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_rows import Row, compare

from qsft_robot.config.tokenizer import TokenizerConfig
from qsft_robot.extras import is_installed
from qsft_robot.logs.reader import read_episodes
from qsft_robot.normalize import NormStats
from qsft_robot.parts.tokenizers import build_tokenizer
from qsft_robot.presets.look_up import RECIPES, recipe
from qsft_robot.rollouts.collect import CollectPart, collect
from qsft_robot.token_data.tokenizer_report import TokenizerMeasures, measure_tokenizer
from qsft_robot.types import Episode

GROUP = "tokenizers"
# Recipe -> how many logs are recorded, and what has to be installed.
RECIPE_LOGS = {
    "tabletop/place-uncut": (60, "mujoco"),
    "robosuite/Lift": (20, "robosuite"),
    "ogbench/cube-single": (10, "ogbench"),
}
# Scales that are tried for the coarsest whose error is below half a bin.
SCALES = (5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0, 56.0, 80.0)
# Ids for the finer scales, whose single numbers alone are more than 512.
WIDE = 4096
FIT_CHUNKS = 20_000


def smooth_logs(count: int, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Two arms of six joints and a gripper each at 50 Hz: minimum-jerk reaches of .6 to 1.6 s with
    pauses, joint targets, and the jitter of a hand that leads them (standard deviation .002)."""
    rng = np.random.default_rng(seed)
    logs = []
    for _ in range(count):
        log = np.zeros((steps, 14))
        for arm in (slice(0, 7), slice(7, 14)):
            at, t = rng.uniform(-0.8, 0.8, 7), 0
            while t < steps:
                length = int(rng.integers(30, 81))
                goal = np.clip(at + rng.normal(0, 0.3, 7), -0.95, 0.95)
                goal[6] = rng.choice([-0.9, 0.9, at[6]])
                s = (np.arange(1, length + 1) / length)[:, None]
                reach = at + (goal - at) * (10 * s**3 - 15 * s**4 + 6 * s**5)
                rest = np.repeat(goal[None], int(rng.integers(0, 25)), 0)
                part = np.concatenate([reach, rest])[: steps - t]
                log[t : t + len(part), arm] = part
                at, t = goal, t + len(part)
        log[:, [i for i in range(14) if i % 7 != 6]] += rng.normal(0, 0.002, (steps, 12))
        logs.append(np.clip(log, -1, 1).astype(np.float32))
    return logs


def recorded_logs(name: str, folder: Path, count: int) -> list[np.ndarray]:
    """Actions of logs by a recipe of the project."""
    chosen = recipe(name)
    path = folder / "logs.hdf5"
    parts = [
        CollectPart(max(1, round(count * part.share)), part.mixture, part.noise)
        for part in chosen.parts
    ]
    env_args = {"env_name": chosen.env_name, "env_kwargs": {**chosen.env_kwargs, "cameras": []}}
    collect(env_args, path, parts, workers=1, progress=False)
    return [e.actions for e in read_episodes(path, keys=(), require_reward=False)]


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call, which other programs don't lengthen, and what it gives."""
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def measured(
    logs: list[np.ndarray], chunks: np.ndarray, norm_stats: NormStats, **settings: Any
) -> tuple[TokenizerMeasures, float, float]:
    """Measures of a kind on chunks, and chunks a second that it encodes and decodes."""
    tokenizer = build_tokenizer(TokenizerConfig(**settings), logs)
    measures = measure_tokenizer(tokenizer, chunks, norm_stats)
    encode_s, ids = seconds(lambda: tokenizer.encode(chunks))
    decode_s, _ = seconds(lambda: tokenizer.decode(ids))
    return measures, len(chunks) / max(encode_s, 1e-9), len(chunks) / max(decode_s, 1e-9)


def fast_rows(
    tag: str, logs: list[np.ndarray], chunks: np.ndarray, stats: NormStats, horizon: int, aim: float
) -> Iterator[Row]:
    """FAST at the paper's scale, and at the coarsest whose error is below half a bin."""
    for name in ("paper_scale", "half_a_bin"):
        for scale in (10.0,) if name == "paper_scale" else SCALES:
            settings = {"kind": "fast", "horizon": horizon, "scale": scale}
            if scale > 20:
                settings["vocabulary"] = WIDE
            found, encoded, decoded = measured(logs, chunks, stats, **settings)
            if name == "paper_scale" or found.error <= 1:
                break
        bins, unit = found.numbers, f"tokens a chunk, scale {scale:g}, {found.places} places"
        made = (GROUP, f"{tag}_fast_tokens_{name}", found.tokens_mean, bins, unit, aim, "higher")
        yield compare(*made, ratio="peer / ours")
        unit = "RMS error / half a bin of 256"
        yield compare(GROUP, f"{tag}_fast_error_{name}", found.error, 1.0, unit, 1.0, "lower")
        if name == "paper_scale":
            for what, rate in (("encode", encoded), ("decode", decoded)):
                unit = "chunks/s of processor time against 5,000"
                yield compare(GROUP, f"{tag}_fast_{what}", rate, 5000.0, unit, 1.0, "higher")


def other_rows(
    tag: str, logs: list[np.ndarray], chunks: np.ndarray, stats: NormStats, horizon: int
) -> Iterator[Row]:
    """Splines and bins."""
    found, *rates = measured(logs, chunks, stats, kind="spline", horizon=horizon)
    unit = "tokens a chunk"
    made = (GROUP, f"{tag}_spline_tokens", found.tokens_mean, found.numbers, unit, 4.0, "higher")
    yield compare(*made, ratio="peer / ours")
    unit = "RMS error / half a bin of 256"
    yield compare(GROUP, f"{tag}_spline_error", found.error, 1.0, unit, None, "lower")
    for what, rate in zip(("encode", "decode"), rates, strict=True):
        unit = "chunks/s of processor time against 5,000"
        yield compare(GROUP, f"{tag}_spline_{what}", rate, 5000.0, unit, 1.0, "higher")
    found, *rates = measured(logs, chunks, stats, kind="quantile_bins", horizon=horizon)
    unit = "RMS error / half a bin of 256"
    yield compare(GROUP, f"{tag}_bins_error", found.error, 1.0, unit, None, "lower")
    for what, rate in zip(("encode", "decode"), rates, strict=True):
        unit = "chunks/s of processor time against 100,000"
        yield compare(GROUP, f"{tag}_bins_{what}", rate, 100_000.0, unit, 1.0, "higher")


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Rows of each set of logs."""
    logs = smooth_logs(4 if quick else 60, 300)
    yield from set_rows("bimanual_50hz", logs, 50, 10.0, say)
    for name, (count, package) in RECIPE_LOGS.items():
        if name not in RECIPES or not is_installed(package):
            say(f"{name} left out: no {package} or no recipe")
            continue
        if quick and name != "tabletop/place-uncut":
            continue
        say(f"recording {name}")
        home = folder / name.replace("/", "_")
        home.mkdir()
        logs = recorded_logs(name, home, 4 if quick else count)
        yield from set_rows(name.replace("/", "_").replace("-", "_"), logs, 20, 5.0, say)


def set_rows(
    tag: str, recorded: list[np.ndarray], horizon: int, aim: float, say: Callable[[str], None]
) -> Iterator[Row]:
    """Rows of one set of logs, of chunks that lie within them."""
    logs = [log for log in recorded if len(log) >= horizon]
    windows = [np.lib.stride_tricks.sliding_window_view(log, horizon, 0) for log in logs]
    chunks = np.concatenate(windows).swapaxes(1, 2)[:FIT_CHUNKS]
    stats = NormStats.fit([_episode(logs[0])], ())
    say(f"{tag}: {len(chunks)} chunks of {horizon} x {chunks.shape[2]}")
    yield from fast_rows(tag, logs, chunks, stats, horizon, aim)
    yield from other_rows(tag, logs, chunks, stats, horizon)


def _episode(actions: np.ndarray) -> Episode:
    nothing = np.zeros(len(actions), np.float32)
    return Episode("demo_0", {}, actions, nothing, True, False, False)
