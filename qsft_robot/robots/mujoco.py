"""The tabletop arm as a robot: a simulation in a process of its own that runs in real time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe
from typing import Any, BinaryIO

import numpy as np

from qsft_robot.control.robot import EndEffector, Outcome, RobotSpec
from qsft_robot.rollouts.array_messages import pack, unpack
from qsft_robot.rollouts.worker_channel import STARTUP_S
from qsft_robot.types import Observation

# The path travels as an argument, so the process imports what this one would.
_BOOT = (
    "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.argv[1]); "
    "from qsft_robot.robots.mujoco_process import serve; serve(int(sys.argv[2]))"
)
_LOG_TAIL = 2000


class MujocoRobot:
    """The tabletop arm at `control_hz` commands a second. An action of 1 is 0.4 m/s whatever the
    rate; between commands the arm keeps the last point, and after `watchdog_s` seconds without one
    it stops on its own. Cameras are drawn in that process when an observation is asked for.

    Only pipes are used: nothing listens on a port. RuntimeError when the process dies or does not
    answer within `timeout_s`.
    """

    def __init__(
        self,
        env_args: Mapping[str, Any],
        control_hz: float = 10.0,
        watchdog_s: float = 0.5,
        timeout_s: float = 5.0,
    ) -> None:
        if not 0 < control_hz <= 100 or not watchdog_s > 0:
            raise ValueError(
                f"the MuJoCo arm takes 0 to 100 commands a second and a watchdog above 0 s, got "
                f"{control_hz} Hz and {watchdog_s} s."
            )
        self._env_args, self._hz, self._watchdog_s = dict(env_args), control_hz, watchdog_s
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._success = False
        # What the process counted: holds of its own watchdog, slips of its clock.
        self.counts: dict[str, int] = {}

    @property
    def spec(self) -> RobotSpec:
        """Known once connected."""
        if self._process is None:
            raise RuntimeError("the MuJoCo arm is not connected: call connect() first.")
        return self._spec

    def connect(self) -> None:
        """Start the process and wait until its scene stands."""
        if self._process is not None:
            return
        self._log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._pipe: Connection
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", **os.environ},
            # Ctrl-Z and Ctrl-\\ in the terminal are the loop's, which ends it.
            start_new_session=True,
        )
        theirs.close()
        try:
            settings = {"env_args": self._env_args, "control_hz": self._hz}
            self._pipe.send_bytes(pack({**settings, "watchdog_s": self._watchdog_s}))
            self._spec = _spec_of(self._receive(STARTUP_S), self._hz)
        except BaseException:
            self.disconnect()
            raise

    def begin_episode(self, seed: int) -> None:
        """Lay the table out as `seed` has it."""
        self._send({"do": "begin", "seed": int(seed)})
        self._receive(STARTUP_S)  # its first image makes the GL context
        self._success = False

    def outcome(self) -> Outcome:
        """Whether the task was done when last looked at; an episode here has no end of its own."""
        return Outcome(self._success)

    def get_observation(self) -> Observation:
        """The observation of the arm now."""
        self._send({"do": "observe"})
        answer = self._receive(self._timeout_s)
        self._success, self.counts = answer["success"], answer["counts"]
        return Observation.from_env(answer["observation"], answer["instruction"])

    def send_action(self, action: np.ndarray) -> None:
        """Hand a command over, float32 [4]; returns at once."""
        self._send({"do": "command", "action": np.asarray(action, np.float32)})

    def disconnect(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        self._pipe.close()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._log.close()

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is None:
            raise RuntimeError("the MuJoCo arm is not connected: call connect() first.")
        try:
            self._pipe.send_bytes(pack(message))
        except OSError as error:
            raise RuntimeError(self._died()) from error

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            if not self._pipe.poll(timeout_s):
                raise RuntimeError(f"the MuJoCo arm did not answer within {timeout_s:g} s.")
            answer = unpack(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise RuntimeError(self._died()) from error
        if "failed" in answer:
            raise RuntimeError(f"the MuJoCo arm's process failed: {answer['failed']}")
        return answer

    def _died(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_TAIL))
        said = self._log.read().decode(errors="replace").strip().splitlines()
        return f"the MuJoCo arm's process ended ({said[-1] if said else 'it said nothing'})."


def _spec_of(said: Mapping[str, Any], control_hz: float) -> RobotSpec:
    images = {k: v for k, v in said["shapes"].items() if v[0] == "uint8"}
    return RobotSpec(
        name="mujoco",
        cameras={key: (shape[1], shape[2]) for key, shape in images.items()},
        state={key: shape[1] for key, shape in said["shapes"].items() if key not in images},
        action_low=np.full(4, -1.0),
        action_high=np.full(4, 1.0),
        control_hz=control_hz,
        displacements=(0, 1, 2),
        speeds=(0, 1, 2),
        switches=(3,),
        units=("0.4 m/s", "0.4 m/s", "0.4 m/s", "> 0 closes"),
        end_effector=EndEffector("proprio", "displacement", said["scale"], said["leash"]),
        env_args={**said["env_args"], "control_hz": control_hz},
    )
