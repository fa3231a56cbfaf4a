"""Byte-pair encoding of rows of whole numbers: merges learned by `tokenizers`, applied by numpy."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from tokenizers_action.arrays import Array

# Stands between rows and after their ends; no merge has it.
END = 0
# Where the characters begin that stand for symbols while merges are learned: CJK ideographs and
# what follows, none of which `tokenizers` treats in a way of its own.
_FIRST_CHARACTER = 0x4E00
# Symbols that can be told apart so.
MAX_SYMBOLS = 20_000
# Numbers that all merges together may stand for.
MAX_EXPANDED = 20_000_000

Merges = Sequence[tuple[int, int]]


def learn_merges(rows: Sequence[Array], symbols: int, vocabulary: int, longest: int) -> Merges:
    """The merges of a code of at most `vocabulary` ids: END, `symbols` symbols 1, 2, ..., then one
    id a merge, none of which stands for more than `longest` symbols.

    Merge i makes id 1 + symbols + i of two earlier ids. ImportError where `tokenizers` is missing.
    """
    try:
        from tokenizers import Tokenizer, models, trainers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "learning FAST tokens needs the package tokenizers", name="tokenizers"
        ) from error
    alphabet = [chr(_FIRST_CHARACTER + i) for i in range(symbols)]
    table = np.array(alphabet)
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        limit_alphabet=symbols,
        initial_alphabet=alphabet,
        max_token_length=longest,
    )
    learner.train_from_iterator(("".join(table[row - 1]) for row in rows if len(row)), trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    ids = {character: i + 1 for i, character in enumerate(alphabet)}
    merges: list[tuple[int, int]] = []
    for left, right in learned:
        # What two earlier merges spell already needs no second id.
        if left + right not in ids:
            merges.append((ids[left], ids[right]))
            ids[left + right] = symbols + len(merges)
    return merges


def apply_merges(flat: Array, merges: Merges, symbols: int) -> Array:
    """Rows of symbols one after the other, [m], `END` after each, with every merge done in order.

    An id is only ever made of earlier ones, so a later merge leaves nothing for an earlier one to
    do: this is the greedy encoding, lowest merge first, each from left to right.
    """
    flat = flat.astype(np.int32)
    for i, (left, right) in enumerate(merges):
        found = (flat[:-1] == left) & (flat[1:] == right)
        places = np.flatnonzero(found)
        if not len(places):
            continue
        if left == right:  # of a run every second place begins a pair
            starts = np.diff(places, prepend=-2) > 1
            first = places[np.maximum.accumulate(np.where(starts, np.arange(len(places)), 0))]
            places = places[(places - first) % 2 == 0]
        flat[places] = 1 + symbols + i
        keep = np.ones(len(flat), bool)
        keep[places + 1] = False
        flat = flat[keep]
    return flat


def expansions(merges: Merges, symbols: int, longest: int) -> list[Array]:
    """The symbols of every id, END's none; ValueError on a merge of ids that are not earlier, or
    of more than `longest` symbols."""
    found = [np.zeros(0, np.int32), *np.arange(1, symbols + 1, dtype=np.int32)[:, None]]
    total = 0
    for i, (left, right) in enumerate(merges):
        if not (0 < left < len(found) and 0 < right < len(found)):
            raise ValueError(
                f"merge {i} is of {left} and {right}; ids 1 to {len(found) - 1} exist."
            )
        made = np.concatenate([found[left], found[right]])
        total += len(made)
        if len(made) > longest or total > MAX_EXPANDED:
            raise ValueError(
                f"merge {i} stands for {len(made)} numbers, all of them for {total}; a chunk has "
                f"{longest}, and {MAX_EXPANDED:,} is the most for all."
            )
        found.append(made)
    return found
