"""Success rates by simulated rollouts: many episodes at once, one batch of decisions at a time."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, stdev
from typing import Any

from qsft_robot.files import atomic_file, write_json
from qsft_robot.intervals import Rate, mean_interval, wilson
from qsft_robot.parts.simulators import reference_returns
from qsft_robot.rollouts.action_range import check_policy_range
from qsft_robot.rollouts.batches import EpisodeResult, RolloutBatches
from qsft_robot.rollouts.pool import WorkerPool
from qsft_robot.types import BatchPolicy
from qsft_robot.versions import software_versions

# Reasons that say that the software failed, not the policy. They count as failures all the same.
BROKEN = ("error", "crashed", "timeout")
# Said where no step's info tells whether the task is done.
_UNTOLD = "the environment tells no success (neither 'success' nor 'is_success' in its info)"
_SCORE = "normalized_score"
EPISODES_FILE = "episodes.jsonl"
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
        return _tells_success(self.episodes)

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
                text += f"; {_mean_text(self.summary)}"
        else:
            text = f"{_UNTOLD}; {_mean_text(self.summary)} (n={len(whole)})"
        if self.broken:
            first = next(e.error for e in self.episodes if e.failure_reason in BROKEN)
            text += f"; {self.broken} episodes broke off ({_count_reasons(self.episodes)})"
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
    progress: bool = True,
) -> EvaluationResult:
    """Run `policy` for one episode a seed and return every outcome.

    The seed resets the environment and begins the policy's episode, so the episodes are the same
    for any `workers` and `envs_per_worker`, up to rounding within a batch.
    `episode_timeout_s`: seconds that an episode's own environment may compute; inference and
    waiting don't count. `execute_steps`: how many actions of a chunk are executed before the next
    decision (None: as the policy says, else all). `run_to_limit`: go on after success to the step
    limit.
    `videos`: how many episodes are filmed, of the first seeds (`video_of="first"`) or, each run
    once more, of the first failures (`video_of="failures"`). `out`: the folder for episodes.jsonl,
    summary.json and videos/. An environment that raises, dies or hangs costs its own episode, which
    counts as a failure; the others of a worker that is replaced begin again (`restarts`).
    `accept`: "range" lets actions pass that leave the environment's action space.
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
    began, started = time.monotonic(), datetime.now(UTC)
    service = "qsft_robot.rollouts.worker:serve_rollouts"
    with WorkerPool(service, settings, min(workers, len(seeds))) as pool:
        if "range" not in accept:
            check_policy_range(getattr(policy, "description", None), pool.greeting["action_range"])
        batches = RolloutBatches(pool, policy, slots, execute_steps)
        ready = time.monotonic()
        try:
            with _progress_bar(len(seeds), progress) as tell:
                to_film = seeds[:videos] if video_of == "first" else []
                episodes = batches.run(seeds, to_film, tell)
        except BaseException:
            # Hours of rollouts are not lost to Ctrl-C or to a policy that raises.
            if folder is not None and batches.finished:
                write_episodes(folder / f"partial_{EPISODES_FILE}", batches.finished)
            raise
        wall_s = time.monotonic() - ready
        if videos and video_of == "failures":
            if folder is not None:  # filming may be broken off too
                write_episodes(folder / f"partial_{EPISODES_FILE}", episodes)
            failed = [e.seed for e in episodes if not e.success_any][:videos]
            again = batches.run(failed, failed, None) if failed else []
            shown = {e.seed: e.video for e in again}
            episodes = [e.with_video(shown.get(e.seed)) for e in episodes]
        described, backend = pool.greeting["env_args"], batches.backend
    summary = summarize(episodes) | {
        "env_args": described,
        "env_overrides": overrides,
        "reset_options": settings["reset_options"],
        "run_to_limit": run_to_limit,
        "execute_steps": batches.execute_steps,
        "episode_timeout_s": episode_timeout_s,
        "workers": workers,
        "envs_per_worker": envs_per_worker,
        "seeds": seeds,
        "versions": software_versions(),
        "render_backend": backend,
        "command": shlex.join(sys.argv),
        "started": started.isoformat(timespec="seconds"),
        "startup_s": round(ready - began, 3),
        "wall_s": round(wall_s, 3),
        "steps_per_s": round(sum(e.steps for e in episodes) / wall_s, 1),
    }
    summary |= _normalized(described.get("env_name", ""), summary)
    result = EvaluationResult(tuple(episodes), summary, folder)
    if folder is not None:
        for leftover in (folder / VIDEO_FOLDER).glob(".*.tmp.mp4"):
            leftover.unlink()  # of episodes whose worker died
        write_episodes(folder / EPISODES_FILE, episodes)
        write_json(folder / SUMMARY_FILE, summary)
        (folder / f"partial_{EPISODES_FILE}").unlink(missing_ok=True)
    return result


