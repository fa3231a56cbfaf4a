"""What a robot's own computer imports loads no torch, and `datasets/` shadows nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Modules that the robot loop, the simulators' workers and the readers of logs import.
LIGHT = [
    "qsft_robot",
    "qsft_robot.types",
    "qsft_robot.extras",
    "qsft_robot.hardware",
    "qsft_robot.versions",
    "qsft_robot.files",
    "qsft_robot.printed_text",
    "qsft_robot.logs.alike",
    "qsft_robot.logs.hdf5_members",
    "qsft_robot.logs.hdf5_rows",
    "qsft_robot.logs.log_reader",
    "qsft_robot.logs.reader",
    "qsft_robot.normalize",
    "qsft_robot.token_data.frames",
    "qsft_robot.logs.inspection",
    "qsft_robot.logs.doctor.checks",
    "qsft_robot.lerobot.logs",
    "qsft_robot.logs.validate",
    "qsft_robot.returns",
    "qsft_robot.rollouts.worker",
    "qsft_robot.rollouts.collect_worker",
    "qsft_robot.rollouts.evaluate",
    "qsft_robot.rollouts.collect",
    "qsft_robot.rollouts.collect_policy",
    "qsft_robot.rollouts.playback",
    "qsft_robot.rollouts.record_play",
    "qsft_robot.rollouts.machines",
    "qsft_robot.rollouts.partial",
    "qsft_robot.rollouts.summary",
    "qsft_robot.cluster.connection",
    "qsft_robot.cluster.ray_machines",
    "qsft_robot.verbs.collect",
    "qsft_robot.verbs.evaluate",
    "qsft_robot.rollouts.play_worker",
    "qsft_robot.flat_files.importing",
    "qsft_robot.verbs.flat",
    "qsft_robot.report.report",
    "qsft_robot.compare.comparison",
    "qsft_robot.compare.page",
    "qsft_robot.labeling.label",
    "qsft_robot.hub.repository",
    "qsft_robot.hub.publishing",
    "qsft_robot.harness.configurations",
    "qsft_robot.harness.deciders",
    "qsft_robot.harness.key_map",
    "qsft_robot.harness.observations",
    "qsft_robot.verbs.harness",
    "qsft_robot.view.recording",
    "qsft_robot.verbs.view",
    "qsft_robot.verbs.label",
    "qsft_robot.verbs.compare",
    "qsft_robot.build",
    "qsft_robot.cli",
    "qsft_robot.verbs.data",
    "qsft_robot.verbs.convert",
    "qsft_robot.logs.merge",
    "qsft_robot.logs.relabel",
    "qsft_robot.lerobot.importing",
    "qsft_robot.lerobot.exporting",
    "qsft_robot.policy.folder",
    "qsft_robot.observations",
    "qsft_robot.policy.onnx_policy",
    "qsft_robot.export.recorded_observations",
    "qsft_robot.server.server",
    "qsft_robot.server.batching",
    "qsft_robot.server.config",
    "qsft_robot.server.connection",
    "qsft_robot.server.metrics",
    "qsft_robot.server.requests",
    "qsft_robot.server.running",
    "qsft_robot.server.wire",
    "qsft_robot.server.remote_policy",
    "qsft_robot.verbs.serve",
    "qsft_robot.control.cadence",
    "qsft_robot.control.chunks",
    "qsft_robot.verbs.robot",
    "qsft_robot.control.loop",
    "qsft_robot.control.decisions",
    "qsft_robot.control.limits",
    "qsft_robot.logs.ranges",
    "qsft_robot.control.operator_input",
    "qsft_robot.control.robot",
    "qsft_robot.control.start_up_check",
    "qsft_robot.robots.choose",
    "qsft_robot.robots.gym",
    "qsft_robot.robots.lerobot",
    "qsft_robot.robots.mujoco",
    "qsft_robot.robots.mujoco_process",
    "qsft_robot.robots.replay",
    "qsft_robot.control.run",
    "qsft_robot.control.run_log",
    "qsft_robot.control.run_report",
    "qsft_robot.control.watchdog",
    "tokenizers_action",
    "tokenizers_action.protocol",
    "tokenizers_action.bins",
    "tokenizers_action.fast",
    "tokenizers_action.spline",
    "qsft_robot.token_data.code_logs",
    "qsft_robot.token_data.tokenizer_file",
    "qsft_robot.token_data.tokenizer_report",
    "qsft_robot.verbs.tokens",
    "sim",
]
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "timm", "transformers", "ray"}:
            raise ImportError(f"{name} must not be needed here")

sys.meta_path.insert(0, Blocker())
"""


def run(code: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_a_robot_needs_imports_with_torch_blocked(tmp_path: Path) -> None:
    run(
        f"{BLOCKED}\nimport importlib\nfor name in {LIGHT}: importlib.import_module(name)", tmp_path
    )


def test_transformers_imports_from_the_root_in_spite_of_the_datasets_folder(
    repository: Path,
) -> None:
    assert (repository / "datasets").is_dir()
    run(
        "import transformers; from transformers import GPT2Config, GPT2LMHeadModel; "
        "GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16, n_positions=8))",
        repository,
    )


def test_datasets_is_data_and_never_a_package(repository: Path) -> None:
    assert not list((repository / "datasets").rglob("__init__.py"))
