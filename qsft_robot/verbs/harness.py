"""`evaluate --harness`: a policy, or a server of openpi's protocol, in vla-eval's benchmarks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsft_robot.extras import require_packages
from qsft_robot.harness.configurations import SIMULATOR, Configuration, find_configuration
from qsft_robot.printed_text import printable, say
from qsft_robot.progress import RolloutProgress
from qsft_robot.verbs.flag_words import env_of_recipe
from qsft_robot.verbs.serve import TOKEN_VARIABLE

if TYPE_CHECKING:
    from qsft_robot.harness.deciders import Decider
    from qsft_robot.policy.description import LoadedPolicy

DEFAULT_EPISODES = 100


@dataclass(frozen=True)
class Asked:
    """The flags of `evaluate` that a harness takes."""

    harness: str
    episodes: int | None
    seed: int
    key_map: Path | None
    image: str | None
    execute_steps: int | None
    max_steps: int | None
    accept: tuple[str, ...]

    @property
    def ours(self) -> bool:
        """Whether the harness runs the simulator of the logs."""
        return self.harness == SIMULATOR

    def check(self, env_flags: Mapping[str, Any], videos: int) -> None:
        """ImportError with the line that installs the harness; ValueError names a flag that it does
        not take. `env_flags` are those that only a simulator of ours takes."""
        require_packages("--harness", "vla_eval")
        if videos:
            raise ValueError("--videos: the harness films nothing; evaluate without --harness.")
        if given := [f"--{flag}" for flag, value in env_flags.items() if value and not self.ours]:
            raise ValueError(
                f"{', '.join(given)}: only --harness {SIMULATOR} takes that; {self.harness} is "
                "another benchmark's, whose arguments stand in a YAML file of vla-eval's "
                "(--harness FILE.yaml)."
            )
        if self.ours and self.image is not None:
            raise ValueError(f"--harness-image: {SIMULATOR} runs here, in no container.")
        for flag in ("episodes", "execute_steps", "max_steps"):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise ValueError(f"--{flag.replace('_', '-')} {value}: give at least 1.")
        if not self.ours:  # before a policy is loaded
            find_configuration(self.harness)


def result_name(harness: str | None) -> str:
    """The name of the evaluation that is not given one: a harness' result must not take the place
    of the policy's own."""
    if harness is None:
        return "policy"
    return re.sub(r"[^\w.-]+", "-", harness.removesuffix(".yaml").removesuffix(".yml")).strip(".-")


def evaluate_policy(
    policy: LoadedPolicy,
    asked: Asked,
    out: Path,
    env_args: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    run_to_limit: bool = False,
) -> None:
    """Run the benchmark with a policy that is open here, write its result to `out`, print it."""
    from qsft_robot.harness.deciders import LocalDecider

    decider = LocalDecider(policy, asked.execute_steps)
    if asked.ours:
        _evaluate_simulator(decider, asked, out, env_args or {}, overrides or {}, run_to_limit)
    else:
        _evaluate(decider, asked, out, find_configuration(asked.harness))


def evaluate_server(
    address: str,
    asked: Asked,
    name: str,
    env: str | None,
    overrides: Mapping[str, Any],
    run_to_limit: bool,
) -> None:
    """Run the benchmark with a server of openpi's protocol; the result goes to
    <host>-<port>.evaluation/<name> here."""
    from qsft_robot.harness.deciders import OpenpiDecider
    from qsft_robot.harness.key_map import KeyMap, read_key_map

    found = None if asked.ours else find_configuration(asked.harness)
    keys = KeyMap() if found is None else found.keys
    if asked.key_map is not None:
        keys = read_key_map(asked.key_map, keys)
    token = os.environ.get(TOKEN_VARIABLE)
    decider = OpenpiDecider(address, keys, token, asked.execute_steps)
    host = re.sub(r"[^\w.-]+", "-", address.partition("://")[2])
    out = Path(f"{host}.evaluation") / name
    if found is not None:
        _evaluate(decider, asked, out, found)
        return
    description = decider.description
    if description is None or (env is None and not description.env_args):
        raise ValueError(
            f"{address}: the server does not tell the simulator of its logs; write a YAML file of "
            "vla-eval's with benchmark: qsft_robot.harness.benchmark:SimulatorBenchmark "
            "(docs/ecosystem.md)."
        )
    env_args = description.env_args if env is None else env_of_recipe(env, description)
    _evaluate_simulator(decider, asked, out, env_args, overrides, run_to_limit)


def _evaluate(decider: Decider, asked: Asked, out: Path, found: Configuration) -> None:
    from qsft_robot.harness.evaluation import evaluate_in_harness
    from qsft_robot.harness.key_map import read_key_map
    from qsft_robot.harness.observations import fitted, raw_turn

    keys = found.keys if asked.key_map is None else read_key_map(asked.key_map, found.keys)
    if decider.description is not None:
        keys = raw_turn(keys, decider.description, found.raw_images)
    if found.shown is not None:
        keys = fitted(keys, decider.wanted, found.shown, found.name)
    found = found.in_image(asked.image)
    with RolloutProgress("evaluate", found.episodes(asked.episodes)) as tell:
        result = evaluate_in_harness(
            decider,
            found,
            keys,
            seed=asked.seed,
            out=out,
            episodes=asked.episodes,
            max_steps=asked.max_steps,
            tell=tell,
        )
    say(f"{result}\n{printable(out / 'summary.json')}")


def _evaluate_simulator(
    decider: Decider,
    asked: Asked,
    out: Path,
    env_args: Mapping[str, Any],
    overrides: Mapping[str, Any],
    run_to_limit: bool,
) -> None:
    from qsft_robot.harness.evaluation import evaluate_in_harness
    from qsft_robot.harness.key_map import KeyMap, read_key_map
    from qsft_robot.harness.observations import fitted
    from qsft_robot.harness.simulators import simulator_configuration

    arguments = dict(overrides)
    if run_to_limit:
        arguments["terminate_on_success"] = False
    if asked.max_steps is not None:
        arguments["max_steps"] = asked.max_steps
    found, described = simulator_configuration(
        env_args,
        arguments,
        list(decider.wanted.state),
        asked.seed,
        None if "range" in asked.accept else decider.description,
    )
    keys = KeyMap() if asked.key_map is None else read_key_map(asked.key_map)
    assert found.shown is not None
    keys = fitted(keys, decider.wanted, found.shown, found.name)
    count = asked.episodes or DEFAULT_EPISODES
    with RolloutProgress("evaluate", count) as tell:
        result = evaluate_in_harness(
            decider,
            found,
            keys,
            seed=asked.seed,
            out=out,
            episodes=count,
            env_args=described,
            env_overrides=arguments,
            run_to_limit=run_to_limit,
            tell=tell,
        )
    say(f"{result}\n{printable(out / 'summary.json')}")
