"""The report is one page that fetches nothing, shows every number, and says what is missing."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from qsft_robot.intervals import wilson
from qsft_robot.report.data import choose_videos, read_run
from qsft_robot.report.plots import binned, thinned, ticks
from qsft_robot.report.report import VIDEO_COUNT, write_report
from qsft_robot.rollouts.video import VideoFile, draw_overlay

SUCCESSES = {"sft": 31, "filtered_sft": 88, "qsft": 171}
INSTRUCTION = 'put the <b>red</b> cube in the "blue" bowl & stop'


def write_evaluation(run: Path, name: str, successes: int, n: int = 200, films: int = 0) -> None:
    folder = run / "evaluation" / name
    folder.mkdir(parents=True)
    rate = wilson(successes, n)
    summary = {
        "n": n,
        "success_rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
        "success_any": asdict(rate),
        "success_last": asdict(wilson(successes - 5, n)),
        "failure_reasons": {"step_limit": n - successes},
        "mean_steps": 47.5,
        "median_decision_ms": 1.234,
        "env_args": {"env_name": "tabletop", "type": 2, "env_kwargs": {"task": "place"}},
        "versions": {"python": "3.11.7", "robosuite": None, "mujoco": "3.3.7"},
        "command": "qsft-robot evaluate --policy p",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    films_at = {i * 3: f"seed_{i * 3}.mp4" for i in range(films)}
    episodes = [
        {
            "seed": seed,
            "success_any": seed % 2 == 0,
            "instruction": INSTRUCTION,
            "value_at_start": 0.61,
            "video": films_at.get(seed),
        }
        for seed in range(20)
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in episodes))
    for video in films_at.values():
        with VideoFile(folder / "videos", fps=10) as file:
            for t in range(12):
                frame = np.full((128, 128, 3), 20 * t, np.uint8)
                file.append(draw_overlay(frame, INSTRUCTION, [0.05 * i for i in range(t)], None))
            file.keep(video)


def write_training(run: Path, rng: np.random.Generator) -> None:
    run.mkdir(parents=True, exist_ok=True)
    rows = []
    for step in range(0, 2000, 10):
        row = {"step": step, "stage": "behavior", "loss/total": 3 * np.exp(-step / 500) + 0.4}
        rows.append(row | {"time/update_s": 0.011, "time/data_s": 0.0007})
    for step in range(0, 2000, 10):
        value = 0.4 - 0.2 * np.exp(-step / 400) + rng.normal(0, 0.01)
        rows.append(
            {
                "step": step,
                "stage": "value",
                "loss/total": 1.2,
                "loss/bce": 0.4 + rng.normal(0, 0.02),
                "loss/ce": 0.8,
                "q/value_mean": value,
                "q/target_mean": 0.4 + rng.normal(0, 0.02),
                "optim/learning_rate": 5e-4,
                "optim/gradient_norm": 1.3,
            }
        )
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    value = rng.beta(1, 1.4, 3000)
    outcome = (rng.random(3000) < value) * 0.97
    calibration = {
        "split": "held out",
        "value": value.tolist(),
        "return": outcome.tolist(),
        "success": (outcome > 0).tolist(),
    }
    (run / "calibration.json").write_text(json.dumps(calibration))
    config = {
        "method": "qsft",
        "data": {"path": "logs.hdf5", "cameras": ["front_image"]},
        "seed": 3,
    }
    (run / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_training(folder, np.random.default_rng(0))
    for name, successes in SUCCESSES.items():
        write_evaluation(folder, name, successes, films=4 if name == "qsft" else 2)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_report(run).read_text()


def test_fetches_nothing_from_anywhere(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<script|<iframe", page)
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources
    assert all(source.startswith("data:video/mp4;base64,") for source in sources)


def test_every_tag_that_is_opened_is_closed(page: str) -> None:
    open_tags: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta", "br"}:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            assert tag in {"line", "circle", "polyline", "rect", "image"}

    Balance().feed(page)
    assert not open_tags


@pytest.mark.parametrize("name", SUCCESSES)
def test_every_method_has_a_bar_with_its_interval_and_numbers(page: str, name: str) -> None:
    rate = wilson(SUCCESSES[name], 200)
    bars = page[page.index('aria-label="success rates') :]
    bars = bars[: bars.index("</svg>")]
    assert bars.count("<rect") == len(SUCCESSES)
    assert f">{name}</text>" in bars
    texts = [f"{100 * x:.1f}".removesuffix(".0") for x in (rate.rate, rate.low, rate.high)]
    assert f"{texts[0]} %" in bars
    assert f"[{texts[1]} %, {texts[2]} %] n = 200" in bars


def test_the_key_result_comes_first_and_says_whether_the_intervals_part(page: str) -> None:
    key = page[page.index('class="key"') : page.index("<h2>")]
    assert "<strong>qsft</strong> succeeds in <strong>85.5 %</strong> of 200 episodes" in key
    assert "next is filtered_sft with 44 %" in key
    assert "do not overlap" in key


def test_text_tasks_are_told_by_kind_and_rivals_are_of_the_same_split(tmp_path: Path) -> None:
    for name, successes, split in (("seen", 18, "a_seen"), ("unseen", 12, "b"), ("sft", 6, "b")):
        write_evaluation(tmp_path, name, successes, n=20)
        file = tmp_path / "evaluation" / name / "summary.json"
        kwargs = {"split": split}
        kinds = {"heat <it>": asdict(wilson(successes, 20))}
        refused = {"count": 7, "rate": 0.07}
        words = {"env_args": {"env_name": "alfworld", "type": 2, "env_kwargs": kwargs}}
        more = words | ({"tasks": kinds, "refused_commands": refused} if name != "sft" else {})
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
    page = write_report(tmp_path).read_text()
    assert "next is" not in page[: page.index("<h2>")]  # nothing else was measured on that split
    assert page.count("<td>alfworld/b</td>") == 2
    assert "refused commands" in page
    assert ">7 %<" in page
    row = page[page.index("<td>heat &lt;it&gt;</td>") :]
    assert "90 % (69.9 % to 97.2 %), 18 of 20" in row
    assert "60 % (38.7 % to 78.1 %), 12 of 20" in row


def test_an_environment_that_tells_no_success_is_reported(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "untold", 5)
    file = tmp_path / "evaluation" / "untold" / "summary.json"
    summary = json.loads(file.read_text())
    untold = dict.fromkeys(("success_rate", "low", "high", "success_any", "success_last"))
    file.write_text(json.dumps(summary | untold))
    assert "tells no success" in write_report(tmp_path).read_text()


def test_instructions_and_names_are_escaped(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "run", "a<script>alert(1)<", 7, n=20, films=1)
    page = write_report(tmp_path / "run").read_text()
    assert "<script" not in page
    assert "<b>red" not in page
    assert "&lt;b&gt;red&lt;/b&gt; cube in the &quot;blue&quot; bowl &amp; stop" in page


def test_every_metric_is_drawn_and_times_are_said(page: str) -> None:
    for name in ("loss/bce", "loss/ce", "q/value_mean", "q/target_mean"):
        assert f">{name} <tspan" in page
    assert "11 ms an update" in page
    assert "3000 steps of held out logs. Mean V 0.582 in logs that succeeded" in page


def test_settings_and_versions_are_readable(page: str) -> None:
    assert "<code>data.cameras</code></td><td>front_image</td>" in page
    assert "<code>mujoco</code></td><td>3.3.7</td>" in page
    assert "tabletop/place" in page


def test_methods_take_turns_in_the_videos_and_the_count_is_kept(run: Path, page: str) -> None:
    assert page.count("<video") == VIDEO_COUNT
    chosen = choose_videos(read_run(run).evaluations, 3, 10**9)
    assert [e.name for e, _, _ in chosen] == ["qsft", "filtered_sft", "sft"]
    two = choose_videos(read_run(run).evaluations[:1], 2, 10**9)
    assert {episode["success_any"] for _, episode, _ in two} == {True, False}
    assert not choose_videos(read_run(run).evaluations, 3, 10)


def test_missing_parts_are_said_with_the_command_that_makes_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"method": "sft"}')
    page = write_report(tmp_path).read_text()
    assert "No evaluation yet" in page
    assert "qsft-robot evaluate" in page
    assert "No metrics.jsonl" in page
    assert "No calibration.json" in page
    assert "No videos" in page


def test_a_run_in_progress_is_reported_up_to_its_last_whole_line(tmp_path: Path) -> None:
    lines = '{"step": 1, "stage": "value", "loss/total": 2.0}\n{"step": 2, "loss/to'
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert "last 2<" in write_report(tmp_path).read_text()


def test_methods_side_by_side_in_one_run_are_told_apart(tmp_path: Path) -> None:
    for name in ("sft", "qsft"):
        write_training(tmp_path / name, np.random.default_rng(1))
        write_evaluation(tmp_path / name, "policy", 12, n=20)
    write_evaluation(tmp_path / "qsft", "k4", 11, n=20)
    page = write_report(tmp_path).read_text()
    assert "Stage “value” of qsft" in page
    assert "Stage “value” of sft" in page
    assert [e.name for e in read_run(tmp_path).evaluations] == ["qsft", "sft", "qsft / k4"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nothing to report"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": \n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "calibration.json").write_text('{"value": [0.1, 0.2], "return": [0.0]}')
    with pytest.raises(ValueError, match=r"calibration.json: 'value' and 'return'"):
        write_report(tmp_path)
    (tmp_path / "calibration.json").unlink()
    (tmp_path / "evaluation" / "qsft").mkdir(parents=True)
    (tmp_path / "evaluation" / "qsft" / "summary.json").write_text('{"n": 3}')
    with pytest.raises(ValueError, match=r"summary.json: no \['high', 'low', 'success_rate'\]"):
        write_report(tmp_path)


def test_bins_hold_every_step_once_and_keep_the_mean(rng: np.random.Generator) -> None:
    value, outcome = rng.random(500), rng.random(500)
    value[:2] = 0.0, 1.0
    rows = binned(value, outcome)
    assert rows[:, 2].sum() == 500
    assert np.isclose((rows[:, 1] * rows[:, 2]).sum() / 500, outcome.mean())
    assert np.all(np.diff(rows[:, 0]) > 0)


def test_a_thinned_series_keeps_its_mean_and_leaves_nan_out(rng: np.random.Generator) -> None:
    y = rng.random(1600)
    x, thin = thinned(np.arange(1600.0), y)
    assert len(x) == 160
    assert np.isclose(thin.mean(), y.mean())
    y[5] = np.nan
    assert np.isfinite(thinned(np.arange(1600.0), y)[1]).all()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 3.41), (-2, 7), (0, 19990), (0.4, 0.41)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert low - 1e-9 <= found[0]
    assert found[-1] <= high + 1e-9


STRANGE = {
    "calibration.json": [
        {"value": ["a", 1.0], "return": [0.0, 1.0]},
        {"value": [[1.0], 1.0], "return": [0.0, 1.0]},
        {"value": [0.5, 1.0], "return": [0.0, 1.0], "success": [True]},
        {"value": [0.5, 1.0], "return": [0.0, 1.0], "success": ["false", "false"]},
        {"value": [0.5], "return": [0.0], "split": 3},
        ["value"],
        "value",
    ],
    "config.json": [["method"], "method", 3, True, None],
}


CASES = [(name, at) for name, values in STRANGE.items() for at in range(len(values))]


@pytest.mark.parametrize(("name", "at"), CASES)
def test_a_file_of_another_kind_is_named(tmp_path, name, at):
    write_evaluation(tmp_path, "qsft", 31)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "stage": "value", "loss/total": 1.0}\n')
    (tmp_path / name).write_text(json.dumps(STRANGE[name][at]))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_what_is_no_utf8_is_shown_on_the_page_as_its_escape(tmp_path):
    run = tmp_path / os.fsdecode(b"run\xff")
    write_evaluation(run, "qsft", 31, films=2)
    (run / "metrics.jsonl").write_text(
        r'{"step": 1, "stage": "\ud800", "loss/total": 1.0}'
        + "\n"
        + '{"step": 2, "stage": "value", "loss/total": 1e400, "loss/ce": '
        + "9" * 400
        + "}\n"
    )
    rows = (run / "evaluation" / "qsft" / "episodes.jsonl").read_text().splitlines()
    odd = [{**json.loads(row), "success_any": ["false"], "value_at_start": 10**400} for row in rows]
    (run / "evaluation" / "qsft" / "episodes.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in odd)
    )
    page = write_report(run).read_text(encoding="utf-8")
    assert r"run\udcff" in page
    assert r"\ud800" in page
    assert page.count(": not told") == 2  # the films
