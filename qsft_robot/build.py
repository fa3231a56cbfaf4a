"""The import path of earlier versions: `open_policy` stands in `qsft_robot` itself now."""

from qsft_robot.policy.open import open_policy

__all__ = ["open_policy"]
