"""One self-contained HTML page for a run: result, curves, calibration, rollouts, settings."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.files import atomic_file
from qsft_robot.json_kinds import is_number
from qsft_robot.report.data import Evaluation, Run, Training, choose_videos, read_run
from qsft_robot.report.plots import Bar, binned, calibration_plot, line_plot, percent, success_bars
from qsft_robot.report.value_strips import value_strips

REPORT_FILE = "report.html"
VIDEO_COUNT = 6
# Bytes of mp4 in one page: it has to open from a mail.
VIDEO_BUDGET = 6_000_000
# Metrics that are read against each other share a plot, and so do all losses.
PAIRS = {
    "V against its target, means over a batch": ("q/value_mean", "q/target_mean"),
}


_OUTCOMES: dict[Any, str] = {True: "success", False: "failure"}


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Reads config.json, metrics.jsonl and calibration.json of the folder (and of the folders right
    below it, where a run compares methods) and evaluation/<name>/. What is not there yet is said on
    the page. Raises FileNotFoundError or ValueError, naming the file, when nothing can be shown.
    """
    run = read_run(run_folder)
    path = run.folder / REPORT_FILE
    with atomic_file(path) as temporary:
        # What is no UTF-8, in names of files and texts of JSON, is shown as its escape.
        temporary.write_bytes("\n".join(_page(run)).encode("utf-8", "backslashreplace"))
    return path


def _page(run: Run) -> Iterator[str]:
    yield from page_head(f"{run.folder.resolve().name} · qsft-robot run")
    yield f"<h1>{escape(run.folder.resolve().name)}</h1>"
    yield from _subtitle(run)
    yield from _success(run)
    yield from value_strips(run.evaluations)
    yield from _training(run)
    yield from _rollouts(run)
    yield from _settings(run)
    yield "</body>\n</html>\n"


def page_head(title: str) -> Iterator[str]:
    """The beginning of a page of ours, up to its first heading."""
    style = Path(__file__).with_name("report.css").read_text()
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # Nothing is fetched: the page itself forbids it.
    yield (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; media-src data:; img-src data:\">"
    )
    yield f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>"


def _missing(what: str, command: str) -> str:
    return f'<p class="missing">{escape(what)} <code>{escape(command)}</code></p>'


def _subtitle(run: Run) -> Iterator[str]:
    tasks = {task for e in run.evaluations if (task := _task(e.summary.get("env_args")))}
    methods = {str(t.config["method"]) for t in run.trainings if t.config.get("method")}
    words = []
    if methods:
        words.append("Trained: " + ", ".join(sorted(methods)))
    if tasks:
        words.append("evaluated on " + ", ".join(sorted(tasks)))
    if words:
        yield f'<p class="soft">{escape("; ".join(words))}.</p>'


def _task(env_args: Any) -> str:
    if not isinstance(env_args, Mapping):
        return ""
    kwargs = env_args.get("env_kwargs") or {}
    parts = (env_args.get("env_name"), kwargs.get("task"), kwargs.get("split"))
    return "/".join(str(part) for part in parts if part)


def _interval(summary: Mapping[str, Any]) -> str:
    return f"{percent(summary['low'])} to {percent(summary['high'])}"


def _success(run: Run) -> Iterator[str]:
    if not run.evaluations:
        yield "<h2>Success in simulation</h2>"
        yield _missing(
            "No evaluation yet. Make one, then write the report again:",
            f"qsft-robot evaluate {run.folder}",
        )
        return
    best = run.evaluations[0]
    if best.summary["success_rate"] is None:
        yield "<h2>Success in simulation</h2>"
        yield "<p>The environment tells no success.</p>"
        yield from _success_table(run.evaluations)
        return
    line = (
        f"<strong>{escape(best.name)}</strong> succeeds in "
        f"<strong>{percent(best.summary['success_rate'])}</strong> of "
        f"{escape(str(best.summary['n']))} episodes (95 % interval {_interval(best.summary)})"
    )
    task = _task(best.summary.get("env_args"))
    baselines = [
        e
        for e in run.evaluations[1:]
        if _task(e.summary.get("env_args")) == task and e.summary["success_rate"] is not None
    ]
    if baselines:
        second = baselines[0]
        apart = best.summary["low"] > second.summary["high"]
        line += (
            f"; next is {escape(second.name)} with {percent(second.summary['success_rate'])} "
            f"({_interval(second.summary)}). The two intervals "
            + ("do not overlap" if apart else "overlap")
        )
    yield f'<p class="key">{line}.</p>'
    yield "<h2>Success in simulation</h2>"
    bars = [
        Bar(e.name, s["success_rate"], s["low"], s["high"], s["n"])
        for e in run.evaluations
        for s in [e.summary]
        if s["success_rate"] is not None
    ]
    yield f"<figure>{success_bars(bars)}<figcaption>Share of episodes with success at any step. "
    yield "Whiskers: Wilson's 95 % interval.</figcaption></figure>"
    yield from _success_table(run.evaluations)
    yield from _kinds_of_task(run.evaluations)


