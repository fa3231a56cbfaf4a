"""The verb `run`: a policy drives a robot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from qsft_robot.robots.choose import RobotKind
from qsft_robot.trust import Trust

if TYPE_CHECKING:
    from qsft_robot.policy.description import PolicyDescription


def run(
    policy: Positional[str],
    robot: RobotKind = "mujoco",
    out: Path = Path("runs/robot"),
    episodes: int = 1,
    seconds: float | None = None,
    seed: int = 0,
    control_hz: float | None = None,
    instruction: str | None = None,
    env: str | None = None,
    log: Path | None = None,
    filter_key: str | None = None,
    robot_from: str | None = None,
    robot_settings: tuple[str, ...] = (),
    acting: tuple[str, ...] = (),
    accept: tuple[str, ...] = (),
    execute_steps: int | None = None,
    blend_steps: int | None = None,
    stop_after: float = 2.0,
    outcome: Literal["success", "failure"] | None = None,
    record: bool = True,
    action_low: tuple[float, ...] = (),
    action_high: tuple[float, ...] = (),
    max_change: tuple[float, ...] = (),
    max_velocity: tuple[float, ...] = (),
    max_speed: float | None = None,
    box_low: tuple[float, float, float] | None = None,
    box_high: tuple[float, float, float] | None = None,
    limits_off: tuple[str, ...] = (),
    token_file: Path | None = None,
    token_in_clear: bool = False,
    ca_file: Path | None = None,
    policy_timeout: float = 1.0,
    device: str = "auto",
    strict_versions: bool = False,
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
    import_env: tuple[str, ...] = (),
    refuse_far: bool = False,
) -> int:
    """Let a policy drive a robot at a fixed rate, under limits; its episodes become logs.

    Keys while it runs: s ends the episode, q the run, y: it succeeded, n: it failed. Ctrl-C, Ctrl-Z
    and SIGTERM end the run cleanly. Exit status 1: the watchdog stopped it; 3: the arm could not be
    left holding and disconnected.

    Args:
        policy: Run folder or policy folder, or the address of a server (ws://host:port).
        robot: mujoco: the tabletop arm in real time; robosuite, env: an environment in step;
            replay: a recording; lerobot: any LeRobot robot; own: see --robot-from.
        out: Folder of the logs and of cadence.json. Episodes of earlier runs there are kept.
        episodes: Number of episodes.
        seconds: Time limit of an episode; the environment's own step limit when not given.
        seed: Seed of the first episode; the others follow.
        control_hz: Actions a second; the policy's own rate when not given.
        instruction: Task in words, where the robot does not name one.
        env: Recipe that names another environment than the policy's logs.
        log: Recording for --robot replay.
        filter_key: Only the logs of this mask of the recording.
        robot_from: Your robot: FILE.py:NAME or module:NAME, a class or a function that makes one.
        robot_settings: Its arguments, e.g. port=/dev/ttyACM0; for lerobot also type=so101_follower.
        acting: Changes of the acting rule, e.g. k=4 min_p=0.1.
        accept: Differences that the start-up check may pass: rate, range, units, state; frozen:
            a sensor that never changes.
        execute_steps: Ticks of a chunk before the next decision is asked for; as the policy was
            told (--acting.execute), else half of the chunk, when not given.
        blend_steps: Ticks over which a new chunk replaces the old one; all that both cover when not
            given.
        stop_after: Seconds of holding without an action after which the run stops.
        outcome: What an episode is that ends by --seconds, where the robot can't tell.
        record: Write logs.
        action_low: Lowest action, one number or one a dimension; as the logs had it when not given.
        action_high: Highest action.
        max_change: Largest change from one action to the next.
        max_velocity: Units a second of each dimension that is a place.
        max_speed: Meters a second of the end effector.
        box_low: Low corner of the workspace box, x y z in meters.
        box_high: High corner of the workspace box.
        limits_off: Limits to leave out: range, change, velocity, workspace.
        token_file: File with the server's token, instead of QSFT_TOKEN.
        token_in_clear: Send the token over ws:// to another machine, for all on the way to see.
        ca_file: PEM certificate to trust for wss://, where the server has one of its own.
        policy_timeout: Seconds after which a server's answer is given up.
        device: Where the policy runs: auto (cuda, mps or cpu, the first that is here), cuda:1, ...
        strict_versions: Refuse a simulator of other versions than that of the policy's logs, which
            is said else.
        trust_remote_code: Run code that a pretrained model in the folder brings along. Only for
            makers that you trust.
        allow_downloads: Fetch a model that the folder names from the hub, where it is not here yet.
        import_env: Modules that the simulator's name in the logs may have imported, which runs
            their code.
        refuse_far: Hold at readings far from the logs' range, instead of counting and saying them.
    """
    from qsft_robot.control.loop import LoopSettings
    from qsft_robot.control.run import run_robot
    from qsft_robot.control.run_report import RunSettings, print_result
    from qsft_robot.files import write_json
    from qsft_robot.policy.folder import PolicySpec
    from qsft_robot.policy.logged_ranges import WatchedReadings
    from qsft_robot.printed_text import printable, say
    from qsft_robot.robots.choose import SERVED, open_local_or_remote, open_robot
    from qsft_robot.verbs.flag_words import (
        acting_changes,
        env_of_recipe,
        finite,
        imports_of,
        say_device,
    )
    from qsft_robot.versions import compare_with_installed, recorded_versions

    finite(
        {
            "--control-hz": control_hz,
            "--seconds": seconds,
            "--max-speed": max_speed,
            "--action-low": action_low,
            "--action-high": action_high,
            "--max-change": max_change,
            "--max-velocity": max_velocity,
            "--box-low": box_low,
            "--box-high": box_high,
        }
    )
    token = None
    if policy.startswith(SERVED):
        from qsft_robot.verbs.serve import read_token

        token = read_token(token_file)
    loaded, description = open_local_or_remote(
        policy,
        acting=acting_changes(acting),
        token=token,
        timeout_s=policy_timeout,
        device=device,
        trust=Trust(trust_remote_code, allow_downloads),
        ca_file=ca_file,
        token_in_clear=token_in_clear,
    )
    if not policy.startswith(SERVED):
        say_device(device, loaded)
    PolicySpec.of(description)  # ValueError for one that acts by text
    if robot in ("mujoco", "robosuite", "env") and env is None:
        recorded = recorded_versions(description.env_args)
        what = f"the logs that {policy} learned from"
        compare_with_installed(recorded, what, strict_versions)
    watched = WatchedReadings(loaded, description, refuse=refuse_far)
    hz = description.action.control_hz if control_hz is None else control_hz
    if hz is None:
        raise ValueError("the policy's logs do not tell their rate; give --control-hz.")
    asked_every = execute_steps or description.acting.execute
    horizon = description.action.horizon
    if note := description.window_note(asked_every or max(1, -(-horizon // 2))):
        say(note, sys.stderr)
    settings = RunSettings(
        out=out,
        loop=LoopSettings(
            control_hz=float(hz),
            execute_steps=asked_every,
            blend_steps=blend_steps,
            stop_after_s=stop_after,
            max_steps=_ticks(seconds, float(hz), robot, description),
        ),
        episodes=episodes,
        seed=seed,
        instruction=instruction,
        accept=accept,
        limits={
            "low": action_low or None,
            "high": action_high or None,
            "change": max_change or None,
            "velocity": max_velocity or None,
            "speed": max_speed,
            "box_low": box_low,
            "box_high": box_high,
        },
        limits_off=limits_off,
        outcome=outcome,
        record=record and robot != "replay",
        arm=_arm(robot, robot_from, _pairs(robot_settings)),
    )
    arm = open_robot(
        robot,
        description,
        float(hz),
        env=None if env is None else env_of_recipe(env, description),
        log=log,
        filter_key=filter_key,
        source=robot_from,
        settings=_pairs(robot_settings),
        imports=[*import_env, *imports_of(env)],
    )
    if robot == "replay":
        from qsft_robot.robots.replay import ReplayRobot, difference_table

        assert isinstance(arm, ReplayRobot)
        result = run_robot(arm, watched, description, settings, recorder=arm)
        _say_left(robot, result.left)
        differences = arm.differences()
        write_json(out / "replay.json", differences)
        arm.save(out / "replay.npz")
        print_result(result)
        from rich.console import Console

        Console().print(difference_table(differences))
    else:
        result = run_robot(arm, watched, description, settings)
        _say_left(robot, result.left)
        print_result(result)
    if watched.counts:
        far = ", ".join(f"{key} {n}" for key, n in watched.counts.items())
        say(printable(f"decisions asked for at readings far from the logs: {far}"))
    say(printable(f"report: {out / 'cadence.json'}"))
    return result.status


def _say_left(robot: str, left: tuple[str, ...]) -> None:
    """Say how the arm was left before anything else, which a closed output may cut short."""
    from qsft_robot.printed_text import one_line

    if left:
        print(f"error: robot {robot}: {one_line('; '.join(left))}", file=sys.stderr)


def _arm(robot: str, source: str | None, settings: dict[str, str]) -> str | None:
    """The name of the arm for its lock; None for simulations and recordings, which are no arm."""
    from qsft_robot.control.locks import arm_name

    return arm_name(source, settings) if robot in ("own", "lerobot") else None


def _ticks(
    seconds: float | None, hz: float, robot: str, description: PolicyDescription
) -> int | None:
    """The time limit in ticks; the MuJoCo arm takes the environment's own, in seconds."""
    if seconds is not None:
        if not seconds > 0:
            raise ValueError(f"--seconds {seconds}: give more than 0.")
        return max(1, round(seconds * hz))
    env_args = description.env_args
    steps = (env_args.get("env_kwargs") or {}).get("max_steps")
    if robot == "mujoco" and steps is not None:
        return max(1, round(steps * hz / float(env_args.get("control_hz", hz))))
    return None


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--robot-settings {word!r}: give name=value pairs.")
        pairs[key] = value
    return pairs
