import math

import pytest

from qsft_robot.intervals import wilson


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
