"""The report of a run folder from somebody else holds nothing of other folders, and no markup."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from qsft_robot.cli import main

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"
SECRET = b"what stands in a file of the reader's"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one filmed evaluation whose every text is markup."""
    folder = tmp_path / "run"
    (folder / "evaluation" / "policy" / "videos").mkdir(parents=True)
    rate = {"rate": 0.5, "low": 0.1, "high": 0.9, "successes": 5, "n": 10}
    summary = {
        "n": 10, "success_rate": 0.5, "low": 0.3, "high": 0.7, "mean_steps": 5.0,
        "env_args": {"env_name": MARKUP, "env_kwargs": {"task": MARKUP}}, "command": MARKUP,
        "failure_reasons": {MARKUP: MARKUP}, "versions": {MARKUP: MARKUP}, "tasks": {MARKUP: rate},
    }  # fmt: skip
    write(folder, "summary.json", summary)
    write(folder, "episodes.jsonl", episode("a.mp4"))
    (folder / "evaluation" / "policy" / "videos" / "a.mp4").write_bytes(b"film")
    (folder / "config.json").write_text(json.dumps({"method": MARKUP, MARKUP: MARKUP}))
    rows = [{"stage": MARKUP, "step": i, f"loss/{MARKUP}": 0.1 * i} for i in range(4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "secret.mp4").write_bytes(SECRET)
    return folder


def write(folder: Path, file: str, content: object) -> None:
    (folder / "evaluation" / "policy" / file).write_text(json.dumps(content))


def episode(video: str) -> dict[str, object]:
    return {"seed": MARKUP, "success_any": True, "instruction": MARKUP, "video": video}


def report(run: Path) -> str:
    """The page, "" where there is none."""
    status = main(["report", str(run)])
    page = run / "report.html"
    assert page.exists() == (status == 0)
    return page.read_text() if page.exists() else ""


def test_no_text_of_a_run_is_markup(run):
    page = report(run)
    assert base64.b64encode(b"film").decode() in page
    assert not any(tag in page for tag in ("<script", "<img", "<svg onload"))


@pytest.mark.parametrize(
    "numbers", [{"n": MARKUP}, {"success_rate": MARKUP}, {"tasks": {"a": {"rate": MARKUP}}}]
)
def test_text_where_a_number_belongs_is_refused_by_name(run, numbers, capsys):
    summary = json.loads((run / "evaluation/policy/summary.json").read_text())
    write(run, "summary.json", {**summary, **numbers})
    assert not report(run)
    assert "summary.json: " in capsys.readouterr().err


@pytest.mark.parametrize("way", ["absolute", "up", "link", "folder"])
def test_no_file_of_another_folder_gets_into_the_page(run, way, capsys):
    videos = run / "evaluation" / "policy" / "videos"
    name = "secret.mp4"
    if way == "absolute":
        name = str(run.parent / name)
    elif way == "up":
        name = f"../../../../{name}"
    elif way == "link":
        (videos / name).symlink_to(run.parent / name)
    else:
        shutil.rmtree(videos)
        videos.symlink_to(run.parent)
    write(run, "episodes.jsonl", episode(name))
    assert not report(run)
    said = capsys.readouterr().err
    assert "secret.mp4" in said
    assert base64.b64encode(SECRET).decode() not in said
