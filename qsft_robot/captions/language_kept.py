"""Caption loss of a fine-tuned model, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsft_robot.captions.batches import Example
from qsft_robot.captions.scores import evaluate_captions
from qsft_robot.policy.token_policy import load_policy


def captions_of_base(folder: Path, examples: Sequence[Example]) -> dict[str, float]:
    """`evaluate_captions` of a Hugging Face folder."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return evaluate_captions(model, processor, examples)


def captions_of_run(run: Path, examples: Sequence[Example]) -> dict[str, float]:
    """`evaluate_captions` of the network that a training run acts by: theta after Q-SFT, phi after
    SFT. Its action rows have no part in it; what was fine-tuned beside them has.

    ValueError where the run fine-tuned no pretrained model.
    """
    networks = load_policy(run / "checkpoint").networks
    model: Any = networks.behavior if networks.value is None else networks.value
    if not hasattr(model, "base"):
        raise ValueError(f"{run} fine-tuned no pretrained model, so it has no captions to keep.")
    return evaluate_captions(model.base, model.prompt.processor, examples)
