import math

import numpy as np
import pytest

from qsft_robot.intervals import (
    interquartile_mean,
    mcnemar,
    probability_of_improvement,
    seed_interval,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # the score interval of Newcombe (1998), method 3, his table of examples
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_has_the_published_values(successes, n, low, high):
    rate = wilson(successes, n)
    assert rate.low == pytest.approx(low, abs=5e-5)
    assert rate.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 3), (50, 70), (199, 200)])
def test_the_ends_solve_the_score_equation(successes, n):
    rate = wilson(successes, n, confidence=0.9)
    for p in (rate.low, rate.high):
        z = (rate.rate - p) / math.sqrt(p * (1 - p) / n)
        assert abs(z) == pytest.approx(1.6448536269514722, rel=1e-9)


def test_the_interval_mirrors_and_stays_within_zero_and_one():
    for n in (1, 7, 200):
        for k in range(n + 1):
            rate, mirror = wilson(k, n), wilson(n - k, n)
            assert 0 <= rate.low <= rate.rate <= rate.high <= 1
            assert rate.low == pytest.approx(1 - mirror.high, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_no_rate_without_episodes(successes, n):
    with pytest.raises(ValueError, match="no success rate"):
        wilson(successes, n)


def test_seeds_that_agree_widen_little_and_seeds_that_differ_widen_much():
    alike, apart = ([100] * 8, [200] * 8), ([40, 160] * 4, [200] * 8)
    pooled = wilson(800, 1600)
    for successes, n in (alike, apart):
        low, high = seed_interval(successes, n)
        assert low < pooled.low
        assert high > pooled.high
    (a, b), (c, d) = seed_interval(*alike), seed_interval(*apart)
    assert 2 * (b - a) < d - c


def test_the_interval_over_seeds_covers_the_rate_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        rates = random.beta(0.7 * 19, 0.3 * 19, size=4)  # the prior's mean correlation
        low, high = seed_interval(random.binomial(50, rates).tolist(), [50] * 4)
        covered += low <= 0.7 <= high
    assert covered >= 52  # 57 expected


def test_mcnemar_is_the_sign_test_of_the_pairs_that_differ():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(3, 3) == 1.0
    with pytest.raises(ValueError, match="not negative"):
        mcnemar(-1, 2)


def test_aggregates():
    assert interquartile_mean([0.0, 1.0, 2.0, 100.0]) == 1.5
    assert interquartile_mean([5.0]) == 5.0
    # Six values: half of the second and of the fifth, and all of the two between.
    assert interquartile_mean([0, 1, 2, 3, 4, 50]) == pytest.approx((0.5 + 2 + 3 + 2) / 3)
    assert probability_of_improvement([1.0, 2.0], [0.0, 1.0]) == pytest.approx(3.5 / 4)
    for refused in (lambda: interquartile_mean([]), lambda: seed_interval([1], [])):
        with pytest.raises(ValueError, match=r"no values|numbers of"):
            refused()
