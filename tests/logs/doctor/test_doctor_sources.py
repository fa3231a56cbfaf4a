"""HDF5 files and LeRobot folders come to the same findings, by the command line too."""

import json

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from qsft_robot.cli import main
from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.lerobot.logs import lerobot_source
from qsft_robot.logs.doctor.hdf5_logs import hdf5_source
from qsft_robot.logs.inspection import summarize_source
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import Episode


@pytest.fixture(scope="module")
def file(tmp_path_factory, clean):
    """Clean recordings but for a frozen state and a black camera."""
    path = tmp_path_factory.mktemp("logs") / "logs.hdf5"
    with DemonstrationWriter(path, {"env_name": "arm", "control_hz": 30}) as writer:
        for i, log in enumerate(x.rows(slice(-75, None)) for x in clean[:6]):
            state, front = log.state.copy(), log.frames["front"].copy()
            if i == 2:
                state[20:50] = state[20]
            if i == 5:
                front[:] = 0
            rows = {"state": state, "front_image": front}
            won = bool(log.success.any())
            writer.append(
                Episode(
                    name="",
                    observations={key: np.concatenate([x, x[-1:]]) for key, x in rows.items()},
                    actions=log.actions,
                    rewards=log.rewards,
                    terminated=True,
                    truncated=False,
                    success=won,
                    instruction="put the cube in the bowl",
                )
            )
    return path


@pytest.fixture(scope="module", params=["png", "h264"])
def folder(request, file, tmp_path_factory):
    return export_lerobot(file, tmp_path_factory.mktemp("set") / "set", codec=request.param)


def grave(summary):
    return {x.check: x.logs for x in summary.findings if x.severity != "info"}


def test_a_lerobot_folder_has_the_findings_of_the_file_that_it_was_made_of(file, folder):
    ours, theirs = summarize_source(hdf5_source(file)), summarize_source(lerobot_source(folder))
    assert grave(ours).keys() == {"frozen-state", "black-camera"}
    renamed = {
        check: {name.replace("demo", "episode"): steps for name, steps in logs.items()}
        for check, logs in grave(ours).items()
    }
    assert grave(theirs) == renamed
    assert (theirs.episodes, theirs.steps, theirs.successes) == (6, ours.steps, ours.successes)
    assert theirs.keys["front_image"].shape == ours.keys["front_image"].shape


def test_the_command_line_prints_json_and_fails_where_it_was_asked_to(file, capsys):
    assert main(["inspect", str(file)]) == 0
    assert "frozen-state" in capsys.readouterr().out
    assert main(["inspect", str(file), "--json", "--fail-on", "warning"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["demonstrations"] == 6
    (frozen,) = [x for x in told["findings"] if x["check"] == "frozen-state"]
    ((first, last),) = frozen["logs"]["demo_2"]
    assert first <= 20  # the arm may have rested before
    assert last == 49
    assert main(["inspect", str(file), "--fail-on", "error"]) == 0


def test_every_log_that_the_reader_refuses_is_named_beside_the_findings(file, tmp_path, capsys):
    path = tmp_path / "logs.hdf5"
    path.write_bytes(file.read_bytes())
    with h5py.File(path, "a") as spoiled:
        spoiled["data/demo_1/actions"][3, 0] = np.nan
        spoiled["data/demo_4/obs/state"][5, 0] = np.inf
    assert main(["inspect", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)["findings"]
    refused = [name for x in found if x["check"] == "refused" for name in x["logs"]]
    assert refused == ["demo_1", "demo_4"]
    assert {"frozen-state", "black-camera"} <= {x["check"] for x in found}
    assert err.count("\n") == 1
    assert "demo_1/actions: NaN or Inf at step 3" in err


def test_times_of_a_lerobot_folder_are_read(file, tmp_path):
    folder = export_lerobot(file, tmp_path / "set", codec="png")
    (data,) = (folder / "data").rglob("*.parquet")
    table = pq.read_table(data)
    times = table.column("timestamp").to_numpy().copy()
    times[60:75] += 0.5
    at = table.column_names.index("timestamp")
    pq.write_table(table.set_column(at, table.schema.field(at), [times]), data)
    found = grave(summarize_source(lerobot_source(folder)))
    assert found["timestamp-gap"] == {"episode_0": [(60, 60)]}


def test_flags_of_a_file_are_refused_for_a_folder(file, tmp_path, capsys):
    folder = export_lerobot(file, tmp_path / "set", codec="png")
    assert main(["inspect", str(folder), "--filter-key", "train"]) == 2
    assert "--filter-key" in capsys.readouterr().err
