"""The same pictures read the same from every layout, through every verb; none vanishes."""

import io
import json

import h5py
import numpy as np
import pytest
from PIL import Image

from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.logs.images import images_in, why_no_images
from qsft_robot.logs.inspection import summarize
from qsft_robot.logs.merge import merge_files
from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.validate import check_cameras
from qsft_robot.token_data.frames import FrameCache

STEPS, HEIGHT, WIDTH = 5, 24, 40


def pictures(seed=0, gray=False):
    """Smooth pictures that change by step, uint8 [t + 1, h, w, 3]; JPEG loses little of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    phase, slope = rng.uniform(0, 3, (2, STEPS + 1, 1, 1, 3))
    waves = np.sin(phase + slope * (x[..., None] / WIDTH + y[..., None] / HEIGHT))
    found = np.rint(127 + 120 * waves).astype(np.uint8)
    return np.repeat(found[..., :1], 3, axis=-1) if gray else found


def encoded(frames, kind):
    files = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
        files.append(file.getvalue())
    return files


def padded(files):
    width = max(map(len, files)) + 17
    return np.stack([np.frombuffer(x.ljust(width, b"\0"), np.uint8) for x in files])


def vlen(files):
    rows = np.empty(len(files), h5py.vlen_dtype(np.uint8))
    rows[:] = [np.frombuffer(x, np.uint8) for x in files]
    return rows


def opaque(files):
    rows = padded(files)
    return rows.view(f"V{rows.shape[1]}")[:, 0]


LAYOUTS = {
    "rgb": lambda x: x,
    "rgba": lambda x: np.concatenate([x, np.full_like(x[..., :1], 9)], axis=-1),
    "first": lambda x: np.moveaxis(x, -1, 1),
    "rgba_first": lambda x: np.moveaxis(LAYOUTS["rgba"](x), -1, 1),
    "float32": lambda x: (x / 255).astype(np.float32),
    "float64": lambda x: x / 255,
    "float16": lambda x: (x / 255).astype(np.float16),
    "float_first": lambda x: np.moveaxis((x / 255).astype(np.float32), -1, 1),
    "gray": lambda x: x[..., 0],
    "gray_channel": lambda x: x[..., :1],
    "gray_first": lambda x: np.moveaxis(x[..., :1], -1, 1),
    "png": lambda x: padded(encoded(x, "PNG")),
    "png_vlen": lambda x: vlen(encoded(x, "PNG")),
    "png_text": lambda x: np.array(encoded(x, "PNG"), "S"),
    "png_opaque": lambda x: opaque(encoded(x, "PNG")),
    "jpeg": lambda x: padded(encoded(x, "JPEG")),
    "jpeg_signed": lambda x: padded(encoded(x, "JPEG")).view(np.int8),
    "jpeg_vlen": lambda x: vlen(encoded(x, "JPEG")),
}


def write(path, layouts, logs=2, key="camera"):
    """Log i shows pictures(i); `layouts` name one observation key each."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "arm", "control_hz": 10})
        for i in range(logs):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["lang"] = "lift the cube"
            demo["actions"] = np.zeros((STEPS, 2), np.float32)
            demo["rewards"] = demo["dones"] = np.eye(STEPS, dtype=np.float32)[-1]
            for group, rows in (("obs", np.s_[:-1]), ("next_obs", np.s_[1:])):
                demo[f"{group}/proprio"] = np.zeros((STEPS, 3), np.float32)
                for name, layout in layouts.items():
                    frames = pictures(i, gray="gray" in name)
                    # Encoded apart, so that obs and next_obs have other paddings.
                    demo[f"{group}/{name}_{key}"] = layout(frames[rows])
    return path


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return write(tmp_path_factory.mktemp("logs") / "every.hdf5", LAYOUTS)


def assert_same(name, found, seed, steps=STEPS + 1):
    wanted = pictures(seed, gray="gray" in name)[:steps].astype(int)
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape, name
    difference = np.abs(found - wanted)
    if "jpeg" in name:
        assert difference.mean() < 3, name
    else:
        assert difference.max() == 0, name


def test_every_layout_reads_as_the_same_pictures(every):
    for i, episode in enumerate(read_episodes(every)):
        assert episode.observations.keys() == {f"{n}_camera" for n in LAYOUTS} | {"proprio"}
        for name in LAYOUTS:
            assert_same(name, episode.observations[f"{name}_camera"], i)


def test_blocks_of_any_size_read_the_same(every, monkeypatch):
    monkeypatch.setattr("qsft_robot.logs.images._BLOCK", 2 * HEIGHT * WIDTH * 4)
    with h5py.File(every) as file:
        for name in LAYOUTS:
            images = images_in(file[f"data/demo_1/obs/{name}_camera"])
            assert images.block <= 2 or name == "rgb"
            assert_same(name, images.read(0, STEPS), 1, STEPS)
            np.testing.assert_array_equal(images.read(3, 5), images.read(0, STEPS)[3:])


def test_inspect_tells_every_camera(every):
    summary = summarize(every)
    for name in LAYOUTS:
        assert summary.keys[f"{name}_camera"].shape == (HEIGHT, WIDTH, 3)
    assert not [x for x in summary.findings if x.check in ("unread-key", "refused")]


