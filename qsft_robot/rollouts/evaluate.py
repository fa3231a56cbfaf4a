"""Success rates by simulated rollouts: many episodes at once, one batch of decisions at a time."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qsft_robot.files import write_json
from qsft_robot.intervals import Rate, wilson
from qsft_robot.rollouts.action_range import check_policy_range
from qsft_robot.rollouts.batches import EpisodeResult, steps_executed
from qsft_robot.rollouts.machines import Machines, Rollouts, ThisMachine
from qsft_robot.rollouts.partial import (
    EPISODES_FILE,
    PartialEvaluation,
    write_episodes,
)
from qsft_robot.rollouts.summary import (
    BROKEN,
    count_reasons,
    mean_text,
    normalized,
    summarize,
    tells_success,
)
from qsft_robot.types import BatchPolicy
from qsft_robot.versions import software_versions

# Said where no step's info tells whether the task is done.
_UNTOLD = "the environment tells no success (neither 'success' nor 'is_success' in its info)"
SUMMARY_FILE = "summary.json"
VIDEO_FOLDER = "videos"


@dataclass(frozen=True)
class EvaluationResult:
    """Every episode, in the order of the seeds, and the summary as it is written to JSON."""

    episodes: tuple[EpisodeResult, ...]
    summary: dict[str, Any]
    folder: Path | None

    @property
    def tells_success(self) -> bool:
        """Whether the environment told of any episode whether it succeeded."""
        return tells_success(self.episodes)

    @property
    def success_any(self) -> Rate:
        """Rate of episodes with success at any step, with Wilson's 95 % interval; ValueError where
        the environment tells no success."""
        return self._rate([e.success_any for e in self.episodes])

    @property
    def success_last(self) -> Rate:
        """Rate of episodes with success at their last step, as `success_any`."""
        return self._rate([e.success_last for e in self.episodes])

    def _rate(self, successes: Sequence[bool | None]) -> Rate:
        if not self.tells_success:
            raise ValueError(f"{_UNTOLD}, so there is no success rate.")
        return wilson(sum(map(bool, successes)), len(successes))

    @property
    def broken(self) -> int:
        """How many episodes ended by a fault of the environment's software (see BROKEN)."""
        return sum(e.failure_reason in BROKEN for e in self.episodes)

    @property
    def videos(self) -> list[Path]:
        """The mp4 files, in the order of the seeds."""
        if self.folder is None:
            return []
        return [self.folder / VIDEO_FOLDER / e.video for e in self.episodes if e.video]

    def __str__(self) -> str:
        whole = [e for e in self.episodes if e.failure_reason not in BROKEN]
        if self.tells_success:
            text = f"success {self.success_any}, at the last step {self.success_last.rate:.3f}"
            if any(e.total_reward != bool(e.success_any) for e in whole):
                text += f"; {mean_text(self.summary)}"
        else:
            text = f"{_UNTOLD}; {mean_text(self.summary)} (n={len(whole)})"
        if self.broken:
            first = next(e.error for e in self.episodes if e.failure_reason in BROKEN)
            text += f"; {self.broken} episodes broke off ({count_reasons(self.episodes)})"
            if first:
                text += f", the first with: {first.strip().splitlines()[-1]}"
        for task, rate in self.summary.get("tasks", {}).items():
            text += f"\n  {task}: {rate['successes']} of {rate['n']}"
        if (refused := self.summary.get("refused_commands")) is not None:
            text += f"\n{refused['count']} commands were refused (share {refused['rate']:.3f})"
        return text


