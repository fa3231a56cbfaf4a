"""The table and the warnings tell what is in the file."""

import io

import h5py
import numpy as np
import pytest
from rich.console import Console

from qsft_robot.cli import main
from qsft_robot.logs.inspection import inspect


def write(path, rewards, actions=0.5, ends=False, masks=()):
    with h5py.File(path, "w") as file:
        for i, values in enumerate(rewards):
            steps = len(values)
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["lang"] = "lift the cube"
            demo["actions"] = np.linspace(-actions, actions, 2 * steps).reshape(steps, 2)
            demo["rewards"] = np.array(values, float)
            demo["dones"] = np.eye(steps)[-1]
            if ends:
                demo["terminated"] = np.eye(steps)[-1]
            for group in ("obs", "next_obs"):
                demo[f"{group}/proprio"] = np.stack([np.arange(steps), np.ones(steps)], axis=1)
                demo[f"{group}/front_image"] = np.full((steps, 4, 4, 3), 7, np.uint8)
        for key, names in masks:
            file[f"mask/{key}"] = np.array(names, dtype="S")


def run(path, **kwargs):
    out = io.StringIO()
    summary = inspect(path, console=Console(file=out, width=160), **kwargs)
    return summary, out.getvalue()


def test_the_table_holds_keys_shapes_ranges_returns_and_success(tmp_path):
    path = tmp_path / "a.hdf5"
    masks = [("train", ["demo_0", "demo_2"]), ("valid", ["demo_1"])]
    write(path, [[0, 0, 1], [0, 0], [0, 1]], masks=masks)
    summary, text = run(path)
    assert (summary.episodes, summary.steps, summary.lengths) == (3, 7, [3, 2, 2])
    assert summary.success_rate == pytest.approx(2 / 3)
    assert summary.returns == [1, 0, 1]
    assert summary.masks == {"train": (2, 2), "valid": (1, 0)}
    assert summary.instructions == {"lift the cube": 3}
    assert summary.keys["proprio"].high.tolist() == [2, 1]
    for part in ("3, 7 steps", "2/3", "4x4x3", "uint8", "-0.5 to 0.5", "lift the cube"):
        assert part in text


@pytest.mark.parametrize(
    ("rewards", "kwargs", "warning"),
    [
        ([[0, 0], [0, 0]], {}, "all rewards are zero"),
        ([[0, 0], [0, 0]], {}, "no demonstration succeeds"),
        ([[0, 1], [1, 1]], {}, "returns span"),
        ([[0, 1], [0, 1]], {}, "every demonstration succeeds"),
        ([[0, 1], [0, 0]], {}, "only dones"),
        ([[0, 1], [0, 0]], {}, "front_image: every pixel of every frame is 7"),
        ([[0, 1], [0, 0]], {}, "proprio: constant in dimension 1"),
        ([[0, 1], [0, 0]], {"actions": 3}, "--data.action-low"),
        ([[0, 1], [0, 0]], {"masks": [("none", [])]}, "mask/none is empty"),
    ],
)
def test_what_depends_on_the_use_is_a_warning(tmp_path, rewards, kwargs, warning):
    path = tmp_path / "a.hdf5"
    write(path, rewards, **kwargs)
    summary, text = run(path)
    assert any(warning in x for x in summary.warnings)
    assert warning in text


def test_a_file_that_marks_its_ends_needs_no_answer_about_them(tmp_path):
    path = tmp_path / "a.hdf5"
    write(path, [[0, 1], [0, 0]], ends=True)
    assert not any("only dones" in x for x in run(path)[0].warnings)
    write(path, [[0, 1], [0, 0]])
    summary, _ = run(path, log_end="truncated")
    assert not any("only dones" in x for x in summary.warnings)
    assert (summary.terminated, summary.truncated) == (1, 1)


def test_what_no_reader_could_mend_is_an_error(tmp_path):
    path = tmp_path / "a.hdf5"
    write(path, [[0, 1], [0, 0]])
    with h5py.File(path, "a") as file:
        file["data/demo_1/actions"][0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        run(path)


def said(path, capsys):
    """What `inspect` answers to a file of which a log can't be read."""
    assert main(["inspect", str(path)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("samples", [np.nan, np.inf, -1, 2.5])
def test_a_number_of_steps_that_is_none_is_named(tmp_path, samples, capsys):
    write(tmp_path / "a.hdf5", [[0, 1], [0, 0]])
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["data/demo_1"].attrs["num_samples"] = samples
    assert "a.hdf5: data/demo_1: attribute num_samples" in said(tmp_path / "a.hdf5", capsys)


@pytest.mark.parametrize("odd", [1, 2])
@pytest.mark.parametrize("key", ["proprio", "front_image"])
def test_logs_whose_rows_differ_in_size_are_named(tmp_path, key, odd, capsys):
    """The first log says what the others are compared with, whatever was refused before."""
    write(tmp_path / "a.hdf5", [[0, 1], [0, 0], [0, 1], [0, 0]])
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        for number in (odd, 3):
            for group in ("obs", "next_obs"):
                here = file[f"data/demo_{number}/{group}"]
                rows = here[key][()]
                del here[key]
                here[key] = np.concatenate([rows, rows], axis=1)
    err = said(tmp_path / "a.hdf5", capsys)
    assert f"{key} differs in size" in err
    assert f"demo_{odd}" in err
    assert "1 more logs are refused" in err


def test_the_keys_are_those_of_the_first_log_that_can_be_read(tmp_path, capsys):
    write(tmp_path / "a.hdf5", [[0, 1], [0, 0]])
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["data/demo_0/obs/only_here"] = 3.0
    assert "data/demo_0/obs/only_here: one value" in said(tmp_path / "a.hdf5", capsys)


def test_a_key_without_numbers_is_left_out_by_name(tmp_path):
    write(tmp_path / "a.hdf5", [[0, 1], [0, 0]])
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        for demo in file["data"].values():
            demo["obs/nothing"] = np.zeros((2, 0), "f4")
    summary, _ = run(tmp_path / "a.hdf5")
    assert "nothing" not in summary.keys
    (found,) = (x for x in summary.findings if x.check == "unread-key")
    assert "obs/nothing" in found.message


def test_a_clock_that_fails_at_a_step_is_told_and_one_that_never_ran_is_not(tmp_path):
    write(tmp_path / "a.hdf5", [[0] * 6 + [1], [0] * 7])
    for times, told in ((np.nan, set()), (np.arange(7.0), {"demo_0"})):
        with h5py.File(tmp_path / "a.hdf5", "r+") as file:
            file["data/demo_0"].pop("timestamps", None)
            file["data/demo_0/timestamps"] = np.full(7, times)
            file["data/demo_0/timestamps"][3] = np.nan
        found = {x.check: set(x.logs) for x in run(tmp_path / "a.hdf5")[0].findings}
        assert found.get("timestamp-back", set()) == told


def test_a_mask_of_logs_that_are_not_there_is_told(tmp_path):
    masks = [("train", ["demo_0", "demo_1"]), ("valid", ["demo_1", "demo_7"])]
    write(tmp_path / "a.hdf5", [[0, 1], [0, 0]], masks=masks)
    summary, text = run(tmp_path / "a.hdf5")
    (found,) = (x for x in summary.findings if x.check == "absent-log")
    assert found.severity == "error"
    assert "mask/valid names demo_7, but" in text
