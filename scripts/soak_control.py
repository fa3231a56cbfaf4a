"""Soaks the control loop: rate on the MuJoCo arm, a server that fails, kills while it logs."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.sync.server import Server, serve

from qsft_robot.control.loop import ControlLoop, EpisodeEnd, LoopSettings
from qsft_robot.control.robot import Outcome, RobotSpec
from qsft_robot.control.run import run_robot
from qsft_robot.control.run_log import RunLog
from qsft_robot.control.run_report import RunResult, RunSettings
from qsft_robot.control.watchdog import Stance
from qsft_robot.logs.reader import read_episodes
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.robots.choose import open_local_or_remote
from qsft_robot.robots.mujoco import MujocoRobot
from qsft_robot.server.wire import pack, unpack
from qsft_robot.types import Observation

# Phases of the failing server, and their shares of the time.
PHASES = (("as it should", 2), ("killed", 2), ("restarted", 2), ("slowed to 500 ms", 2),
          ("as it should", 1), ("garbage", 2), ("as it should", 2))  # fmt: skip
SETTLE_S = 3.0  # after a phase began: what is under way, and the client's pause before it retries


class CheckedArm:
    """The arm with an inspector at its door: every command is held against the policy's statistics
    again, by other code than the loop's own, and the hand's way out of the box is measured."""

    def __init__(self, arm: MujocoRobot, description: PolicyDescription) -> None:
        self.arm, self.violations = arm, Counter[str]()
        seen, box = description.action.seen, description.state_range["proprio"]
        self._low = np.minimum(seen.low, [0, 0, 0, seen.low[3]])
        self._high = np.maximum(seen.high, [0, 0, 0, seen.high[3]])
        self._change = np.asarray(seen.largest_change)
        self._box = np.asarray(box.low)[:3], np.asarray(box.high)[:3]
        self._last = np.zeros(4)
        self.outside_mm, self.over = 0.0, False

    @property
    def spec(self) -> RobotSpec:
        return self.arm.spec

    @property
    def counts(self) -> dict[str, int]:
        return self.arm.counts

    def connect(self) -> None:
        self.arm.connect()

    def disconnect(self) -> None:
        self.arm.disconnect()

    def begin_episode(self, seed: int) -> None:
        self._last = np.zeros(4)
        self.arm.begin_episode(seed)

    def outcome(self) -> Outcome:
        return Outcome(False, self.over)  # a success does not end the soak

    def get_observation(self) -> Observation:
        seen = self.arm.get_observation()
        hand = seen.state["proprio"][:3]
        beyond = np.maximum(self._box[0] - hand, hand - self._box[1]).max()
        self.outside_mm = max(self.outside_mm, 1e3 * float(beyond))
        return seen

    def send_action(self, action: np.ndarray) -> None:
        if not np.isfinite(action).all():
            self.violations["not finite"] += 1
        elif ((action < self._low - 1e-6) | (action > self._high + 1e-6)).any():
            self.violations["range"] += 1
        # To stop is always allowed; what is not nearer to zero may not have jumped.
        jumped = np.abs(action - self._last)[:3] > self._change[:3] + 1e-6
        if (jumped & (np.abs(action[:3]) > np.abs(self._last[:3]) + 1e-6)).any():
            self.violations["change"] += 1
        self._last = np.array(action)
        self.arm.send_action(action)


class FailingServer:
    """Stands between the client and a real server, and does to the answers what `mode` says."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.mode = "as it should"
        self._run, self._log = run, (folder / "server.log").open("wb")
        self._draw = random.Random(0)
        self._front: Server | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the real server and the front; the front keeps its port over restarts."""
        command = [sys.executable, "-m", "qsft_robot.cli", "serve", str(self._run), "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"listening on ws://" in line:
                self._behind = line.split()[2].decode()
                break
        else:
            raise RuntimeError("the policy server did not start; see server.log")
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        self._front = serve(self._handle, "127.0.0.1", self._port, compression=None)
        self._port = self._front.socket.getsockname()[1]
        threading.Thread(target=self._front.serve_forever, daemon=True).start()

    def kill(self) -> None:
        """SIGKILL, and nobody listens any more."""
        self._process.kill()
        self._process.wait()
        if self._front is not None:
            self._front.shutdown()

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self._log.close()

    def _handle(self, client: Any) -> None:
        try:
            with connect(self._behind, compression=None, max_size=None) as real:
                client.send(real.recv())
                for message in client:
                    real.send(message)
                    client.send(self._spoiled(real.recv()))
        except (OSError, WebSocketException):
            client.close()

    def _spoiled(self, answer: Any) -> Any:
        if self.mode == "slowed to 500 ms":
            time.sleep(0.5)
        if self.mode != "garbage":
            return answer
        good = unpack(answer)
        spoiled = {**good, "actions": np.full_like(good["actions"], np.nan)}
        bent = {**good, "actions": np.zeros((3, 2), np.float32)}
        text = {**good, "actions": "up"}
        return self._draw.choice(
            [self._draw.randbytes(200), answer[: len(answer) // 2], b"", "no json", pack(spoiled),
             pack(bent), pack(text), pack([]), answer + b"x"]
        )  # fmt: skip


def small_policy(folder: Path) -> Path:
    """A real policy, trained for a few updates and exported with its ONNX graphs: the tiny model
    from two 64x64 images."""
    from qsft_robot.config.train import TrainConfig
    from qsft_robot.export.export import export_policy
    from qsft_robot.presets.look_up import apply_presets, recipe, with_settings
    from qsft_robot.rollouts.collect import CollectPart, collect
    from qsft_robot.training.train import train

    chosen, logs = recipe("tabletop/place"), folder / "logs.hdf5"
    kwargs = {**chosen.env_kwargs, "cameras": list(chosen.cameras), "image_size": 64}
    env_args = {"env_name": chosen.env_name, "env_kwargs": kwargs}
    collect(env_args, logs, [CollectPart(16, chosen.parts[0].mixture, 0.2)], workers=1)
    few = {"optim.behavior_steps": 4, "optim.value_steps": 4, "optim.batch_size": 16}
    config = apply_presets(TrainConfig(out=folder / "run"), ["tabletop/pixels"])
    train(with_settings(config, {**few, "data.path": logs}))
    return export_policy(folder / "run" / "checkpoint", folder / "policy", onnx=True, data=logs)


def drive(
    policy_name: str,
    out: Path,
    hz: float,
    seconds: float | None,
    episodes: int = 1,
    watch: Callable[[CheckedArm, ControlLoop], None] | None = None,
) -> tuple[RunResult, CheckedArm]:
    """One run on the MuJoCo arm; the result and the inspected arm."""
    policy, description = open_local_or_remote(policy_name, acting={}, token=None, timeout_s=1.0)
    arm = CheckedArm(MujocoRobot(description.env_args, hz), description)
    steps = None if seconds is None else round(seconds * hz)
    loop = LoopSettings(hz, max_steps=steps, stop_after_s=3600.0)
    settings = RunSettings(out, loop, episodes, accept=("rate",), record=watch is None)

    def told(loop: ControlLoop, steps: int) -> None:
        if watch is not None:
            watch(arm, loop)

    result = run_robot(arm, policy, description, settings, watch=told)
    assert PolicySpec.of(description).horizon == 1
    return result, arm


def soak_rate(run: Path, out: Path, minutes: float, hz: float) -> list[str]:
    """(a) A local policy: overruns, holds, the decision's p99."""
    episodes = max(1, round(minutes))
    result, arm = drive(str(run), out / "rate", hz, 60.0 * minutes / episodes, episodes)
    report: dict[str, Any] = result.report
    rows = [
        f"| effective rate | {report['effective_hz']:.3f} Hz of {hz:g} | |",
        f"| ticks | {report['ticks']} | |",
        f"| overruns | {report['overruns']} ({100 * report['overrun_share']:.3f} %) | 0.1 % |",
        f"| deadlines lost to them | {report['missed_deadlines']} | |",
        f"| ticks held | {report['held_ticks']} | |",
        f"| clamps | {_counted(report['clamps'])} | |",
        f"| commands beyond a limit | {_counted(arm.violations)} | 0 |",
        f"| hand beyond the box | {arm.outside_mm:.1f} mm | |",
        f"| the arm's own watchdog, slips of its clock | {_counted(arm.counts)} | |",
    ]
    for stage, row in report["latency_ms"].items():
        aim = "25 ms (p99)" if stage == "decide" else ""
        numbers = ", ".join(f"{row[key]:.2f}" for key in ("p50", "p95", "p99", "max"))
        rows.append(f"| {stage}, ms: p50, p95, p99, max | {numbers} | {aim} |")
    return [f"### {minutes:g} minutes at {hz:g} Hz, a local policy", "", *_table(rows)]


