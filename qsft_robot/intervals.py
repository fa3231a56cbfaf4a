"""Intervals of success rates over episodes and over seeds, and comparisons of policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

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


def paired_difference(
    only_first: int, only_second: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Tango's score interval of the difference (first minus second) of two success rates on the
    same `n` episodes, of which one policy alone succeeded in `only_first` and `only_second`.

    Its ends are the differences whose score test does not reject; that of 0 is McNemar's without
    correction (Tango, Statistics in Medicine 17, 1998). ValueError unless the counts fit in `n`.
    """
    if n < 1 or min(only_first, only_second) < 0 or only_first + only_second > n:
        raise ValueError(f"no {only_first} and {only_second} of {n} pairs of episodes")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    seen = (only_first - only_second) / n

    def score(gap: float) -> float:
        # The most likely share of pairs in which the second alone succeeds, given the gap.
        linear = (2 * n - only_first + only_second) * gap - only_first - only_second
        root = math.sqrt(max(0.0, linear**2 + 8 * n * only_second * gap * (1 - gap)))
        second = (root - linear) / (4 * n)
        variance = max(0.0, n * (2 * second + gap * (1 - gap)))
        above = n * (seen - gap)
        return math.copysign(math.inf, above) if variance == 0 else above / math.sqrt(variance)

    ends = []
    for edge, sign in ((-1.0, 1), (1.0, -1)):
        inner, outer = seen, edge
        for _ in range(60):
            middle = (inner + outer) / 2
            if sign * score(middle) < z:
                inner = middle
            else:
                outer = middle
        ends.append(edge if seen == edge else (inner + outer) / 2)
    return ends[0], ends[1]


def pairs_to_decide(only_first: int, only_second: int, n: int, power: float = 0.8) -> int | None:
    """How many paired episodes McNemar's test at the 5 % level needs, to find in `power` of all
    cases a difference as large as the one seen in `n` (Connor, Biometrics 43, 1987); None where
    none was seen."""
    gap, apart = (only_first - only_second) / n, (only_first + only_second) / n
    if gap == 0:
        return None
    normal = NormalDist()
    sides = normal.inv_cdf(0.975) * math.sqrt(apart)
    sides += normal.inv_cdf(power) * math.sqrt(max(0.0, apart - gap * gap))
    return math.ceil((sides / gap) ** 2)


@dataclass(frozen=True)
class RunsApart:
    """How far the mean rates of two groups of training runs lie apart."""

    difference: float
    low: float
    high: float
    p: float
    more_runs: int | None  # a side, to show as much with power .8; None where no difference is


def runs_apart(
    first: Sequence[float], second: Sequence[float], n: int, confidence: float = 0.95
) -> RunsApart:
    """Student's two-sample t over training runs, whose success rates are of `n` episodes each.

    A run varies by what the runs of a side did (pooled over the sides), and at least by what `n`
    episodes must. ValueError below three runs, among which nothing varies.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    freedom = len(a) + len(b) - 2
    if not len(a) or not len(b) or freedom < 1:
        raise ValueError(f"{len(a)} and {len(b)} training runs: three are needed in all")
    difference = float(a.mean() - b.mean())
    within = (((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / freedom
    # Laplace's rule keeps what no episode showed from being certain.
    rates = [(x.sum() * n + 1) / (len(x) * n + 2) for x in (a, b)]
    spread = max(float(within), fmean(rate * (1 - rate) / n for rate in rates))
    error = math.sqrt(spread * (1 / len(a) + 1 / len(b)))
    reach = student_quantile(confidence, freedom) * error
    normal = NormalDist()
    needed = 2 * spread * (normal.inv_cdf(0.975) + normal.inv_cdf(0.8)) ** 2
    more = math.ceil(needed / difference**2) if difference else None
    return RunsApart(
        difference,
        max(-1.0, difference - reach),
        min(1.0, difference + reach),
        1 - student_within(abs(difference) / error, freedom),
        None if more is None else max(0, more - min(len(a), len(b))),
    )


def student_within(t: float, freedom: int) -> float:
    """The probability that Student's t of so many degrees of freedom lies in [-t, t], by the finite
    sums of whole degrees (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    even = freedom % 2 == 0
    term = total = 1.0 if even else math.cos(angle)
    for k in range(2 if even else 3, freedom, 2):
        term *= math.cos(angle) ** 2 * ((k - 1) / k)
        total += term
    if even:
        return math.sin(angle) * total
    series = math.sin(angle) * total if freedom > 1 else 0.0
    return 2 / math.pi * (angle + series)


def student_quantile(confidence: float, freedom: int) -> float:
    """The t whose [-t, t] has this probability."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if student_within(middle, freedom) < confidence else (low, middle)
        )
    return high


def mean_interval(
    mean: float, deviation: float, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Student's interval of a mean of n independent numbers with this standard deviation (with
    n - 1 below it); the whole line for one number. ValueError for none."""
    if n < 1:
        raise ValueError("no mean of no numbers")
    if n == 1:
        return -math.inf, math.inf
    half = student_quantile(confidence, n - 1) * deviation / math.sqrt(n)
    return mean - half, mean + half


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact p-value of McNemar's test on paired episodes, from the numbers of pairs
    in which one policy alone succeeded; 1 where there is none."""
    if min(only_first, only_second) < 0:
        raise ValueError(f"numbers of pairs are not negative: {only_first}, {only_second}")
    pairs, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(pairs, k) for k in range(fewer + 1)) / 2**pairs
    return min(1.0, 2 * tail)


def probability_of_improvement(first: Sequence[float], second: Sequence[float]) -> float:
    """How likely a seed of the first is above a seed of the second, ties counted by half."""
    if not first or not second:
        raise ValueError("no values to compare")
    gap = np.subtract.outer(np.asarray(first, float), np.asarray(second, float))
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def interquartile_mean(scores: Sequence[Sequence[float]]) -> float:
    """The mean of the middle half of all scores [task][seed]: a quarter of them, rounded down, is
    left out at either end (Agarwal et al., arXiv 2108.13264)."""
    ordered = np.sort(np.concatenate([np.asarray(task, float) for task in scores]))
    if not len(ordered):
        raise ValueError("no scores to average")
    out = len(ordered) // 4
    return float(ordered[out : len(ordered) - out].mean())


def interquartile_interval(
    scores: Sequence[Sequence[float]], confidence: float = 0.95, draws: int = 4000
) -> tuple[float, float]:
    """The interval of the interquartile mean of [task][seed], by drawing the seeds of each task
    anew with replacement; the tasks are those that there are."""
    generator = np.random.default_rng(0)
    tasks = [np.asarray(task, float) for task in scores]
    found = [
        interquartile_mean([generator.choice(task, len(task)).tolist() for task in tasks])
        for _ in range(draws)
    ]
    low, high = np.quantile(found, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)
