"""Trained agents from .npz files of their weights, that act where others have scripted experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from sim.locomotion.env import SIZES, LocomotionEnv

# Name of an agent, by the algorithm that trained it -> plain words.
AGENTS: dict[str, str] = {
    "a2c": "an agent of advantage actor-critic",
    "trpo": "an agent of trust-region policy optimization",
    "ppo": "an agent of proximal policy optimization",
    "sac": "an agent of soft actor-critic",
    "tqc": "an agent of truncated quantile critics",
}
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
}
# Stable-Baselines3's bounds of normalized observations and of the logarithm of a deviation.
_FARTHEST_SEEN, _LOG_STD = 10.0, (-20.0, 2.0)
_FORM = (
    "Of hidden layers 0, 1, ...: hidden_0_weight [out, in], hidden_0_bias [out], ...; mean_weight, "
    "mean_bias; log_std [d], or log_std_weight, log_std_bias; activation (tanh or relu); squash "
    "(whether a tanh follows); perhaps obs_mean and obs_var"
)


@dataclass(frozen=True)
class Agent:
    """A Gaussian policy on a perceptron: weights [out, in] and biases [out] of each layer."""

    hidden: tuple[tuple[np.ndarray, np.ndarray], ...]
    mean: tuple[np.ndarray, np.ndarray]
    log_std: tuple[np.ndarray, np.ndarray]  # of no inputs where it is the same everywhere
    activation: str
    squash: bool
    # Mean and variance of observations, where it sees normalized ones.
    seen: tuple[np.ndarray, np.ndarray] | None

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An action drawn from its distribution, float64 [d]."""
        x = observation.astype(np.float64)
        if self.seen is not None:
            mean, variance = self.seen
            x = (x - mean) / np.sqrt(variance + 1e-8)
            x = x.clip(-_FARTHEST_SEEN, _FARTHEST_SEEN)
        for weight, bias in self.hidden:
            x = _ACTIVATIONS[self.activation](weight @ x + bias)
        weight, bias = self.log_std
        log_std = bias + (weight @ x if weight.size else 0.0)
        drawn = self.mean[0] @ x + self.mean[1]
        drawn = drawn + np.exp(log_std.clip(*_LOG_STD)) * rng.standard_normal(len(drawn))
        return np.tanh(drawn) if self.squash else drawn


@lru_cache(maxsize=16)
def read_agent(path: str, inputs: int, outputs: int) -> Agent:
    """The agent of an .npz file that sees `inputs` numbers and gives `outputs`. ValueError names
    the file and the array that is missing or of another shape."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: no .npz file of plain arrays ({error}).") from error

    def take(name: str, *shape: int | None) -> np.ndarray:
        if name not in arrays:
            raise ValueError(f"{path}: has no {name!r}, only {', '.join(arrays)}. {_FORM}.")
        x = arrays[name]
        fits = x.ndim == len(shape) and all(
            want in (None, is_) for want, is_ in zip(shape, x.shape, strict=True)
        )
        if not fits or x.dtype.kind != "f" or not np.isfinite(x).all():
            wanted = ", ".join("n" if each is None else str(each) for each in shape)
            raise ValueError(
                f"{path}: {name!r} is {x.dtype} {list(x.shape)}, where finite numbers [{wanted}] "
                f"are expected: an agent that sees {inputs} numbers and has {outputs} actions."
            )
        return x.astype(np.float64)

    def layer(name: str, size: int | None, below: int) -> tuple[np.ndarray, np.ndarray]:
        weight = take(f"{name}_weight", size, below)
        return weight, take(f"{name}_bias", len(weight))

    hidden: list[tuple[np.ndarray, np.ndarray]] = []
    width = inputs
    while f"hidden_{len(hidden)}_weight" in arrays or not hidden:
        hidden.append(layer(f"hidden_{len(hidden)}", None, width))
        width = len(hidden[-1][1])
    if "log_std" in arrays:
        log_std = np.zeros((outputs, 0)), take("log_std", outputs)
    else:
        log_std = layer("log_std", outputs, width)
    seen = None
    if "obs_mean" in arrays or "obs_var" in arrays:
        seen = take("obs_mean", inputs), take("obs_var", inputs)
    for name, known in (("activation", tuple(_ACTIVATIONS)), ("squash", ("True", "False"))):
        told = str(arrays[name]) if name in arrays else "missing"
        if told not in known:
            raise ValueError(f"{path}: {name!r} is {told}; there are: {', '.join(known)}.")
    mean = layer("mean", outputs, width)
    activation, squash = str(arrays["activation"]), bool(arrays["squash"])
    return Agent(tuple(hidden), mean, log_std, activation, squash, seen)


class AgentExpert:
    """An agent at an episode of an environment, with Gaussian noise on its actions."""

    done = False  # it never ends a log early

    def __init__(
        self, env: LocomotionEnv, agent: Agent, noise: float, rng: np.random.Generator
    ) -> None:
        self.env, self.agent, self.noise, self.rng = env, agent, noise, rng

    def act(self) -> np.ndarray:
        """The next torques, float32 [d] in [-1, 1]."""
        action = self.agent.act(self.env.seen, self.rng)
        if self.noise:
            action = action + self.noise * self.rng.standard_normal(len(action))
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def build_expert(
    env: LocomotionEnv,
    failure: str | None,
    noise: float,
    rng: np.random.Generator,
    *,
    agents: Mapping[str, str],
) -> AgentExpert:
    """The agent of a name, in the file that `agents` gives for it; "expert" without a name."""
    agent = read_agent(agents[failure or "expert"], len(env.seen), env.actions)
    return AgentExpert(env, agent, noise, rng)


def find_agents(env_name: str, names: Iterable[str], paths: Sequence[Path]) -> dict[str, str]:
    """Name of an agent -> its file: <name>_<robot>.npz or <name>.npz among files and folders; for
    "expert" the only file. ValueError where there is none, or where it is no agent of the robot."""
    robot = env_name.partition("/")[2]
    if not paths:
        raise ValueError(
            f"{env_name} has no scripted expert: it records trained agents, whose files are named "
            f"by --agents (a folder of NAME_{robot}.npz, or such files; NAME: {', '.join(AGENTS)})."
        )
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"--agents {path}: there is no such file or folder.")
        files += sorted(path.glob("*.npz")) if path.is_dir() else [path]
    found = {}
    for name in names:
        fitting = [x for x in files if x.stem in (name, f"{name}_{robot}")]
        if name == "expert" and len(files) == 1:
            fitting = files
        if not fitting:
            raise ValueError(
                f"--agents: no file of {name!r} ({name}_{robot}.npz or {name}.npz) among "
                f"{', '.join(x.name for x in files) or 'nothing'}; --mixture names the agents that "
                f"act, each with its share (of one file: --mixture expert=1)."
            )
        found[name] = str(fitting[0].resolve())
        read_agent(found[name], *SIZES[robot])
    return found
