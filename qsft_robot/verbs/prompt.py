"""The verb that evaluates a prompted language model: the baseline that trains nothing."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from qsft_robot.presets.look_up import EVALUATION_SEED
from qsft_robot.printed_text import printable, say
from qsft_robot.prompting.config import PromptConfig
from qsft_robot.verbs.flag_words import env_changes, named_env

TRANSCRIPT_FILE = "transcript.jsonl"


def prompt(
    recipe: Positional[str],
    prompt: PromptConfig,
    out: Path,
    name: str = "policy",
    episodes: int = 100,
    seed: int = EVALUATION_SEED,
    env_kwargs: tuple[str, ...] = (),
    workers: int = 1,
    envs_per_worker: int = 8,
    videos: int = 0,
    video_of: Literal["first", "failures"] = "first",
    max_steps: int | None = None,
    device: str = "cpu",
    threads: int = 1,
    allow_downloads: bool = False,
) -> None:
    """Measure a prompted language model in a text environment, on the episodes of `evaluate`.

    Args:
        recipe: Recipe, or simulator's name, whose actions are text commands, e.g. games/wordle.
        prompt: The model, and what it is shown.
        out: The result goes to <out>/evaluation/<name>, with what was said in transcript.jsonl.
        name: Name of the evaluation.
        episodes: Number of episodes.
        seed: Seed of the first episode; the others follow. Use the same for every policy.
        env_kwargs: Changes of the simulator's arguments, e.g. split=valid_unseen.
        workers: Simulator processes.
        envs_per_worker: Episodes that one process runs side by side.
        videos: Number of episodes to film.
        video_of: Film the first episodes or the first failures.
        max_steps: Step limit; the simulator's own when not given.
        device: Where a model of this machine runs: cpu, cuda, ...
        threads: Threads of its arithmetic.
        allow_downloads: Fetch a model from the hub, where it is not here yet.
    """
    from qsft_robot.prompting.policy import open_prompt_policy
    from qsft_robot.rollouts.evaluate import evaluate as measure
    from qsft_robot.verbs.flag_words import use_threads
    from qsft_robot.verbs.serve import read_token

    env_args, results = named_env(recipe), out / "evaluation" / name
    token = None if prompt.token_file is None else read_token(prompt.token_file)
    with ExitStack() as stack:
        policy = open_prompt_policy(
            prompt,
            env_args,
            stack,
            results / TRANSCRIPT_FILE,
            token=token,
            device=device,
            allow_downloads=allow_downloads,
        )
        use_threads(threads)
        where = prompt.url or f"{device}, {threads} threads"
        say(f"prompted: {printable(str(prompt.model))} ({where})", sys.stderr)
        result = measure(
            policy,
            env_args,
            range(seed, seed + episodes),
            workers=workers,
            envs_per_worker=envs_per_worker,
            videos=videos,
            video_of=video_of,
            out=results,
            env_overrides=env_changes(env_kwargs)
            | ({} if max_steps is None else {"max_steps": max_steps}),
        )
    say(f"{result}\n{printable(results / 'summary.json')}")
