"""The array types of signatures: jaxtyping's where it is installed, else plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

__all__ = ["Array", "Bool", "Float", "Float32", "Int64"]

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int64

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = np.ndarray
    try:
        from jaxtyping import Bool, Float, Float32, Int64
    except ImportError:  # a robot's computer has none

        class Bool:
            """An array whose letters nobody checks."""

            def __class_getitem__(cls, letters: object) -> type:
                return np.ndarray

        Float = Float32 = Int64 = Bool
