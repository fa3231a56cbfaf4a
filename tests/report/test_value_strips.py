"""The strips show V of a success, a failure and the largest drop, under frames of their films."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qsft_robot.report.data import Evaluation
from qsft_robot.report.value_strips import chosen, curve_of, value_strips
from qsft_robot.rollouts.video import VideoFile, draw_overlay

STEPS = 20


def episode(seed: int, success: bool, values: list[Any], video: str | None = None) -> dict:
    return {
        "seed": seed, "success_any": success, "steps": STEPS, "values": values, "video": video,
        "instruction": "put <it> there",
    }  # fmt: skip


def evaluation(folder: Path, episodes: list[dict], **summary: Any) -> Evaluation:
    return Evaluation("qsft", folder, summary, episodes)


RISING = list(np.linspace(0.1, 0.9, STEPS))
FALLING = [0.5] * 12 + [0.1] * 8


def test_a_decision_stands_where_its_chunk_begins(tmp_path):
    told = evaluation(tmp_path, [], execute_steps=4)
    curve = curve_of(told, episode(0, True, RISING[:5]))
    assert curve.steps.tolist() == [0, 4, 8, 12, 16]
    # Older evaluations tell no length: 20 steps of 7 decisions are chunks of 3.
    assert curve_of(evaluation(tmp_path, []), episode(0, True, RISING[:7])).steps[-1] == 18
    assert curve.drop == (0.0, 1)
    fall, after = curve_of(evaluation(tmp_path, []), episode(0, True, FALLING)).drop
    assert (pytest.approx(0.4), 12) == (fall, after)


def test_a_success_a_failure_and_the_largest_drop_are_chosen_filmed_ones_first(tmp_path):
    lines = [
        episode(0, True, RISING), episode(1, True, RISING, "a.mp4"), episode(2, False, FALLING),
        episode(3, True, [0.9, *RISING[1:]], "b.mp4"), episode(4, True, [0.9] * 10 + [0.0] * 10),
    ]  # fmt: skip
    told = evaluation(tmp_path, lines)
    picked = [curve.episode["seed"] for _, curve in chosen([curve_of(told, x) for x in lines])]
    assert picked == [1, 2, 3]


def test_a_policy_without_v_has_no_strip(tmp_path):
    lines = [episode(0, True, [None] * STEPS), {"seed": 1}, episode(2, True, [0.5])]
    assert list(value_strips([evaluation(tmp_path, lines)])) == []


def test_frames_are_those_of_their_steps_without_the_bar(tmp_path):
    with VideoFile(tmp_path / "videos", fps=10) as film:
        for t in range(STEPS + 1):
            frame = np.full((128, 128, 3), 10 * t, np.uint8)
            film.append(draw_overlay(frame, "put it there", [0.5], None))
        film.keep("a.mp4")
    told = evaluation(tmp_path, [episode(0, True, RISING, "a.mp4")])
    page = "".join(value_strips([told]))
    data = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', page)
    frames = [np.asarray(Image.open(io.BytesIO(base64.b64decode(x)))) for x in data]
    assert len(frames) == 8
    for step, frame in zip(np.linspace(0, STEPS - 1, 8).round(), frames, strict=True):
        assert frame.shape[0] == frame.shape[1]
        assert abs(frame.mean() - 10 * step) < 8
    assert "<it>" not in page
    assert "V 0.10 at the start, 0.90 at the end" in page


@pytest.mark.parametrize("content", [b"", b"#EXTM3U\nfile:///etc/hostname\n", b"0000ftypisom" * 9])
def test_what_is_no_film_leaves_the_curve_alone(tmp_path, content):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(content)
    page = "".join(value_strips([evaluation(tmp_path, [episode(0, True, RISING, "a.mp4")])]))
    assert "polyline" in page
    assert "<image" not in page


def test_a_playlist_named_mp4_reads_no_other_file(tmp_path):
    # Behind the mark of an MP4 even: the demuxer is told, not guessed.
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"x")
    (tmp_path / "videos").mkdir()
    text = f"0000ftyp\n#EXTM3U\n#EXTINF:1,\n{secret.as_uri()}\n"
    (tmp_path / "videos" / "a.mp4").write_text(text)
    told = evaluation(tmp_path, [episode(0, True, RISING, "a.mp4")])
    assert "<image" not in "".join(value_strips([told]))
    told = evaluation(tmp_path, [episode(0, True, RISING, "../secret.mp4")])
    with pytest.raises(ValueError, match="not a path inside"):
        list(value_strips([told]))
