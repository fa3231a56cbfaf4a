"""Images that a file calls upside down are said wherever they are read; else nothing is."""

import json

import h5py
import pytest

from qsft_robot.cli import main

SAID = "the images are upside down (image convention opengl"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "logs.hdf5"
    assert main(["collect", "tabletop/pick", "--out", str(path), "--episodes", "2", "--workers",
                 "1", "--cameras", "front", "--image-size", "16"]) == 0  # fmt: skip
    return path


@pytest.mark.parametrize("where", ["attribute", "env_args", "env_kwargs"])
@pytest.mark.parametrize("convention", ["opengl", "opencv"])
def test_inspect_says_it_where_the_file_does(logs, tmp_path, capsys, convention, where):
    path = tmp_path / "logs.hdf5"
    path.write_bytes(logs.read_bytes())
    with h5py.File(path, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        if where == "attribute":
            file["data"].attrs["macros_image_convention"] = convention
        else:
            part = env_args if where == "env_args" else env_args["env_kwargs"]
            part["image_convention"] = convention
        file["data"].attrs["env_args"] = json.dumps(env_args)
    assert main(["inspect", str(path), "--json"]) == 0
    found = [x["message"] for x in json.loads(capsys.readouterr().out)["findings"]]
    assert any(SAID in message for message in found) == (convention == "opengl")


def test_training_and_evaluation_say_it(logs, tmp_path, capsys):
    path, run = tmp_path / "libero.hdf5", tmp_path / "run"
    path.write_bytes(logs.read_bytes())
    with h5py.File(path, "r+") as file:
        file["data"].attrs["macros_image_convention"] = "opengl"
    words = ["train", "--data.cameras", "front_image", "--optim.behavior-steps", "1",
             "--optim.value-steps", "1", "--optim.batch-size", "2", "--model.width", "16",
             "--model.depth", "1"]  # fmt: skip
    for data, out, said in ((path, run, True), (logs, tmp_path / "plain", False)):
        assert main([*words, "--data.path", str(data), "--out", str(out)]) == 0
        assert (SAID in capsys.readouterr().err) == said
        quick = ["--episodes", "1", "--max-steps", "2", "--workers", "1"]
        assert main(["evaluate", str(out), *quick]) == 0
        assert (SAID in capsys.readouterr().err) == said
