"""scripts/qsft_in_one_file.py learns what it says that it learns."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_qsft_in_one_file_beats_the_logs_and_their_imitation(repository: Path) -> None:
    rates = runpy.run_path(str(repository / "scripts" / "qsft_in_one_file.py"))["main"](700)
    imitation = rates["imitation (k = 0)"]
    assert abs(imitation - rates["logs"]) < 0.1
    assert rates["Q-SFT, k = 1"] > imitation + 0.3
    assert rates["Q-SFT, k = 8"] > 0.95
