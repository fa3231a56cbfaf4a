"""What the demo does before it begins; all of it is run by `make demo`."""

import pytest

from qsft_robot.verbs.demo import QUICK, run_demo


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "logs.hdf5").write_text("of a demo")
    (tmp_path / "thesis.tex").write_text("not of a demo")
    with pytest.raises(FileExistsError, match=r"thesis\.tex.*--out"):
        run_demo(tmp_path, quick=True)
    assert (tmp_path / "thesis.tex").read_text() == "not of a demo"
    assert (tmp_path / "logs.hdf5").exists()


def test_an_earlier_demo_is_replaced(tmp_path, monkeypatch):
    for name in ("logs.hdf5", "summary.json", ".logs.hdf5.0123abcd.tmp"):
        (tmp_path / name).write_text("of the demo before")
    (tmp_path / "qsft").mkdir()
    monkeypatch.setitem(QUICK, "logs", 0)  # ends it where the logs would be collected
    with pytest.raises(ValueError, match="0"):
        run_demo(tmp_path, quick=True)
    assert list(tmp_path.iterdir()) == []
