"""Checkpoint folders: policy.json, weights.safetensors, and what an exact resume needs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, optim

from qsft_robot.files import atomic_folder, read_json, write_json
from qsft_robot.json_kinds import check_kinds
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.earlier import upgrade_training, upgrade_weights
from qsft_robot.policy.folder import POLICY, WEIGHTS, read_description

TRAINING, TRAINING_TENSORS = "training.json", "training.safetensors"


def write_checkpoint(
    folder: Path,
    description: PolicyDescription,
    networks: nn.Module | Mapping[str, Tensor],
    training: Mapping[str, Any] | None = None,
    training_tensors: Mapping[str, Tensor] | None = None,
    extra_files: Mapping[str, str | bytes] | None = None,
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Write a policy folder, atomically; with `training` a checkpoint that resumes exactly.

    `folders` are moved into it, by the names that they get there; they lie on the same disk.
    """
    weights = networks.state_dict() if isinstance(networks, nn.Module) else networks
    with atomic_folder(folder) as temporary:
        write_json(temporary / POLICY, replace(description, policy_sha256=None).to_json())
        write_tensors(temporary / WEIGHTS, weights)
        if training is not None:
            write_json(temporary / TRAINING, training)
            write_tensors(temporary / TRAINING_TENSORS, training_tensors or {})
        for name, content in (extra_files or {}).items():
            data = content.encode() if isinstance(content, str) else content
            (temporary / name).write_bytes(data)
        for name, source in (folders or {}).items():
            shutil.move(source, temporary / name)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; OSError names it when the disk is full."""
    try:
        save_file(contiguous(tensors), path)
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written ({error}); is the disk full?") from error


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: detached, on the CPU, each with its own memory."""
    return {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}


def read_policy_folder(folder: Path) -> tuple[PolicyDescription, dict[str, Tensor]]:
    """Description and weights of a checkpoint or exported policy, its checksums verified."""
    description, weights = read_description(folder), read_tensors(folder / WEIGHTS)
    for name, x in weights.items():
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise ValueError(
                f"{folder / WEIGHTS}: {name} holds NaN or Inf, so the training broke down or the "
                "file was changed; use an earlier checkpoint, or train again."
            )
    return description, upgrade_weights(weights)


def read_training(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state that `write_checkpoint` kept for an exact resume: training.json and its tensors."""
    if not (folder / TRAINING).is_file():
        raise ValueError(
            f"{folder}: an exported policy can't be trained on; resume its run folder."
        )
    training = read_json(folder / TRAINING)
    kinds = {"stage": str, "update": int, "total": int}
    check_kinds(training, kinds, str(folder / TRAINING))
    training = upgrade_training(training)
    return training, read_tensors(folder / TRAINING_TENSORS)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; ValueError names the file when it is not one."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}).") from error


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": x for i, entries in state.items() for name, x in entries.items()}


def load_optimizer_tensors(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
