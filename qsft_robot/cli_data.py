"""Verbs of the command line that make and look at logs: collect, inspect, playback."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from qsft_robot.flag_words import shares
from qsft_robot.presets import recipe


def collect(
    name: Positional[str],
    out: Path,
    episodes: int | None = None,
    cameras: tuple[str, ...] | None = None,
    image_size: int | None = None,
    mixture: tuple[str, ...] = (),
    noise: float | None = None,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Collect demonstrations with a scripted expert and its named ways to fail, into HDF5.

    Args:
        name: Recipe, e.g. tabletop/place. `qsft-robot info recipes` lists them.
        out: HDF5 file to write (robomimic's schema); it appears whole or not at all.
        episodes: Number of logs; the recipe's own number when not given.
        cameras: Cameras to record; none: `--cameras` alone. The recipe's cameras when not given.
        image_size: Height and width of the images, in pixels.
        mixture: Shares that replace the recipe's, e.g. expert=0.5 miss_grasp=0.5.
        noise: Standard deviation of the noise on the expert's actions.
        seed: The file is the same for the same seed, whatever the number of workers.
        workers: Processes.
    """
    from qsft_robot.collect import CollectPart
    from qsft_robot.collect import collect as run

    chosen = recipe(name)
    total = chosen.episodes if episodes is None else episodes
    wanted = shares(mixture)
    parts, left = [], total
    for i, part in enumerate(chosen.parts):
        count = left if i == len(chosen.parts) - 1 else round(total * part.share)
        left -= count
        parts.append(
            CollectPart(
                episodes=count,
                mixture=wanted or part.mixture,
                noise=part.noise if noise is None else noise,
                reset_options=part.reset_options,
                mask=part.mask,
            )
        )
    kwargs = {
        **chosen.env_kwargs,
        "cameras": list(chosen.cameras if cameras is None else cameras),
        "image_size": chosen.image_size if image_size is None else image_size,
    }
    env_args = {"env_name": chosen.env_name, "env_kwargs": kwargs}
    print(run(env_args, out, parts, seed=seed, workers=workers))


def inspect(
    path: Positional[Path],
    filter_key: str | None = None,
    log_end: tuple[str, ...] = (),
    success_reward: bool = False,
) -> None:
    """Show what a data file holds: keys, shapes, ranges, returns, success rate, warnings.

    Args:
        path: HDF5 file in robomimic's schema.
        filter_key: Only the logs of this mask.
        log_end: How unsuccessful logs ended: terminal, truncated, or mask=word pairs.
        success_reward: Count rewards as --data.success-reward of train would make them.
    """
    from qsft_robot.config import DataConfig
    from qsft_robot.inspect_data import inspect as run

    ends = DataConfig(state_keys=("any",), log_end=log_end).log_ends()
    run(path, filter_key=filter_key, log_end=ends, success_reward=success_reward)


def playback(path: Positional[Path], demo: str = "demo_0", video: Path | None = None) -> int:
    """Replay a log by its actions in its own simulator; exit status 1 if it comes out otherwise.

    Args:
        path: HDF5 file whose env_args name the simulator.
        demo: The log.
        video: mp4 file to write.
    """
    from qsft_robot.playback import playback as run

    report = run(path, demo, video=video)
    print(report)
    return 0 if report.accepted else 1
