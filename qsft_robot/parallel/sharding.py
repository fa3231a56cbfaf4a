"""One model spread over the processes that train it (FSDP), and whole again for files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from qsft_robot.parallel.distributed import is_sharded, processes


def shard(model: Any, device: str) -> None:
    """Spread the parameters of a model over all processes, in place, block by block: each holds a
    part, and a block is put together while it computes. Gradients arrive as means."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.split(":", maxsplit=1)[0], (processes().count,))
    blocks = getattr(model, "blocks", None)
    if blocks is None:
        decoder = model.language_model
        blocks = decoder.layers if hasattr(decoder, "layers") else decoder.h
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name in ("encode_images", "prefill"):
        register_fsdp_forward_method(model, name)


def has_shards(module: nn.Module) -> bool:
    """Whether a module is spread over the processes."""
    return any(is_sharded(parameter) for parameter in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together, where it is spread; every process has to ask for it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module, put together on the CPU; every process has to ask for it."""
    return {name: whole(x).detach().cpu() for name, x in module.state_dict().items()}


def spread_state(optimizer: optim.Optimizer) -> None:
    """Spread an optimizer's loaded state as its parameters are."""
    from torch.distributed.tensor import distribute_tensor

    parameter: Any
    for parameter, entries in optimizer.state.items():
        if is_sharded(parameter):
            for name, x in entries.items():
                if x.shape == parameter.shape and not is_sharded(x):
                    entries[name] = distribute_tensor(
                        x, parameter.device_mesh, parameter.placements
                    )


def clip_norm_(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Clip the gradient to a norm, in place, and return the norm that it had."""
    kinds = [[p for p in parameters if is_sharded(p) == spread] for spread in (False, True)]
    plain, spread = kinds
    if not spread:
        return nn.utils.clip_grad_norm_(plain, limit)
    norms = [
        whole(nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]))
        for kind in kinds
        if kind
    ]
    total = torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        if kind:
            nn.utils.clip_grads_with_norm_(kind, limit, total)
    return total
