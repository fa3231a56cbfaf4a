"""Measures of a fitted tokenizer on the chunks of logs, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qsft_robot.files import atomic_file
from qsft_robot.normalize import NormStats
from qsft_robot.printed_text import cell
from tokenizers_action.protocol import ActionTokenizer, ChunkTokenizer

# Half of a bin, of 256 over a dimension's 1st to 99th percentile: what errors are held against.
_BINS = 256
# Chunks that are encoded and decoded at a time.
_BLOCK = 8192


@dataclass(frozen=True)
class TokenizerMeasures:
    """Tokens a chunk, and errors of each dimension in the actions' own units."""

    chunks: int
    numbers: int  # of a chunk, h x d: the tokens that bins take
    tokens_mean: float
    tokens_max: int
    places: int  # tokens that a decision has room for
    rms: np.ndarray  # [d]
    largest: np.ndarray  # [d]
    half_bin: np.ndarray  # [d]; 0 where constant
    clipped: np.ndarray  # [d], share of the chunks

    @property
    def constant(self) -> np.ndarray:
        """Dimensions that never change, bool [d]."""
        return self.half_bin == 0

    @property
    def error(self) -> float:
        """RMS error over the dimensions that change, in halves of a bin."""
        moves = ~self.constant
        if not moves.any():
            return 0.0
        return float(np.sqrt(np.square(self.rms[moves] / self.half_bin[moves]).mean()))

    def to_json(self) -> dict[str, Any]:
        """All measures; JSON types only."""
        arrays = ("rms", "largest", "half_bin", "clipped")
        told = {k: x.tolist() if k in arrays else x for k, x in vars(self).items()}
        return {**told, "rms_in_half_bins": self.error}


def measure_tokenizer(
    tokenizer: ActionTokenizer, chunks: np.ndarray, norm_stats: NormStats
) -> TokenizerMeasures:
    """The measures on normalized chunks [N, h, d] of logs."""
    count, horizon, dimensions = chunks.shape
    tokens, squares = [], np.zeros(dimensions)
    largest, clipped = np.zeros(dimensions), np.zeros(dimensions)
    for first in range(0, count, _BLOCK):
        block = chunks[first : first + _BLOCK]
        ids = tokenizer.encode(block)
        tokens.append(tokenizer.real_tokens(ids, np.full(len(block), horizon)).sum(1))
        off = np.abs(
            norm_stats.unnormalize_actions(tokenizer.decode(ids)).astype(np.float64)
            - norm_stats.unnormalize_actions(block)
        )
        squares += np.square(off).sum((0, 1))
        largest = np.maximum(largest, off.max((0, 1)))
        if isinstance(tokenizer, ChunkTokenizer):
            clipped += tokenizer.clipped(block).sum(0)
    lengths = np.concatenate(tokens)
    low, high = np.quantile(chunks[:, 0], [0.01, 0.99], axis=0)
    same = high == low
    low, high = np.where(same, chunks.min((0, 1)), low), np.where(same, chunks.max((0, 1)), high)
    width = (high - low) * (norm_stats.action_high - norm_stats.action_low) / 2
    return TokenizerMeasures(
        chunks=count,
        numbers=horizon * dimensions,
        tokens_mean=float(lengths.mean()),
        tokens_max=int(lengths.max()),
        places=tokenizer.n_tokens,
        rms=np.sqrt(squares / (count * horizon)),
        largest=largest,
        half_bin=width / (2 * _BINS),
        clipped=clipped / count,
    )


def show(name: str, measures: TokenizerMeasures, console: Console) -> None:
    """Print the measures of a tokenizer."""
    m = measures
    fewer = m.numbers / m.tokens_mean
    console.print(
        cell(
            f"{name}: {m.tokens_mean:.1f} tokens a chunk (at most {m.tokens_max}, of {m.places} "
            f"places) where bins take {m.numbers}, {fewer:.1f} times as many; {m.chunks} chunks"
        )
    )
    table = Table("dimension", "RMS error", "largest", "RMS / half a bin", "largest / half a bin")
    table.add_column("chunks clipped")
    for j, half in enumerate(m.half_bin):
        if half == 0:
            row = ["constant", "constant"]
        else:
            row = [f"{m.rms[j] / half:.2f}", f"{m.largest[j] / half:.1f}"]
        told = [str(j), f"{m.rms[j]:.4g}", f"{m.largest[j]:.4g}", *row]
        table.add_row(*told, f"{100 * m.clipped[j]:.2f} %")
    console.print(table)
    console.print(cell(f"half a bin: of {_BINS} over a dimension's 1st to 99th percentile"))


def draw_chunks(
    path: Path, tokenizer: ActionTokenizer, chunks: np.ndarray, norm_stats: NormStats
) -> None:
    """A picture of a lively chunk and of what comes back: of all tokens, and of ever fewer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The chunk at the 90th percentile of motion: a still one would show nothing.
    motion = np.square(np.diff(chunks, axis=1)).sum((1, 2))
    chunk = chunks[[int(np.argsort(motion)[int(0.9 * (len(motion) - 1))])]]
    ids = tokenizer.encode(chunk)
    real = int(tokenizer.real_tokens(ids, np.array([chunk.shape[1]])).sum())
    shown = {f"all {real} tokens": tokenizer.decode(ids)}
    if isinstance(tokenizer, ChunkTokenizer):
        for part in (2, 4):
            first = max(1, real // part)
            shown[f"the first {first}"] = tokenizer.decode_prefix(ids[:, :first])
    dimensions = chunk.shape[-1]
    columns = min(3, dimensions)
    rows = -(-dimensions // columns)
    figure = Figure(figsize=(4 * columns, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    curves: Sequence[tuple[str, np.ndarray]] = [("the logs' chunk", chunk), *shown.items()]
    for j in range(dimensions):
        axes = figure.add_subplot(rows, columns, j + 1)
        for i, (label, values) in enumerate(curves):
            actions = norm_stats.unnormalize_actions(values)[0, :, j]
            style: dict[str, Any] = {"color": "gray", "linewidth": 3} if i == 0 else {}
            axes.plot(actions, label=label, **style)
        axes.set_title(f"dimension {j}", fontsize=9)
        axes.set_xlabel("step of the chunk", fontsize=8)
    figure.axes[0].legend(fontsize=7)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