def _check(
    seeds: list[int],
    folder: Path | None,
    *,
    workers: int,
    envs_per_worker: int,
    videos: int,
    video_of: str,
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
    if video_of not in ("first", "failures"):
        raise ValueError(f"video_of is {video_of!r}; there are: first, failures")
    if videos and folder is None:
        raise ValueError("videos are asked for, but there is no folder (out) to write them to")


def _count_reasons(episodes: Sequence[EpisodeResult]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for episode in episodes:
        if episode.failure_reason is not None:
            counts[episode.failure_reason] = counts.get(episode.failure_reason, 0) + 1
    return counts


def _tells_success(episodes: Sequence[EpisodeResult]) -> bool:
    # An episode that broke off counts as a failure, told or not.
    whole = [e for e in episodes if e.failure_reason not in BROKEN]
    return not whole or any(e.success_any is not None for e in whole)


def summarize(episodes: Sequence[EpisodeResult]) -> dict[str, Any]:
    """What the episodes come to: rates with intervals, returns, reasons of failure."""
    n = len(episodes)
    first = last = None
    if _tells_success(episodes):
        first = wilson(sum(bool(e.success_any) for e in episodes), n)
        last = wilson(sum(bool(e.success_last) for e in episodes), n)
    decisions = [e.mean_decision_ms for e in episodes if e.mean_decision_ms is not None]
    extra: dict[str, Any] = {}
    refused = [e.refused_commands for e in episodes if e.refused_commands is not None]
    if refused:
        commands = sum(e.steps for e in episodes if e.refused_commands is not None)
        extra["refused_commands"] = {"count": sum(refused), "rate": sum(refused) / commands}
    if first is not None and (tasks := sorted({e.task for e in episodes if e.task is not None})):
        of_task = {
            task: [bool(e.success_any) for e in episodes if e.task == task] for task in tasks
        }
        extra["tasks"] = {task: asdict(wilson(sum(x), len(x))) for task, x in of_task.items()}
    return {
        "n": n,
        # The headline is success at any step; both measures follow in full.
        # None, as all rates are, where the environment tells no success.
        "success_rate": first and first.rate,
        "low": first and first.low,
        "high": first and first.high,
        "interval": "Wilson, 95 %",
        "success_any": first and asdict(first),
        "success_last": last and asdict(last),
        "broken": sum(e.failure_reason in BROKEN for e in episodes),
        "failure_reasons": _count_reasons(episodes),
        "restarts": sum(e.restarts for e in episodes),
        **_returns([e.total_reward for e in episodes if e.failure_reason not in BROKEN]),
        "mean_steps": sum(e.steps for e in episodes) / n,
        "median_decision_ms": round(median(decisions), 4) if decisions else None,
        **extra,
    }


def _mean_text(summary: Mapping[str, Any]) -> str:
    told = []
    for key, words in (("mean_return", "mean return"), (_SCORE, "normalized score")):
        if (value := summary.get(key)) is not None:
            low, high = summary[f"{key}_low"], summary[f"{key}_high"]
            told.append(
                f"{words} {value:.4g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")
            )
    return "; ".join(told)


def _normalized(env_name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The mean return where a random policy's is 0 and an expert's 100, with its interval; empty
    where no such references are published."""
    references = reference_returns(env_name)
    if references is None or summary["mean_return"] is None:
        return {}
    random, expert = references
    ends = {end: summary[f"mean_return{end}"] for end in ("", "_low", "_high")}
    return {"reference_returns": {"random": random, "expert": expert}} | {
        _SCORE + end: None if x is None else 100.0 * (x - random) / (expert - random)
        for end, x in ends.items()
    }


def _returns(returns: Sequence[float]) -> dict[str, float | None]:
    """Mean return with its interval, of the episodes that didn't break off: what those would have
    paid nobody knows, and where steps cost, the 0 of none would be the best of all."""
    mean = sum(returns) / len(returns) if returns else None
    deviation = stdev(returns) if len(returns) > 1 else None
    low = high = None
    if mean is not None and deviation is not None:
        low, high = mean_interval(mean, deviation, len(returns))
    return {
        "mean_return": mean,
        "mean_return_low": low,
        "mean_return_high": high,
        "return_deviation": deviation,
    }


def write_episodes(path: Path, episodes: Sequence[EpisodeResult]) -> None:
    """Write episodes.jsonl: one line an episode."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(e.to_json()) + "\n" for e in episodes))


def _progress_bar(total: int, shown: bool) -> Any:
    if not shown:
        return nullcontext(None)
    from qsft_robot.progress import RolloutProgress

    return RolloutProgress("evaluate", total)
