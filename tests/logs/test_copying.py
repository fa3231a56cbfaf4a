"""What HDF5 points elsewhere with is merged as content, or refused by name; words go with logs."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from qsft_robot.cli import main
from qsft_robot.logs.merge import merge_files
from qsft_robot.logs.reader import read_episodes

STEPS = 5


def log(group, actions, frames):
    group["actions"], group["rewards"] = actions, np.eye(STEPS, dtype="f4")[-1]
    group["dones"] = np.eye(STEPS, dtype="i8")[-1]
    for part in ("obs", "next_obs"):
        group[f"{part}/x"] = actions[:, :2]
        group[f"{part}/front_image"] = frames


def plain(path, rng, logs=2, **attributes):
    with h5py.File(path, "w") as file:
        for i in range(logs):
            frames = rng.integers(1, 255, (STEPS, 4, 4, 3), dtype=np.uint8)
            log(file.create_group(f"data/demo_{i}"), rng.uniform(-1, 1, (STEPS, 3)), frames)
        for name, value in attributes.items():
            file["data"].attrs[name] = value
    return path


def pointing(path, source, kind):
    """The logs of `source`, each dataset of them by a pointer."""
    with h5py.File(source) as there, h5py.File(path, "w") as file:

        def point(name, item):
            if not isinstance(item, h5py.Dataset):
                return
            if kind == "external link":
                file[name] = h5py.ExternalLink(source.name, item.name)
            elif kind == "soft link":
                file[f"elsewhere/{name}"] = item[()]
                file[name] = h5py.SoftLink(f"/elsewhere/{name}")
            elif kind == "virtual":
                layout = h5py.VirtualLayout(item.shape, item.dtype)
                layout[...] = h5py.VirtualSource(source.name, item.name, item.shape, item.dtype)
                file.require_group(name.rpartition("/")[0]).create_virtual_dataset(
                    name.rpartition("/")[2], layout
                )
            else:
                raw = f"{name.replace('/', '_')}.raw"
                (path.parent / raw).write_bytes(item[()].tobytes())
                file.create_dataset(name, item.shape, item.dtype, external=raw)

        there.visititems(point)
    return path


@pytest.mark.parametrize("kind", ["virtual", "external storage", "external link", "soft link"])
@pytest.mark.parametrize("common", [False, True])
def test_pointers_are_merged_as_what_they_point_to(tmp_path, rng, kind, common, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = plain(tmp_path / "raw.hdf5", rng)
    file = pointing(tmp_path / "points.hdf5", source, kind)
    away = tmp_path / "away"
    away.mkdir()
    out = merge_files([file], away / "merged.hdf5", common_keys=common)
    with h5py.File(source) as wanted, h5py.File(out) as found:
        for name in ("actions", "rewards", "obs/x", "next_obs/front_image"):
            got = found[f"data/demo_1/{name}"]
            assert np.array_equal(got[()], wanted[f"data/demo_1/{name}"][()])
            assert not got.is_virtual
            assert not got.external


@pytest.mark.parametrize("lost", ["file", "dataset"])
def test_a_virtual_dataset_without_its_source_is_refused_not_read_as_zeros(tmp_path, rng, lost):
    source = plain(tmp_path / "raw.hdf5", rng)
    file = pointing(tmp_path / "points.hdf5", source, "virtual")
    if lost == "file":
        source.unlink()
    else:
        with h5py.File(source, "r+") as there:
            del there["data/demo_1/obs/x"]
    for use in (lambda: read_episodes(file), lambda: merge_files([file], tmp_path / "out.hdf5")):
        with pytest.raises(ValueError, match=r"raw\.hdf5"):
            use()
    assert not (tmp_path / "out.hdf5").exists()


@pytest.mark.parametrize("where", ["object", "region", "attribute"])
def test_references_are_refused_by_name(tmp_path, rng, where):
    path = plain(tmp_path / "refs.hdf5", rng)
    with h5py.File(path, "r+") as file:
        demo = file["data/demo_0"]
        if where == "attribute":
            demo.attrs["points"] = demo["actions"].ref
        else:
            kind = h5py.ref_dtype if where == "object" else h5py.regionref_dtype
            to = demo["actions"].ref if where == "object" else demo["actions"].regionref[:2]
            demo.create_dataset("points", (1,), kind)[0] = to
    with pytest.raises(ValueError, match=r"data/demo_0.*points.*reference"):
        merge_files([path], tmp_path / "out.hdf5")


@pytest.mark.parametrize(
    "attributes",
    [
        {"problem_info": json.dumps({"language_instruction": '"open it"'})},
        {"language_instruction": "open it"},
        {"task_description": "open it"},
        {"instruction": "open it"},
        {"lang": "", "language_instruction": "open it"},
        {"lang": "  ", "ep_meta": json.dumps({"language_instruction": "open it"})},
        {"env_args": json.dumps({"language_instruction": "open it"})},
        {"env_args": json.dumps({"env_kwargs": {"lang": "open it"}})},
    ],
)
def test_the_words_of_a_file_are_its_logs_instruction_and_go_with_them(tmp_path, rng, attributes):
    with_words = plain(tmp_path / "words.hdf5", rng, **attributes)
    assert {e.instruction for e in read_episodes(with_words)} == {"open it"}
    silent = plain(tmp_path / "silent.hdf5", rng)
    out = merge_files([silent, with_words], tmp_path / "both.hdf5")
    said = [e.instruction for e in read_episodes(out)]
    assert said == ["", "", "open it", "open it"]


def test_attributes_of_data_that_differ_are_told(tmp_path, rng):
    one = plain(tmp_path / "one.hdf5", rng, tag="libero-v1", task_description="open it")
    two = plain(tmp_path / "two.hdf5", rng, tag="libero-v2", task_description="close it")
    with pytest.warns(UserWarning, match=r"differ in the attribute tag of data \(libero-v1 and"):
        out = merge_files([one, two], tmp_path / "both.hdf5")
    assert [e.instruction for e in read_episodes(out)] == ["open it"] * 2 + ["close it"] * 2


def gap(file, demo):
    """Rows 3 and 4 of the actions come from nowhere."""
    layout = h5py.VirtualLayout((STEPS, 3), np.float32)
    layout[:3] = h5py.VirtualSource("raw.hdf5", "data/demo_0/actions", (STEPS, 3))[:3]
    demo.create_virtual_dataset("actions", layout)


def gap_in_columns(file, demo):
    """The last column of the actions comes from nowhere."""
    layout = h5py.VirtualLayout((STEPS, 3), np.float32)
    layout[:, :2] = h5py.VirtualSource("raw.hdf5", "data/demo_0/actions", (STEPS, 3))[:, :2]
    demo.create_virtual_dataset("actions", layout)


def overlapping(file, demo):
    """As many rows as there are, two of them twice and so two from nowhere."""
    layout = h5py.VirtualLayout((STEPS, 3), np.float32)
    for rows in (slice(0, 3), slice(1, 3)):
        source = h5py.VirtualSource("raw.hdf5", "data/demo_0/actions", (STEPS, 3))
        layout[rows] = source[rows]
    demo.create_virtual_dataset("actions", layout)


def short(file, demo):
    """The file of the external storage ends within row 2."""
    demo.create_dataset("actions", (STEPS, 3), "f4", external=[("short.raw", 0, STEPS * 12)])


def without_end(file, demo):
    """The same where the array says no size."""
    unlimited = h5py.h5f.UNLIMITED
    demo.create_dataset("actions", (STEPS, 3), "f4", external=[("short.raw", 8, unlimited)])


@pytest.mark.parametrize("points", [gap, gap_in_columns, overlapping, short, without_end])
def test_rows_that_come_from_nowhere_are_refused_not_read_as_zeros(
    tmp_path, rng, points, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    plain(tmp_path / "raw.hdf5", rng)
    (tmp_path / "short.raw").write_bytes(np.ones(8, "f4").tobytes())
    path = plain(tmp_path / "points.hdf5", rng)
    with h5py.File(path, "r+") as file:
        demo = file["data/demo_0"]
        del demo["actions"]
        points(file, demo)
    for words in (["inspect", path], ["merge", path, "--out", tmp_path / "out.hdf5"]):
        assert main([str(word) for word in words]) == 2
        assert "data/demo_0/actions" in capsys.readouterr().err
    assert not (tmp_path / "out.hdf5").exists()


def test_rows_from_two_halves_are_whole(tmp_path, rng):
    source = plain(tmp_path / "raw.hdf5", rng)
    path = plain(tmp_path / "halves.hdf5", rng)
    with h5py.File(path, "r+") as file:
        demo = file["data/demo_0"]
        del demo["actions"]
        layout = h5py.VirtualLayout((STEPS, 3), np.float64)
        for rows in (slice(0, 2), slice(2, STEPS)):
            there = h5py.VirtualSource("raw.hdf5", "data/demo_0/actions", (STEPS, 3))
            layout[rows] = there[rows]
        demo.create_virtual_dataset("actions", layout)
    with h5py.File(source) as there:
        wanted = there["data/demo_0/actions"][()]
    assert np.allclose(read_episodes(path)[0].actions, wanted)


@pytest.mark.parametrize("holder", ["/", "data"])
def test_references_beside_the_logs_are_refused_by_name(tmp_path, rng, holder):
    path = plain(tmp_path / "refs.hdf5", rng)
    with h5py.File(path, "r+") as file:
        file[holder].attrs["points"] = file["data/demo_0"].ref
    with pytest.raises(ValueError, match=r"attribute points is a reference"):
        merge_files([path], tmp_path / "out.hdf5")


def test_a_log_that_no_reader_takes_is_not_merged(tmp_path, rng):
    path = plain(tmp_path / "two.hdf5", rng)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/rewards"]
        file["data/demo_1/rewards"] = np.zeros((STEPS, 2))
    with pytest.raises(ValueError, match=r"data/demo_1/rewards: shape \(5, 2\)"):
        merge_files([path], tmp_path / "out.hdf5")


@pytest.mark.parametrize(
    "attributes",
    [
        {"problem_info": json.dumps({"language_instruction": "open it"})},
        {"lang": "", "task_description": "open it"},
        {"instruction": "open it"},
        {"ep_meta": json.dumps({"task_description": "open it"})},
    ],
)
def test_a_logs_own_words_go_before_those_of_its_file(tmp_path, rng, attributes):
    path = plain(tmp_path / "words.hdf5", rng, language_instruction="close it")
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs.update(attributes)
    assert [e.instruction for e in read_episodes(path)] == ["close it", "open it"]


@pytest.mark.parametrize("steps", [False, True])
def test_words_in_a_dataset_of_a_log_are_its_instruction(tmp_path, rng, steps):
    path = plain(tmp_path / "words.hdf5", rng)
    told = ["open it"] * STEPS if steps else "open it"
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["language_instruction"] = told
    assert {e.instruction for e in read_episodes(path)} == {"open it"}
    out = merge_files([path, plain(tmp_path / "silent.hdf5", rng)], tmp_path / "both.hdf5")
    assert [e.instruction for e in read_episodes(out)] == ["open it"] * 2 + [""] * 2


def test_a_log_whose_task_changes_is_refused_by_name(tmp_path, rng):
    path = plain(tmp_path / "words.hdf5", rng)
    with h5py.File(path, "r+") as file:
        file["data/demo_1/language_instruction"] = ["open it"] * 2 + ["close it"] * 3
    with pytest.raises(ValueError, match=r"data/demo_1/language_instruction: 2 different texts"):
        read_episodes(path)


def test_words_of_an_environment_that_are_no_text_are_refused(tmp_path, rng):
    told = json.dumps({"env_name": "arm", "env_kwargs": {"language": 3}})
    path = plain(tmp_path / "words.hdf5", rng, env_args=told)
    with pytest.raises(ValueError, match=r"language of env_kwargs is 3"):
        read_episodes(path)