def evaluate(
    policy: BatchPolicy,
    env_args: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    workers: int = 2,
    envs_per_worker: int = 8,
    episode_timeout_s: float = 120.0,
    execute_steps: int | None = None,
    run_to_limit: bool = False,
    videos: int = 0,
    video_of: str = "first",
    out: str | Path | None = None,
    env_overrides: Mapping[str, Any] | None = None,
    reset_options: Mapping[str, Any] | None = None,
    accept: Sequence[str] = (),
    max_batch: int | None = None,
    identity: Mapping[str, Any] | None = None,
    machines: Machines | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Run `policy` for one episode a seed and return every outcome.

    The seed resets the environment and begins the policy's episode, so the episodes are the same
    for any `workers`, `envs_per_worker` and `machines`, up to rounding within a batch of decisions,
    and to the bit where `max_batch` is 1.
    `episode_timeout_s`: seconds that an episode's own environment may compute; inference and
    waiting don't count. `execute_steps`: how many actions of a chunk are executed before the next
    decision (None: as the policy says, else all). `run_to_limit`: go on after success to the step
    limit.
    `videos`: how many episodes are filmed, of the first seeds (`video_of="first"`) or, each run
    once more, of the first failures (`video_of="failures"`). `out`: the folder for episodes.jsonl,
    summary.json and videos/. An environment that raises, dies or hangs costs its own episode, which
    counts as a failure; the others of a worker that is replaced begin again (`restarts`).
    `accept`: "range" lets actions pass that leave the environment's action space. `max_batch`: most
    decisions that are computed at once. `identity` (JSON) says which policy this is: the whole
    episodes that an interrupted evaluation of it left in `out`, with the same settings, are kept.
    `machines`: where processes run (None: here); those of a cluster take a policy of its own.
    Raises ValueError on bad arguments and what the environment raises when it can't be built.
    """
    seeds = [int(seed) for seed in seeds]
    folder = None if out is None else Path(out)
    _check(
        seeds,
        folder,
        workers=workers,
        envs_per_worker=envs_per_worker,
        videos=videos,
        video_of=video_of,
        max_batch=max_batch,
    )
    overrides = dict(env_overrides or {})
    if run_to_limit:
        overrides["terminate_on_success"] = False
    if videos:
        overrides["render_mode"] = "rgb_array"
    # Few episodes are spread over the workers before they share one.
    slots = min(envs_per_worker, -(-len(seeds) // workers))
    settings = {
        "env_args": dict(env_args),
        "env_overrides": overrides,
        "reset_options": None if reset_options is None else dict(reset_options),
        "slots": slots,
        "episode_timeout_s": episode_timeout_s,
        "video_folder": str(folder / VIDEO_FOLDER) if folder is not None and videos else None,
    }
    asked = {
        "run_to_limit": run_to_limit,
        "execute_steps": steps_executed(policy, execute_steps),
        "episode_timeout_s": episode_timeout_s,
    }
    began, started = time.monotonic(), datetime.now(UTC)
    machines = ThisMachine() if machines is None else machines
    with machines.rollouts(
        policy, settings, min(workers, len(seeds)), slots, execute_steps, max_batch
    ) as rollouts:
        if "range" not in accept:
            description = getattr(policy, "description", None)
            check_policy_range(description, rollouts.greeting["action_range"])
        ready = time.monotonic()
        same = None if identity is None else _conditions(identity, settings, asked)
        partial = PartialEvaluation(folder, same)
        to_film = seeds[:videos] if video_of == "first" else []
        try:
            with _progress_bar(len(seeds), progress) as tell:
                episodes, resumed = _run(rollouts, seeds, to_film, partial, tell)
            wall_s = time.monotonic() - ready
            if videos and video_of == "failures":
                failed = [e.seed for e in episodes if not e.success_any][:videos]
                again = rollouts.run(failed, failed) if failed else []
                shown = {e.seed: e.video for e in again}
                episodes = [e.with_video(shown.get(e.seed)) for e in episodes]
        finally:
            partial.close()
        described, backend = rollouts.greeting["env_args"], rollouts.backend
    summary = summarize(episodes) | {
        "env_args": described,
        "env_overrides": overrides,
        "reset_options": settings["reset_options"],
        **asked,
        "workers": workers,
        "envs_per_worker": envs_per_worker,
        "max_batch": max_batch,
        "machines": machines.describe(),
        "seeds": seeds,
        "versions": software_versions(),
        "render_backend": backend,
        "command": shlex.join(sys.argv),
        "started": started.isoformat(timespec="seconds"),
        "startup_s": round(ready - began, 3),
        "wall_s": round(wall_s, 3),
        "resumed": len(resumed),  # episodes of an earlier, interrupted run: not in these seconds
        "steps_per_s": round(sum(e.steps for e in episodes if e.seed not in resumed) / wall_s, 1),
    }
    summary |= normalized(described.get("env_name", ""), summary)
    result = EvaluationResult(tuple(episodes), summary, folder)
    if folder is not None:
        for leftover in (folder / VIDEO_FOLDER).glob(".*.tmp.mp4"):
            leftover.unlink()  # of episodes whose worker died
        write_episodes(folder / EPISODES_FILE, episodes)
        write_json(folder / SUMMARY_FILE, summary)
        partial.remove()
    return result


def _conditions(
    identity: Mapping[str, Any], settings: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """All that decides an episode beside its seed."""
    kept = {key: settings[key] for key in ("env_args", "env_overrides", "reset_options")}
    return {"policy": dict(identity), **kept, **asked, "versions": software_versions()}


def _run(
    rollouts: Rollouts,
    seeds: Sequence[int],
    to_film: Sequence[int],
    partial: PartialEvaluation,
    tell: Callable[[bool | None], None] | None,
) -> tuple[list[EpisodeResult], set[int]]:
    """All episodes in the order of the seeds, and the seeds of those that were there already."""
    # What broke may have been the machine's fault.
    done = {
        seed: partial.found[seed]
        for seed in seeds
        if seed in partial.found
        and partial.found[seed].failure_reason not in BROKEN
        and (partial.found[seed].video or seed not in to_film)
    }
    resumed = set(done)
    if tell is not None:
        for episode in done.values():
            tell(episode.success_any)

    def over(_: int, episode: EpisodeResult, log: object) -> None:
        done[episode.seed] = episode
        partial.append(episode)
        if tell is not None:
            tell(episode.success_any)

    try:
        if missing := [seed for seed in seeds if seed not in done]:
            rollouts.run(missing, to_film, over)
    finally:
        partial.order(done[seed] for seed in seeds if seed in done)
    return [done[seed] for seed in seeds], resumed


def _check(
    seeds: list[int],
    folder: Path | None,
    *,
    workers: int,
    envs_per_worker: int,
    videos: int,
    video_of: str,
    max_batch: int | None,
) -> None:
    if not seeds:
        raise ValueError("no seeds, so there is no episode to evaluate")
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise ValueError(
            f"seed {twice} stands more than once; the same episode would be counted again"
        )
    if min(seeds) < 0:
        raise ValueError(f"seed {min(seeds)} is negative; gymnasium takes 0 and above")
    if workers < 1 or envs_per_worker < 1:
        raise ValueError(
            f"workers={workers} and envs_per_worker={envs_per_worker}: at least 1 of each is needed"
        )
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch is {max_batch}, at least 1 is needed")
    if video_of not in ("first", "failures"):
        raise ValueError(f"video_of is {video_of!r}; there are: first, failures")
    if videos and folder is None:
        raise ValueError("videos are asked for, but there is no folder (out) to write them to")


def _progress_bar(total: int, shown: bool) -> Any:
    if not shown:
        return nullcontext(None)
    from qsft_robot.progress import RolloutProgress

    return RolloutProgress("evaluate", total)