def soak_server(run: Path, out: Path, minutes: float, hz: float) -> list[str]:
    """(b) the same loop against a server that fails in every way."""
    out.mkdir(parents=True, exist_ok=True)
    server, unit = FailingServer(run, out), 60.0 * minutes / sum(share for _, share in PHASES)
    # The phase under way and when it began; ticks of each phase, and of its time after SETTLE_S.
    now: list[Any] = [0, time.monotonic() + 1e9]
    told, settled = ([Counter[str]() for _ in PHASES] for _ in range(2))

    def script() -> None:
        for i, (mode, share) in enumerate(PHASES):
            if mode == "restarted":
                server.start()  # while it starts it is still killed
            now[:] = i, time.monotonic()
            server.mode = mode
            if mode == "killed":
                server.kill()
            time.sleep(share * unit)

    director = threading.Thread(target=script, daemon=True)

    def watch(arm: CheckedArm, loop: ControlLoop) -> None:
        if director.ident is None:
            director.start()
        arm.over = not director.is_alive()
        i, word = now[0], "acted" if loop.watchdog.stance is Stance.ACT else "held"
        told[i][word] += 1
        if time.monotonic() - now[1] > SETTLE_S:
            settled[i][word] += 1

    try:
        result, arm = drive(server.url, out / "server", hz, None, watch=watch)
    finally:
        server.close()
    rows = []
    for i, (mode, _) in enumerate(PHASES):
        later = settled[i]
        share = later["acted"] / max(1, later.total())
        held = f"{told[i]['acted']} acted, {told[i]['held']} held"
        rows.append(f"| {mode} | {held}; acted in {100 * share:.1f} % after {SETTLE_S:g} s | |")
    report = result.report
    rows += [
        f"| commands beyond a limit | {_counted(arm.violations)} | 0 |",
        f"| hand beyond the box | {arm.outside_mm:.1f} mm | |",
        f"| failed decisions | {report.get('failed_decisions', 0)} | |",
        f"| overruns of {report['ticks']} ticks | {report['overruns']} | |",
        f"| end | {result.ends[0].reason} | over |",
    ]
    return [f"### {minutes:g} minutes at {hz:g} Hz, a server that fails", "", *_table(rows)]


