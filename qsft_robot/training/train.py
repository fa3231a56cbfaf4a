"""Training: behavior, then value, in one loop that resumes to the bit."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsft_robot.algorithms.networks import PolicyNetworks, under
from qsft_robot.algorithms.stage import Stage
from qsft_robot.config.earlier import TAKEN
from qsft_robot.config.json_form import to_json
from qsft_robot.config.run_config import CONFIG, read_config
from qsft_robot.config.train import TrainConfig
from qsft_robot.export.export import export_policy
from qsft_robot.export.pretrained_folders import processor_beside
from qsft_robot.files import check_replaceable, write_json
from qsft_robot.logs.image_convention import ENTRY as IMAGE_CONVENTION
from qsft_robot.logs.image_convention import upside_down_note
from qsft_robot.parallel.distributed import processes
from qsft_robot.parallel.sharding import clip_norm_, shard, spread_state, whole, whole_state
from qsft_robot.parts.models import describe_model
from qsft_robot.policy.checkpoint import (
    load_optimizer_tensors,
    optimizer_tensors,
    read_training,
    write_checkpoint,
)
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import described_by, read_description
from qsft_robot.printed_text import say
from qsft_robot.token_data.run_data import data_notes, read_run_data
from qsft_robot.training.calibration import write_calibration
from qsft_robot.training.describing import describe
from qsft_robot.training.feature_cache import image_tokens_of, on_features, on_tower_features
from qsft_robot.training.gradients import add_gradients, parts_together
from qsft_robot.training.machine import check_writable_as_text, on_this_machine
from qsft_robot.training.metrics import MetricsLog, begin_metrics
from qsft_robot.training.optimizer import build_optimizer, check_parts, schedule, trainable
from qsft_robot.training.plan import BEHAVIOR, CRITIC, StagePlan, plan_stages
from qsft_robot.training.run_model import (
    build_run_model,
    check_resumes,
    check_told_apart,
    make_whole,
    revision_of,
    take_behavior,
    take_image_encoder,
    word_scheme_of,
)
from qsft_robot.training.stages import build_stage
from qsft_robot.training.tracking import check_tracker, open_tracker
from qsft_robot.trust import NOTHING, Trust


class NoLog:
    """The metrics log of every process but the first."""

    def add(self, *arguments: object, **more: object) -> None: ...

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...

    def close(self) -> None: ...


class TrainingStopped(RuntimeError):
    """Training met numbers that are not finite; the last good checkpoint stands."""


def train(config: TrainConfig, resume: bool = False, stop_after: int | None = None) -> Path:
    """Train as `config` says and export the policy to `config.out / "policy"`; returns that folder.

    With `resume`, go on from `config.out / "checkpoint"` to the same bits as without a break.
    `stop_after` ends the run after so many updates in all, with a checkpoint. Raises ValueError on
    bad data or settings, TrainingStopped on a loss that is not finite.
    """
    check_writable_as_text(config)
    asked, config = config, on_this_machine(config, resume)
    workers, run = processes(), config.out
    # A function of its own, so that its networks are gone when the exporter loads them again.
    if not _run_stages(config, asked, resume, stop_after):
        return run
    if workers.is_main:
        trust = Trust(config.model.trust_remote_code)
        export_policy(run / "checkpoint", run / "policy", trust=trust)
    workers.wait()
    return run / "policy"


def _run_stages(
    config: TrainConfig, asked: TrainConfig, resume: bool, stop_after: int | None
) -> bool:
    """Everything before the export; whether all updates are done. `asked` are the settings before
    "auto" was taken for this machine's."""
    workers, run = processes(), config.out
    check_parts(config.optim, workers.count, parts_together(config))
    checkpoint = run / "checkpoint"
    if not resume and checkpoint.exists():
        raise ValueError(
            f"{run} holds a run already: go on with --resume, choose another --out, or remove it."
        )
    check_replaceable(run / "policy")
    check_tracker(config.track)
    workers.wait()  # the first process will write the run folder that all have just looked for
    torch.manual_seed(config.seed)
    was = read_description(checkpoint) if resume else None
    with workers.main_first():
        scheme = word_scheme_of(config, checkpoint if resume else None)
        data = read_run_data(config, scheme, None if was is None else was.tokenizer)
    with workers.main_first():
        revision = None if was is None else revision_of(was.model)
        model = build_run_model(config, data, revision)
    if not resume:
        check_told_apart(data, config.data.path)
    networks = PolicyNetworks(model).to(config.device)
    description = describe(config, data, describe_model(model))
    with workers.main_first():
        data = on_tower_features(config, data, model)
    if workers.is_main:
        env_args = description.env_args
        for note in data_notes(config, data, env_args.get("env_name")):
            say(note, sys.stderr)
        if upside_down := upside_down_note(env_args.get(IMAGE_CONVENTION)):
            say(f"note: {config.data.path}: {upside_down}", sys.stderr)
        run.mkdir(parents=True, exist_ok=True)
        # The precision that was taken, so that a resume is exact anywhere; the device as asked.
        taken = {"device": config.device, "asked_precision": asked.optim.precision}
        write_json(run / CONFIG, {**to_json(config), "device": asked.device, TAKEN: taken})
    saved: tuple[dict[str, Any], dict[str, Tensor]] | None = None
    if resume:
        check_resumes(checkpoint, description)
        saved = read_training(checkpoint)
    if config.features_from is not None:
        source = checkpoint if resume else config.features_from / "checkpoint"
        take_image_encoder(source, description, networks)
    if config.features_from is not None or (data.cameras and not config.trains_images):
        features = image_tokens_of(config, networks, data.train)
        data = replace(data, train=on_features(data.train, features))
    plans = plan_stages(config, None if saved is None else saved[0]["stage"])
    resume_at = None if saved is None else saved[0]["total"]
    if any(each.action == "take" for each in plans):
        assert config.behavior_from is not None
        take_behavior(config.behavior_from, description, networks)
    plan = [(stage.name, stage.steps) for stage in plans]
    log: MetricsLog | NoLog = NoLog()
    if workers.is_main:
        begin_metrics(run, resume_at)
        log = MetricsLog(run, plan, open_tracker(config.track, run, to_json(config), resume_at))
    with closing(log):  # also where training is interrupted
        for each in plans:
            if each.action in ("take", "done"):
                continue
            resumed = saved if each.action == "resume" else None
            with nullcontext() if resumed is None else described_by(checkpoint):
                stage = build_stage(
                    each.name, config, networks, data, resumed is not None, checkpoint
                )
            last = each.steps if stop_after is None else min(each.steps, stop_after - each.before)
            keep = _saver(checkpoint, description, networks, each)
            run_stage(each, stage, config, last, log, keep, resumed)
            if config.optim.shard:
                make_whole(networks)
            if last < each.steps:
                return False
    write_calibration(run / "calibration.json", networks, data, config)
    return True


