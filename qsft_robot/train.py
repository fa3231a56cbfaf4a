"""Training: behaviour, then value, in one loop that resumes to the bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qsft_robot.build import build_model, describe_model
from qsft_robot.calibration import write_calibration
from qsft_robot.checkpoint import (
    load_optimizer_tensors,
    optimizer_tensors,
    read_policy_folder,
    read_training,
    write_checkpoint,
)
from qsft_robot.config import OptimConfig, TrainConfig, from_json, to_json
from qsft_robot.export import export_policy
from qsft_robot.files import read_json, write_json
from qsft_robot.ilql_stage import ILQLStage
from qsft_robot.metrics import MetricsLog
from qsft_robot.networks import PolicyNetworks
from qsft_robot.qsft_stage import QSFTStage
from qsft_robot.run_data import RunData, describe, read_run_data
from qsft_robot.stages import BehaviourStage, Stage, image_features, on_features

# A one-stage method that starts from another run's behaviour goes on with its own loss ("tuning").
BEHAVIOUR, VALUE, TUNING = "behaviour", "value", "tuning"


class TrainingStopped(RuntimeError):
    """Training met numbers that are not finite; the last good checkpoint stands."""


def train(config: TrainConfig, resume: bool = False, stop_after: int | None = None) -> Path:
    """Train as `config` says and export the policy to `config.out / "policy"`; returns that folder.

    With `resume`, go on from `config.out / "checkpoint"` to the same bits as without a break.
    `stop_after` ends the run after so many updates in all, with a checkpoint. Raises ValueError on
    bad data or settings, TrainingStopped on a loss that is not finite.
    """
    run = config.out
    checkpoint = run / "checkpoint"
    if not resume and checkpoint.exists():
        raise ValueError(
            f"{run} holds a run already: go on with --resume, choose another --out, or remove it."
        )
    torch.manual_seed(config.seed)
    data = read_run_data(config)
    model = _build(config, data)
    networks = PolicyNetworks(model).to(config.device)
    description = describe(config, data, describe_model(model))
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "config.json", to_json(config))
    saved: tuple[dict[str, Any], dict[str, Tensor]] | None = None
    if resume:
        _check_same_data(checkpoint, description)
        saved = read_training(checkpoint)
    plan = [(BEHAVIOUR, _behaviour_steps(config))]
    if config.two_stages or config.behaviour_from is not None:
        plan.append((VALUE if config.two_stages else TUNING, config.optim.value_steps))
    log = MetricsLog(run, plan, resume_at=None if saved is None else saved[0]["total"])
    done = 0
    for name, steps in plan:
        if name == BEHAVIOUR and config.behaviour_from is not None and saved is None:
            _take_behaviour(config.behaviour_from, description, networks)
            done += steps
            continue
        ended_before = saved is not None and saved[0]["stage"] != name and name == BEHAVIOUR
        if ended_before:  # its weights are in the value stage's checkpoint
            done += steps
            continue
        resumed = saved if saved is not None and saved[0]["stage"] == name else None
        stage = _stage(name, config, networks, data, resumed is not None, checkpoint)
        last = steps if stop_after is None else min(steps, stop_after - done)
        keep = _saver(checkpoint, config, description, networks, name, done)
        run_stage(name, stage, config, last, log, keep, resumed)
        done += last
        if last < steps:
            return run
    log.close()
    write_calibration(run / "calibration.json", networks, data, config)
    return export_policy(checkpoint, run / "policy")


def run_stage(
    name: str,
    stage: Stage,
    config: TrainConfig,
    steps: int,
    log: MetricsLog,
    keep: Callable[[int, dict[str, Tensor]], None],
    resumed: tuple[dict[str, Any], dict[str, Tensor]] | None = None,
) -> None:
    """The training loop of one stage, from update 0 or from where `resumed` stands."""
    optim = config.optim
    parameters = trainable(stage.trained())
    optimizer = build_optimizer(stage.trained(), optim)
    planned = _behaviour_steps(config) if name == BEHAVIOUR else optim.value_steps
    peak = optim.learning_rate if name == BEHAVIOUR else optim.value_learning_rate
    generator = torch.Generator().manual_seed(2 * config.seed + (name != BEHAVIOUR))
    torch.manual_seed(2 * config.seed + (name != BEHAVIOUR))
    start = 0
    if resumed is not None:
        start = resumed[0]["update"]
        _restore(resumed[1], optimizer, generator, stage, log)
    for module in stage.trained():
        module.train()

    def state() -> dict[str, Tensor]:
        tensors = {f"optimizer.{k}": x for k, x in optimizer_tensors(optimizer).items()}
        tensors["generator"] = generator.get_state()
        tensors["torch_random"] = torch.get_rng_state()
        if config.device.startswith("cuda"):
            tensors["cuda_random"] = torch.cuda.get_rng_state(config.device)
        tensors |= {f"log.{k}": x for k, x in log.tensors().items()}
        return tensors | {f"stage.{k}": x for k, x in stage.tensors().items()}

    for update in range(start, steps):
        clock = time.perf_counter()
        stage.before_update(update)
        drawn = stage.draw(optim.batch_size, generator)
        batch = stage.read(drawn, generator)
        data_s = time.perf_counter() - clock
        rate = peak * schedule(update, planned, optim.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=optim.bf16):
            loss, metrics = stage.loss(batch, drawn)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        if not math.isfinite(float(loss.detach()) + float(norm)):
            raise TrainingStopped(
                f"{name} update {update}: loss {float(loss.detach())}, gradient {float(norm)}. "
                f"The batch was {stage.data.describe(drawn)}. The checkpoint of the last good "
                f"update stands in {config.out / 'checkpoint'}; look at those logs, or lower the "
                "learning rate, then go on with --resume."
            )
        optimizer.step()
        stage.after_update()
        update_s = time.perf_counter() - clock - data_s
        log.add(
            name,
            update + 1,
            {**metrics, "optim/gradient_norm": norm, "optim/learning_rate": rate},
            {"time/data_s": data_s, "time/update_s": update_s},
            write=(update + 1) % config.log_every == 0 or update + 1 == planned,
            samples=optim.batch_size,
        )
        if (update + 1) % config.checkpoint_every == 0 or update + 1 == steps:
            keep(update + 1, state())


def build_optimizer(modules: list[nn.Module], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW; vectors (biases, norms, the void row) are not decayed."""
    parameters = trainable(modules)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=(0.9, 0.95))


