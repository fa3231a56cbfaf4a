"""The report's plots as inline SVG, colored by the page's own style sheet (numpy only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
COLORS = 6


@dataclass(frozen=True)
class Bar:
    """One method's success rate with its interval, all in [0, 1]."""

    name: str
    rate: float
    low: float
    high: float
    n: int


def percent(fraction: float) -> str:
    """A fraction as a percentage, one decimal where it says something."""
    return f"{100 * fraction:.1f}".removesuffix(".0") + " %"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span [low, high], about `count` of them."""
    span = max(high - low, 1e-12)
    step = 10.0 ** np.floor(np.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= count)
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick as short as it can be read: 15k, 0.25, 4e-4."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:g}"


@dataclass(frozen=True)
class Axes:
    """A frame with linear axes: data -> picture coordinates."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / ((high - low) or 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1.0) * (HEIGHT - TOP - BOTTOM)

    def frame(self, x_label: str) -> list[str]:
        """Grid lines, tick texts and the name of the x axis."""
        parts = []
        for value in ticks(*self.y_range):
            y = self.y(value)
            parts.append(
                f'<line class="gridline" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="soft" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">'
                f"{tick_text(value)}</text>"
            )
        for value in ticks(*self.x_range):
            parts.append(
                f'<text class="soft" x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 17}" '
                f'text-anchor="middle">{tick_text(value)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="soft" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">'
            f"{escape(x_label)}</text>"
        )
        return parts


def svg(parts: Sequence[str], label: str, width: int, height: int, kind: str = "") -> str:
    """Wrap drawn parts as one inline picture with a spoken label."""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def thinned(x: np.ndarray, y: np.ndarray, points: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal stretches of a long series, at most `points` of them; NaN is left out."""
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) <= points:
        return x, y
    cuts = np.linspace(0, len(x), points + 1).astype(int)
    pairs = [(x[a:b].mean(), y[a:b].mean()) for a, b in pairwise(cuts)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


def line_plot(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    label: str,
    x_label: str = "update",
    y_range: tuple[float, float] | None = None,
) -> str:
    """Curves by name, each (x [p], y [p]); the legend names every curve and its last value."""
    curves = {name: thinned(*xy) for name, xy in series.items()}
    curves = {name: xy for name, xy in curves.items() if len(xy[0])}
    if not curves:
        return ""
    all_x = np.concatenate([x for x, _ in curves.values()])
    all_y = np.concatenate([y for _, y in curves.values()])
    if y_range is None:
        low, high = min(0.0, float(all_y.min())), float(all_y.max())
        y_range = (low, high + 0.04 * ((high - low) or 1.0))
    axes = Axes((float(all_x.min()), float(all_x.max())), y_range)
    parts = axes.frame(x_label)
    legend_height = 18 * len(curves)
    for index, (name, (x, y)) in enumerate(curves.items()):
        color = f"var(--c{index % COLORS})"
        points = " ".join(f"{axes.x(a):.1f},{axes.y(b):.1f}" for a, b in zip(x, y, strict=True))
        if len(x) == 1:
            parts.append(
                f'<circle cx="{axes.x(x[0]):.1f}" cy="{axes.y(y[0]):.1f}" r="3" fill="{color}"/>'
            )
        parts.append(f'<polyline class="curve" stroke="{color}" points="{points}"/>')
        row = HEIGHT + 8 + 18 * index
        parts.append(
            f'<line x1="{LEFT}" x2="{LEFT + 18}" y1="{row}" y2="{row}" stroke="{color}" '
            f'stroke-width="3"/><text x="{LEFT + 26}" y="{row + 4}">{escape(name)} '
            f'<tspan class="soft">last {y[-1]:.3g}</tspan></text>'
        )
    return svg(parts, label, WIDTH, HEIGHT + legend_height)


def success_bars(bars: Sequence[Bar]) -> str:
    """One horizontal bar a method with its 95 % interval, and the numbers beside it."""
    width, row, right = 720, 40, 210
    # About 7 units a letter at this size.
    left = min(280, max(100, 7 * max(len(bar.name) for bar in bars) + 20))
    height = row * len(bars) + 26
    span = width - left - right
    parts = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + value * span
        parts.append(
            f'<line class="gridline" x1="{x}" x2="{x}" y1="0" y2="{row * len(bars)}"/>'
            f'<text class="soft" x="{x}" y="{row * len(bars) + 18}" text-anchor="middle">'
            f"{100 * value:g} %</text>"
        )
    best = max(bar.rate for bar in bars)
    for index, bar in enumerate(bars):
        y = row * index + row / 2
        low, high = left + bar.low * span, left + bar.high * span
        parts.append(
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(bar.name)}</text>'
            f'<rect x="{left}" y="{y - 11}" width="{bar.rate * span:.1f}" height="22" rx="2" '
            f'fill="var(--c0)" opacity="{1 if bar.rate == best else 0.5}"/>'
            f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
            f'<line class="whisker" x1="{low:.1f}" x2="{low:.1f}" y1="{y - 5}" y2="{y + 5}"/>'
            f'<line class="whisker" x1="{high:.1f}" x2="{high:.1f}" y1="{y - 5}" y2="{y + 5}"/>'
            f'<text x="{width - right + 16}" y="{y + 4}">{percent(bar.rate)} <tspan class="soft">'
            f"[{percent(bar.low)}, {percent(bar.high)}] n = {escape(str(bar.n))}</tspan></text>"
        )
    return svg(parts, "success rates with 95 % intervals", width, height, "wide")


def binned(value: np.ndarray, outcome: np.ndarray, bins: int = 10) -> np.ndarray:
    """Rows (mean value, mean outcome, count) of equally wide bins of `value` in [0, 1]."""
    index = np.clip((value * bins).astype(int), 0, bins - 1)
    rows = [
        (value[index == i].mean(), outcome[index == i].mean(), int((index == i).sum()))
        for i in range(bins)
        if (index == i).any()
    ]
    return np.array(rows, dtype=float).reshape(-1, 3)


def calibration_plot(value: np.ndarray, outcome: np.ndarray) -> str:
    """Mean return of the logs against predicted V, per bin of V; a dot's area is its share."""
    axes = Axes((0.0, 1.0), (0.0, 1.0))
    parts = axes.frame("V, predicted")
    parts.append(
        f'<line class="diagonal" x1="{axes.x(0)}" y1="{axes.y(0)}" '
        f'x2="{axes.x(1)}" y2="{axes.y(1)}"/>'
    )
    rows = binned(value, outcome)
    shares = rows[:, 2] / rows[:, 2].sum()
    points = " ".join(f"{axes.x(v):.1f},{axes.y(r):.1f}" for v, r, _ in rows)
    parts.append(f'<polyline class="curve" stroke="var(--c0)" opacity=".45" points="{points}"/>')
    for (v, r, count), share in zip(rows, shares, strict=True):
        radius = 3 + 12 * np.sqrt(share)
        parts.append(
            f'<circle cx="{axes.x(v):.1f}" cy="{axes.y(r):.1f}" r="{radius:.1f}" fill="var(--c0)" '
            f'opacity=".8"><title>V {v:.3f}, return {r:.3f}, {count:.0f} steps</title></circle>'
        )
    return svg(parts, "mean return against predicted value", WIDTH, HEIGHT)
