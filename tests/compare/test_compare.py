"""Two evaluations are paired by seed, or refused in one line that says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsft_robot.cli import main
from qsft_robot.compare.comparison import compare
from qsft_robot.compare.page import write_page
from qsft_robot.compare.same_conditions import common_seeds
from qsft_robot.intervals import mcnemar, paired_difference, wilson
from qsft_robot.rollouts.batches import EpisodeResult
from qsft_robot.rollouts.evaluate import evaluate
from qsft_robot.rollouts.video import VideoFile
from qsft_robot.types import Decision

ENV_ARGS = {
    "env_name": "tabletop", "type": 2, "versions": {"mujoco": "3.3.7"},
    "env_kwargs": {"task": "place", "max_steps": 50, "cameras": []},
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an evaluation: outcomes by seed, changes of its summary and of its episodes."""

    def run(
        name: str,
        outcomes: Sequence[bool | None],
        start: int = 0,
        filmed: Sequence[int] = (),
        instruction: str = "put the <red> cube away",
        **changes: Any,
    ) -> Path:
        folder = tmp_path / name / "evaluation" / "policy"
        (folder / "videos").mkdir(parents=True)
        lines = []
        for seed, told in enumerate(outcomes, start):
            video = f"seed_{seed}.mp4" if seed in filmed else None
            lines.append(EpisodeResult(
                seed, 20, float(bool(told)), told, told, None if told else "step_limit", None,
                instruction, 5, 1.0, 0.5, [0.5], 0.1, 0, video,
            ).to_json())  # fmt: skip
            if video:
                with VideoFile(folder / "videos", fps=10) as file:
                    file.append(np.full((32, 32, 3), 9 * seed, np.uint8))
                    file.keep(video)
        rate = wilson(sum(map(bool, outcomes)), len(outcomes))
        summary: dict[str, Any] = {
            "n": rate.n, "success_rate": rate.rate, "low": rate.low, "high": rate.high,
            "env_args": ENV_ARGS, "env_overrides": {}, "reset_options": None,
            "run_to_limit": False, "execute_steps": None, "broken": 0,
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary | changes))
        (folder / "episodes.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return tmp_path / name

    return run


A = [True] * 12 + [False] * 8
B = [True] * 3 + [False] * 9 + [True] + [False] * 7


def env_args(changes: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
    return {**ENV_ARGS, **changes, "env_kwargs": {**ENV_ARGS["env_kwargs"], **kwargs}}


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["compare", *map(str, words)]) == 2
    said, told = capsys.readouterr()
    assert said == ""
    assert len(told.splitlines()) == 1
    assert told.startswith("error: ")
    return told


def test_what_evaluate_writes_is_paired_episode_by_episode(tmp_path, capsys):
    class Still:
        def begin_episode(self, seed):
            return None

        def infer_batch(self, observations, memories):
            return [Decision(np.zeros((1, 4), np.float32)) for _ in observations]

    args = {"env_name": "tabletop", "env_kwargs": {"task": "place", "cameras": []}}
    for name in "ab":
        evaluate(
            Still(), args, range(3), workers=1, out=tmp_path / name, progress=False,
            env_overrides={"max_steps": 2},
        )  # fmt: skip
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["episodes"], told["difference"], told["p"]) == (3, 0.0, 1.0)
    assert told["notes"] == told["differing"] == []


