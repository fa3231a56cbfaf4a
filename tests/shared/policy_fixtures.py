"""Shared by the tests of exported policies: small random networks under every acting rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import pytest
import torch

from qsft_robot.config.acting import ActingConfig
from qsft_robot.config.json_form import to_json
from qsft_robot.export.export import export_policy
from qsft_robot.export.recorded_observations import random_observations
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.policy.description import FORMAT, PolicyDescription
from qsft_robot.policy.token_policy import TokenPolicy, build_networks
from qsft_robot.types import Observation
from tokenizers_action.bins import QuantileBinTokenizer
from vlm.critic import CriticShape
from vlm.rt.config import RTConfig

# Every input, output and branch of the graphs once; an export takes seconds.
SETTINGS: dict[str, dict[str, Any]] = {
    "low-dim, k = 3": {"acting": {"k": 3.0}, "history": 3},
    "pixels and state, ratio": {
        "cameras": True, "history": 2, "acting": {"rule": "ratio", "beta": 20.0},
    },
    "value heads": {
        "parts": ["behavior", "value", "heads"], "acting": {"rule": "advantage"},
    },
    "return-conditioned": {
        "method": "return_conditioned", "parts": ["behavior"],
        "acting": {"rule": "behavior", "support": 0.0, "min_p": 0.0, "draw": "median"},
    },
    "chunks that a critic chooses": {
        "horizon": 3, "history": 2, "parts": ["value", "void", "critic"],
        "acting": {"candidates": 5},
    },
    # A value without void or heads.
    "paper": {"acting": {"rule": "paper"}, "parts": ["behavior", "value"]},
}  # fmt: skip
# Rules and parts that a graph of the above differs from in arithmetic alone.
OTHERS: dict[str, dict[str, Any]] = {
    "chunks": {"horizon": 3},
    "pixels that a critic reads": {
        "cameras": True,
        "shared": True,
        "parts": ["behavior", "value", "void", "critic"],
        "acting": {"k": 2.0, "candidates": 3},
    },
    "the likeliest of several": {"horizon": 3, "acting": {"candidates": 3, "judge": "likelihood"}},
    "the likeliest and best of several": {
        "parts": ["value", "void", "critic"],
        "acting": {"candidates": 3, "judge": "tilted"},
    },
    "one network": {"parts": ["value", "void"]},
    "pixels alone": {"cameras": True, "state": False, "parts": ["value", "void"]},
    "behavior of two": {"acting": {"rule": "behavior"}},
    "shared encoder": {"cameras": True, "acting": {"k": 2.0}, "shared": True},
}


class Exported(NamedTuple):
    """A policy as a checkpoint that torch runs, and as the folder that was made of it."""

    checkpoint: Path
    folder: Path
    logs: list[list[Observation]]


def describe(
    method: str = "qsft",
    acting: Mapping[str, Any] | None = None,
    parts: tuple[str, ...] | list[str] = ("behavior", "value", "void"),
    cameras: bool = False,
    state: bool = True,
    history: int = 1,
    horizon: int = 1,
    shared: bool = False,
) -> PolicyDescription:
    """An arm of two dimensions, the first of 8 bins and the second of 3."""
    tokenizer = QuantileBinTokenizer([-0.5, -1.0], [0.25, 1.0], [8, 3], horizon)
    names = ("front", "wrist") if cameras else ()
    config = RTConfig(
        vocab_size=tokenizer.vocab_size,
        n_tokens=tokenizer.n_tokens,
        state_dim=5 if state else 0,
        cameras=names,
        image_size=(16, 24),
        history=history,
        width=16,
        depth=1,
        heads=2,
        image_channels=8,
        image_tokens=2,
        text_length=6,
    )
    keys = ["joints", "gripper"] if state else []
    shape = CriticShape(
        action_numbers=2 * horizon,
        n_tokens=tokenizer.n_tokens,
        vocab_size=tokenizer.vocab_size,
        history=history,
        state_dim=config.state_dim,
        image_tokens=config.frame_image_tokens,
        image_width=config.width if cameras else 0,
        width=16,
    )
    stats = {
        "joints": {"mean": [0.1] * 4, "std": [2.0, 1.0, 0.0, 3.0]},
        "gripper": {"mean": [0.5], "std": [0.2]},
    }
    value = {
        "format": FORMAT,
        "method": method,
        **({"critic": asdict(shape)} if "critic" in parts else {}),
        "conditions_on_return": method == "return_conditioned",
        "model": {"kind": "rt", "config": vars(config)},
        "tokenizer": tokenizer.to_json(),
        "norm_stats": {
            "state": {key: stats[key] for key in keys},
            "actions": {"low": [-3.0, 0.0], "high": [2.0, 1.0]},
        },
        "state_keys": keys,
        "cameras": {name: [16, 24] for name in names},
        "action": {
            "dim": 2, "horizon": horizon, "low": [-3.0, 0.0], "high": [2.0, 1.0], "control_hz": 20,
        },
        "acting": {**to_json(ActingConfig()), **(acting or {})},
        "shared_image_features": shared,
        "networks": list(parts),
        "env_args": {},
        "data": {
            "file": "logs.hdf5", "sha256": "0" * 64, "episodes": 3, "steps": 30,
            "success_rate": 0.5, "instructions": ["lift the cube", ""],
        },
        "seed": 0,
        "versions": {},
    }  # fmt: skip
    return PolicyDescription.from_json(value, "a policy")


def random_policy(description: PolicyDescription) -> TokenPolicy:
    """Networks of a description, every weight its own, so that behavior and value differ."""
    torch.manual_seed(0)
    networks = build_networks(description)
    for trunk in networks.trunks():
        # Untrained logits hardly depend on what is seen.
        trunk.head.weight.data *= 20
    if networks.value is not None:
        value = networks.value
        value.load_state_dict({k: x + 0.05 * torch.randn_like(x) for k, x in _of(value)})
    head = networks.head
    if networks.head_name == "void":
        head.load_state_dict({k: 0.5 * torch.randn_like(x) for k, x in _of(head)})
    if networks.head_name == "heads":
        head.load_state_dict({k: x + 0.05 * torch.randn_like(x) for k, x in _of(head)})
        head.state_value[-1].bias.data += 0.5
    if description.shared_image_features:
        images = networks.behavior.images.state_dict()  # type: ignore[union-attr]
        networks.value.images.load_state_dict(images)  # type: ignore[union-attr]
    return TokenPolicy(description, networks)


def _of(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(module.state_dict().items())


@contextmanager
def without_checks() -> Iterator[None]:
    """Without the checks of shapes, which only tests have, and which would be traced too."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_shape_checks() -> AbstractContextManager[None]:
    return without_checks()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A setting's checkpoint, exported once a session."""
    torch.set_num_threads(1)
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        if name not in made:
            base = tmp_path_factory.mktemp("exported")
            description = describe(**SETTINGS[name])
            policy = random_policy(description)
            write_checkpoint(base / "checkpoint", description, policy.networks)
            with without_checks():
                folder = export_policy(base / "checkpoint", base / "policy", onnx=True)
            logs = random_observations(description, 24, steps=6, seed=1)
            made[name] = Exported(base / "checkpoint", folder, logs)
        return made[name]

    return export


@pytest.fixture(params=[*SETTINGS, *OTHERS])
def random(request: pytest.FixtureRequest) -> TokenPolicy:
    """A policy of each setting that was never written."""
    return random_policy(describe(**{**SETTINGS, **OTHERS}[request.param]))


@pytest.fixture
def tiny() -> TokenPolicy:
    """A low-dimensional one."""
    return random_policy(describe())