def _success_table(evaluations: list[Evaluation]) -> Iterator[str]:
    yield '<div class="scroll"><table><thead><tr><th>policy</th>'
    headings = ["n", "success", "95 % interval", "at last step", "mean steps", "ms a decision"]
    by_text = any("refused_commands" in e.summary for e in evaluations)
    for heading in headings + ["refused commands"] * by_text:
        yield f'<th class="number">{heading}</th>'
    yield "<th>failures</th><th>task</th></tr></thead><tbody>"
    best = evaluations[0].summary["success_rate"]
    for e in evaluations:
        s = e.summary
        last = s.get("success_last")
        reasons = ", ".join(f"{k} {v}" for k, v in s.get("failure_reasons", {}).items())
        cells = [
            str(s["n"]),
            "not told" if s["success_rate"] is None else percent(s["success_rate"]),
            "" if s["success_rate"] is None else _interval(s),
            percent(last["rate"]) if isinstance(last, Mapping) else "",
            f"{s['mean_steps']:.0f}" if s.get("mean_steps") is not None else "",
            f"{s['median_decision_ms']:.2g}" if s.get("median_decision_ms") is not None else "",
        ]
        if by_text:
            refused = s.get("refused_commands")
            cells.append(percent(refused["rate"]) if isinstance(refused, Mapping) else "")
        yield f'<tr class="{"best" if s["success_rate"] == best else ""}"><td>{escape(e.name)}</td>'
        yield "".join(f'<td class="number">{escape(c)}</td>' for c in cells)
        yield f"<td>{escape(reasons)}</td><td>{escape(_task(s.get('env_args')))}</td></tr>"
    yield "</tbody></table></div>"


def _kinds_of_task(evaluations: list[Evaluation]) -> Iterator[str]:
    """Success by kind of task, where the simulator tells kinds."""
    told = [e for e in evaluations if isinstance(e.summary.get("tasks"), Mapping)]
    kinds = sorted({kind for e in told for kind in e.summary["tasks"]})
    if not kinds:
        return
    yield '<h3>By kind of task</h3><div class="scroll"><table><thead><tr><th>kind</th>'
    yield from (f'<th class="number">{escape(e.name)}</th>' for e in told)
    yield "</tr></thead><tbody>"
    for kind in kinds:
        yield f"<tr><td>{escape(kind)}</td>"
        for e in told:
            rate = e.summary["tasks"].get(kind)
            words = "" if rate is None else f"{percent(rate['rate'])} ({_interval(rate)})"
            words += "" if rate is None else f", {rate['successes']} of {rate['n']}"
            yield f'<td class="number">{escape(words)}</td>'
        yield "</tr>"
    yield "</tbody></table></div>"


def _training(run: Run) -> Iterator[str]:
    yield "<h2>Training</h2>"
    if not any(t.metrics for t in run.trainings):
        yield _missing("No metrics.jsonl in this folder. Train with:", "qsft-robot train --help")
    for training in run.trainings:
        heading = f" of {escape(training.name)}" if training.name else ""
        for stage in training.stages():
            yield f"<h3>Stage “{escape(stage)}”{heading}</h3>"
            yield f'<p class="soft">{_times(training, stage)}</p><div class="grid">'
            for title, plot in _curves(training, stage):
                caption = f'<figcaption class="title">{escape(title)}</figcaption>'
                yield f"<figure>{caption}{plot}</figure>"
            yield "</div>"
    yield "<h2>Value against return</h2>"
    drawn = [t for t in run.trainings if len(t.value)]
    if not drawn:
        yield _missing(
            "No calibration.json: only a method with a value (qsft, ilql) writes one:",
            "qsft-robot train --method qsft",
        )
    yield '<div class="grid">'
    for training in drawn:
        yield _calibration(training)
    yield "</div>"


def _times(training: Training, stage: str) -> str:
    steps, _ = training.series(stage, "step")
    parts = [f"{steps.max():,.0f} updates"] if len(steps) else []
    for key, words in (("time/update_s", "an update"), ("time/data_s", "its data")):
        _, seconds = training.series(stage, key)
        if len(seconds):
            parts.append(f"{1000 * float(np.median(seconds)):.3g} ms {words} (median)")
    return ", ".join(parts)


