"""What was promised of the end of a run in a `World`: the arm was left holding, or one line says
that it could not be."""

from __future__ import annotations

import numpy as np
from promised_world import CHANGE, D, World

from qsft_robot.types import Observation


def is_hold(world: World) -> bool:
    """Whether the last thing that the arm got leaves it where it is: nothing, a stop, or a command
    that repeats what it was given before, stood at, or said that it sent instead: a driver that
    names a place one change away is taken at its word (docs/safety.md)."""
    got = [(i, e) for i, e in enumerate(world.events) if e[0] in ("sent", "tried", "stopped")]
    if not got or got[-1][1][0] == "stopped":
        return True
    at, (_, last, _) = got[-1]
    still = np.zeros(D, bool)
    still[:3] = world.kind == "displaced"
    if last[still].any():
        return False
    places = last[~still]
    for what, value, extra in world.events[:at]:
        rows = []
        if what in ("sent", "tried"):
            rows = [value, extra]
        elif what == "seen" and isinstance(value, Observation):
            rows = [value.state.get("q")] if isinstance(value.state, dict) else []
        elif what == "told" and isinstance(value, np.ndarray) and value.shape == (D,):
            rows = [value] if (np.abs(value - extra) <= CHANGE + 1e-6)[~still].all() else []
        for row in rows:
            known = isinstance(row, np.ndarray) and row.shape == (D,)
            if known and np.allclose(row[~still], places):
                return True
    return False


def check_end(world: World, result, failure: BaseException | None) -> str:
    """The arm was left holding and disconnected, or the exit status and one line say that it could
    not be; which of them."""
    if world.dead is not None:
        assert "not disconnected" in world.dead
        assert "\n" not in world.dead
        return "process ended"
    met = any(what == "connect" for what, *_ in world.events)
    gone = any(what == "disconnect" for what, *_ in world.events)
    if is_hold(world) and (gone or not met):
        return "error, left" if failure is not None else f"status {result.status}, left"
    if failure is not None:
        assert "hold could not be sent" in str(failure) or "disconnect failed" in str(failure)
        return "error, said"
    assert result.status == 3, (result, [e[0] for e in world.events][-8:])
    assert result.left
    return "status 3, said"
