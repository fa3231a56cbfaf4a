"""Action tokenizers by kind: ours, and those that packages register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qsft_robot.names import unknown
from qsft_robot.parts.plugins import TOKENIZERS as GROUP
from qsft_robot.parts.plugins import load_part, load_plugin, plugin_names
from tokenizers_action.protocol import ActionTokenizer, ChunkTokenizer, action_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from qsft_robot.config.tokenizer import TokenizerConfig

# Kind -> its class, as "module:name".
TOKENIZERS: dict[str, str] = {
    "quantile_bins": "tokenizers_action.bins:QuantileBinTokenizer",
    "uniform_bins": "tokenizers_action.bins:UniformBinTokenizer",
    "fast": "tokenizers_action.fast:FastTokenizer",
    "spline": "tokenizers_action.spline:SplineTokenizer",
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


def build_tokenizer(config: TokenizerConfig, logs: Sequence[np.ndarray]) -> ActionTokenizer:
    """Fit a tokenizer to the normalized actions of each log, [t, d] in [-1, 1], or to all commands
    that the logs hold, object [N] of str, as one log."""
    import numpy as np

    kind = tokenizer_class(config.kind)
    if not hasattr(kind, "fit_chunks"):
        actions = np.concatenate(list(logs))
        given = {"closed": True} if config.closed else {}
        return kind.fit(
            actions, horizon=config.horizon, n_bins=config.n_bins, free=config.free, **given
        )
    whole: type[ChunkTokenizer] = kind  # type: ignore[assignment]
    chunks = np.concatenate([action_chunks(actions, config.horizon)[0] for actions in logs])
    told = {name: getattr(config, name) for name in ("points", "vocabulary", "scale")}
    told = {name: value for name, value in told.items() if value is not None}
    return whole.fit_chunks(chunks, n_bins=config.n_bins, max_tokens=config.max_tokens, **told)


def load_tokenizer(description: Mapping[str, Any]) -> ActionTokenizer:
    """Rebuild a tokenizer from its `to_json` form."""
    return tokenizer_class(description["kind"]).from_json(dict(description))
