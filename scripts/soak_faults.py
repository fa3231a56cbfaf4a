"""Soaks the promise of docs/safety.md: random faults and signals on the MuJoCo arm, run after run.

Every run is a process of its own: a real policy at 20 Hz on the arm, whose driver and policy fail
at random moments, while signals come from outside. What the arm got is written down at its door
and held against the limits here, by other code than the loop's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from qsft_robot.control.loop import LoopSettings
from qsft_robot.control.robot import Outcome, RobotSpec
from qsft_robot.control.run import run_robot
from qsft_robot.control.run_report import RunSettings
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.robots.choose import open_local_or_remote
from qsft_robot.robots.mujoco import MujocoRobot
from qsft_robot.types import Observation

STOP_AFTER_S, SECONDS = 2.0, 25.0
# Share of the calls at which one of the passing faults happens, and of those that end a run.
PASSING, ENDING = 0.015, 0.0006
SIGNALS = ["INT", "TERM", "HUP", "TSTP", "QUIT", "USR1", "USR2", "ALRM"]


class FaultyArm:
    """The MuJoCo arm behind a driver that fails; `stop` is its second path in half of the runs."""

    def __init__(self, arm: MujocoRobot, draw: random.Random, log: TextIO) -> None:
        self.arm, self.draw, self.log = arm, draw, log
        self.shown: Observation | None = None
        self.frozen = 0

    def note(self, what: str, *numbers: Any) -> None:
        self.log.write(f"{time.monotonic():.4f} {what} {' '.join(map(repr, numbers))}\n")

    @property
    def spec(self) -> RobotSpec:
        return self.arm.spec

    def connect(self) -> None:
        self.arm.connect()
        self.note("connect")

    def begin_episode(self, seed: int) -> None:
        self.arm.begin_episode(seed)
        self.note("begin")

    def outcome(self) -> Outcome:
        return Outcome(False)

    def get_observation(self) -> Any:
        seen, draw = self.arm.get_observation(), self.draw
        self.frozen -= 1
        if self.frozen > 0 and self.shown is not None:
            return self.shown
        self.shown = seen
        if draw.random() < ENDING:
            self.fail("observe")
        if draw.random() >= PASSING:
            return seen
        kind = draw.choice(["nan", "glitch", "far", "missing", "shape", "none", "late", "freezes"])
        self.note("fault", f"observe {kind}")
        row = seen.state["proprio"].copy()
        if kind == "late":
            time.sleep(draw.uniform(0.02, 0.5))
        elif kind == "freezes":
            self.frozen = draw.randrange(5, 60)
        elif kind in ("nan", "glitch", "far"):
            row[draw.randrange(3)] = {"nan": np.nan, "glitch": draw.uniform(-1, 1), "far": 1e6}[
                kind
            ]
            return Observation(seen.images, {**seen.state, "proprio": row}, seen.instruction)
        elif kind == "missing":
            return Observation(seen.images, {}, seen.instruction)
        elif kind == "shape":
            return Observation(seen.images, {**seen.state, "proprio": row[:5]}, seen.instruction)
        return None if kind == "none" else seen

    def send_action(self, action: np.ndarray) -> Any:
        self.note("command", *(float(x) for x in action))
        if self.draw.random() < ENDING:
            self.fail("send")
        self.arm.send_action(action)
        if self.draw.random() >= PASSING:
            return None
        kind = self.draw.choice(["24", "nan", "inf", "degrees", "text", "late", "scribbles"])
        self.note("fault", f"send {kind}")
        if kind == "late":
            time.sleep(self.draw.uniform(0.02, 0.5))
        if kind == "scribbles":
            action[:] = np.nan
        answers = {"24": 24, "nan": action * np.nan, "inf": action + np.inf, "degrees": action * 57}
        return {**answers, "text": "OK"}.get(kind)

    def fail(self, where: str) -> None:
        """A fault that a run does not outlive."""
        kind = self.draw.choice(["raises", "exits", "memory", "4 s", "for ever", "holds the lock"])
        self.note("fault", f"{where} {kind}")
        if kind == "4 s":
            time.sleep(4.0)
        elif kind == "for ever":
            while True:
                time.sleep(1)
        elif kind == "holds the lock":
            import ctypes

            ctypes.PyDLL(None).sleep(1000)  # as C code that never lets other threads run
        else:
            raise {"raises": OSError("bus"), "exits": SystemExit(0), "memory": MemoryError()}[kind]

    def disconnect(self) -> None:
        if self.draw.random() < 0.05:
            self.note("fault", "disconnect raises")
            raise OSError("torque could not be switched off")
        self.arm.disconnect()
        self.note("disconnect")


class StoppableArm(FaultyArm):
    def stop(self) -> None:
        self.note("stop")


class FaultyPolicy:
    """A real policy that is late, raises, or answers garbage at times."""

    def __init__(self, policy: Any, draw: random.Random, log: TextIO) -> None:
        self.policy, self.draw, self.log = policy, draw, log
        self.asked = 0

    def reset(self, seed: int = 0) -> None:
        self.policy.reset(seed)

    def infer(self, observation: Observation) -> Any:
        actions, self.asked = self.policy.infer(observation), self.asked + 1
        if self.asked < 5 or self.draw.random() >= PASSING:
            return actions
        kind = self.draw.choice(["late", "very late", "raises", "nan", "huge", "shape", "exits"])
        self.log.write(f"{time.monotonic():.4f} fault 'policy {kind}'\n")
        if kind in ("late", "very late"):
            time.sleep(self.draw.uniform(0.05, 0.3) if kind == "late" else 1.5)
        elif kind == "raises":
            raise ConnectionError("no answer")
        elif kind == "exits":
            raise SystemExit(0)
        return {"nan": actions * np.nan, "huge": actions * 1e30, "shape": actions[:, :2]}.get(
            kind, actions
        )


def one_run(policy: Path, out: Path, seed: int, hz: float) -> int:
    """A run in this process, as `qsft-robot run` does it; its exit status."""
    draw = random.Random(seed)
    with (out / "arm.log").open("w", buffering=1) as log:
        loaded, description = open_local_or_remote(str(policy), acting={}, token=None, timeout_s=1)
        kind = StoppableArm if draw.random() < 0.5 else FaultyArm
        arm = kind(MujocoRobot(description.env_args, hz), draw, log)
        loop = LoopSettings(hz, max_steps=round(SECONDS * hz), stop_after_s=STOP_AFTER_S)
        settings = RunSettings(out, loop, 2, seed, accept=("rate",), record=draw.random() < 0.5)
        faulty = FaultyPolicy(loaded, random.Random(seed + 1), log)
        try:
            result = run_robot(arm, faulty, description, settings)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if result.left:
            print(f"error: {'; '.join(result.left)}", file=sys.stderr)
        log.write(f"{time.monotonic():.4f} end {','.join(end.reason for end in result.ends)!r}\n")
        return result.status


def disturb(process: subprocess.Popen[bytes], draw: random.Random, told: Counter[str]) -> int:
    """Wait for the end of a run, sending it signals at a random moment; its exit status."""
    kind = draw.choice(["nothing"] * 4 + ["signals", "signals", "held key", "stopped", "killed"])
    try:
        return process.wait(draw.uniform(3, 45))
    except subprocess.TimeoutExpired:
        told[f"from outside: {kind}"] += kind != "nothing"
    if kind == "signals":
        for _ in range(draw.randrange(1, 6)):
            process.send_signal(getattr(signal, f"SIG{draw.choice(SIGNALS)}"))
            time.sleep(draw.choice([0, 0.001, 0.033, 0.2]))
    elif kind == "held key":
        for _ in range(60):
            process.send_signal(signal.SIGINT)
            time.sleep(0.033)
    elif kind == "stopped":
        process.send_signal(signal.SIGSTOP)
        time.sleep(draw.uniform(0.2, 4.0))
        process.send_signal(signal.SIGCONT)
    elif kind == "killed":
        process.kill()
    try:
        return process.wait(180)
    except subprocess.TimeoutExpired:
        told["RUNS THAT NEVER ENDED"] += 1
        process.kill()
        return process.wait()


def inspect(
    out: Path, status: int, description: PolicyDescription, hz: float, told: Counter[str]
) -> None:
    """Hold what the arm got against what was promised."""
    seen = description.action.seen
    low, high = np.asarray(seen.low), np.asarray(seen.high)
    low[:3], high[:3] = np.minimum(low[:3], 0), np.maximum(high[:3], 0)
    change = np.asarray(seen.largest_change)[:3]
    change = change * min(1.0, description.action.control_hz / hz)
    commands: list[np.ndarray] = []
    last, gone, met, ended = "", False, False, ""
    for line in (out / "arm.log").read_text().splitlines():
        _, what, *words = line.split(" ", 2)
        rest = words[0] if words else ""
        met, gone = met or what == "connect", gone or what == "disconnect"
        if what in ("command", "stop"):
            last = what
        if what == "fault":
            told[f"fault: {rest.strip(chr(39))}"] += 1
        if what == "end":
            ended = rest
        if what == "begin":
            commands.append(np.zeros(4))  # the arm stands again
        if what != "command":
            continue
        now = np.array([float(x) for x in rest.split()])
        told["commands"] += 1
        before = commands[-1]
        bad = not np.isfinite(now).all() or ((now < low - 1e-6) | (now > high + 1e-6)).any()
        jumped = np.abs(now - before)[:3] > change + 1e-6
        slower = (np.abs(now) <= np.abs(before) + 1e-6) & (now * before >= 0)
        told["COMMANDS BEYOND A LIMIT"] += bool(bad or (jumped & ~slower[:3]).any())
        commands.append(now)
    held = last in ("", "stop") or not commands[-1][:3].any()
    said = [x for x in (out / "stderr").read_text().splitlines() if x.startswith("error: ")]
    told["runs"] += 1
    told[f"exit status {status}"] += 1
    for reason in ended.strip("'").split(","):
        told[f"episode ended: {reason or 'with an error, or the process'}"] += 1
    if held and (gone or not met):
        told["runs that left the arm holding and disconnected"] += 1
    elif status != 0 and said:
        told["runs that said that they could not"] += 1
    else:
        told["ENDS WITHOUT A HOLD, UNSAID"] += 1
    try:
        report = json.loads((out / "cadence.json").read_text())
    except (OSError, ValueError):
        return
    told["ticks (of runs that wrote a report)"] += report["ticks"]
    told["overruns"] += report["overruns"]
    told["ticks held"] += report["held_ticks"]
    for key in ("bad_observations", "failed_decisions", "strange_returns"):
        told[key] += report.get(key, 0)


def main() -> None:
    """Run for so many minutes and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--control-hz", type=float, default=20.0)
    parser.add_argument(
        "--policy", type=Path, help="a policy folder; a small one is trained if none"
    )
    parser.add_argument("--out", type=Path, help="folder to keep; a temporary one if none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-run", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one_run is not None:
        sys.exit(one_run(flags.policy, flags.out, flags.one_run, flags.control_hz))
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        out = flags.out or Path(temporary)
        policy = flags.policy
        if policy is None:
            from soak_control import small_policy

            policy = small_policy(out)
        _, description = open_local_or_remote(str(policy), acting={}, token=None, timeout_s=1)
        told, draw = Counter[str](), random.Random(flags.seed)
        until = time.monotonic() + 60 * flags.minutes
        while time.monotonic() < until:
            number = flags.seed + told["runs"]
            folder = out / f"run_{number:05d}"
            folder.mkdir(parents=True)
            (folder / "arm.log").touch()  # it may be killed before it writes a line
            words = [sys.executable, __file__, "--one-run", str(number), "--policy", str(policy)]
            words += ["--out", str(folder), "--control-hz", str(flags.control_hz)]
            with (folder / "stderr").open("wb") as stderr:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
                )
                status = disturb(process, draw, told)
            time.sleep(0.5)  # the guard of a run that was killed says so
            inspect(folder, status, description, flags.control_hz, told)
            table = "\n".join(f"| {key} | {n} |" for key, n in sorted(told.items()))
            (out / "table.md").write_text(f"| what | number |\n|---|---|\n{table}\n")
    print(
        f"### {flags.minutes:g} minutes at {flags.control_hz:g} Hz with faults\n\n| what | number |"
    )
    print("|---|---|\n" + table)


if __name__ == "__main__":
    main()
