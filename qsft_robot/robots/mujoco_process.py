"""The process in which the MuJoCo arm lives: its physics keeps step with the wall clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from qsft_robot.parts.simulators import build_env, build_motion
from qsft_robot.rollouts.array_messages import pack, unpack
from qsft_robot.rollouts.worker import env_description

# Longest sleep: the physics catches up with the clock at least so often, seconds.
_NAP_S = 0.025
# A process that was stopped for longer lets the simulated time slip instead of racing after it.
_SLIP_S = 0.5


class RealtimeArm:
    """One environment whose simulated time is the wall's; every answer is of this moment."""

    def __init__(self, env_args: Mapping[str, Any], control_hz: float, watchdog_s: float) -> None:
        self._env = build_env(env_args, terminate_on_success=False)
        self._env.reset(seed=0)
        self._motion = build_motion(self._env, control_hz)
        self._watchdog_s = watchdog_s
        self._instruction = ""
        self.counts = {"watchdog_holds": 0, "slips": 0}
        self._rest()

    @property
    def description(self) -> dict[str, Any]:
        """The facts about the arm that the main process needs."""
        spaces = self._env.observation_space.spaces.items()  # type: ignore[attr-defined]
        return {
            "env_args": env_description(self._env, {}),
            "shapes": {key: [str(space.dtype), *space.shape] for key, space in spaces},
            "scale": self._motion.scale,
            "leash": self._motion.leash,
        }

    def _rest(self) -> None:
        """The clock of the simulation begins now."""
        self._began, self._done = time.monotonic(), 0
        self._commanded = self._began
        self._holding = True

    def catch_up(self) -> None:
        """Bring the physics to this moment, and stop an arm that gets no more commands."""
        now, step = time.monotonic(), self._motion.physics_s
        due = int((now - self._began) / step)
        if (due - self._done) * step > _SLIP_S:
            self._began += (due - self._done) * step - _SLIP_S
            due = self._done + int(_SLIP_S / step)
            self.counts["slips"] += 1
        self._motion.advance(due - self._done)
        self._done = due
        if not self._holding and now - self._commanded > self._watchdog_s:
            self._motion.hold()
            self._holding = True
            self.counts["watchdog_holds"] += 1

    def begin(self, seed: int) -> None:
        """Lay the table out anew."""
        _, info = self._env.reset(seed=seed)
        self._instruction = str(info.get("instruction", ""))
        self._motion.begin()
        self._rest()

    def command(self, action: Any) -> None:
        """Take an action; it is carried out from now on."""
        self.catch_up()
        self._motion.command(action)
        self._commanded, self._holding = time.monotonic(), False

    def observe(self) -> dict[str, Any]:
        """The readings of cameras and sensors now."""
        self.catch_up()
        observation, success = self._motion.observe()
        return {
            "observation": observation,
            "instruction": self._instruction,
            "success": success,
            "counts": self.counts,
        }


def serve(descriptor: int) -> None:
    """Answer the main process over an inherited pipe until it closes."""
    connection = Connection(descriptor)
    try:
        settings = unpack(connection.recv_bytes())
        arm = RealtimeArm(settings["env_args"], settings["control_hz"], settings["watchdog_s"])
        connection.send_bytes(pack(arm.description))
        while True:
            if not connection.poll(_NAP_S):
                arm.catch_up()
                continue
            message = unpack(connection.recv_bytes())
            if message["do"] == "command":
                arm.command(message["action"])
            elif message["do"] == "observe":
                connection.send_bytes(pack(arm.observe()))
            else:
                arm.begin(message["seed"])
                connection.send_bytes(pack(arm.observe()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        connection.send_bytes(pack({"failed": f"{type(error).__name__}: {error}"}))
        raise
