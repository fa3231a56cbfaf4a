"""Images that a file calls upside down are said wherever they are read; else nothing is."""

import json
import warnings

import h5py
import pytest

from qsft_robot.cli import main

SAID = "the images are upside down (image convention opengl"


def warnings_of(words):
    """What the verb warned of; the command line prints it as notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(words) in ((0, 1) if words[0] == "run" else (0,))
    return "\n".join(str(each.message) for each in caught)


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
        acted = ["--policy", str(out), "--out", f"{out}.hdf5", "--episodes", "1", "--workers", "1"]
        assert main(["collect", "tabletop/pick", "--env-kwargs", "max_steps=2", *acted]) == 0
        assert (SAID in capsys.readouterr().err) == said
        driven = ["run", str(out / "policy"), "--robot", "replay", "--out", f"{out}_replay"]
        warned = warnings_of([*driven, "--log", str(data), "--seconds", "0.3"])
        assert (f"{data}: {SAID}" in warned) == said  # of the recording
        assert (SAID in capsys.readouterr().err) == said  # of the policy's logs


def turned(logs, path, convention="opengl"):
    """A copy of the logs that names a convention."""
    path.write_bytes(logs.read_bytes())
    with h5py.File(path, "r+") as file:
        file["data"].attrs["macros_image_convention"] = convention
    return path


def test_joined_files_say_it_and_where_they_do_not_agree(logs, tmp_path):
    first, second = turned(logs, tmp_path / "a.hdf5"), turned(logs, tmp_path / "b.hdf5")
    upright = turned(logs, tmp_path / "c.hdf5", "opencv")
    out = ["--out", str(tmp_path / "all.hdf5")]
    assert f"{tmp_path / 'all.hdf5'}: {SAID}" in warnings_of(
        ["merge", *map(str, (first, second)), *out]
    )
    for other in (logs, upright):
        notes = warnings_of(["merge", str(other), str(second), *out])
        assert f"{second} says that its images are upside down" in notes
        assert f"{other} does not" in notes
        assert SAID not in notes
    assert "upside down" not in warnings_of(["merge", str(logs), str(upright), *out])


def test_a_lerobot_set_says_it_and_keeps_it_for_who_reads_it_back(logs, tmp_path, capsys):
    path = turned(logs, tmp_path / "a.hdf5")
    folder, back = tmp_path / "set", tmp_path / "back.hdf5"
    words = ["export-lerobot", str(path), "--out", str(folder), "--codec", "png"]
    assert f"{path}: {SAID}" in warnings_of(words)
    assert main(["import-lerobot", str(folder), "--out", str(back)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(back), "--json"]) == 0
    assert SAID in capsys.readouterr().out
