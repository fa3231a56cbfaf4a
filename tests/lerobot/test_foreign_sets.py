"""A LeRobot data set from somebody else: its paths stay inside of it and are no format strings."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from lerobot_logs import make

from qsft_robot.cli import main
from qsft_robot.lerobot.exporting import export_lerobot

DATA = "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set of one camera."""
    folder = tmp_path_factory.mktemp("sets")
    logs = make(folder / "logs.hdf5", np.random.default_rng(0), cameras=("front_image",))
    return export_lerobot(logs, folder / "set", codec="h264")


@pytest.fixture
def foreign(whole, tmp_path):
    """A copy whose data and videos lie elsewhere, as if they were the reader's own."""
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    for name in ("data", "videos"):
        shutil.copytree(folder / name, tmp_path / "own" / name)
    return folder


def refused(folder, capsys):
    """The one line that import-lerobot answers with; nothing is written."""
    out = folder.parent / "a.hdf5"
    assert main(["import-lerobot", str(folder), "--out", str(out), "--success", "all"]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert not out.exists()
    return said


@pytest.mark.parametrize("kind", ["data", "video"])
@pytest.mark.parametrize("way", ["absolute", "up", "attribute", "padding"])
def test_a_path_that_leads_out_or_looks_into_objects_is_refused(foreign, capsys, kind, way):
    own = foreign.parent / "own" / (DATA if kind == "data" else VIDEO)
    pattern = {
        "absolute": str(own),
        "up": os.path.relpath(own, foreign),
        "attribute": "{chunk_index.__class__}/{file_index.real}",
        "padding": "{chunk_index:0999999999d}",
    }[way]
    info = json.loads((foreign / "meta/info.json").read_text())
    info[f"{kind}_path"] = pattern
    (foreign / "meta/info.json").write_text(json.dumps(info))
    said = refused(foreign, capsys)
    assert f"info.json: {kind}_path" in said
    assert ("not a path inside" if way in ("absolute", "up") else "fields are written") in said


@pytest.mark.parametrize("name", [DATA, VIDEO, "data", "videos", "meta/episodes", "meta/info.json"])
def test_a_link_that_leads_out_is_not_followed(foreign, capsys, name):
    own = foreign.parent / "elsewhere"
    own.mkdir()
    (foreign / name).rename(own / "it")
    (foreign / name).symlink_to(own / "it")
    assert "a link that leads out of" in refused(foreign, capsys)
