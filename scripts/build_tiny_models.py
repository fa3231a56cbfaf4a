"""Build small models of the families that can be fine-tuned, with random weights, for a try-out
without a hub: each a normal Hugging Face folder of its real architecture."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from qsft_robot.parts.models import build_tiny_model, tiny_families


def main(
    out: Path,
    /,
    families: tuple[str, ...] = (),
    width: int = 48,
    depth: int = 2,
    vocab_size: int = 900,
    image_size: int = 32,
    seed: int = 0,
) -> None:
    """Write `out`/<family> for each family and print the folders.

    Args:
        out: Folder to write into.
        families: Which families; all of them if none is named.
        width: Channels of the language model, a multiple of 4.
        depth: Its layers.
        vocab_size: Tokens of the vocabulary, at most.
        image_size: Pixels that the vision tower reads along each side, a multiple of 16.
        seed: Of the random weights.
    """
    for family in families or tiny_families():
        print(
            build_tiny_model(
                family,
                out / family,
                width=width,
                depth=depth,
                vocab_size=vocab_size,
                image_size=image_size,
                seed=seed,
            )
        )


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except ValueError as error:
        sys.exit(f"error: {error}")
