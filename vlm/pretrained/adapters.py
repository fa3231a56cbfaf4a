"""LoRA adapters on a language model, by peft: added, merged, and two of them in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ADAPTER = "default"


def add_lora(language_model: nn.Module, rank: int, alpha: float, dropout: float) -> None:
    """Put an adapter on every linear layer of attention and perceptron; its output starts at 0.

    The language model's own weights are frozen. ValueError where it has no such layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = linear_names(language_model)
    if not names:
        raise ValueError(
            f"{type(language_model).__name__} has no linear layers for LoRA: use lora_rank 0."
        )
    transposed = all(_is_transposed(language_model.get_submodule(name)) for name in names)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=names,
        fan_in_fan_out=transposed,
        bias="none",
    )
    language_model.requires_grad_(False)
    inject_adapter_in_model(config, language_model, adapter_name=ADAPTER)
    for name, parameter in language_model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def linear_names(language_model: nn.Module) -> list[str]:
    """The linear layers inside the blocks of a language model, by name."""
    return [
        name
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) or _is_transposed(module)
    ]


def merge_lora(module: nn.Module) -> None:
    """Add every adapter into the weights it stands on, and take it away; in place."""
    from peft.tuners.lora import LoraLayer

    for name, child in list(module.named_children()):
        if isinstance(child, LoraLayer):
            child.merge()
            setattr(module, name, child.get_base_layer())
        else:
            merge_lora(child)


def pair_lora(first: nn.Module, second: nn.Module) -> None:
    """Let the adapters of `first` (in place) work on the first half of a batch and those of
    `second` on its second half, over the frozen weights that both share. Inference only."""
    from peft.tuners.lora import LoraLayer

    for name, child in list(first.named_children()):
        other = getattr(second, name)
        if isinstance(child, LoraLayer):
            setattr(first, name, PairedLinear(child, other))
        else:
            pair_lora(child, other)


class PairedLinear(nn.Module):
    """One frozen layer with two adapters: the first half of the batch uses one, the rest the other.

    The layer's weights are read once for both: at batch 1 a decision costs what they cost. The
    adapters are the twins' own, so that training goes on being seen.
    """

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.base = first.get_base_layer()
        pair = (first, second)
        self.down = nn.ModuleList(x.lora_A[ADAPTER] for x in pair)
        self.up = nn.ModuleList(x.lora_B[ADAPTER] for x in pair)
        self.scaling = first.scaling[ADAPTER]

    def forward(self, x: Tensor) -> Tensor:
        """x [2 b, t, in] to [2 b, t, out]."""
        compiling = torch.compiler.is_compiling()
        out = self.base(x) if compiling else _once(self.base, x)
        halves = x.reshape(2, -1, x.shape[-1])
        changes = out.view(2, -1, out.shape[-1])
        adapters: Any = zip(self.down, self.up, strict=True)
        made = []
        for change, half, (down, up) in zip(changes, halves, adapters, strict=True):
            # In the adapters' own type, as in peft: fewer inputs than weights have to be cast.
            low = torch.mm(half.to(down.weight.dtype), down.weight.t())
            # In place is faster, and has no form in an ONNX graph.
            if change.dtype == up.weight.dtype:
                add = change.addmm if compiling else change.addmm_
                made.append(add(low, up.weight.t(), alpha=self.scaling))
            else:
                add = change.add if compiling else change.add_
                made.append(add(torch.mm(low, up.weight.t()).to(change.dtype), alpha=self.scaling))
        return torch.stack(made).view_as(out) if compiling else out


def _once(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, its weights read once where x has two rows.

    With float32 on a CPU, X W^T of two rows takes 1.6 to 2.1 times the time of one row, W X^T 0.7
    to 2.0 times it, the more the more inputs (measured with MKL, 1,024 to 4,096 of them).
    """
    two = x.numel() == 2 * x.shape[-1]
    if not two or type(layer) is not nn.Linear or x.device.type != "cpu":
        return layer(x)
    if x.dtype != torch.float32 or layer.weight.dtype != torch.float32:
        return layer(x)
    out = torch.mm(layer.weight, x.reshape(2, -1).t()).t().contiguous()
    if layer.bias is not None:
        out += layer.bias
    return out.view(*x.shape[:-1], -1)


def _is_transposed(module: nn.Module) -> bool:
    """GPT-2's linear layers are transformers' Conv1D, their weights [in, out]."""
    return type(module).__name__ == "Conv1D"
