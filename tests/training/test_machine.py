"""What a run takes of the machine it is on: precision, device, and threads of its own."""

from __future__ import annotations

import filecmp
import json

from qsft_robot.training import machine
from qsft_robot.training.train import train


def test_a_run_keeps_the_precision_that_auto_took_also_on_another_machine(
    config, tmp_path, monkeypatch, capfd
):
    whole = config(optim__precision="bfloat16", out=tmp_path / "whole")
    train(whole)
    taken = {"auto": "bfloat16"}
    choose = lambda asked, device: (taken.get(asked, asked), "a reason")  # noqa: E731
    monkeypatch.setattr(machine, "choose_precision", choose)
    parts = config(optim__precision="auto", device="auto", out=tmp_path / "parts")
    train(parts, stop_after=3)
    assert "device: cpu" in (said := capfd.readouterr().err)
    assert "precision: bfloat16 (a reason)" in said
    told = json.loads((parts.out / "config.json").read_text())
    assert (told["device"], told["taken"]["device"]) == ("auto", "cpu")
    assert (told["optim"]["precision"], told["taken"]["asked_precision"]) == ("bfloat16", "auto")
    taken["auto"] = "float32"
    train(parts, resume=True)
    a, b = (run / "checkpoint/weights.safetensors" for run in (whole.out, parts.out))
    assert filecmp.cmp(a, b, shallow=False)


def test_parts_at_the_same_time_train_to_the_bits_of_parts_in_turn(config, tmp_path, one_thread):
    runs = []
    for name in ("accumulate", "parallel"):
        for pixels in (False, True):
            setting = config(
                pixels=pixels, model__dropout=0.0, out=tmp_path / f"{name}{pixels}",
                **{f"optim__{name}": 2},
            )  # fmt: skip
            train(setting)
            runs.append((setting.out / "checkpoint/weights.safetensors").read_bytes())
    assert runs[:2] == runs[2:]
