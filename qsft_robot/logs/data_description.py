"""The data file that a policy was trained on, in the words and numbers that the policy carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

# Instructions that a description lists at most.
MAX_INSTRUCTIONS = 100


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """The file, its checksum, and its logs in numbers."""

    file: str
    sha256: str
    filter_key: str | None = None
    episodes: int = 0
    steps: int = 0
    success_rate: float = 0.0
    # The first MAX_INSTRUCTIONS, sorted.
    instructions: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The description of a file whose entries are of their kinds; others are left out."""
        known = {entry.name for entry in fields(cls)}
        told = {name: x for name, x in value.items() if name in known}
        return cls(**{**told, "instructions": tuple(value["instructions"])})
