"""scripts/qsft_in_one_file.py learns what it says that it learns."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def test_qsft_in_one_file_beats_the_logs_and_their_imitation(repository: Path) -> None:
    path = repository / "scripts" / "qsft_in_one_file.py"
    spec = spec_from_file_location("qsft_in_one_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    rates = module.main(700)
    imitation = rates["imitation (k = 0)"]
    assert abs(imitation - rates["logs"]) < 0.1
    assert rates["Q-SFT, k = 1"] > imitation + 0.3
    assert rates["Q-SFT, k = 8"] > 0.95
