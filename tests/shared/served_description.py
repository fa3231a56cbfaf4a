"""The description of an arm's policy as a server sends it, for tests of who reads it."""

from __future__ import annotations

from typing import Any

from qsft_robot.policy.description import FORMAT, PolicyDescription


def served(dim: int = 4, action: dict[str, Any] | None = None, **entries: Any) -> PolicyDescription:
    """A policy of `dim` actions in [-1, 1] that reads nothing, with other `entries`."""
    plain = {
        "format": FORMAT,
        "method": "qsft",
        "norm_stats": {"state": {}, "actions": {"low": [-1] * dim, "high": [1] * dim}},
        "state_keys": [],
        "cameras": {},
        "action": {
            "dim": dim, "horizon": 1, "low": [-1] * dim, "high": [1] * dim, "control_hz": 10.0,
            **(action or {}),
        },
        "acting": {},
        "shared_image_features": True,
        "data": {"file": "logs.hdf5", "sha256": "0" * 64, "instructions": []},
        **entries,
    }  # fmt: skip
    return PolicyDescription.from_json(plain, "the policy", served=True)
