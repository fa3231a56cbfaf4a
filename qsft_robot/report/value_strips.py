"""V over an episode under frames of its film: a success, a failure, and the largest drop."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from qsft_robot.files import contained, inside
from qsft_robot.json_kinds import is_number
from qsft_robot.report.data import EPISODES, Evaluation
from qsft_robot.report.plots import svg, ticks

WIDTH, LEFT, RIGHT, PLOT, BELOW = 720, 46, 12, 120, 40
# Pixels of a frame's width, and between two.
FRAME, GAP = 76, 6
# A film beyond this is no episode of ours, and is not decoded.
_LONGEST, _WIDEST = 5000, 4096


@dataclass(frozen=True)
class Curve:
    """V of one episode."""

    evaluation: Evaluation
    episode: dict[str, Any]
    steps: np.ndarray  # int64 [k], the control steps of the decisions
    values: np.ndarray  # float64 [k]

    @property
    def drop(self) -> tuple[float, int]:
        """The largest fall of V from one decision to the next, 0 or more, and the index after."""
        if len(self.values) < 2:
            return 0.0, 0
        falls = -np.diff(self.values)
        at = int(falls.argmax())
        return max(0.0, float(falls[at])), at + 1


def value_strips(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """The strips of the best evaluation whose policy has V, as HTML; nothing where none has."""
    for evaluation in evaluations:
        curves = [c for episode in evaluation.episodes if (c := curve_of(evaluation, episode))]
        if not curves:
            continue
        yield "<h2>V over an episode</h2>"
        yield f'<p class="soft">{escape(evaluation.name)}: V of each decision, over control steps. '
        yield "The largest fall from one decision to the next is marked.</p>"
        for title, curve in chosen(curves):
            yield _strip(title, curve)
        return


def curve_of(evaluation: Evaluation, episode: dict[str, Any]) -> Curve | None:
    """V of one line of episodes.jsonl; None where its policy tells none."""
    told = episode.get("values")
    if not isinstance(told, list) or len(told) < 2:
        return None
    # A decision stands for so many steps as the evaluation executed of a chunk.
    length: Any = episode.get("steps")
    each: Any = evaluation.summary.get("execute_steps")
    if not is_number(each) or each < 1:
        each = math.ceil(length / len(told)) if is_number(length) and length else 1
    pairs = [(i * int(each), v) for i, v in enumerate(told) if is_number(v)]
    if len(pairs) < 2:
        return None
    steps, values = zip(*pairs, strict=True)
    return Curve(evaluation, episode, np.array(steps), np.array(values, float))


def chosen(curves: Sequence[Curve]) -> list[tuple[str, Curve]]:
    """A success, a failure and the largest drop, each once; filmed episodes go first."""
    order = sorted(curves, key=lambda c: not c.episode.get("video"))
    picked: list[tuple[str, Curve]] = []
    for title, outcome in (("a success", True), ("a failure", False)):
        found = [c for c in order if c.episode.get("success_any") is outcome]
        if found:
            picked.append((title, found[0]))
    taken = [id(curve) for _, curve in picked]
    # Of the filmed ones where there are such: the frames say what happened.
    filmed = [c for c in curves if c.episode.get("video")]
    rest = [c for c in filmed or curves if id(c) not in taken]
    deepest = max(rest, key=lambda c: c.drop[0], default=None)
    if deepest is not None and deepest.drop[0] > 0:
        picked.append(("the largest drop of the others", deepest))
    return picked


def _strip(title: str, curve: Curve) -> str:
    last = max(int(curve.steps[-1]), 1)
    span = WIDTH - LEFT - RIGHT

    def x(step: float) -> float:
        return LEFT + step / last * span

    count = span // (FRAME + GAP)
    moments = np.unique(np.linspace(0, last, count).round().astype(int))
    frames = _frames(curve, [int(step) for step in moments])
    parts, top = [], 0
    if frames:
        height = max(h for _, h in frames.values()) * FRAME
        top = math.ceil(height) + 10
        for i, step in enumerate(moments):
            if int(step) not in frames:
                continue
            data, ratio = frames[int(step)]
            left = LEFT + i * (span - FRAME) / max(len(moments) - 1, 1)
            parts.append(
                f'<image x="{left:.1f}" y="0" width="{FRAME}" height="{ratio * FRAME:.1f}" '
                f'href="data:image/jpeg;base64,{data}"/>'
                f'<line class="gridline" x1="{left + FRAME / 2:.1f}" y1="{ratio * FRAME:.1f}" '
                f'x2="{x(step):.1f}" y2="{top + 8}"/>'
            )

    def y(value: float) -> float:
        return top + 8 + (1 - min(max(value, 0.0), 1.0)) * PLOT

    for value in (0.0, 0.5, 1.0):
        parts.append(
            f'<line class="gridline" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" '
            f'y2="{y(value)}"/><text class="soft" x="{LEFT - 7}" y="{y(value) + 4}" '
            f'text-anchor="end">{value:g}</text>'
        )
    for step in ticks(0, last, 8):
        parts.append(
            f'<text class="soft" x="{x(step):.1f}" y="{y(0) + 17}" text-anchor="middle">{step:g}'
            "</text>"
        )
    parts.append(
        f'<text class="soft" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{y(0) + 34}" '
        'text-anchor="middle">control step</text>'
    )
    points = [(x(s), y(v)) for s, v in zip(curve.steps, curve.values, strict=True)]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    parts.append(f'<polyline class="curve" stroke="var(--c0)" points="{line}"/>')
    fall, after = curve.drop
    if fall > 0:
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points[after - 1 : after + 1])
        parts.append(
            f'<polyline class="curve" stroke="var(--c1)" stroke-width="4" points="{line}"/>'
        )
    drawn = svg(parts, f"V over {title}", WIDTH, top + 8 + PLOT + BELOW, "wide")
    return f"<figure>{drawn}<figcaption>{escape(_caption(title, curve))}</figcaption></figure>"


def _caption(title: str, curve: Curve) -> str:
    episode, (fall, after) = curve.episode, curve.drop
    text = f"Seed {episode.get('seed')}, {title}"
    if episode.get("instruction"):
        text += f": “{episode['instruction']}”"
    text += f". V {curve.values[0]:.2f} at the start, {curve.values[-1]:.2f} at the end"
    if fall > 0:
        text += f", largest fall {fall:.2f} at step {curve.steps[after]}"
    if not episode.get("video"):
        text += ". Not filmed (evaluate --videos)"
    return text + "."


def _frames(curve: Curve, moments: Sequence[int]) -> dict[int, tuple[str, float]]:
    """Control step -> a frame as base64 JPEG, and its height over its width; {} without a film
    that can be read here."""
    name, folder = curve.episode.get("video"), curve.evaluation.folder
    if not name:
        return {}
    path = inside(folder / "videos", name, f"{folder / EPISODES}: video")
    path = contained(folder, path)
    if not path.is_file() or path.read_bytes()[4:8] != b"ftyp":
        return {}
    try:
        import imageio
        from PIL import Image
    except ImportError:
        return {}
    from qsft_robot.rollouts.video import BAR_HEIGHT

    found: dict[int, tuple[str, float]] = {}
    # Nothing but MP4 is read: a playlist in its place would name other files.
    only = ["-f", "mp4", "-protocol_whitelist", "file"]
    try:
        reader: Any = imageio.get_reader(path, format="FFMPEG", input_params=only)
        with reader as film:
            width, height = film.get_meta_data()["size"]
            if max(width, height) > _WIDEST or height <= BAR_HEIGHT:
                return {}
            for step, frame in enumerate(film):
                if step in moments:
                    # The bar below repeats what stands under the strip.
                    picture = Image.fromarray(np.asarray(frame)[: height - BAR_HEIGHT])
                    shown = picture.resize((2 * FRAME, 2 * FRAME * picture.height // width))
                    file = io.BytesIO()
                    shown.save(file, "JPEG", quality=80)
                    data = base64.b64encode(file.getvalue()).decode()
                    found[step] = (data, picture.height / width)
                if step >= min(moments[-1], _LONGEST):
                    break
    except (OSError, RuntimeError, ValueError, IndexError, KeyError):
        return {}  # no film of ours; the curve stands without it
    return found
