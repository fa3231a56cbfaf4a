"""Models of our own by the names of their sizes."""

from __future__ import annotations

from collections.abc import Callable

from vlm.decision_transformer.model import DecisionTransformer
from vlm.rt.config import COMMANDS, DECISION, PERCEPTRON, TRANSFORMER, RTConfig
from vlm.rt.context import ContextReader
from vlm.rt.model import RTModel
from vlm.rt.perceptron import PerceptronModel
from vlm.rt.whole_commands import WholeCommands


def build(config: RTConfig, load_image_weights: bool = True) -> ContextReader:
    """The model of a config, with random weights (`load_image_weights`: see ContextReader)."""
    kinds: dict[str, Callable[[RTConfig, bool], ContextReader]] = {
        TRANSFORMER: RTModel,
        PERCEPTRON: PerceptronModel,
        DECISION: DecisionTransformer,
        COMMANDS: WholeCommands,
    }
    return kinds[config.trunk](config, load_image_weights)


def perceptron(vocab_size: int, n_tokens: int, state_dim: int, **changes: object) -> ContextReader:
    """For states on one CPU core: perceptrons in place of attention."""
    return _build(
        vocab_size, n_tokens, state_dim, changes, trunk=PERCEPTRON,
        width=256, depth=2, mlp_ratio=2.0, image_channels=48, image_tokens=8, dropout=0.0,
    )  # fmt: skip


def whole_commands(
    vocab_size: int, n_tokens: int, state_dim: int, **changes: object
) -> ContextReader:
    """Perceptrons that score whole commands of a closed list. `changes` have its `commands`."""
    return _build(
        vocab_size, n_tokens, state_dim, changes, trunk=COMMANDS,
        width=256, depth=2, mlp_ratio=2.0, image_channels=48, image_tokens=8, dropout=0.0,
        mixture=2,
    )  # fmt: skip


def decision_transformer(
    vocab_size: int, n_tokens: int, state_dim: int, **changes: object
) -> ContextReader:
    """A Decision Transformer of the size of the published one. `changes` have its `decision`."""
    return _build(
        vocab_size, n_tokens, state_dim, changes, trunk=DECISION,
        width=128, depth=3, heads=4, mlp_ratio=2.0, image_channels=48, image_tokens=8, dropout=0.0,
    )  # fmt: skip


def rt_tiny(vocab_size: int, n_tokens: int, state_dim: int, **changes: object) -> ContextReader:
    """For two CPU cores. `changes` are RTConfig fields: cameras, history, image_size, width, ..."""
    return _build(
        vocab_size, n_tokens, state_dim, changes,
        width=128, depth=3, heads=4, mlp_ratio=2.0, image_channels=48, image_tokens=8, dropout=0.0,
    )  # fmt: skip


def rt_small(vocab_size: int, n_tokens: int, state_dim: int, **changes: object) -> ContextReader:
    """For a small GPU."""
    return _build(
        vocab_size, n_tokens, state_dim, changes,
        width=256, depth=6, heads=8, mlp_ratio=4.0, image_channels=64, image_tokens=8, dropout=0.0,
    )  # fmt: skip


def rt_base(vocab_size: int, n_tokens: int, state_dim: int, **changes: object) -> ContextReader:
    """About the size of RT-1's decoder, for one large GPU."""
    return _build(
        vocab_size, n_tokens, state_dim, changes,
        width=512, depth=8, heads=8, mlp_ratio=4.0, image_channels=96, image_tokens=8, dropout=0.1,
    )  # fmt: skip


def _build(
    vocab_size: int, n_tokens: int, state_dim: int, changes: dict, **fixed: object
) -> ContextReader:
    return build(RTConfig(vocab_size, n_tokens, state_dim, **(fixed | changes)))  # type: ignore[arg-type]