def trainable(modules: list[nn.Module]) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def schedule(update: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate: linear warm-up, then cosine to a tenth."""
    warmup = min(warmup, max(1, steps // 10))
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(1, steps - warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def resume_config(run: Path, **changes: Any) -> TrainConfig:
    """The config of an earlier run, for `train(..., resume=True)`."""
    if not (run / "config.json").is_file() or not (run / "checkpoint").is_dir():
        raise FileNotFoundError(f"{run}: no run to resume (it needs config.json and checkpoint/).")
    return replace(from_json(TrainConfig, read_json(run / "config.json")), out=run, **changes)


def _build(config: TrainConfig, data: RunData) -> Any:
    images = {}
    if data.cameras:
        images = {
            "cameras": tuple(data.cameras),
            "image_size": tuple(next(iter(data.cameras.values()))),
            "image_encoder": config.model.image_encoder,
            "image_weights": config.model.image_weights,
        }
    return build_model(
        config.model.name,
        vocab_size=data.tokenizer.vocab_size,
        n_tokens=data.tokenizer.n_tokens,
        state_dim=data.train.state.shape[-1],
        history=config.model.history,
        dropout=config.model.dropout,
        **images,
        **{
            name: x for name in ("width", "depth") if (x := getattr(config.model, name)) is not None
        },
    )


def _behaviour_steps(config: TrainConfig) -> int:
    """One-stage methods take the budget of both stages, unless they start from a behaviour."""
    two = config.two_stages or config.behaviour_from is not None
    value = 0 if two else config.optim.value_steps
    return config.optim.behaviour_steps + value


def _stage(
    name: str,
    config: TrainConfig,
    networks: PolicyNetworks,
    data: RunData,
    resumed: bool,
    checkpoint: Path,
) -> Stage:
    """Build a stage; the value stage adds theta, and loads weights where a run is resumed."""
    frozen = name != BEHAVIOUR and bool(data.cameras) and config.model.frozen_features
    tokens = data.train
    if name != VALUE:
        assert networks.behaviour is not None
        if resumed:
            networks.load_state_dict(read_policy_folder(checkpoint)[1])
        if frozen:
            tokens = on_features(tokens, image_features(networks, tokens, config.device))
            for parameter in networks.behaviour.image_parameters():
                parameter.requires_grad_(False)
        return BehaviourStage(
            networks,
            tokens,
            config.device,
            filtered=config.method == "filtered_sft",
            with_returns=config.method == "return_conditioned",
            random_shift=config.model.random_shift,
            auxiliary_weight=config.model.auxiliary_weight,
        )
    weights = read_policy_folder(checkpoint)[1] if resumed else None
    phi = networks.behaviour if weights is None else networks.load_behaviour(weights)
    assert phi is not None
    if frozen:
        tokens = on_features(tokens, image_features(networks, tokens, config.device))
    kind = "heads" if config.method == "ilql" else config.qsft.residual
    theta = networks.start_value_stage(
        {"uniform": "none"}.get(kind, kind), phi.config.width, data.tokenizer.vocab_size
    )
    networks.to(config.device)
    phi.requires_grad_(False).eval()
    if frozen:
        for parameter in theta.image_parameters():
            parameter.requires_grad_(False)
    if config.method == "ilql":
        stage: Stage = ILQLStage(networks, tokens, config.device, config.ilql, config.qsft.gamma)
    else:
        stage = QSFTStage(networks, tokens, config.device, config.qsft)
    if weights is not None:
        networks.load_state_dict(weights)
    return stage


def _saver(
    checkpoint: Path,
    config: TrainConfig,
    description: dict[str, Any],
    networks: PolicyNetworks,
    stage: str,
    before: int,
) -> Callable[[int, dict[str, Tensor]], None]:
    def keep(update: int, tensors: dict[str, Tensor]) -> None:
        parts = [name for name, module in networks.named_children() if module is not None]
        acting = config.acting
        if networks.value is None:
            acting = replace(acting, rule="behaviour")
        full = {**description, "networks": parts, "acting": to_json(acting)}
        training = {"stage": stage, "update": update, "total": before + update}
        write_checkpoint(checkpoint, full, networks, training, tensors)

    return keep


def _restore(
    tensors: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    stage: Stage,
    log: MetricsLog,
) -> None:
    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}

    load_optimizer_tensors(optimizer, under("optimizer."))
    stage.load_tensors(under("stage."))
    generator.set_state(tensors["generator"])
    log.load_tensors(under("log."))
    torch.set_rng_state(tensors["torch_random"])
    if "cuda_random" in tensors:
        device = optimizer.param_groups[0]["params"][0].device
        torch.cuda.set_rng_state(tensors["cuda_random"], device)


def _take_behaviour(run: Path, description: dict[str, Any], networks: PolicyNetworks) -> None:
    """Load phi of another run, refusing one of other data, tokens or shape."""
    theirs, weights = read_policy_folder(run / "checkpoint")
    for part in ("model", "tokenizer", "norm_stats", "state_keys", "cameras"):
        ours = json.loads(json.dumps(description[part]))
        if theirs[part] != ours:
            raise ValueError(
                f"--behaviour-from {run}: its {part} differs from this run's, so its behaviour "
                "network can't be taken. Use the same data, model and tokenizer settings."
            )
    networks.load_behaviour(weights)


def _check_same_data(checkpoint: Path, description: dict[str, Any]) -> None:
    theirs, _ = read_policy_folder(checkpoint)
    if theirs["data"]["sha256"] != description["data"]["sha256"]:
        raise ValueError(
            f"{checkpoint} was trained on {theirs['data']['file']} with SHA-256 "
            f"{theirs['data']['sha256'][:12]}..., but the file now has "
            f"{description['data']['sha256'][:12]}...: an exact resume needs the same file."
        )
