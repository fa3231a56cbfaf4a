"""Settings of a run as this machine takes them: its device and its precision."""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from qsft_robot.config.run_config import CONFIG, read_config
from qsft_robot.config.train import TrainConfig
from qsft_robot.hardware import AUTO, choose_device, choose_precision
from qsft_robot.parallel.distributed import join, processes


def check_writable_as_text(config: TrainConfig) -> None:
    """ValueError where a setting can't stand in config.json: a name of a file that is no UTF-8."""
    for part in (config, config.data, config.model):
        for name, value in vars(part).items():
            try:
                str(value).encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"{name} {value}: the name is no UTF-8, so the settings of the run can't hold "
                    "it: rename the file."
                ) from None


def on_this_machine(config: TrainConfig, resume: bool = False) -> TrainConfig:
    """The config with the device and the precision that "auto" takes here, said in one line. A run
    that is resumed keeps its precision."""
    device, why = choose_device(config.device)
    config = replace(config, device=join(device))
    workers, precision = processes(), config.optim.precision
    if resume and precision == AUTO and (config.out / CONFIG).is_file():
        precision = read_config(config.out).optim.precision
    taken, why_precision = choose_precision(precision, config.device)
    # Timed by each process for itself, and one choice for all.
    half = torch.tensor(float(workers.is_main and taken == "bfloat16"), device=config.device)
    taken = "bfloat16" if float(workers.sum_(half)) else "float32"
    if workers.is_main:
        line = f"device: {config.device} ({why}); precision: {taken} ({why_precision})"
        print(line, file=sys.stderr)
    return replace(config, optim=replace(config.optim, precision=taken))
