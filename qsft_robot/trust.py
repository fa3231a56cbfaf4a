"""Permissions that the person who opens a folder gives; never taken from the folder."""

from __future__ import annotations

from dataclasses import dataclass

TRUST_REMOTE_CODE, ALLOW_DOWNLOADS = "--trust-remote-code", "--allow-downloads"


@dataclass(frozen=True)
class Trust:
    """Permissions of one call that opens a folder which somebody else may have made."""

    # Run the Python files that a pretrained model brings along.
    remote_code: bool = False
    # Fetch a model from the hub that the folder names and that is not in the hub's cache.
    downloads: bool = False

    def require_code(self, asked: str) -> None:
        """ValueError, beginning with who asked, unless code may run."""
        if not self.remote_code:
            raise ValueError(
                f"{asked} asks to run code that the model brings along. A folder is data: if you "
                f"trust whoever made this one, say so with {TRUST_REMOTE_CODE} (open_policy(..., "
                "trust_remote_code=True))."
            )


NOTHING = Trust()
# For what this process has built itself: its settings were its caller's.
OWN = Trust(remote_code=True, downloads=True)
