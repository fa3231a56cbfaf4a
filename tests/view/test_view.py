"""A recording of rerun holds every step of the logs, and V and advantages beside them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rerun")

from served_description import served

from qsft_robot.cli import main
from qsft_robot.labeling.frame_labels import label_frames
from qsft_robot.logs.reader import read_episodes
from qsft_robot.rollouts.value_ranking import NoValue
from qsft_robot.types import Decision
from qsft_robot.view.recording import write_recording

LOW, HIGH = [-1.0, -1.0, -1.0, -0.5], [1.0, 1.0, 1.0, 0.5]


class Critic:
    """A policy whose V is a number of the state."""

    def __init__(self, method="qsft", key="proprio"):
        state = {key: {"mean": [0], "std": [1]}}
        self.description = served(
            4, {"low": LOW, "high": HIGH}, method=method, state_keys=[key],
            norm_stats={"state": state, "actions": {"low": LOW, "high": HIGH}},
            return_range={"discount": 0.98, "low": 0.0, "high": 1.0},
        )  # fmt: skip
        self.key = key

    def begin_episode(self, seed):
        return None

    def infer_batch(self, observations, memories):
        blind = self.description.method == "sft"
        values = [None if blind else float(x.state[self.key][0]) for x in observations]
        return [Decision(np.zeros((1, 4), np.float32), value) for value in values]


def branches(path: Path) -> dict[str, list]:
    """Branch -> its numbers or images, in the order of the steps."""
    from rerun.chunk import RrdReader

    found: dict[str, list] = {}
    for chunk in RrdReader(path).stream().to_chunks():
        table = chunk.to_record_batch()
        for name in ("Scalars:scalars", "EncodedImage:blob"):
            if {name, "step"} <= set(table.schema.names):
                steps, values = (table.column(x).to_pylist() for x in ("step", name))
                rows = zip(steps, values, strict=True)
                branch = found.setdefault(chunk.entity_path.removeprefix("/logs/"), [])
                branch.extend((step, x[0]) for step, x in rows)
    return {
        branch: [x for _, x in sorted(rows, key=lambda row: row[0])]
        for branch, rows in found.items()
    }


def test_every_step_stands_in_its_branch(logs, tmp_path):
    out, names = tmp_path / "out.rrd", ["demo_0", "demo_2"]
    report = write_recording(logs, out, names, Critic(), steps=5)
    assert (report.logs, report.cameras, report.has_value) == (tuple(names), (), True)
    found = branches(out)
    labels = {log.name: log for log in label_frames(logs, [Critic()], 5)}
    for name, episode in zip(names, read_episodes(logs, names=names), strict=True):
        np.testing.assert_allclose(found[f"{name}/reward"], episode.rewards)
        for i in range(4):
            np.testing.assert_allclose(found[f"{name}/action/{i}"], episode.actions[:, i])
            assert set(found[f"{name}/action/{i}/low"]) == {LOW[i]}
            assert set(found[f"{name}/action/{i}/high"]) == {HIGH[i]}
        np.testing.assert_allclose(found[f"{name}/value"], labels[name].value)
        np.testing.assert_allclose(found[f"{name}/advantage"], labels[name].advantage)
    assert {branch.split("/")[0] for branch in found} == set(names)


def test_images_are_those_of_their_steps(pixel_logs, tmp_path):
    out = tmp_path / "out.rrd"
    report = write_recording(pixel_logs, out, ["demo_1"])
    assert set(report.cameras) == {"front_image", "wrist_image"}
    (episode,) = read_episodes(pixel_logs, names=["demo_1"])
    found = branches(out)
    for camera in report.cameras:
        shown = found[f"demo_1/camera/{camera}"]
        rows = episode.observations[camera]
        assert len(shown) == len(rows)
        for data, row in zip(shown, rows, strict=True):
            picture = np.asarray(Image.open(io.BytesIO(bytes(data))), float)
            assert abs(picture - row).mean() < 12
    assert "demo_1/value" not in found


def test_a_policy_without_v_is_refused_where_it_was_named(logs, tmp_path):
    out = tmp_path / "out.rrd"
    with pytest.raises(NoValue, match="has no V"):
        write_recording(logs, out, ["demo_0"], Critic("sft"))
    assert not out.exists()
    report = write_recording(logs, out, ["demo_0"], Critic("sft"), value_needed=False)
    assert not report.has_value
    assert "no V" in str(report)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["no.hdf5"], "no.hdf5: no such file"),
        (["."], "no run folder"),
        (["LOGS", "--logs", "demo_99"], "no demonstration 'demo_99'"),
        (["LOGS", "--count", "0"], "at least 1 log"),
        (["LOGS", "--policy", "none"], "none"),
    ],
)
def test_mistakes_are_answered_in_one_line(logs, words, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [str(logs) if word == "LOGS" else word for word in words]
    assert main(["view", *given, "--rrd", "out.rrd"]) == 2
    error = capsys.readouterr().err
    assert expected in error.splitlines()[0]
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
