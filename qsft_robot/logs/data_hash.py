"""The SHA-256 of a data file, remembered for large files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from qsft_robot.files import atomic_file, cache_folder, sha256_of

# Smaller files are hashed each time.
LARGE = 1 << 28


def data_hash(path: str | Path) -> str:
    """SHA-256 of the whole file, for checkpoints.

    That of a file of 256 MiB or more is remembered under its path, size and modification time: a
    study would read tens of gigabytes of images again for each of its runs.
    """
    path = Path(path)
    status = path.stat()
    if status.st_size < LARGE:
        return sha256_of(path)
    source = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns])
    known = cache_folder() / "hashes" / hashlib.sha256(source.encode()).hexdigest()[:16]
    if not known.is_file():
        digest = sha256_of(path)
        with atomic_file(known) as temporary:
            temporary.write_text(digest)
    return known.read_text()
