"""The verb `fit-tokenizer`: a code for the actions of a file of logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from qsft_robot.printed_text import printable, say


def fit_tokenizer(
    logs: Positional[Path],
    kind: Literal["fast", "spline", "quantile_bins", "uniform_bins"],
    horizon: int,
    out: Path,
    points: int | None = None,
    vocabulary: int | None = None,
    scale: float | None = None,
    max_tokens: int | None = None,
    n_bins: int = 256,
    filter_key: str | None = None,
    action_low: tuple[float, ...] = (),
    action_high: tuple[float, ...] = (),
    short_logs: Literal["refuse", "keep", "drop"] = "refuse",
    plot: bool = True,
) -> None:
    """Fit a tokenizer to the actions of logs; print its tokens and errors, and write it to a file.

    `qsft-robot train --tokenizer.from FILE` takes it.

    Args:
        logs: HDF5 file in robomimic's schema.
        kind: fast: the cosine transform in byte pairs, few tokens of varying number; spline: a
            fixed number of tokens, each prefix a coarser chunk; bins: one token a number.
        horizon: Actions of one chunk.
        out: JSON file to write; a picture of a chunk goes beside it (.png).
        points: Of spline: control points of each dimension; a fifth of the horizon, 4 at least,
            when not given.
        vocabulary: Of fast: ids that there are at most; 1024 when not given.
        scale: Of fast: twice as much halves the error and takes more tokens; 10 when not given.
        max_tokens: Of fast: tokens of a decision at most; what 99.9 % of the chunks need when not
            given.
        n_bins: Bins of each number, for spline and bins.
        filter_key: Fit on the logs of this mask.
        action_low: Declared scale of the actions in the file, one number or one a dimension, as
            --data.action-low of train.
        action_high: See --action-low.
        short_logs: Logs that are shorter than a chunk: refuse, keep (they repeat their last
            action), or drop them.
        plot: Draw a chunk and what its tokens decode to, beside --out (.png).
    """
    import numpy as np
    from rich.console import Console

    from qsft_robot.config.data import DataConfig
    from qsft_robot.config.tokenizer import TokenizerConfig
    from qsft_robot.extras import require_packages
    from qsft_robot.logs.data_hash import data_hash
    from qsft_robot.parts.tokenizers import build_tokenizer
    from qsft_robot.token_data.code_logs import action_logs
    from qsft_robot.token_data.tokenizer_file import write_tokenizer
    from qsft_robot.token_data.tokenizer_report import draw_chunks, measure_tokenizer, show
    from tokenizers_action.protocol import action_chunks

    config = TokenizerConfig(
        kind=kind,
        horizon=horizon,
        points=points,
        vocabulary=vocabulary,
        scale=scale,
        max_tokens=max_tokens,
        n_bins=n_bins,
    )
    if plot:
        require_packages("the picture of a chunk (--no-plot leaves it out)", "matplotlib")
    if kind == "fast":
        require_packages("--kind fast", "tokenizers")
    data = DataConfig(
        path=logs,
        state_keys=("none",),  # no observation is read
        filter_key=filter_key,
        action_low=action_low,
        action_high=action_high,
        short_logs=short_logs,
    )
    actions, norm_stats = action_logs(data, horizon)
    try:
        tokenizer = build_tokenizer(config, actions)
    except ValueError as error:
        raise ValueError(f"{logs}: {error}") from error
    chunks = np.concatenate([action_chunks(log, horizon)[0] for log in actions])
    measures = measure_tokenizer(tokenizer, chunks, norm_stats)
    about = {
        "data": {
            "file": logs.name,
            "sha256": data_hash(logs),
            "filter_key": filter_key,
            "episodes": len(actions),
            "steps": len(chunks),
        },
        "measures": measures.to_json(),
    }
    write_tokenizer(out, tokenizer, norm_stats, about)
    show(kind, measures, Console())
    say(printable(out))
    if plot:
        picture = out.with_suffix(".png")
        draw_chunks(picture, tokenizer, chunks, norm_stats)
        say(printable(picture))
