"""Intervals of success rates over episodes and over seeds, and comparisons of policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


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


def seed_interval(
    successes: Sequence[int], n: Sequence[int], confidence: float = 0.95
) -> tuple[float, float]:
    """The interval of a success rate over training seeds, one entry each of `successes` and `n`.

    Episodes of one seed share their logs, weights and batches, which Wilson's interval ignores.
    Here each seed has a rate of its own, drawn from a beta distribution around the rate that is
    asked for (a beta-binomial), with correlation rho between episodes of a seed. The prior of the
    rate is uniform and that of rho is Beta(1, 19), of mean .05; the interval is the posterior's
    between equal tails, by summation over a grid. Raises ValueError as `wilson` does.
    """
    if not successes or len(successes) != len(n):
        raise ValueError(f"{len(successes)} numbers of successes and {len(n)} of episodes")
    for k, count in zip(successes, n, strict=True):
        wilson(k, count, confidence)
    rates, rhos = (np.arange(1000) + 0.5) / 1000, (np.arange(100) + 0.5) / 200
    mean, rho = np.meshgrid(rates, rhos, indexing="ij")
    a, b = mean * (1 / rho - 1), (1 - mean) * (1 / rho - 1)
    log_posterior = 18 * np.log1p(-rho)
    for k, count in zip(successes, n, strict=True):
        # log B(a + k, b + n - k) / B(a, b) as sums of logarithms of what the gammas differ by.
        for i, base in ((k, a), (count - k, b)):
            for j in range(i):
                log_posterior += np.log(base + j)
        for j in range(count):
            log_posterior -= np.log(a + b + j)
    mass = np.exp(log_posterior - log_posterior.max()).sum(1).cumsum()
    tail = (1 - confidence) / 2 * mass[-1]
    low, high = np.searchsorted(mass, (tail, mass[-1] - tail))
    return float(rates[low]), float(rates[high])


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact p-value of McNemar's test on paired episodes, from the numbers of pairs
    in which one policy alone succeeded; 1 where there is none."""
    if min(only_first, only_second) < 0:
        raise ValueError(f"numbers of pairs are not negative: {only_first}, {only_second}")
    pairs, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(pairs, k) for k in range(fewer + 1)) / 2**pairs
    return min(1.0, 2 * tail)


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half of the values, those at the quartiles counted by their share
    (Agarwal et al., arXiv 2108.13264). ValueError where there is none."""
    if not values:
        raise ValueError("no values to average")
    ordered, cut = np.sort(np.asarray(values, np.float64)), len(values) / 4
    index = np.arange(len(ordered))
    weight = np.clip(np.minimum(index + 1, len(ordered) - cut) - np.maximum(index, cut), 0, 1)
    return float((weight * ordered).sum() / weight.sum())


def probability_of_improvement(first: Sequence[float], second: Sequence[float]) -> float:
    """How likely a seed of the first is above a seed of the second, ties counted by half."""
    if not first or not second:
        raise ValueError("no values to compare")
    gap = np.subtract.outer(np.asarray(first, float), np.asarray(second, float))
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())
