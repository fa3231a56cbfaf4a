"""onnxruntime, with its telemetry off: the only place that imports it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# From 1.31 on the import alone writes a device id and a queue into the home folder and asks for the
# address of a collector, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from qsft_robot.policy.graph_file import read_graph, with_scores


def open_graph(
    path: Path, made: Mapping[str, Any], threads: int, scores: bool = False
) -> onnxruntime.InferenceSession:
    """A graph ready to run on the CPU; RuntimeError when this onnxruntime can't. `made` tells by
    which versions (entry onnx of policy.json). With `scores` it has, after its own outputs, all
    that it chooses tokens from."""
    if not path.is_file():
        raise ValueError(
            f"{path.parent}: no {path.name}, so this policy was exported without ONNX; export it "
            "with `qsft-robot export RUN`, or run it with torch."
        )
    graph = read_graph(path)
    if scores:
        graph, _ = with_scores(graph)
    options = onnxruntime.SessionOptions()
    # By its bytes it could pass for onnxruntime's own format, which was not looked through.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base but Exception
        theirs = made.get("versions", {}).get("onnxruntime", "another version")
        reason = str(error).strip().splitlines()[0]
        raise RuntimeError(
            f"{path}: onnxruntime {onnxruntime.__version__} can't run this graph of opset "
            f"{made.get('opset')}; it was exported and checked with onnxruntime {theirs}. Install "
            f"that version or a later one, or export the policy again here ({reason})"
        ) from error
