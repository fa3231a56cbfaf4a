"""One self-contained HTML page of a comparison: the verdict, and the episodes that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from qsft_robot.compare.comparison import Comparison, DifferingEpisode
from qsft_robot.compare.recorded import Recorded
from qsft_robot.compare.verdict import verdict
from qsft_robot.files import atomic_file, contained, inside
from qsft_robot.report.plots import Bar, success_bars
from qsft_robot.report.report import page_head, video_figure

# Bytes of mp4 in one page: it has to open from a mail.
VIDEO_BUDGET = 12_000_000
Filmed = tuple[Recorded, dict[str, Any], Path]


def write_page(compared: Comparison, path: Path) -> int:
    """Write the page; returns how many episodes stand side by side as video."""
    pairs = _pairs(compared)
    with atomic_file(path) as temporary:
        text = "\n".join(_page(compared, pairs))
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    return len(pairs)


def _page(compared: Comparison, pairs: Sequence[tuple[Filmed, Filmed]]) -> Iterator[str]:
    yield from page_head("comparison · qsft-robot")
    yield "<h1>Two policies on the same episodes</h1>"
    lines = verdict(compared)
    yield f'<p class="key">{escape(lines[-1])}.</p>'
    yield from (f"<p>{escape(line)}.</p>" for line in lines[:-1])
    bars = []
    for mark, side in (("first", compared.first), ("second", compared.second)):
        rate = compared.pooled(side)
        bars.append(Bar(mark, rate.rate, rate.low, rate.high, rate.n))
    when = "at the last step" if compared.first[0].at_last_step else "at any step"
    yield (
        f"<figure>{success_bars(bars)}<figcaption>Success {when}. Whiskers: Wilson's 95 % interval "
        "of each alone; the pairing is in the text above.</figcaption></figure>"
    )
    for mark, side in (("first", compared.first), ("second", compared.second)):
        rates = zip(side, compared.rates(side), strict=True)
        told = "; ".join(f"{run.folder} ({rate:.3f})" for run, rate in rates)
        yield f'<p class="soft">{mark}: {escape(told)}.</p>'
    yield from (f'<p class="missing">{escape(note)}</p>' for note in compared.notes)
    yield "<h2>Episodes that differ, side by side</h2>"
    if not pairs:
        yield '<p class="missing">No such episode was filmed on both sides. Film some: '
        yield "<code>qsft-robot evaluate RUN --videos 50</code></p>"
    for pair in pairs:
        yield '<div class="grid videos">'
        for mark, (run, episode, file) in zip(("first", "second"), pair, strict=True):
            caption = f"{mark}, seed {episode['seed']}: {_outcome(run, episode)}"
            yield video_figure(file, episode, caption)
        yield "</div>"
    yield "<h2>Every episode that differs</h2>"
    yield from _table(compared, compared.differing())
    yield "</body>\n</html>\n"


def _outcome(run: Recorded, episode: dict[str, Any]) -> str:
    if run.succeeded(episode["seed"]):
        return f"success, {episode.get('steps', '?')} steps"
    return f"{episode.get('failure_reason') or 'failure'}, {episode.get('steps', '?')} steps"


def _table(compared: Comparison, rows: Sequence[DifferingEpisode]) -> Iterator[str]:
    if not rows:
        yield "<p>None: both came out alike in every episode.</p>"
        return
    yield '<div class="scroll"><table><thead><tr><th class="number">seed</th><th>task</th>'
    yield "<th>first</th><th>second</th></tr></thead><tbody>"
    for row in rows:
        cells = []
        for side, count in ((compared.first, row.first), (compared.second, row.second)):
            if len(side) == 1:
                cells.append(_outcome(side[0], side[0].episodes[row.seed]))
            else:
                cells.append(f"{count} of {len(side)} runs succeed")
        task = str(compared.first[0].episodes[row.seed].get("instruction") or "")
        yield f'<tr><td class="number">{row.seed}</td><td>{escape(task)}</td>'
        yield "".join(f"<td>{escape(x)}</td>" for x in cells) + "</tr>"
    yield "</tbody></table></div>"


def _pairs(compared: Comparison) -> list[tuple[Filmed, Filmed]]:
    """Differing episodes that both sides filmed, within the budget: a run that succeeded of the
    side that did so more often, beside one of the other that failed."""
    budget, pairs = VIDEO_BUDGET, []
    for row in compared.differing():
        favors_first = row.first * len(compared.second) > row.second * len(compared.first)
        first = _filmed(compared.first, row.seed, favors_first)
        second = _filmed(compared.second, row.seed, not favors_first)
        if first is None or second is None:
            continue
        size = first[2].stat().st_size + second[2].stat().st_size
        if size <= budget:
            budget -= size
            pairs.append((first, second))
    return pairs


def _filmed(side: Sequence[Recorded], seed: int, outcome: bool) -> Filmed | None:
    for run in side:
        episode = run.episodes[seed]
        if not episode.get("video") or run.succeeded(seed) != outcome:
            continue
        where = f"{run.folder}: video of seed {seed}"
        path = contained(run.folder, inside(run.folder / "videos", episode["video"], where))
        if path.is_file():
            return run, episode, path
    return None