def write_logs(out: Path) -> None:
    """Log episodes with two cameras as fast as it goes, naming each finished one."""
    log, draw = RunLog(out, {"env_name": "arm", "type": 2}), np.random.default_rng(0)
    frames = draw.integers(0, 255, (40, 64, 64, 3), np.uint8)
    print("ready", flush=True)
    while True:
        episode = log.episode({"seed": 0})
        for i, frame in enumerate(frames):
            images = {"front_image": frame, "wrist_image": frame}
            seen = Observation(images, {"proprio": np.full(8, i, np.float32)}, "go")
            episode.step(seen, np.zeros(4, np.float32), False)
        episode.finish(seen, EpisodeEnd("success", True, len(frames)))
        print(episode.path.name, flush=True)


def soak_logging(out: Path, kills: int) -> list[str]:
    """(c) kill -9 while episodes are logged, at random moments."""
    draw, finished, lost, unreadable, torn = random.Random(0), 0, 0, 0, 0
    for i in range(kills):
        folder = out / f"kill_{i:03d}"
        command = [sys.executable, __file__, "--write-logs", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.random() * 0.4)
        process.send_signal(signal.SIGKILL)
        named = set(process.stdout.read().split())
        process.wait()
        files = RunLog(folder, {}).files()
        lost += len(named - {path.name for path in files})
        torn += any((folder / "episodes").glob(".*.tmp"))
        for path in files:
            finished += 1
            try:
                (episode,) = read_episodes(path)
                unreadable += len(episode) != 40
            except (OSError, ValueError):
                unreadable += 1
    rows = [
        f"| kills (of them in the middle of a file) | {kills} ({torn}) | |",
        f"| finished episodes | {finished} | |",
        f"| finished episodes lost | {lost} | 0 |",
        f"| episodes that can't be read | {unreadable} | 0 |",
    ]
    return ["### kill -9 while logging", "", *_table(rows)]


def _table(rows: list[str]) -> list[str]:
    return ["| what | measured | aim |", "|---|---|---|", *rows, ""]


def _counted(counts: Any) -> str:
    return ", ".join(f"{key} {n}" for key, n in dict(counts).items() if n) or "0"


def main() -> None:
    """Run the parts that are asked for and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=["rate", "server", "logging"])
    parser.add_argument("--minutes", type=float, default=10.0, help="of rate, and of server")
    parser.add_argument("--control-hz", type=float, default=20.0)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--policy", type=Path, help="a run folder; a small one is trained if none")
    parser.add_argument("--out", type=Path, help="folder to keep; a temporary one if none")
    parser.add_argument("--write-logs", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.write_logs is not None:
        write_logs(flags.write_logs)
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        out = flags.out or Path(temporary)
        run = flags.policy
        if run is None and flags.parts != ["logging"]:
            run = small_policy(out)
        lines: list[str] = []
        if "rate" in flags.parts:
            lines += soak_rate(run, out, flags.minutes, flags.control_hz)
        if "server" in flags.parts:
            lines += soak_server(run, out, flags.minutes, flags.control_hz)
        if "logging" in flags.parts:
            lines += soak_logging(out / "kills", flags.kills)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