def test_the_frame_cache_holds_every_layout(every, tmp_path):
    cameras = [f"{name}_camera" for name in LAYOUTS]
    assert check_cameras(every, cameras) == (HEIGHT, WIDTH)
    cache = FrameCache.build(
        every, cameras, ["demo_0", "demo_1"], tmp_path, byte_budget=1 << 24, show_progress=False
    )
    for i in range(2):
        rows = cache.start[f"demo_{i}"] + np.arange(STEPS + 1)
        for name in LAYOUTS:
            assert_same(name, cache.read(f"{name}_camera", rows), i)


def test_files_of_other_layouts_merge_to_one_camera(tmp_path):
    names = ["rgb", "first", "float32", "png", "png_vlen", "png_text", "jpeg"]
    files = [
        write(tmp_path / f"{name}.hdf5", {"front": LAYOUTS[name]}, key="image") for name in names
    ]
    merged = merge_files(files, tmp_path / "merged.hdf5")
    for i, episode in enumerate(read_episodes(merged)):
        assert_same(names[i // 2], episode.observations["front_image"], i % 2)
    assert summarize(merged).keys["front_image"].shape == (HEIGHT, WIDTH, 3)


def test_an_export_holds_every_camera(tmp_path):
    names = ["rgba", "first", "float32", "gray", "png", "jpeg_vlen"]
    path = write(tmp_path / "logs.hdf5", {name: LAYOUTS[name] for name in names})
    out = export_lerobot(path, tmp_path / "set", codec="png")
    features = json.loads((out / "meta/info.json").read_text())["features"]
    for name in names:
        assert features[f"observation.images.{name}_camera"]["shape"] == [HEIGHT, WIDTH, 3]
    from qsft_robot.lerobot.importing import import_lerobot

    back = import_lerobot(out, tmp_path / "back.hdf5").path
    for i, episode in enumerate(read_episodes(back)):
        keys = {key.split("_camera")[0]: key for key in episode.observations}
        for name in names:
            assert_same(name, episode.observations[keys[name]][:STEPS], i, STEPS)


REFUSED = {
    "float of 255": (lambda x: x.astype(np.float32), "[0, 1]"),
    "depth16": (lambda x: x[..., 0].astype(np.uint16), "write images as uint8"),
    "depth": (lambda x: (x[..., :1] / 255).astype(np.float32), "may be depth"),
    "five channels": (lambda x: np.repeat(x[..., :1], 5, axis=-1), "1, 3 or 4 channels"),
    "both ends": (lambda x: x[:, :4, :, :1], "can't be told"),
    "cut": (lambda x: np.stack([r[:60] for r in padded(encoded(x, "PNG"))]), "can't be read"),
    "other bytes": (lambda x: x[..., 0].reshape(len(x), -1), "neither as JPEG nor as PNG"),
    "png of 16 bits": (
        lambda x: padded(encoded([y[..., 0].astype(np.uint16) for y in x], "PNG")),
        "8-bit RGB",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_for_certain_is_named_with_what_to_do(name, tmp_path):
    layout, words = REFUSED[name]
    path = write(tmp_path / "logs.hdf5", {name: layout})
    key = f"{name}_camera"
    with h5py.File(path) as file:
        assert words in why_no_images(file[f"data/demo_0/obs/{key}"])
    (finding,) = (x for x in summarize(path).findings if x.check == "unread-key")
    assert finding.severity == ("info" if name.startswith("depth") else "warning")
    with pytest.raises(ValueError, match=key) as in_training:
        check_cameras(path, [key])
    with pytest.raises(ValueError, match=key) as in_cache:
        FrameCache.build(path, [key], ["demo_0"], tmp_path, byte_budget=1 << 24)
    with pytest.warns(UserWarning, match="left out") as exported:
        export_lerobot(path, tmp_path / "set", codec="png")
    said = [finding.message, str(in_training.value), str(in_cache.value)]
    for message in [*said, *(str(x.message) for x in exported if "left out" in str(x.message))]:
        assert words in message
        assert f"data/demo_0/obs/{key}" in message
        assert str(path) in message


def test_a_bad_image_in_the_middle_is_named_by_its_step(tmp_path):
    path = write(tmp_path / "logs.hdf5", {"png": LAYOUTS["png"], "float": LAYOUTS["float32"]})
    with h5py.File(path, "r+") as file:
        file["data/demo_1/obs/png_camera"][3] = 7
        file["data/demo_1/obs/float_camera"][2, 0, 0, 1] = np.nan
    for key, step in (("png_camera", 3), ("float_camera", 2)):
        with pytest.raises(ValueError, match=rf"data/demo_1/obs/{key}: .*step {step}"):
            read_episodes(path, keys=[key])
    with pytest.raises(ValueError, match="data/demo_1/obs/float_camera"):
        summarize(path)


def test_bytes_that_are_state_stay_state(tmp_path):
    path = write(tmp_path / "logs.hdf5", {"touch": lambda x: x[:, 0, :8, 0]}, key="cells")
    for episode in read_episodes(path):
        assert episode.observations["touch_cells"].dtype == np.float32
