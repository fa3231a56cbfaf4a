"""The tokenizers that the conformance suite runs over, and a way to draw legal ids and actions."""

import numpy as np

from tokenizers_action.bins import QuantileBinTokenizer, UniformBinTokenizer
from tokenizers_action.commands import CommandTokenizer
from tokenizers_action.fast import FastTokenizer
from tokenizers_action.protocol import ActionTokenizer
from tokenizers_action.spline import SplineTokenizer

# "go to cabinet 1" begins "go to cabinet 10", and "look" is the shortest of all.
COMMANDS = [
    *(f"go to cabinet {i}" for i in (1, 10, 2)),
    *(f"take {x} {i} from cabinet {j}" for x in ("cup", "egg") for i in (1, 2) for j in (1, 10)),
    "look",
    "open cabinet 10",
]


def quantile_bins(horizon, n_bins=256):
    rng = np.random.default_rng(3)
    actions = np.clip(rng.normal(0, [0.1, 0.5, 2.0], (5000, 3)), -1, 1)
    actions[:, 1] = 0.25  # constant
    return QuantileBinTokenizer.fit(actions.astype(np.float32), horizon=horizon, n_bins=n_bins)


BINS = {
    "uniform": UniformBinTokenizer(7),
    "uniform, chunks": UniformBinTokenizer(3, horizon=4, n_bins=32),
    "uniform, bins by dimension": UniformBinTokenizer(4, horizon=2, n_bins=[5, 256, 1, 3]),
    "quantile": quantile_bins(1),
    "quantile, chunks": quantile_bins(3, 17),
}


def smooth_chunks(rng: np.random.Generator, count: int) -> np.ndarray:
    """Chunks of 12 actions of two dimensions, sums of two slow waves, float32 in [-1, 1]."""
    step = np.linspace(0, 1, 12)[:, None]
    phase, rate = rng.uniform(0, 6, (2, count, 1, 2)), rng.uniform(0.5, 6, (2, count, 1, 2))
    waves = 0.6 * np.sin(rate[0] * step + phase[0]) + 0.3 * np.cos(rate[1] * step + phase[1])
    return (waves * [1.0, 0.4]).astype(np.float32)


CODES = {
    "fast": FastTokenizer.fit_chunks(smooth_chunks(np.random.default_rng(0), 2000), vocabulary=300),
    "spline": SplineTokenizer.fit_chunks(
        smooth_chunks(np.random.default_rng(0), 2000), points=5, n_bins=64
    ),
}
TEXT = {
    "commands": CommandTokenizer.fit(COMMANDS),
    "commands, free": CommandTokenizer.fit(COMMANDS, free=True),
}
TOKENIZERS = {**BINS, **CODES, **TEXT}


def legal_ids(tokenizer: ActionTokenizer, rng: np.random.Generator, batch: int) -> np.ndarray:
    """Ids drawn token by token out of what is legal."""
    ids = np.zeros((batch, 0), np.int64)
    for _ in range(tokenizer.n_tokens):
        legal = tokenizer.legal_tokens(ids)
        scores = np.where(legal, rng.random(legal.shape), -1)
        ids = np.concatenate([ids, scores.argmax(1)[:, None]], axis=1)
    return ids


def random_actions(tokenizer: ActionTokenizer, rng: np.random.Generator, batch: int) -> np.ndarray:
    """Actions of any kind that the tokenizer takes."""
    if isinstance(tokenizer, CommandTokenizer):
        return rng.choice(np.array(COMMANDS, object), (batch, 1))
    return rng.uniform(-1, 1, (batch, tokenizer.horizon, tokenizer.action_dim))
