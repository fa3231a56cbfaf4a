"""An exported policy from somebody else whose graph points at a file of the reader's."""

from __future__ import annotations

import shutil

import onnx
import pytest
from onnx import TensorProto

from qsft_robot.cli import main
from qsft_robot.files import write_sums
from qsft_robot.policy.open import open_policy


@pytest.fixture(params=["absolute", "up", "beside"])
def pointing(request, exported, tmp_path):
    """A copy whose largest weights lie in another file, in or outside of the folder."""
    folder = tmp_path / "policy"
    shutil.copytree(exported("low-dim, k = 3").folder, folder)
    model = onnx.load(folder / "decision.onnx")
    tensor = max(model.graph.initializer, key=lambda x: len(x.raw_data))
    own = (folder if request.param == "beside" else tmp_path) / "own.bin"
    own.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key = "location"
    entry.value = {"absolute": str(own), "up": "../own.bin", "beside": "own.bin"}[request.param]
    (folder / "decision.onnx").write_bytes(model.SerializeToString())
    write_sums(folder)
    return folder


def test_no_verb_reads_the_file_that_a_graph_points_at(pointing, tmp_path, monkeypatch, capsys):
    # onnxruntime reads relative names from the current folder.
    monkeypatch.chdir(pointing)
    with pytest.raises(ValueError, match=r"decision\.onnx: some of its weights lie in another"):
        open_policy(pointing, runtime="onnx")
    for words in (
        ["serve", pointing, "--port", "0"],
        ["run", pointing, "--robot", "mujoco", "--out", tmp_path / "robot"],
    ):
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "decision.onnx: some of its weights lie in another file" in said
    main(["info", str(pointing)])  # builds nothing
    assert not (tmp_path / "robot").exists()