def _curves(training: Training, stage: str) -> Iterator[tuple[str, str]]:
    keys = [key for key in training.keys(stage) if not key.startswith("time/")]
    groups: dict[str, list[str]] = {}
    for key in keys:
        pair = next((title for title, pair in PAIRS.items() if key in pair), None)
        title = pair or ("Losses" if key.startswith("loss/") else key)
        groups.setdefault(title, []).append(key)
    for title, members in groups.items():
        limits = (0.0, 1.0) if title in PAIRS else None
        series = {key: training.series(stage, key) for key in members}
        plot = line_plot(series, title, y_range=limits)
        if plot:
            yield title, plot


def _calibration(training: Training) -> str:
    rows = binned(training.value, training.outcome)
    gap = float(np.sum(rows[:, 2] * np.abs(rows[:, 0] - rows[:, 1])) / rows[:, 2].sum())
    caption = (
        f"Mean return of the logs per tenth of V, dots by share of steps; dashed: V = return. "
        f"Mean V {training.value.mean():.3f}, mean return {training.outcome.mean():.3f}, "
        f"mean gap {gap:.3f}, {len(training.value)} steps"
        + (f" of {training.split} logs." if training.split else ".")
    )
    if training.success is not None and 0 < training.success.sum() < len(training.success):
        good, bad = training.value[training.success], training.value[~training.success]
        caption += (
            f" Mean V {good.mean():.3f} in logs that succeeded, {bad.mean():.3f} in the rest."
        )
    heading = f"<h3>{escape(training.name)}</h3>" if training.name else ""
    plot = calibration_plot(training.value, training.outcome)
    return f"<figure>{heading}{plot}<figcaption>{escape(caption)}</figcaption></figure>"


def _rollouts(run: Run) -> Iterator[str]:
    yield "<h2>Rollouts</h2>"
    chosen = choose_videos(run.evaluations, VIDEO_COUNT, VIDEO_BUDGET)
    if not chosen:
        yield _missing(
            "No videos. Film some episodes:", f"qsft-robot evaluate {run.folder} --videos 4"
        )
        return
    yield '<div class="grid videos">'
    for evaluation, episode, path in chosen:
        told = episode.get("success_any")
        outcome = _OUTCOMES[told] if isinstance(told, bool) else "not told"
        caption = f"{evaluation.name}, seed {episode.get('seed')}: {outcome}"
        if is_number(episode.get("value_at_start")):
            caption += f", V at the start {episode['value_at_start']:.2f}"
        yield video_figure(path, episode, caption)
    yield "</div>"


def video_figure(path: Path, episode: Mapping[str, Any], caption: str) -> str:
    """An mp4 inside of the page, with the episode's instruction and a caption under it."""
    data = base64.b64encode(path.read_bytes()).decode()
    instruction = str(episode.get("instruction") or "")
    return (
        '<figure><video controls autoplay muted loop playsinline preload="metadata" '
        f'src="data:video/mp4;base64,{data}"></video><figcaption>'
        + (f"“{escape(instruction)}”<br>" if instruction else "")
        + f"{escape(caption)}</figcaption></figure>"
    )


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(str(x) for x in value) or "none"
    else:
        yield prefix, "none" if value is None else str(value)


def _table(rows: Iterator[tuple[str, str]]) -> str:
    body = "".join(
        f"<tr><td><code>{escape(key)}</code></td><td>{escape(value)}</td></tr>"
        for key, value in rows
    )
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>'


def _settings(run: Run) -> Iterator[str]:
    yield "<h2>Settings</h2>"
    configs = [t for t in run.trainings if t.config]
    if not configs:
        yield _missing("No config.json in this folder; training writes it:", "qsft-robot train")
    for training in configs:
        name = training.name or "training"
        opened = " open" if len(configs) == 1 else ""
        yield f"<details{opened}><summary>{escape(name)}</summary>{_table(_flat(training.config))}"
        yield "</details>"
    for evaluation in run.evaluations:
        kept = {
            k: evaluation.summary[k]
            for k in ("command", "env_args", "execute_steps", "render_backend", "started", "wall_s")
            if k in evaluation.summary
        }
        if kept:
            yield f"<details><summary>evaluation of {escape(evaluation.name)}</summary>"
            yield f"{_table(_flat(kept))}</details>"
    yield "<h2>Versions</h2>"
    known = next((e.summary["versions"] for e in run.evaluations if "versions" in e.summary), None)
    try:
        versions = known or {"qsft-robot": version("qsft-robot")}
    except PackageNotFoundError:
        versions = {}
    yield _table(_flat({key: value for key, value in versions.items() if value is not None}))
