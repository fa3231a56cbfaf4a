"""The command line: `qsft-robot <verb>`; each verb is a function of this file or of demo.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional

from qsft_robot.config import TrainConfig
from qsft_robot.flag_words import acting_changes, shares
from qsft_robot.presets import EVALUATION_SEED, PRESETS, RECIPES, apply_presets, recipe


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


def train(arguments: Sequence[str]) -> None:
    """Train on logs and export the policy to <out>/policy."""
    from qsft_robot.train import resume_config
    from qsft_robot.train import train as run

    arguments = list(arguments)
    resume = "--resume" in arguments
    if resume:
        at = arguments.index("--resume")
        if len(arguments) != at + 2 or at != 0:
            raise ValueError("--resume takes the run folder and nothing else: --resume runs/mine")
        config = resume_config(Path(arguments[1]))
    else:
        names, arguments = _take_presets(arguments)
        default = apply_presets(_defaults_for(arguments), names)
        config = tyro.cli(
            TrainConfig,
            default=default,
            args=arguments,
            prog="qsft-robot train",
            description=(
                "Train on logs and export the policy to OUT/policy.\n\n"
                "--preset NAME (repeatable) starts from named settings, which other flags change:\n"
                f"{', '.join(PRESETS)}.\n\n"
                "--resume RUN goes on with an interrupted run, to the bit."
            ),
        )
    policy = run(config, resume=resume)
    print(f"policy: {policy}\nevaluate it: qsft-robot evaluate {config.out}")


def evaluate(
    run: Positional[Path],
    name: str = "policy",
    episodes: int = 100,
    seed: int = EVALUATION_SEED,
    env: str | None = None,
    acting: tuple[str, ...] = (),
    workers: int = 2,
    envs_per_worker: int = 8,
    videos: int = 0,
    video_of: Literal["first", "failures"] = "first",
    run_to_limit: bool = False,
    execute_steps: int | None = None,
    max_steps: int | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> None:
    """Measure a policy's success closed loop in simulation, with a 95 % Wilson interval.

    Args:
        run: Run folder, or an exported policy or checkpoint.
        name: The result goes to <run>/evaluation/<name>.
        episodes: Number of episodes.
        seed: Seed of the first episode; the others follow. Use the same for every policy.
        env: Recipe that names another simulator than the one the logs came from.
        acting: Changes of the acting rule, e.g. k=4 min_p=0.1.
        workers: Simulator processes.
        envs_per_worker: Episodes that one process runs side by side.
        videos: Number of episodes to film.
        video_of: Film the first episodes or the first failures.
        run_to_limit: Go on after success, so that success at the last step can differ.
        execute_steps: Actions of a chunk that are executed before the next decision.
        max_steps: Step limit; the simulator's own when not given.
        device: Where the policy runs.
        threads: Threads of the policy's arithmetic.
    """
    import torch

    from qsft_robot.evaluate import evaluate as measure
    from qsft_robot.policy import load_policy

    torch.set_num_threads(threads)
    folder = run / "policy" if (run / "policy").is_dir() else run
    changes = acting_changes(acting)
    # Exported with k = 1 the policy has one network; another rule needs the checkpoint's both.
    if changes and (run / "checkpoint").is_dir():
        folder = run / "checkpoint"
    policy = load_policy(folder, device)
    policy = policy.with_acting(**changes) if changes else policy
    env_args = policy.description["env_args"]
    if env is not None:
        env_args = {"env_name": recipe(env).env_name, "env_kwargs": recipe(env).env_kwargs}
    out = run / "evaluation" / name
    result = measure(
        policy,
        env_args,
        range(seed, seed + episodes),
        workers=workers,
        envs_per_worker=envs_per_worker,
        videos=videos,
        video_of=video_of,
        run_to_limit=run_to_limit,
        execute_steps=execute_steps,
        out=out,
        env_overrides={} if max_steps is None else {"max_steps": max_steps},
    )
    print(f"{result}\n{out / 'summary.json'}")


def export(run: Positional[Path], out: Path | None = None, acting: tuple[str, ...] = ()) -> None:
    """Export the policy of a run: safetensors, JSON, model card and SHA256SUMS in one folder.

    Args:
        run: Run folder (or its checkpoint folder).
        out: Folder to write; <run>/policy when not given.
        acting: Changes of the acting rule, e.g. k=4 min_p=0.1; k=1 exports one network.
    """
    from qsft_robot.export import export_policy

    checkpoint = run / "checkpoint" if (run / "checkpoint").is_dir() else run
    target = run / "policy" if out is None else out
    print(export_policy(checkpoint, target, acting_changes(acting)))


def report(run: Positional[Path]) -> None:
    """Write <run>/report.html: curves, calibration, success rates, rollouts, settings, one page.

    Args:
        run: Run folder, or a folder of runs to compare.
    """
    from qsft_robot.report import write_report

    print(write_report(run))


def info(what: Positional[str] = "versions") -> None:
    """Show versions, presets, recipes, or a policy folder.

    Args:
        what: versions, presets, recipes, or the path of a policy or checkpoint folder.
    """
    from rich.pretty import pprint

    if what == "versions":
        from qsft_robot.versions import software_versions

        pprint(software_versions(), expand_all=True)
    elif what == "presets":
        pprint(PRESETS, expand_all=True)
    elif what == "recipes":
        for name, each in RECIPES.items():
            print(f"{name:<28} {each.description}")
    elif not Path(what).exists():
        near = get_close_matches(what, ("versions", "presets", "recipes"), n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise FileNotFoundError(
            f"{what}: no such policy folder.{guess} There are: versions, presets, recipes, and "
            "the path of a policy or checkpoint folder."
        )
    else:
        from qsft_robot.checkpoint import read_policy_folder

        description, weights = read_policy_folder(Path(what))
        keep = ("method", "networks", "state_keys", "cameras", "action", "acting", "data")
        pprint({key: description[key] for key in keep}, expand_all=True)
        print(f"{sum(x.numel() for x in weights.values()):,} parameters")


def demo(out: Path = Path("runs/demo"), quick: bool = False, seed: int = 0) -> None:
    """Run the whole job on the embedded simulator: collect, train three ways, evaluate, report.

    Args:
        out: Folder of the results; an earlier demo there is replaced.
        quick: A minute's walk through every step; too short to learn anything.
        seed: Seed of the logs and of training.
    """
    from qsft_robot.demo import run_demo

    run_demo(out, quick, seed)


VERBS: dict[str, Callable[..., Any]] = {
    "collect": collect,
    "inspect": inspect,
    "playback": playback,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "report": report,
    "info": info,
    "demo": demo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Bad input is answered in one line and with exit status 2; QSFT_DEBUG=1 in the
    environment shows the traceback instead."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        print(f"error: no verb {verb!r}.{guess}\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        if verb == "train":
            result = None
            train(rest)
        else:
            result = tyro.cli(VERBS[verb], args=rest, prog=f"qsft-robot {verb}")
    except SystemExit as stop:  # tyro's own, after --help and after a flag that it does not know
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("QSFT_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(result or 0)


def _usage() -> str:
    lines = [f"  {verb:<10} {(f.__doc__ or '').splitlines()[0]}" for verb, f in VERBS.items()]
    return "\n".join(
        [
            "usage: qsft-robot <verb> [flags]",
            "",
            "From robot logs to a policy better than the logs, offline (Q-SFT).",
            "",
            *lines,
            "",
            "`qsft-robot <verb> --help` lists the flags of a verb. Start with `qsft-robot demo`.",
        ]
    )


def _take_presets(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split `--preset NAME` (or --preset=NAME) off the other arguments."""
    names, rest = [], []
    words = iter(arguments)
    for word in words:
        if word == "--preset":
            names.append(next(words, ""))
        elif word.startswith("--preset="):
            names.append(word.removeprefix("--preset="))
        else:
            rest.append(word)
    return names, rest


def _defaults_for(arguments: Sequence[str]) -> TrainConfig:
    """The default config; value heads need their own acting rule."""
    config = TrainConfig()
    pairs = [*pairwise(arguments)]
    if ("--method", "ilql") in pairs or "--method=ilql" in arguments:
        return replace(
            config, method="ilql", acting=replace(config.acting, rule="advantage", beta=8.0)
        )
    return config


if __name__ == "__main__":
    sys.exit(main())
