"""Opening a policy: of a run folder, a checkpoint or an exported folder, with ONNX or torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from qsft_robot.extras import is_installed, naming_extras
from qsft_robot.hardware import choose_device
from qsft_robot.hub.repository import local_folder
from qsft_robot.names import unknown
from qsft_robot.policy.description import LoadedPolicy
from qsft_robot.trust import Trust


def open_policy(
    folder: str | Path,
    acting: Mapping[str, Any] | None = None,
    device: str = "auto",
    runtime: Literal["auto", "onnx", "torch"] = "auto",
    threads: int = 1,
    *,
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
) -> LoadedPolicy:
    """Load the policy of a run folder, a checkpoint or an exported folder, or of a Hub id
    (owner/name, owner/name@revision) where no such folder is here.

    `acting` changes entries of the acting rule; with torch a run folder is then asked for its
    checkpoint, which holds both networks. Device "auto" is cuda, mps or cpu, the first that is
    here. Runtime "auto" takes the ONNX graphs where the folder has them, the device is the CPU and
    no entry changes, or where torch is not installed; `threads` is for these graphs. The folder is
    data: `trust_remote_code` lets the code run that a pretrained model in it brings along,
    `allow_downloads` fetches a model that it names from the hub; without them a folder that needs
    it is refused. ValueError on a changed or partial folder, ImportError where it needs torch and
    torch is missing, RuntimeError where the installed onnxruntime can't run the graphs.
    """
    from qsft_robot.policy.onnx_policy import DECISION, load_onnx_policy

    folder, changes = local_folder(folder), dict(acting or {})
    exported = folder / "policy" if (folder / "policy").is_dir() else folder
    has_torch = is_installed("torch")
    device, _ = choose_device(device)
    if runtime == "auto":
        has_graphs = (exported / DECISION).is_file()
        wanted = has_graphs and not changes and device == "cpu"
        runtime = "onnx" if wanted or (has_graphs and not has_torch) else "torch"
    if runtime == "onnx":
        graphs = load_onnx_policy(exported, threads)
        return graphs.with_acting(**changes) if changes else graphs
    if runtime != "torch":
        raise unknown("runtime", runtime, ("auto", "onnx", "torch"))
    if not has_torch:
        raise ImportError(
            f"{exported} is to be run with torch, which is not installed: install it (pip install "
            "'qsft-robot[train]'), or export the policy with its ONNX graphs where torch is "
            "(qsft-robot export RUN)."
        )
    inner = folder / "checkpoint" if changes else exported
    with naming_extras(f"{exported} is to be run with torch"):
        from qsft_robot.policy.token_policy import load_policy

        trust = Trust(trust_remote_code, allow_downloads)
        policy = load_policy(inner if inner.is_dir() else folder, device, trust)
    return policy.with_acting(**changes) if changes else policy
