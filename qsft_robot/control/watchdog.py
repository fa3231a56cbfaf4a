"""The watchdog of the control loop: no action means hold, and holding for too long means stop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Stance(Enum):
    """Mode of the loop at a tick."""

    ACT = "act"
    HOLD = "hold"
    STOP = "stop"


@dataclass
class Watchdog:
    """Told at each tick whether there is a fresh action; a stop is for good until `reset`."""

    # Seconds without an action after which the episode is stopped.
    stop_after_s: float
    # Ticks held, and the number of times that holding began.
    held_ticks: int = 0
    holds: int = 0
    stops: int = 0
    stance: Stance = Stance.ACT
    _since: float | None = None

    def __post_init__(self) -> None:
        if not self.stop_after_s > 0:
            raise ValueError(f"--stop-after {self.stop_after_s}: give seconds above 0.")

    def reset(self) -> None:
        """An episode begins; the counts go on."""
        self.stance, self._since = Stance.ACT, None

    def stop(self) -> None:
        """Stop, whatever the ticks say."""
        self.stops += self.stance is not Stance.STOP
        self.stance = Stance.STOP

    def tick(self, has_action: bool, now_s: float) -> Stance:
        """The stance at a tick that begins at `now_s` (seconds of any monotonic clock)."""
        if self.stance is Stance.STOP:
            return self.stance
        if has_action:
            self.stance, self._since = Stance.ACT, None
            return self.stance
        if self._since is None:
            self._since = now_s
            self.holds += 1
        if now_s - self._since >= self.stop_after_s:
            self.stance = Stance.STOP
            self.stops += 1
        else:
            self.stance = Stance.HOLD
            self.held_ticks += 1
        return self.stance
