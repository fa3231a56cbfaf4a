"""Time a decision of the exported policy: eager torch, torch.compile, ONNX, ONNX in 8 bits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from bench_policy import train_demo_policy
from bench_rows import Row, compare, in_turns, seconds_of

from qsft_robot.export.export import export_policy
from qsft_robot.export.recorded_observations import recorded_observations
from qsft_robot.files import write_sums
from qsft_robot.policy.onnx_policy import OnnxPolicy, load_onnx_policy
from qsft_robot.policy.token_policy import TokenPolicy, load_policy

GROUP = "onnx"
UNIT = "ms a decision (2 cameras of 64x64 to 4 tokens, batch 1, 1 thread)"
# What the control loop at 20 Hz leaves for a decision.
BUDGET_MS = 25.0


def export_demo_policy(folder: Path) -> tuple[Path, Path]:
    """Logs, and the policy that was trained on them with its graphs."""
    logs, run = train_demo_policy(folder)
    return logs, export_policy(run / "checkpoint", folder / "policy", onnx=True)


def quantize(folder: Path, out: Path) -> OnnxPolicy:
    """A copy of an exported folder whose matrices are 8-bit integers, activations quantized as
    they come."""
    # After qsft_robot.policy.onnx_session, which turns onnxruntime's telemetry off.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    shutil.copytree(folder, out)
    for name in ("frame.onnx", "decision.onnx"):
        model = onnx.load(folder / name)
        # The exporter's shapes of what lies between contradict those that quantizing infers.
        del model.graph.value_info[:]
        onnx.save(model, out / name)
        quantize_dynamic(
            out / name,
            out / name,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
        )
    write_sums(out)
    return load_onnx_policy(out)


def compiled(policy: TokenPolicy) -> TokenPolicy:
    """The same policy with its image encoder and its context pass compiled."""
    for trunk in policy.decider.trunks:
        trunk.encode_images = torch.compile(trunk.encode_images)  # type: ignore[method-assign]
        trunk.prefill = torch.compile(trunk.prefill)  # type: ignore[method-assign]
    return policy


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Every row is a contestant against eager torch."""
    say("a policy to export")
    torch.set_num_threads(1)
    logs, exported = export_demo_policy(folder)
    eager = load_policy(exported)
    contestants: dict[str, Any] = {"eager": eager, "onnx": load_onnx_policy(exported)}
    contestants["int8"] = quantize(exported, folder / "int8")
    if not quick:
        contestants["compiled"] = compiled(load_policy(exported))
    (observations, *_) = recorded_observations(logs, eager.description, 64, steps=64)
    first = observations[0]
    for name, policy in contestants.items():
        say(f"warming up {name}")
        for _ in range(2 if quick else 20):
            policy.infer(first)
    say("timing")
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    # Processor time of the one thread: what is left of it on a machine with other work.
    used: dict[str, list[float]] = {name: [] for name in contestants}

    def once(name: str) -> float:
        observation = observations[len(taken[name]) % len(observations)]
        before = time.thread_time()
        taken[name].append(1e3 * seconds_of(lambda: contestants[name].infer(observation)))
        used[name].append(1e3 * (time.thread_time() - before))
        return taken[name][-1]

    found = in_turns({name: lambda n=name: once(n) for name in contestants}, 3 if quick else 1000)
    for name, values in taken.items():
        p50, p99 = np.percentile(values, [50, 99])
        cpu50, cpu99 = np.percentile(used[name], [50, 99])
        say(
            f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms (budget {BUDGET_MS:g} ms); processor time "
            f"p50 {cpu50:.2f} ms, p99 {cpu99:.2f} ms"
        )
    for name, aim in (("onnx", 1.0), ("int8", None), ("compiled", None)):
        if name in found:
            yield compare(
                GROUP,
                f"decision_{name}_vs_eager_torch",
                found[name],
                found["eager"],
                UNIT,
                aim,
                "higher",
                ratio="peer / ours",
            )
    p99 = float(np.percentile(taken["onnx"], 99))
    yield compare(
        GROUP, "decision_onnx_p99_vs_budget", p99, BUDGET_MS, "ms, p99 of the same", 1.0, "lower"
    )
