"""Commands that are printed to be copied work in a shell as they stand."""

import re
import shutil
import subprocess

import pytest

from qsft_robot.cli import main
from qsft_robot.printed_text import command


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What `train` printed, of a run in a folder that a shell would split."""
    folder = tmp_path_factory.mktemp("it's my run")
    logs = folder / "logs.hdf5"
    assert main(["collect", "tabletop/pick", "--out", str(logs), "--episodes", "2",
                 "--workers", "1", "--cameras"]) == 0  # fmt: skip
    words = ["train", "--data.path", str(logs), "--out", str(folder / "run"),
             "--optim.behavior-steps", "1", "--optim.value-steps", "1",
             "--model.width", "16", "--model.depth", "1"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("qsft_robot.cli.say", lambda text, *_, **__: said.append(str(text)))
        assert main(words) == 0
    return folder, "\n".join(said)


def test_train_says_how_to_get_the_graphs(ran):
    pytest.importorskip("onnx")
    folder, said = ran
    line = re.search(r"without torch \(ONNX graphs beside it\): (.*)", said)[1]
    assert not list((folder / "run" / "policy").glob("*.onnx"))
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((folder / "run" / "policy").glob("*.onnx"))
    # As the demo's: over a folder that the policy was copied to.
    shutil.copytree(folder / "run" / "policy", folder / "copy of it")
    again = command("export", folder / "run", "--out", folder / "copy of it", "--no-onnx")
    assert subprocess.run(again, shell=True, capture_output=True, check=False).returncode == 0
    assert not list((folder / "copy of it").glob("*.onnx"))


def test_the_command_to_evaluate_takes_the_folder(ran):
    folder, said = ran
    line = re.search(r"evaluate it: (.*)", said)[1] + " --episodes 1 --max-steps 2 --workers 1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "evaluation").is_dir()
