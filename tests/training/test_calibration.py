"""Whether V tells actions apart: its rise along logs that succeed against the others."""

import math

import numpy as np
import pytest

from qsft_robot.logs.summary import rare_success
from qsft_robot.training.calibration import FEWEST, rise_of


def test_the_rise_is_a_difference_of_means_with_its_standard_error():
    success, other = [0.5, 0.7, 0.9, 0.7, 0.7], [0.1, -0.1, 0.0, 0.2, -0.2, 0.0]
    rise = rise_of(success, other)
    assert rise.success == pytest.approx(np.mean(success))
    assert rise.other == pytest.approx(np.mean(other), abs=1e-7)
    error = math.sqrt(np.var(success, ddof=1) / 5 + np.var(other, ddof=1) / 6)
    assert rise.standard_error == pytest.approx(error, rel=1e-5)
    assert rise.logs == (5, 6)
    assert rise.tells_apart


def test_values_that_are_noise_tell_nothing_apart():
    rng = np.random.default_rng(0)
    draws = [
        rise_of(rng.normal(0, 1, 40).tolist(), rng.normal(0, 1, 60).tolist()) for _ in range(300)
    ]
    # One-sided at two standard errors: 2.3 % of the time.
    assert 0 < np.mean([x.tells_apart for x in draws]) < 0.06
    flat = rise_of([0.0] * 5, [0.0] * 5)
    assert not flat.tells_apart
    assert rise_of([1.0] * (FEWEST - 1), [0.0] * 50) is None


@pytest.mark.parametrize(
    ("successes", "lengths", "said"),
    [
        (9, [200] * 100, True),
        (10, [200] * 100, False),
        (9, [99] * 100, False),
        (0, [200] * 100, False),
        (9, [100] * 60 + [3] * 40, True),
        (0, [], False),
    ],
)
def test_few_successes_in_long_logs_are_said(successes, lengths, said):
    words = rare_success(successes, lengths)
    assert (words is not None) == said
    assert not said or f"{successes} of {len(lengths)}" in words
