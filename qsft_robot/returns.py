"""The affine map of discounted returns from [low, high] to targets w in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ReturnRange:
    """`w = (R - low) / (high - low)` for a discounted return R; rewards are shifted so that the
    recursion `w_t = term_t + gamma w_{t+1}` holds, the shift at a terminal standing for all the
    steps that will not come. The default suits a sparse reward of 1 on success."""

    # discount between two steps of a log, in (0, 1]
    discount: float
    # the lowest and the highest return that any state may have
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"The discount lies in (0, 1], got {self.discount}.")
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"A return range needs low < high, got [{self.low}, {self.high}].")

    def reward_terms(
        self, rewards: Float[np.ndarray, " t"], terminated: bool
    ) -> Float64[np.ndarray, " t"]:
        """The terms of `w_t = term_t + gamma w_{t+1}`; after a terminal end w is 0, after a
        truncated end it is the bootstrap of the last observation, in [0, 1].

        A lambda-return uses the same terms: `w_t = term_t + gamma ((1 - lambda) V_{t+1} +
        lambda w_{t+1})`. A chunk of h steps: `sum_j gamma^j term_{t+j} + gamma^h w_{t+h}`.
        """
        span = self.high - self.low
        terms = (np.asarray(rewards, np.float64) - (1 - self.discount) * self.low) / span
        if terminated:
            terms[-1] = (float(rewards[-1]) - self.low) / span
        return terms

    def monte_carlo(
        self, rewards: Float[np.ndarray, " t"], terminated: bool, bootstrap: float = 0.0
    ) -> Float64[np.ndarray, " t"]:
        """w of every step of one log; `bootstrap` in [0, 1] is w after a truncated end.

        ValueError when a return lies outside [low, high]: never clipped.
        """
        w = self._recur(rewards, terminated, bootstrap)
        self._refuse("", w, w)
        return np.clip(w, 0.0, 1.0)  # rounding only

    def check(self, rewards: Float[np.ndarray, " t"], terminated: bool, where: str = "") -> None:
        """ValueError, naming `where`, when a return lies outside [low, high] whatever the bootstrap
        of a truncated end may be."""
        least = self._recur(rewards, terminated, 0.0)
        most = least if terminated else self._recur(rewards, terminated, 1.0)
        self._refuse(f"{where}: " if where else "", least, most)

    def to_return(self, w: float) -> float:
        """The discounted return that a target or a value w in [0, 1] stands for."""
        return self.low + w * (self.high - self.low)

    def to_json(self) -> dict[str, Any]:
        """discount, low and high."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The range that `to_json` described."""
        # Folders of format 1 say gamma.
        discount = value["discount"] if "discount" in value else value["gamma"]
        return cls(float(discount), float(value["low"]), float(value["high"]))

    def _recur(self, rewards: np.ndarray, terminated: bool, bootstrap: float) -> np.ndarray:
        terms = self.reward_terms(rewards, terminated)
        return discounted(terms, self.discount, 0.0 if terminated else bootstrap)

    def _refuse(self, where: str, least: np.ndarray, most: np.ndarray) -> None:
        excess = np.maximum(-most, least - 1)
        t = int(excess.argmax())
        if excess[t] > _TOLERANCE:
            found = self.to_return(float(least[t] if least[t] > 1 else most[t]))
            raise ValueError(
                f"{where}the return from step {t} on is {found:.6g}, outside the declared range "
                f"[{self.low:g}, {self.high:g}]. Declare a range that holds every return "
                "(--data.return-low, --data.return-high), or pass --data.success-reward to "
                "pay 1 once, at the first success."
            )


def discounted(
    terms: Float64[np.ndarray, " t"], discount: float, after: float = 0.0
) -> Float64[np.ndarray, " t"]:
    """Discounted sums from each step to the end, behind which `after` stands."""
    sums = np.empty_like(terms)
    for t in range(len(terms) - 1, -1, -1):
        after = sums[t] = terms[t] + discount * after
    return sums