def run_stage(
    plan: StagePlan,
    stage: Stage,
    config: TrainConfig,
    steps: int,
    log: MetricsLog | NoLog,
    keep: Callable[[int, dict[str, Tensor]], None],
    resumed: tuple[dict[str, Any], dict[str, Tensor]] | None = None,
) -> None:
    """The training loop of one stage, from update 0 or from where `resumed` stands."""
    name, planned = plan.name, plan.steps
    optim, workers = config.optim, processes()
    model, *_ = stage.trained()
    for module in stage.trained():
        workers.share(module)
    if optim.shard:
        shard(model, config.device)
    if optim.compile:
        model.compile()
    parameters = trainable(stage.trained())
    optimizer = build_optimizer(stage.trained(), optim)
    rates = {BEHAVIOR: optim.learning_rate, CRITIC: config.critic.learning_rate}
    peak = rates.get(name, optim.value_learning_rate)
    generator = torch.Generator().manual_seed(2 * config.seed + (name != BEHAVIOR))
    # Dropout has its own randomness in every process.
    torch.manual_seed(2 * config.seed + (name != BEHAVIOR) + 1_000_003 * workers.rank)
    start = 0
    if resumed is not None:
        start = resumed[0]["update"]
        with described_by(config.out / "checkpoint"):
            _restore(resumed[1], optimizer, generator, stage, log)
    for module in stage.trained():
        module.train()

    def state() -> dict[str, Tensor]:
        tensors = {f"optimizer.{k}": whole(x) for k, x in optimizer_tensors(optimizer).items()}
        tensors["generator"] = generator.get_state()
        states = {"torch_random": torch.get_rng_state()}
        if config.device.startswith("cuda"):
            states["cuda_random"] = torch.cuda.get_rng_state(config.device)
        for kind, own in states.items():
            for rank, one in enumerate(workers.gather(own.to(config.device))):
                tensors[f"{kind}.{rank}" if rank else kind] = one.cpu()
        tensors |= {f"log.{k}": x for k, x in log.tensors().items()}
        return tensors | {f"stage.{k}": x for k, x in stage.tensors().items()}

    for update in range(start, steps):
        clock = time.perf_counter()
        stage.before_update(update)
        drawn = stage.draw(optim.batch_size, generator)
        drawn_s = time.perf_counter() - clock
        optimizer.zero_grad(set_to_none=True)
        loss, metrics, data_s = add_gradients(stage, drawn, generator, config)
        data_s += drawn_s
        rate = peak * schedule(update, planned, optim.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        workers.mean_gradients(parameters)
        norm = clip_norm_(parameters, optim.clip_norm)
        if not math.isfinite(float(loss) + float(norm)):
            raise TrainingStopped(
                f"{name} update {update}: loss {float(loss)}, gradient {float(norm)}. "
                f"The batch was {stage.data.describe(drawn)}. {_what_stands(config, name)}"
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
    # A copy of the model must not run this one's compiled code.
    model._compiled_call_impl = None


def _what_stands(config: TrainConfig, stage: str) -> str:
    """A sentence on what is left of a run that stopped in `stage`, and how to go on."""
    checkpoint, retry = config.out / "checkpoint", "train to another --out with a lower rate"
    if not checkpoint.exists():
        return f"No checkpoint was written yet: look at those logs, or {retry}."
    if stage != BEHAVIOR:
        retry += f" and --behavior-from {config.out}"
    return f"The last good checkpoint stands in {checkpoint}: look at those logs, or {retry}."


def resume_config(run: Path, trust: Trust = NOTHING, **changes: Any) -> TrainConfig:
    """The config of an earlier run, for `train(..., resume=True)`; ValueError where it asks for
    more than `trust` allows."""
    if not (run / CONFIG).is_file() or not (run / "checkpoint").is_dir():
        raise FileNotFoundError(f"{run}: no run to resume (it needs config.json and checkpoint/).")
    config = read_config(run)
    if config.model.trust_remote_code:
        trust.require_code(f"{run / CONFIG}: its model.trust_remote_code")
    return replace(config, out=run, **changes)


def _saver(
    checkpoint: Path, description: PolicyDescription, networks: PolicyNetworks, stage: StagePlan
) -> Callable[[int, dict[str, Tensor]], None]:
    def keep(update: int, tensors: dict[str, Tensor]) -> None:
        parts = tuple(name for name, module in networks.named_children() if module is not None)
        acting, critic = description.acting, networks.critic
        if networks.value is None:
            acting = replace(acting, rule="behavior")
        if critic is None and acting.needs_critic:
            acting = replace(acting, candidates=1)
        shape = None if critic is None else critic.describe()
        full = replace(description, networks=parts, acting=acting, critic=shape)
        training = {"stage": stage.name, "update": update, "total": stage.before + update}
        weights = whole_state(networks)
        if processes().is_main:
            with processor_beside(checkpoint, networks) as folders:
                write_checkpoint(checkpoint, full, weights, training, tensors, folders=folders)

    return keep


def _restore(
    tensors: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    stage: Stage,
    log: MetricsLog | NoLog,
) -> None:
    load_optimizer_tensors(optimizer, under(tensors, "optimizer."))
    spread_state(optimizer)
    stage.load_tensors(under(tensors, "stage."))
    generator.set_state(tensors["generator"])
    log.load_tensors(under(tensors, "log."))
    rank = processes().rank
    own = "" if rank == 0 else f".{rank}"
    # A run that goes on with more processes than before gives the new ones a fresh start.
    if f"torch_random{own}" in tensors:
        torch.set_rng_state(tensors[f"torch_random{own}"])
    if f"cuda_random{own}" in tensors:
        device = optimizer.param_groups[0]["params"][0].device
        torch.cuda.set_rng_state(tensors[f"cuda_random{own}"], device)
