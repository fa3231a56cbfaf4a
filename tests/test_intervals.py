import math

import numpy as np
import pytest

from qsft_robot.intervals import (
    interquartile_interval,
    interquartile_mean,
    mcnemar,
    mean_interval,
    paired_difference,
    pairs_to_decide,
    probability_of_improvement,
    runs_apart,
    seed_interval,
    student_quantile,
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


def test_the_probability_of_improvement_counts_ties_by_half():
    assert probability_of_improvement([1.0, 2.0], [0.0, 1.0]) == pytest.approx(3.5 / 4)
    with pytest.raises(ValueError, match="numbers of"):
        seed_interval([1], [])


def test_the_paired_interval_has_the_published_values_and_mirrors():
    # Airway hyper-responsiveness, 1 against 7 of 21 pairs (Fagerland, Lydersen and Laake, 2014).
    low, high = paired_difference(1, 7, 21)
    assert (low, high) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert paired_difference(7, 1, 21) == pytest.approx((-high, -low), abs=1e-12)


def test_pairs_that_all_agree_leave_the_interval_of_no_event():
    z2 = 1.959963984540054**2
    bound = z2 / (44 + z2)  # Wilson's for 0 of 44
    assert paired_difference(0, 0, 44) == pytest.approx((-bound, bound), abs=1e-9)


@pytest.mark.parametrize(("first", "second"), [(20, 8), (16, 6), (15, 5), (12, 5), (9, 2)])
def test_the_paired_interval_leaves_out_zero_as_mcnemars_score_does(first, second):
    low, _ = paired_difference(first, second, 100)
    assert (low > 0) == ((first - second) / math.sqrt(first + second) > 1.959963984540054)


def test_students_t_has_its_table():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042}
    for freedom, t in table.items():
        assert student_quantile(0.95, freedom) == pytest.approx(t, abs=5e-4)


def test_runs_vary_at_least_by_what_their_episodes_must():
    alike = runs_apart([0.5, 0.5, 0.5], [0.4, 0.4, 0.4], 100)
    error = math.sqrt((0.25 + 0.24) / 2 / 100 * 2 / 3)
    assert alike.high - alike.low == pytest.approx(2 * 2.776 * error, rel=2e-3)
    assert 0 < runs_apart([0.0, 0.0], [0.0, 0.0], 50).high < 0.1
    with pytest.raises(ValueError, match="three are needed"):
        runs_apart([0.5], [0.4], 100)


def test_as_many_pairs_as_are_asked_for_reach_the_power():
    first, second, n = 20, 10, 100
    needed = pairs_to_decide(first, second, n)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(needed, [first / n, second / n, 1 - (first + second) / n], 400)
    found = np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in drawn])
    assert 0.7 < found < 0.88
    assert pairs_to_decide(4, 4, n) is None


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 3))
    held = 0
    for row in draws:
        low, high = mean_interval(float(row.mean()), float(row.std(ddof=1)), 3)
        held += low <= 3.0 <= high
    assert 0.94 < held / len(draws) < 0.96
    assert mean_interval(1.0, 0.0, 1) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="no mean"):
        mean_interval(0.0, 0.0, 0)


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert interquartile_mean([[0.0, 0.4], [0.6, 100.0]]) == pytest.approx(0.5)
    assert interquartile_mean([[0.2, 0.3, 0.7]]) == pytest.approx(0.4)  # a quarter is no whole one
    with pytest.raises(ValueError, match="no scores"):
        interquartile_mean([[]])
    # Seeds that agree leave nothing to draw; seeds that don't, the interval of their mean.
    assert interquartile_interval([[0.5, 0.5], [0.7, 0.7]]) == pytest.approx((0.6, 0.6))
    low, high = interquartile_interval([[0.0, 1.0]])
    assert (low, high) == (0.0, 1.0)
    wide, narrow = (interquartile_interval([list(np.linspace(0, 1, n))]) for n in (5, 50))
    assert narrow[1] - narrow[0] < wide[1] - wide[0]
