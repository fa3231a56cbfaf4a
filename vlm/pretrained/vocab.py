"""The ids of a pretrained vocabulary that stand for action tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def least_used_ids(tokenizer: Any, count: int, rows: int, taken: Collection[int]) -> list[int]:
    """The `count` highest ids below `rows` that can serve as action tokens, ascending.

    Ids of a byte-pair vocabulary are in the order in which they were merged, so the highest are
    the rarest (RT-2, OpenVLA). Each is a single token that its own text gives back, not special
    nor added, and not in `taken`. ValueError with the counts where too few are left.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    found: list[int] = []
    taken, refused = set(taken), {"special": 0, "in prompts": 0, "not single": 0}
    for i in range(min(rows, len(tokenizer)) - 1, -1, -1):
        if len(found) == count:
            break
        if i in special:
            refused["special"] += 1
        elif i in taken:
            refused["in prompts"] += 1
        elif not is_single(tokenizer, i):
            refused["not single"] += 1
        else:
            found.append(i)
    if len(found) < count:
        reasons = ", ".join(f"{n} {reason}" for reason, n in refused.items())
        raise ValueError(
            f"{count} action tokens are needed and the vocabulary of {min(rows, len(tokenizer))} "
            f"has {len(found)} free ids ({reasons}): use action_tokens 'added', or fewer bins."
        )
    return sorted(found)


def is_single(tokenizer: Any, i: int) -> bool:
    """Whether the text of one id is tokenized to that id alone."""
    token = tokenizer.convert_ids_to_tokens(i)
    if token is None:
        return False
    text = tokenizer.convert_tokens_to_string([token])
    return tokenizer.encode(text, add_special_tokens=False) == [i]


def added_tokens(count: int) -> list[str]:
    """The names of added action tokens."""
    return [f"<action_{i}>" for i in range(count)]


def added_ids(tokenizer: Any, count: int) -> list[int]:
    """The ids that `added_tokens` have, or will have once they are added at the end."""
    known, names = tokenizer.get_vocab(), added_tokens(count)
    if all(name in known for name in names):
        return [known[name] for name in names]
    clash = [name for name in names if name in known]
    if clash:
        raise ValueError(
            f"the vocabulary has {len(clash)} of {count} action tokens already ({clash[0]} ...): "
            "it was made for another number of action tokens; use action_tokens 'least_used'."
        )
    return list(range(len(tokenizer), len(tokenizer) + count))
