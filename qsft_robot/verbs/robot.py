"""The verb `run`: a policy drives a robot."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from qsft_robot.robots.choose import SERVED, RobotKind
from qsft_robot.trust import Trust

if TYPE_CHECKING:
    from qsft_robot.control.robot import Robot
    from qsft_robot.control.run_report import RunResult, RunSettings
    from qsft_robot.policy.description import PolicyDescription
    from qsft_robot.types import Policy


@dataclass(frozen=True)
class RunOptions:
    """The flags of `run`; their help is the comment above each."""

    # Run folder or policy folder, a Hub id (owner/name), or the address of a server
    # (ws://host:port).
    policy: Positional[str]
    # mujoco: the tabletop arm in real time; robosuite, env: an environment in step; replay: a
    # recording; lerobot: any LeRobot robot; own: see --robot-from.
    robot: RobotKind = "mujoco"
    # Folder of the logs and of cadence.json. Episodes of earlier runs there are kept.
    out: Path = Path("runs/robot")
    # Number of episodes.
    episodes: int = 1
    # Time limit of an episode; the environment's own step limit when not given.
    seconds: float | None = None
    # Seed of the first episode; the others follow.
    seed: int = 0
    # Actions a second; the policy's own rate when not given.
    control_hz: float | None = None
    # Task in words, where the robot does not name one.
    instruction: str | None = None
    # Another environment than the one the logs came from: a recipe, a simulator's name, or
    # gymnasium:<module>:<id>, whose module is imported, which runs its code.
    env: str | None = None
    # What tells success there, beside success and is_success: a key of the steps' info (dots lead
    # into it), an attribute or a method of the environment.
    env_success_key: str | None = None
    # Policy's observation keys by the environment's, e.g. state=agent.qpos.
    env_keys: tuple[str, ...] = ()
    # Recording for --robot replay.
    log: Path | None = None
    # Only the logs of this mask of the recording.
    filter_key: str | None = None
    # Your robot: FILE.py:NAME or module:NAME, a class or a function that makes one.
    robot_from: str | None = None
    # Its arguments, e.g. port=/dev/ttyACM0; for lerobot also type=so101_follower.
    robot_settings: tuple[str, ...] = ()
    # Changes of train's --acting settings, e.g. k=4 min_p=0.1.
    acting: tuple[str, ...] = ()
    # Differences that the start-up check may pass: rate, range, units, state; frozen: a sensor that
    # never changes.
    accept: tuple[str, ...] = ()
    # Ticks of a chunk before the next decision is asked for; as the policy was told
    # (--acting.execute), else half of the chunk, when not given.
    execute_steps: int | None = None
    # Ticks over which a new chunk replaces the old one; all that both cover when not given.
    blend_steps: int | None = None
    # Seconds of holding without an action after which the run stops.
    stop_after: float = 2.0
    # What an episode is that ends by --seconds, where the robot can't tell.
    outcome: Literal["success", "failure"] | None = None
    # Write logs.
    record: bool = True
    # Lowest action, one number or one a dimension; as the logs had it when not given.
    action_low: tuple[float, ...] = ()
    # Highest action.
    action_high: tuple[float, ...] = ()
    # Largest change from one action to the next.
    max_change: tuple[float, ...] = ()
    # Units a second of each dimension that is a place.
    max_velocity: tuple[float, ...] = ()
    # Meters a second of the end effector.
    max_speed: float | None = None
    # Low corner of the workspace box, x y z in meters.
    box_low: tuple[float, float, float] | None = None
    # High corner of the workspace box.
    box_high: tuple[float, float, float] | None = None
    # Limits to leave out: range, change, velocity, workspace.
    limits_off: tuple[str, ...] = ()
    # File with the server's token, instead of QSFT_TOKEN.
    token_file: Path | None = None
    # Send the token over ws:// to another machine, for all on the way to see.
    token_in_clear: bool = False
    # PEM certificate to trust for wss://, where the server has one of its own.
    ca_file: Path | None = None
    # Seconds after which a server's answer is given up.
    policy_timeout: float = 1.0
    # Where the policy runs: auto (cuda, mps or cpu, the first that is here), cuda:1, ...
    device: str = "auto"
    # Refuse a simulator of other versions than that of the policy's logs instead of a note.
    strict_versions: bool = False
    # Run code that a pretrained model in the folder brings along. Only for publishers that you
    # trust.
    trust_remote_code: bool = False
    # Fetch a model that the folder names from the hub, where it is not here yet.
    allow_downloads: bool = False
    # Modules that the simulator's name in the logs may have imported, which runs their code.
    import_env: tuple[str, ...] = ()
    # Hold at readings far from the logs' range, instead of counting and saying them.
    refuse_far: bool = False


def run(options: Annotated[RunOptions, arg(name="")]) -> int:
    """Let a policy drive a robot at a fixed rate, under limits; its episodes become logs.

    Keys while it runs: s ends the episode, q the run, y: it succeeded, n: it failed. Ctrl-C, Ctrl-Z
    and SIGTERM end the run cleanly. Exit status 1: the watchdog stopped it; 3: the arm could not be
    left holding and disconnected.
    """
    from qsft_robot.control.run_report import print_result
    from qsft_robot.policy.logged_ranges import WatchedReadings
    from qsft_robot.printed_text import printable, say

    _check_numbers(options)
    loaded, description = _policy(options)
    watched = WatchedReadings(loaded, description, refuse=options.refuse_far)
    settings = _settings(options, description)
    arm = _robot(options, description, settings.loop.control_hz)
    if options.robot == "replay":
        result = _replayed(options, arm, watched, description, settings)
    else:
        from qsft_robot.control.run import run_robot

        result = run_robot(arm, watched, description, settings)
        _say_left(options.robot, result.left)
        print_result(result)
    if watched.counts:
        far = ", ".join(f"{key} {n}" for key, n in watched.counts.items())
        say(printable(f"decisions asked for at readings far from the logs: {far}"))
    say(printable(f"report: {options.out / 'cadence.json'}"))
    return result.status


def _check_numbers(options: RunOptions) -> None:
    from qsft_robot.verbs.flag_words import finite

    names = (
        "control_hz", "seconds", "max_speed", "action_low", "action_high", "max_change",
        "max_velocity", "box_low", "box_high",
    )  # fmt: skip
    finite({f"--{name.replace('_', '-')}": getattr(options, name) for name in names})


def _policy(options: RunOptions) -> tuple[Policy, PolicyDescription]:
    """The policy that is named, its description, and a line on where it runs."""
    from qsft_robot.policy.folder import PolicySpec
    from qsft_robot.robots.choose import open_local_or_remote
    from qsft_robot.verbs.flag_words import acting_changes, say_device, say_upside_down
    from qsft_robot.versions import compare_with_installed, recorded_versions

    token, served = None, options.policy.startswith(SERVED)
    if served:
        from qsft_robot.verbs.serve import read_token

        token = read_token(options.token_file)
    loaded, description = open_local_or_remote(
        options.policy,
        acting=acting_changes(options.acting),
        token=token,
        timeout_s=options.policy_timeout,
        device=options.device,
        trust=Trust(options.trust_remote_code, options.allow_downloads),
        ca_file=options.ca_file,
        token_in_clear=options.token_in_clear,
    )
    if not served:
        say_device(options.device, loaded)
    say_upside_down(options.policy, description)
    PolicySpec.of(description)  # ValueError for one that acts by text
    if options.robot in ("mujoco", "robosuite", "env") and options.env is None:
        recorded = recorded_versions(description.env_args)
        what = f"the logs that {options.policy} learned from"
        compare_with_installed(recorded, what, options.strict_versions)
    return loaded, description


def _settings(options: RunOptions, description: PolicyDescription) -> RunSettings:
    """The settings of the run: those of the flags, else the policy's own."""
    from qsft_robot.control.loop import LoopSettings
    from qsft_robot.control.run_report import RunSettings
    from qsft_robot.printed_text import say

    action, given = description.action, options.control_hz
    hz = action.control_hz if given is None else given
    if hz is None:
        raise ValueError("the policy's logs do not tell their rate; give --control-hz.")
    asked_every = options.execute_steps
    if asked_every is None:
        asked_every = description.acting.execute
    if note := description.window_note(asked_every or max(1, -(-action.horizon // 2))):
        say(note, sys.stderr)
    return RunSettings(
        out=options.out,
        loop=LoopSettings(
            control_hz=float(hz),
            execute_steps=asked_every,
            blend_steps=options.blend_steps,
            stop_after_s=options.stop_after,
            max_steps=_ticks(options.seconds, float(hz), options.robot, description),
        ),
        episodes=options.episodes,
        seed=options.seed,
        instruction=options.instruction,
        accept=options.accept,
        limits={
            "low": options.action_low or None,
            "high": options.action_high or None,
            "change": options.max_change or None,
            "velocity": options.max_velocity or None,
            "speed": options.max_speed,
            "box_low": options.box_low,
            "box_high": options.box_high,
        },
        limits_off=options.limits_off,
        outcome=options.outcome,
        record=options.record and options.robot != "replay",
        arm=_arm(options.robot, options.robot_from, _pairs(options.robot_settings)),
    )


def _robot(options: RunOptions, description: PolicyDescription, control_hz: float) -> Robot:
    from qsft_robot.robots.choose import open_robot
    from qsft_robot.verbs.flag_words import env_of_recipe, imports_of, read_as

    env, told = options.env, (options.env_success_key, options.env_keys)
    if any(told) and options.robot not in ("robosuite", "env"):
        raise ValueError(
            f"--env-success-key and --env-keys are for --robot env and robosuite; --robot "
            f"{options.robot} is no environment."
        )
    env_args = description.env_args if env is None else env_of_recipe(env, description)
    return open_robot(
        options.robot,
        description,
        control_hz,
        env=read_as(env_args, *told),
        log=options.log,
        filter_key=options.filter_key,
        source=options.robot_from,
        settings=_pairs(options.robot_settings),
        imports=[*options.import_env, *imports_of(env)],
    )


def _replayed(
    options: RunOptions,
    arm: Any,
    policy: Policy,
    description: PolicyDescription,
    settings: RunSettings,
) -> RunResult:
    """The run on a recording, and a table of how the policy's actions differ from it."""
    from rich.console import Console

    from qsft_robot.control.run import run_robot
    from qsft_robot.control.run_report import print_result
    from qsft_robot.files import write_json
    from qsft_robot.robots.replay import difference_table

    result = run_robot(arm, policy, description, settings, recorder=arm)
    _say_left(options.robot, result.left)
    differences = arm.differences()
    write_json(options.out / "replay.json", differences)
    arm.save(options.out / "replay.npz")
    print_result(result)
    Console().print(difference_table(differences))
    return result


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
