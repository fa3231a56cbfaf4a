"""A comparison in sentences, the same on the terminal and on its page."""

from __future__ import annotations

from qsft_robot.compare.comparison import Comparison
from qsft_robot.intervals import probability_of_improvement


def verdict(compared: Comparison) -> list[str]:
    """Sentences: the difference and its interval, the test, what more would decide it."""
    low, high = compared.interval()
    p = compared.p_value()
    lines = [
        f"first minus second: {compared.difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f} "
        + ("(paired episodes)" if compared.paired else "(training runs)")
    ]
    if compared.paired:
        a, b = compared.only_first, compared.only_second
        lines.append(f"the first alone succeeds in {a}, the second in {b}; McNemar p = {p:.3g}")
        lines.append("one training run a side: what another seed of training would do is not known")
    else:
        better = probability_of_improvement(
            compared.rates(compared.first), compared.rates(compared.second)
        )
        lines.append(
            f"a run of the first is above one of the second with probability {better:.2f}; "
            f"Student's p = {p:.3g}"
        )
    lines.append(_decided(compared, p, low, high))
    return lines


def _decided(compared: Comparison, p: float, low: float, high: float) -> str:
    if p < 0.05 and not low <= 0 <= high:
        return f"decided at the 5 % level: the {'first' if low > 0 else 'second'} is better"
    more = compared.more()
    what = "paired episodes" if compared.paired else "training runs a side"
    if more is None:
        return "undecided: no difference was seen, so none can be planned for"
    if not more:
        return (
            f"undecided, though a difference of {compared.difference:+.3f} would be found by as "
            f"many {what} as these four times in five"
        )
    return (
        f"undecided: if the difference is what was seen, {more} more {what} find it four times in "
        "five"
    )
