"""Statistics of a LeRobot data set, as LeRobot computes them for each episode and joins them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
# Larger images are thinned out to about this size.
_LARGE, _THINNED = 300, 150

Statistics = dict[str, np.ndarray]


def row_statistics(rows: np.ndarray) -> Statistics:
    """Statistics of numbers [t, s]: min, max, mean, std, quantiles, each [s]; count [1]."""
    values = np.asarray(rows, np.float64)
    found = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
    }
    # LeRobot counts in 5,000 bins: the value itself, to a bin's width, and no mean of two.
    chosen = list(_QUANTILES.values())
    quantiles = np.quantile(values, chosen, axis=0, method="inverted_cdf")
    return found | dict(zip(_QUANTILES, quantiles, strict=True))


def image_statistics(frames: np.ndarray) -> Statistics:
    """Statistics of frames uint8 [t, h, w, 3] in [0, 1], each [3, 1, 1]; count is of frames.

    Of a long episode about t ** .75 frames are looked at, and large images are thinned out.
    """
    steps, height, width = frames.shape[:3]
    looked_at = max(min(steps, 100), min(int(steps**0.75), 10_000))
    chosen = frames[np.round(np.linspace(0, steps - 1, looked_at)).astype(int)]
    if max(height, width) >= _LARGE:
        # LeRobot thins by the longer side, the height where they are equal.
        every = max(int((width if width > height else height) / _THINNED), 1)
        chosen = chosen[:, ::every, ::every]
    found: Statistics = {}
    counts = np.stack(
        [np.bincount(chosen[..., c].ravel(), minlength=256) for c in range(3)]
    ).astype(np.float64)
    levels = np.arange(256) / 255.0
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    found["min"] = np.array([levels[np.flatnonzero(row)[0]] for row in counts])
    found["max"] = np.array([levels[np.flatnonzero(row)[-1]] for row in counts])
    found["mean"] = mean
    found["std"] = np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0.0))
    cumulative = np.cumsum(counts, axis=1)
    for name, q in _QUANTILES.items():
        at = [np.searchsorted(row, q * n) for row, n in zip(cumulative, total, strict=True)]
        found[name] = levels[np.minimum(at, 255)]
    found = {name: value.reshape(3, 1, 1) for name, value in found.items()}
    return found | {"count": np.array([looked_at])}


class JoinedStatistics:
    """Statistics of all episodes from those of each: exact but for the quantiles, which are the
    episodes' quantiles averaged by their counts (LeRobot's rule)."""

    def __init__(self) -> None:
        self._joined: dict[str, Statistics] = {}

    def add(self, episode: Mapping[str, Statistics]) -> None:
        """Count one more episode in: feature -> its statistics."""
        for feature, new in episode.items():
            old = self._joined.get(feature)
            self._joined[feature] = dict(new) if old is None else _join(old, new)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Feature -> statistic -> nested lists."""
        return {
            feature: {name: value.tolist() for name, value in found.items()}
            for feature, found in self._joined.items()
        }


def _join(a: Statistics, b: Statistics) -> Statistics:
    n = a["count"] + b["count"]
    share = b["count"] / n
    mean = a["mean"] + share * (b["mean"] - a["mean"])
    variance = (1 - share) * (a["std"] ** 2 + (a["mean"] - mean) ** 2) + share * (
        b["std"] ** 2 + (b["mean"] - mean) ** 2
    )
    joined = {
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": n,
    }
    return joined | {q: a[q] + share * (b[q] - a[q]) for q in _QUANTILES}
