"""Evaluations by vla-eval: its benchmark against our server, its result as any other of ours."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import vla_eval
from vla_eval.api import run as run_benchmark
from vla_eval.api import serve_background
from vla_eval.results.export import export_eval

from qsft_robot.files import write_json
from qsft_robot.harness.configurations import Configuration
from qsft_robot.harness.deciders import Decider
from qsft_robot.harness.key_map import KeyMap
from qsft_robot.harness.model_server import EpisodeRecord, HarnessModelServer
from qsft_robot.rollouts.batches import EpisodeResult
from qsft_robot.rollouts.evaluate import SUMMARY_FILE, EvaluationResult
from qsft_robot.rollouts.partial import EPISODES_FILE, write_episodes
from qsft_robot.rollouts.summary import summarize
from qsft_robot.versions import VERSIONS, software_versions

# Folder of what the harness itself writes, and its log.
FOLDER, LOG = "harness", "harness.log"
# Seconds that the harness waits for a decision: the first of a large model takes long.
_PATIENCE_S = 600.0
# The harness' reason of an episode that broke off -> ours; all others are "error".
_REASONS = {
    "timeout": "timeout",
    "connection_closed": "crashed",
    "server_unreachable": "crashed",
}


def evaluate_in_harness(
    decider: Decider,
    configuration: Configuration,
    key_map: KeyMap,
    *,
    seed: int,
    out: Path,
    episodes: int | None = None,
    max_steps: int | None = None,
    env_args: Mapping[str, Any] | None = None,
    env_overrides: Mapping[str, Any] | None = None,
    run_to_limit: bool = False,
    tell: Callable[[bool | None], None] | None = None,
) -> EvaluationResult:
    """Run every benchmark of a configuration against `decider`, served on loopback, and write
    episodes.jsonl and summary.json to `out`, what the harness writes to `out`/harness.

    `episodes`: of each task; the configuration's own when not given. The episodes are numbered from
    `seed` on; the policy's samples of episode i of a task are those of seed `seed` + i. `env_args`
    are those of a simulator of ours, whose result then is comparable with that of `evaluate`.
    RuntimeError or ValueError where the policy could not decide or the harness stopped early.
    """
    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began, started = time.monotonic(), datetime.now(UTC)
    done: list[EpisodeResult] = []
    overrides = {
        key: x
        for key, x in {"episodes_per_task": episodes, "max_steps": max_steps}.items()
        if x is not None
    }
    with _logged(folder / LOG):
        for entry in configuration.entries:
            server = HarnessModelServer(
                decider,
                key_map,
                first_seed=seed,
                keep_records=True,
                on_end=None if tell is None else _teller(tell),
            )
            waits = {"timeout": _PATIENCE_S, **(configuration.harness.get("server") or {})}
            config = {**configuration.harness, "server": waits, "benchmarks": [dict(entry)]}
            name, first = str(uuid.uuid4()), seed + len(done)
            try:
                with serve_background(server) as served:
                    told = run_benchmark(
                        config,
                        server_url=served.url,
                        output_dir=folder,
                        eval_id=name,
                        benchmark_overrides=overrides,
                    )
            except BaseException as error:
                # Hours of episodes are not lost to Ctrl-C or to a benchmark that raises.
                with suppress(Exception):
                    done += _episodes(export_eval(folder, name)[0], server.records, first)
                _keep_partial(out, done)
                if server.failure is not None:
                    raise server.failure from None
                if not isinstance(error, ModuleNotFoundError):
                    raise
                raise ImportError(
                    f"{configuration.name}: {error}: the benchmark's own simulator is not "
                    "installed here; run it in its container (--harness-image)."
                ) from error
            done += _episodes(told[0], server.records, first)
            if server.failure is not None:
                _keep_partial(out, [])
                raise server.failure
            if told[0].get("partial") or not told[0]["tasks"]:
                _keep_partial(out, done)
                raise RuntimeError(f"the harness stopped early; its log: {folder / LOG}")
    wall_s = time.monotonic() - began
    single = len({each.task for each in done}) == 1
    done = [_without_task(each) if single else each for each in done]
    summary = summarize(done) | {
        "env_args": _env_args(configuration) if env_args is None else dict(env_args),
        "env_overrides": dict(env_overrides or {}),
        "reset_options": None,
        "run_to_limit": run_to_limit,
        "execute_steps": decider.execute_steps,
        "workers": 1,
        "envs_per_worker": 1,
        "seeds": [each.seed for each in done],
        "harness": {
            "name": "vla-eval",
            "version": vla_eval.__version__,
            "config": configuration.name,
        },
        "versions": software_versions(),
        "command": shlex.join(sys.argv),
        "started": started.isoformat(timespec="seconds"),
        "wall_s": round(wall_s, 3),
        "steps_per_s": round(sum(each.steps for each in done) / wall_s, 1),
    }
    write_episodes(out / EPISODES_FILE, done)
    write_json(out / SUMMARY_FILE, summary)
    (out / f"partial_{EPISODES_FILE}").unlink(missing_ok=True)
    return EvaluationResult(tuple(done), summary, out)


def _teller(tell: Callable[[bool | None], None]) -> Callable[[Mapping[str, Any]], None]:
    def on_end(result: Mapping[str, Any]) -> None:
        tell(_success(result.get("metrics") or {}))

    return on_end


def _success(metrics: Mapping[str, Any], key: str = "success") -> bool | None:
    return (
        bool(metrics[key]) if metrics.get(key) is not None and metrics.get("told", True) else None
    )


def _episodes(
    told: Mapping[str, Any], records: Mapping[str, EpisodeRecord], first: int
) -> list[EpisodeResult]:
    """The episodes of one benchmark, task after task, numbered from `first` on."""
    rows = [(task["task"], row) for task in told["tasks"] for row in task["episodes"]]
    rows.sort(key=lambda each: (each[1].get("task_idx", 0), each[1]["episode_id"]))
    return [
        _episode(task, row, records.get(row.get("eid", "")), first + number)
        for number, (task, row) in enumerate(rows)
    ]


def _episode(
    task: str, row: Mapping[str, Any], record: EpisodeRecord | None, seed: int
) -> EpisodeResult:
    metrics = row.get("metrics") or {}
    success, reason = _success(metrics), row.get("failure_reason")
    if reason is not None:
        reason, success = _REASONS.get(reason, "error"), False
    elif not success:
        reason = metrics.get("end", "step_limit")
    values = [] if record is None else record.values
    ms = [] if record is None else record.decision_ms
    last = _success(metrics, "success_last") if "success_last" in metrics else success
    return EpisodeResult(
        seed=seed,
        steps=int(row.get("steps") or 0),
        # A benchmark that tells no rewards pays its success.
        total_reward=float(metrics.get("return", bool(success))),
        success_any=success,
        success_last=False if row.get("failure_reason") else last,
        failure_reason=reason,
        error=row.get("failure_detail"),
        instruction="" if record is None else record.instruction,
        decisions=len(ms),
        mean_decision_ms=round(sum(ms) / len(ms), 4) if ms else None,
        value_at_start=values[0] if values else None,
        values=values,
        env_seconds=float(row.get("elapsed_sec") or 0.0),
        restarts=0,
        video=None,
        task=task,
    )


def _without_task(episode: EpisodeResult) -> EpisodeResult:
    return EpisodeResult(**{**vars(episode), "task": None})


def _keep_partial(out: Path, episodes: Sequence[EpisodeResult]) -> None:
    if episodes:
        write_episodes(out / f"partial_{EPISODES_FILE}", episodes)


def _env_args(configuration: Configuration) -> dict[str, Any]:
    benchmarks = [
        {key: each.get(key) for key in ("benchmark", "subname", "params")}
        for each in configuration.entries
    ]
    return {
        "env_name": f"vla-eval:{configuration.name}",
        "env_kwargs": {"benchmarks": benchmarks},
        VERSIONS: {"vla-eval": vla_eval.__version__},
    }


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What the harness prints and logs goes to a file: its tables would stand beside ours."""
    log = logging.getLogger("vla_eval")
    before = log.level, log.propagate
    with ExitStack() as stack:
        file = stack.enter_context(path.open("a"))
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        try:
            with redirect_stdout(file):
                yield
        finally:
            log.removeHandler(handler)
            log.setLevel(before[0])
            log.propagate = before[1]
