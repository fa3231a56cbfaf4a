"""Wilson's confidence interval of a success rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Rate:
    """A success rate with its confidence interval, all in [0, 1]."""

    successes: int
    n: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def wilson(successes: int, n: int, confidence: float = 0.95) -> Rate:
    """Wilson's score interval: the rates p whose score test does not reject `successes` of `n`.

    The two ends solve (rate - p)^2 = z^2 p (1 - p) / n. Raises ValueError unless
    0 <= successes <= n, n >= 1 and 0 < confidence < 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"no success rate from {successes} successes in {n} episodes")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, it has to lie between 0 and 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The ends at 0 and n successes are exact; rounding would leave 1e-18 there.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Rate(successes, n, rate, low, high)
