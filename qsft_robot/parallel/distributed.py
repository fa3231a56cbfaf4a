"""One run trained by several processes (accelerate launch, torchrun): who is who, sums over all."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Gradients are summed in buckets of about so many bytes.
BUCKET = 64 * 2**20
# How long processes wait for one: the first fills caches (frames, features of a large tower, a
# model of the hub) while the others stand still.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """The processes that train together; a run that was started plainly is one alone.

    Every method but `is_main` has to be called by all of them, in the same order.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and progress."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, by rank; all of one shape."""
        if self.count == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(found, tensor)
        return found

    def share(self, module: nn.Module) -> None:
        """Give what is trained in a module the values that it has in the first process."""
        if self.count > 1:
            for parameter in module.parameters():
                if parameter.requires_grad and not is_sharded(parameter):
                    dist.broadcast(parameter.data, 0)

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes (FSDP has done its own)."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
        for bucket in buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.count
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, mean in zip(bucket, flat.split(sizes), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the first process run the block before the others (it fills caches on disk)."""
        if not self.is_main:
            self.wait()
        try:
            yield
        finally:
            if self.is_main:
                self.wait()


def processes() -> Processes:
    """The processes that this one trains with."""
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())


def join(device: str) -> str:
    """Find the other processes, where a launcher started several; the device of this one.

    The launcher's environment says so (WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).
    "cuda" becomes this process's own GPU. ImportError where accelerate is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if not dist.is_initialized():
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise ImportError("several processes need: pip install 'qsft-robot[vlm]'") from error
        PartialState(cpu=device == "cpu", timeout=PATIENCE)
        atexit.register(_leave)
    if device == "cuda":
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over the processes (FSDP)."""
    return hasattr(tensor, "full_tensor")


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in their order, in lists of one type and of about BUCKET bytes."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
