"""Settings of a run's Decision Transformer, as its model takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qsft_robot.config.model import SCRATCH
from qsft_robot.config.train import TrainConfig
from qsft_robot.token_data.run_data import RunData

# Kinds of tokens of which each stands for one number.
_BINS = ("uniform_bins", "quantile_bins")


def decision_settings(
    config: TrainConfig, data: RunData, revision: str | None = None
) -> dict[str, Any]:
    """Entries of the model's `decision`; ValueError where the logs are too short for its window, or
    their tokens are no bins that a number could be rounded to."""
    model, tokens = config.model, data.train
    window, longest = (model.history - 1) * tokens.stride + 1, int(tokens.steps.max())
    if window > longest:
        raise ValueError(
            f"{config.data.path}: --model.history {model.history} frames, {tokens.stride} steps "
            f"apart, are {window} steps, and the longest log has {longest}: take "
            f"--model.history {(longest - 1) // tokens.stride + 1} or less."
        )
    settings: dict[str, Any] = {
        "past_dim": tokens.stride * data.tokenizer.action_dim + 1,
        "head": config.lamo.head,
        "embeddings": config.lamo.embeddings,
        "reads_instruction": len({*tokens.instructions}) > 1,
    }
    if config.lamo.head == "continuous":
        settings["places"] = _places(config, data)
    if model.trunk == SCRATCH:
        return settings
    base = Path(model.trunk).expanduser()
    return settings | {
        # A run is resumed from other folders too.
        "base": str(base.resolve()) if base.exists() else model.trunk,
        "layers": model.layers,
        "random_weights": config.pretrained_weights == "none",
        "lora_rank": model.lora_rank,
        "lora_alpha": model.lora_alpha,
        "lora_dropout": model.lora_dropout,
        "revision": model.revision or revision,
    }


def _places(config: TrainConfig, data: RunData) -> list[tuple[float, float]]:
    """Center of the first bin and width of the bins of each number of a decision."""
    tokenizer: Any = data.tokenizer
    kind = tokenizer.to_json()["kind"]
    if kind not in _BINS:
        raise ValueError(
            f"--lamo.head continuous acts at the nearest bin, and {kind} tokens are no bins: use "
            f"--tokenizer.kind {_BINS[0]}, with as many --tokenizer.n-bins as the actions need."
        )
    legal, centers = tokenizer.position_tables()
    found = []
    for row, bins in zip(centers, legal.sum(1), strict=True):
        found.append((float(row[0]), float(row[1] - row[0]) if bins > 1 else 0.0))
    return found
