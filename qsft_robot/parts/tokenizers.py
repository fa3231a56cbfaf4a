"""Action tokenizers by kind: ours, and those that packages register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qsft_robot.names import unknown
from qsft_robot.parts.plugins import TOKENIZERS as GROUP
from qsft_robot.parts.plugins import load_part, load_plugin, plugin_names

if TYPE_CHECKING:
    import numpy as np

    from tokenizers_action.protocol import ActionTokenizer

# Kind -> its class, as "module:name".
TOKENIZERS: dict[str, str] = {
    "quantile_bins": "tokenizers_action.bins:QuantileBinTokenizer",
    "uniform_bins": "tokenizers_action.bins:UniformBinTokenizer",
    "commands": "tokenizers_action.commands:CommandTokenizer",
}


def tokenizer_kinds() -> list[str]:
    """Every kind that can be built."""
    return [*TOKENIZERS, *plugin_names(GROUP)]


def tokenizer_class(kind: str) -> type[ActionTokenizer]:
    """The class of a kind; ValueError with the nearest name where there is none."""
    found = load_part(TOKENIZERS[kind]) if kind in TOKENIZERS else load_plugin(GROUP, kind)
    if found is None:
        raise unknown("tokenizer", kind, tokenizer_kinds())
    return found


def build_tokenizer(
    kind: str, actions: np.ndarray, horizon: int, n_bins: int, free: bool = False
) -> ActionTokenizer:
    """Fit an action tokenizer to normalized actions [N, d] in [-1, 1], or to all commands that the
    logs hold, object [N] of str."""
    return tokenizer_class(kind).fit(actions, horizon=horizon, n_bins=n_bins, free=free)


def load_tokenizer(description: Mapping[str, Any]) -> ActionTokenizer:
    """Rebuild a tokenizer from its `to_json` form."""
    return tokenizer_class(description["kind"]).from_json(dict(description))
