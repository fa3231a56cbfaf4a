"""The one place that names concrete environments, experts, tokenizers and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from qsft_robot.extras import is_installed, naming_extras
from qsft_robot.types import LoadedPolicy
from tokenizers_action.bins import QuantileBinTokenizer, UniformBinTokenizer
from tokenizers_action.commands import CommandTokenizer
from tokenizers_action.protocol import ActionTokenizer

if TYPE_CHECKING:
    import gymnasium

    from vlm.pretrained.model import PretrainedModel

# What keeps the training contract: an RTModel or a PretrainedModel.
Model: TypeAlias = Any
# Instruction, and the last steps: the command that led to each and what was said there.
StepPrompt: TypeAlias = Callable[[str, Sequence[tuple[str, Sequence[str]]]], np.ndarray]
# Any installed gymnasium environment, e.g. "gymnasium:Pendulum-v1".
GYMNASIUM_PREFIX = "gymnasium:"
ROBOSUITE_TASKS = ("Lift", "PickPlaceCan", "Stack", "NutAssemblySquare")
TABLETOP = "tabletop"
ALFWORLD = "alfworld"
ALFWORLD_THOR = "alfworld_thor"
TOKENIZERS: dict[str, Any] = {
    "uniform_bins": UniformBinTokenizer,
    "quantile_bins": QuantileBinTokenizer,
    "commands": CommandTokenizer,
}
MODELS = ("rt_tiny", "rt_small", "rt_base", "pretrained")
MODEL_KINDS = ("rt", "pretrained")


def unknown(what: str, name: str, known: Mapping[str, Any] | tuple[str, ...]) -> ValueError:
    """The error for a name that does not exist: what was asked, the nearest, and all there are."""
    near = get_close_matches(name, list(known), n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {name!r}.{guess} There are: {', '.join(known)}.")


@naming_extras("the simulator")
def build_env(env_args: Mapping[str, Any], **overrides: Any) -> gymnasium.Env:
    """Build the environment that `env_args` (robomimic's form) names.

    `overrides` replace or add entries of env_kwargs, e.g. `max_steps=50`,
    `terminate_on_success=False`, `render_mode="rgb_array"`. What else stands beside env_kwargs
    (`type`, `control_hz`, ...) describes the logs. Raises ValueError on an unknown name.
    """
    name = env_args["env_name"]
    kwargs = {**env_args.get("env_kwargs", {}), **overrides}
    if name == TABLETOP:
        from sim.tabletop.env import TabletopEnv

        return TabletopEnv(**_known_kwargs(name, TabletopEnv, kwargs))
    if name == ALFWORLD:
        from sim.alfworld.env import AlfworldEnv

        return AlfworldEnv(**_known_kwargs(name, AlfworldEnv, kwargs))
    if name == ALFWORLD_THOR:
        from sim.alfworld.thor import AlfworldThorEnv

        return AlfworldThorEnv(**_known_kwargs(name, AlfworldThorEnv, kwargs))
    if name in ROBOSUITE_TASKS:
        from sim.robosuite.env import build_robosuite_env

        return build_robosuite_env(env_args, **overrides)
    if name.startswith(GYMNASIUM_PREFIX):
        return _build_gymnasium(name.removeprefix(GYMNASIUM_PREFIX), kwargs)
    raise unknown(
        "environment",
        name,
        (TABLETOP, ALFWORLD, ALFWORLD_THOR, *ROBOSUITE_TASKS, f"{GYMNASIUM_PREFIX}<installed id>"),
    )


def showing(env_args: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """`env_args` of an environment that shows these state keys too, where its keys can be chosen:
    a policy may have learnt from more of them than the environment shows unasked."""
    if env_args.get("env_name") not in ROBOSUITE_TASKS:
        return dict(env_args)
    from sim.robosuite.args import seeing

    return {**env_args, "env_kwargs": seeing(env_args.get("env_kwargs") or {}, keys)}


def _build_gymnasium(name: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    """An installed environment. A step limit that it does not take itself is gymnasium's own;
    ValueError for another argument that it does not take."""
    import gymnasium

    try:
        return gymnasium.make(name, **kwargs)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        if "'max_steps'" in str(error):
            rest = {key: x for key, x in kwargs.items() if key != "max_steps"}
            return _build_gymnasium(name, {**rest, "max_episode_steps": kwargs["max_steps"]})
        flag = " (--run-to-limit)" if "'terminate_on_success'" in str(error) else ""
        raise ValueError(f"{GYMNASIUM_PREFIX}{name}: {error}{flag}") from error


def _known_kwargs(name: str, kind: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The kwargs; ValueError with the nearest name for one that the environment does not take."""
    known = dict.fromkeys(
        each.name
        for base in kind.__mro__
        if base.__module__.startswith("sim.")
        for each in signature(base).parameters.values()
        if each.kind is not each.VAR_KEYWORD
    )
    for key in kwargs:
        if key not in known:
            raise unknown(f"argument of the environment {name}", key, known)
    return kwargs


def build_motion(env: gymnasium.Env, control_hz: float) -> Any:
    """What moves an environment in physics time, for a robot that runs with the wall clock."""
    simulator: Any = env.unwrapped
    if simulator.env_args["env_name"] != TABLETOP:
        raise unknown("real-time environment", simulator.env_args["env_name"], (TABLETOP,))
    from sim.tabletop.motion import Motion

    return Motion(simulator, control_hz)


def build_expert(
    env: gymnasium.Env, failure: str | None, noise: float, rng: np.random.Generator, **kwargs: Any
) -> Any:
    """Build the scripted expert of an environment; `failure` is a name of `failure_modes`."""
    simulator: Any = env.unwrapped
    name = simulator.env_args["env_name"]
    modes = failure_modes(name)
    if failure is not None and failure not in modes:
        raise unknown("failure mode", failure, modes)
    build: Any
    if name == TABLETOP:
        from sim.tabletop.expert import build_expert as build
    elif name == ALFWORLD:
        from sim.alfworld.expert import build_expert as build
    else:
        from sim.robosuite.expert import build_expert as build
    return build(simulator, failure, noise, rng, **kwargs)


def failure_modes(env_name: str) -> dict[str, str]:
    """The named ways in which the scripted expert of an environment can fail, in plain words."""
    if env_name == TABLETOP:
        from sim.tabletop.expert import FAILURE_MODES
    elif env_name == ALFWORLD:
        from sim.alfworld.expert import FAILURE_MODES
    elif env_name in ROBOSUITE_TASKS:
        from sim.robosuite.expert import FAILURE_MODES
    else:
        raise ValueError(f"{env_name!r} has no scripted expert, so nothing can be collected in it.")
    return FAILURE_MODES


def generate_games(
    world: str,
    folder: Path | None,
    games: Mapping[str, int],
    *,
    seed: int,
    workers: int,
    on_game: Callable[[int, int], None] | None = None,
) -> Any:
    """Make the games of a world that ships none; returns a report that prints itself."""
    if world != ALFWORLD:
        raise unknown("world of games", world, (ALFWORLD,))
    from sim.alfworld.games import generate_games as generate

    return generate(folder, games, seed=seed, workers=workers, on_game=on_game)


def build_tokenizer(
    kind: str, actions: np.ndarray, horizon: int, n_bins: int, free: bool = False
) -> ActionTokenizer:
    """Build an action tokenizer from normalized actions [N, d] in [-1, 1], or from all commands
    that the logs hold, object [N] of str."""
    if kind == "commands":
        return CommandTokenizer.fit(actions, free)
    if kind == "uniform":
        return UniformBinTokenizer(actions.shape[-1], horizon=horizon, n_bins=n_bins)
    if kind == "quantile":
        return QuantileBinTokenizer.fit(actions, horizon=horizon, n_bins=n_bins)
    raise unknown("tokenizer", kind, ("quantile", "uniform", "commands"))


def load_tokenizer(description: Mapping[str, Any]) -> ActionTokenizer:
    """Rebuild a tokenizer from its `to_json` form."""
    kind = description["kind"]
    if kind not in TOKENIZERS:
        raise unknown("tokenizer", kind, TOKENIZERS)
    return TOKENIZERS[kind].from_json(description)


def build_model(name: str, **shape: Any) -> Model:
    """Build a model by its builder's name; `shape` are the builder's keyword arguments, those of
    `PretrainedConfig` for "pretrained"."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    if name == "pretrained":
        from vlm.pretrained.config import PretrainedConfig
        from vlm.pretrained.model import PretrainedModel

        return PretrainedModel(PretrainedConfig(**shape))
    from vlm.rt import model as rt

    return getattr(rt, name)(**shape)


def load_model(description: Mapping[str, Any], folder: Path | None = None) -> Model:
    """Build the model that a checkpoint describes, with what was trained still to be loaded.

    `folder` is the policy folder, where a model that carries its base inside finds it.
    """
    kind = description["kind"]
    if kind == "rt":
        from vlm.rt.model import RTConfig, RTModel

        return RTModel(RTConfig(**description["config"]), load_image_weights=False)
    if kind != "pretrained":
        raise unknown("kind of model", kind, MODEL_KINDS)
    from vlm.pretrained.config import PretrainedConfig
    from vlm.pretrained.model import PretrainedModel

    config = PretrainedConfig(**description["config"])
    if "inside" in description:
        assert folder is not None
        config = replace(config, base=str(folder / description["inside"]))
    return PretrainedModel(config)


def with_later_settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """A model's description with what later versions added to its config, at the defaults."""
    if description["kind"] == "rt":
        from vlm.rt.model import RTConfig

        return {**description, "config": vars(RTConfig(**description["config"]))}
    from vlm.pretrained.config import PretrainedConfig

    return {**description, "config": asdict(PretrainedConfig(**description["config"]))}


def describe_model(model: Model) -> dict[str, Any]:
    """What `load_model` needs, JSON types only."""
    from vlm.rt.model import RTModel

    if isinstance(model, RTModel):
        return {"kind": "rt", "config": vars(model.config)}
    return {
        "kind": "pretrained",
        "config": asdict(model.config),
        "preprocessing": model.preprocessing,
    }


def carry_base(model: PretrainedModel, folder: Path, merged: bool) -> dict[str, Any]:
    """Write the base of a pretrained model to `folder` as a plain Hugging Face folder, `merged`
    with what was trained or as it was; returns the description of the model that opens it there.

    What `load_model` of that description still needs is the state dict of the model it builds.
    """
    from vlm.pretrained.files import copy_base

    if merged:
        config = model.merge_to(folder)
        description = {**describe_model(model), "config": asdict(config)}
    else:
        copy_base(model.config, folder)
        description = describe_model(model)
    description["config"]["base"] = folder.name
    return {**description, "inside": folder.name}


def save_processor(model: PretrainedModel, folder: Path) -> None:
    """Write tokenizer and image preprocessing of a pretrained model to a folder."""
    model.prompt.processor.save_pretrained(folder)


def build_tiny_model(family: str, folder: Path, **sizes: Any) -> Path:
    """Write a small model of a family with random weights as a Hugging Face folder."""
    from vlm.tiny.models import build_tiny_model as build

    return build(family, folder, **sizes)


def tiny_families() -> list[str]:
    """The families that `build_tiny_model` knows."""
    from vlm.tiny.models import BUILDERS

    return list(BUILDERS)


def words_of(model: Model) -> Callable[[str], np.ndarray]:
    """How a model reads an instruction: instruction -> int64 [l]."""
    return model.encode_words


def frame_words_of(model: Model) -> Callable[[str, Sequence[str]], np.ndarray] | None:
    """How a model reads a step: the command that led there and what was said -> int64 [w]; None
    for one that reads its steps in the prompt."""
    return getattr(model, "encode_frame", None)


def step_prompt_of(model: Model) -> StepPrompt:
    """How a model reads its steps in the prompt: instruction, last steps -> int64 [l]."""
    return model.encode_steps


def open_policy(
    folder: str | Path,
    acting: Mapping[str, Any] | None = None,
    device: str = "cpu",
    runtime: Literal["auto", "onnx", "torch"] = "auto",
    threads: int = 1,
) -> LoadedPolicy:
    """Load the policy of a run folder, a checkpoint or an exported folder.

    `acting` changes entries of the acting rule; with torch a run folder is then asked for its
    checkpoint, which holds both networks. "auto" takes the ONNX graphs where the folder has them,
    the device is the CPU and no entry changes, or where torch is not installed; `threads` is for
    these graphs. ValueError on a changed or partial folder, ImportError where it needs torch and
    torch is missing, RuntimeError where the installed onnxruntime can't run the graphs.
    """
    from qsft_robot.policy.onnx_policy import DECISION, load_onnx_policy

    folder, changes = Path(folder), dict(acting or {})
    exported = folder / "policy" if (folder / "policy").is_dir() else folder
    has_torch = is_installed("torch")
    if runtime == "auto":
        has_graphs = (exported / DECISION).is_file()
        wanted = has_graphs and not changes and device == "cpu"
        runtime = "onnx" if wanted or (has_graphs and not has_torch) else "torch"
    if runtime == "onnx":
        graphs = load_onnx_policy(exported, threads)
        return graphs.with_acting(**changes) if changes else graphs
    if runtime != "torch":
        raise unknown("runtime", runtime, ("auto", "onnx", "torch"))
    if not has_torch:
        raise ImportError(
            f"{exported} is to be run with torch, which is not installed: install it (pip install "
            "'qsft-robot[train]'), or export the policy with its ONNX graphs where torch is "
            "(qsft-robot export RUN)."
        )
    inner = folder / "checkpoint" if changes else exported
    with naming_extras(f"{exported} is to be run with torch"):
        from qsft_robot.policy.token_policy import load_policy

        policy = load_policy(inner if inner.is_dir() else folder, device)
    return policy.with_acting(**changes) if changes else policy