def test_one_run_a_side_is_compared_by_its_pairs(write, capsys):
    a, b = write("a", A), write("b", B)
    assert main(["compare", str(a), str(b), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["only_first"], told["only_second"]) == (9, 1)
    assert told["difference"] == pytest.approx(8 / 20)
    assert (told["low"], told["high"]) == paired_difference(9, 1, 20)
    assert told["p"] == mcnemar(9, 1)
    assert [x["seed"] for x in told["differing"]] == [*range(3, 12), 12]
    mirrored = compare([b], [a]).to_json()
    assert mirrored["difference"] == -told["difference"]
    assert mirrored["low"] == pytest.approx(-told["high"])
    assert mirrored["p"] == told["p"]


def test_the_terminal_shows_the_verdict_and_what_would_decide_it(write, capsys):
    near = [True] * 12 + [False] * 6 + [True] * 2
    assert main(["compare", str(write("a", A)), str(write("b", near))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "first minus second: -0.100" in said
    assert "more paired episodes find it four times in five" in said
    assert "seed 18: the second alone, put the <red> cube away" in said


def test_several_runs_are_clusters(write, capsys):
    first = [write(f"a{i}", [True] * k + [False] * (20 - k)) for i, k in enumerate((15, 16, 17))]
    second = [write(f"b{i}", [True] * k + [False] * (20 - k)) for i, k in enumerate((1, 2, 3))]
    words = [*map(str, first), "--against", *map(str, second)]
    assert main(["compare", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["difference"] == pytest.approx(0.7)
    assert told["probability_of_improvement"] == 1
    assert 0 < told["low"] < 0.7 < told["high"]
    # As many episodes in one run each would have a narrower interval: runs are what is drawn.
    one = paired_difference(42, 0, 60)
    assert told["high"] - told["low"] > one[1] - one[0]
    assert main(["compare", *words]) == 0
    assert "3 of 3 against 0 of 3" in capsys.readouterr().out


def test_other_seeds_are_refused_and_the_common_ones_taken_when_asked(write, capsys):
    a, b, c = write("a", A), write("b", B, start=5), write("c", B, start=100)
    assert "15 are common" in refused(capsys, a, b)
    assert "--accept seeds" in refused(capsys, a, b)
    assert "share no episode seed" in refused(capsys, a, c, "--accept", "seeds")
    compared = compare([a], [b], accept=["seeds"])
    assert compared.seeds == tuple(range(5, 20))
    assert compared.to_json()["first"]["successes"] == 7
    assert any("left out" in note for note in compared.notes)
    assert common_seeds(compared.first) == list(range(20))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"env_args": env_args({"env_name": "Lift"})}, "env_name is 'tabletop' and 'Lift'"),
        ({"env_args": env_args({}, task="stack")}, "task is 'place' and 'stack'"),
        ({"env_overrides": {"max_steps": 30}}, "max_steps is 50 and 30"),
        ({"reset_options": {"object": 2}}, "reset_options is None and {'object': 2}"),
        ({"run_to_limit": True}, "run_to_limit is None and True"),
        ({"instruction": "another task"}, "seed 0 is the task"),
    ],
)
def test_another_environment_is_refused_by_name(write, capsys, changes, named):
    a, b = write("a", A), write("b", B, **changes)
    assert named in refused(capsys, a, b)
    assert any(named in note for note in compare([a], [b], accept=["environment"]).notes)


def test_other_versions_and_cameras_are_said(write, capsys):
    other = env_args({"versions": {"mujoco": "3.9.0"}}, cameras=["front"])
    a, b = write("a", A), write("b", B, env_args=other, execute_steps=2)
    notes = " ".join(compare([a], [b]).notes)
    for words in ("mujoco is '3.3.7' and '3.9.0'", "cameras is [] and ['front']", "all and 2"):
        assert words in notes
    assert "refused by --strict-versions" in refused(capsys, a, b, "--strict-versions")


def test_what_is_no_evaluation_is_said_in_one_line(write, tmp_path, capsys):
    a = write("a", A)
    assert "no such folder" in refused(capsys, a, tmp_path / "none")
    assert "named twice" in refused(capsys, a, a / "evaluation" / "policy")
    assert "takes two" in refused(capsys, a)
    assert "evaluation/policy: name one" in refused(capsys, a, a, "--name", "other")
    untold = write("untold", [None] * 20, success_rate=None, low=None, high=None)
    assert "tells no success" in refused(capsys, a, untold)
    assert "counts 21" in refused(capsys, a, write("short", B, n=21))
    cut = write("cut", B) / "evaluation" / "policy"
    episodes = cut / "episodes.jsonl"
    episodes.write_text(episodes.read_text() * 2)
    assert "line 21: seed 0 stands twice" in refused(capsys, a, cut)
    episodes.write_text(episodes.read_text().replace('"success_any": true', '"success_any": 1'))
    assert "success_any is 1" in refused(capsys, a, cut)
    (cut / "summary.json").unlink()
    episodes.rename(cut / "partial_episodes.jsonl")
    assert "interrupted" in refused(capsys, a, cut)


def test_the_page_shows_filmed_pairs_side_by_side_and_fetches_nothing(write, tmp_path, capsys):
    a, b = write("a", A, filmed=[0, 3, 4]), write("b", B, filmed=[0, 3, 5])
    page = tmp_path / "page.html"
    assert main(["compare", str(a), str(b), "--page", str(page)]) == 0
    assert "1 episodes side by side" in capsys.readouterr().out
    text = page.read_text()
    assert text.count("<video") == 2  # seed 3 alone differs and was filmed on both sides
    assert "first, seed 3: success" in text
    assert "second, seed 3: step_limit" in text
    assert "<red>" not in text
    assert "https:" not in text
    assert "<script" not in text
    assert text.count("<tr><td") == 10
    (a / "evaluation" / "policy" / "videos" / "seed_3.mp4").unlink()
    assert write_page(compare([a], [b]), page) == 0
    assert "--videos" in page.read_text()
