"""The table and the warnings tell what is in the file."""

import io

import h5py
import numpy as np
import pytest
from rich.console import Console

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
