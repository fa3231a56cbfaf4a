"""The model of a run: built from its settings, or taken from another run, which has to fit."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsft_robot.algorithms.networks import PolicyNetworks, under
from qsft_robot.config.train import TrainConfig
from qsft_robot.parallel.sharding import has_shards, whole_state
from qsft_robot.parts.models import build_model, describe_model, load_model, with_later_settings
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import described_by, read_description
from qsft_robot.token_data.run_data import RunData
from qsft_robot.training.decision_settings import decision_settings
from qsft_robot.trust import OWN
from tokenizers_action.protocol import TextTokenizer
from vlm.words import ASCII_WORDS, UNICODE_WORDS, alike, hash_text

if TYPE_CHECKING:
    from vlm.model import ActionModel


# Buckets of hashed words where observations are texts. Twice as many serve pairs of neighbours, of
# which there are more than words.
TEXT_BUCKETS = 8_192
# Fewest words of an instruction that a model reads there: goals that people wrote run to two dozen.
TEXT_LENGTH = 32


def word_scheme_of(config: TrainConfig, resumed: Path | None) -> int:
    """How the model of a run tells words apart: as the run did that it goes on from or takes its
    networks from, else in the newest way."""
    given = (config.behavior_from, config.features_from)
    source = resumed or next((run / "checkpoint" for run in given if run is not None), None)
    if source is None:
        return UNICODE_WORDS
    return read_description(source).model["config"].get("word_scheme", ASCII_WORDS)


def check_told_apart(data: RunData, path: Path) -> None:
    """ValueError where instructions of the logs that differ are one and the same to the model."""
    first: dict[tuple[int, ...], str] = {}
    for part in (data.train, data.valid):
        if part is None:
            continue
        ids = dict(zip(part.instructions, part.text_ids, strict=True))
        for text, row in ids.items():
            other = first.setdefault(tuple(row.tolist()), text)
            if not alike(text, other):
                raise ValueError(
                    f"{path}: the model reads the instructions {other!r} and {text!r} alike, so "
                    "that their logs would be one task to it. Say one of them in other words "
                    "(attribute lang of the logs), or train on one of them (--data.filter-key)."
                )


def build_run_model(config: TrainConfig, data: RunData, revision: str | None = None) -> ActionModel:
    """The model of a run, for its data; the data then reads instructions as the model does.

    `revision` pins a pretrained model of the hub to the commit of an earlier checkpoint.
    """
    shape: dict[str, Any] = {
        "vocab_size": data.tokenizer.vocab_size,
        "n_tokens": data.tokenizer.n_tokens,
        "state_dim": data.train.state.shape[-1],
        "history": config.model.history,
    }
    if data.cameras:
        shape["cameras"] = tuple(data.cameras)
        shape["image_size"] = tuple(next(iter(data.cameras.values())))
    logs = [data.train] if data.valid is None else [data.train, data.valid]
    has_texts = config.tokenizer.kind == "commands" or config.data.text_keys
    if has_texts and config.model.text_history:
        shape["text_history"] = config.model.text_history
    if config.model.pretrained is None:
        model = _build_rt(config, data, shape, revision)
    else:
        texts = {text for part in logs for text in part.instructions}
        model = _build_pretrained(config, data, shape, tuple(sorted(texts)), revision)
    if config.optim.checkpoint_activations:
        model.gradient_checkpointing(True)
    words = model.encode_words
    for part in logs:
        part.read_words(words)
        if "text_history" in shape:
            if model.reads_frames:
                part.read_frames(model.encode_frame, config.model.text_history)
            else:
                part.read_steps(model.encode_steps, config.model.text_history)
    return model


def revision_of(model: Mapping[str, Any]) -> str | None:
    """Commit of the hub repository that a described model was made of."""
    config = model["config"]
    return config.get("revision") or (config.get("decision") or {}).get("revision")


def _build_rt(
    config: TrainConfig, data: RunData, shape: dict[str, Any], revision: str | None
) -> ActionModel:
    settings = config.model
    if "cameras" in shape:
        shape["image_encoder"] = settings.image_encoder
        shape["image_weights"] = settings.image_weights
        shape["image_shrink"] = settings.image_shrink
    if "text_history" in shape:
        commands = config.tokenizer.kind == "commands"
        shape["command_length"] = shape["n_tokens"] - 1 if commands else 0
        shape["frame_text_length"] = settings.frame_text_length if config.data.text_keys else 0
        shape["text_buckets"] = TEXT_BUCKETS
        if commands:
            spoken = ["", *data.tokenizer.to_json()["words"]]
            shape["action_words"] = [
                int(hash_text(w, 1, TEXT_BUCKETS, data.word_scheme)[0]) for w in spoken
            ]
    shape["text_length"] = max(TEXT_LENGTH if "text_history" in shape else 0, data.words_read)
    shape["word_scheme"] = data.word_scheme
    shape["text_encoder"] = settings.text_encoder
    shape["text_weights"] = settings.text_weights
    shape["fine_tune_towers"] = settings.fine_tune_towers
    sizes = {n: x for n in ("width", "depth", "mixture") if (x := getattr(settings, n)) is not None}
    if config.traits.model is not None:
        shape["decision"] = decision_settings(config, data, revision)
    name = config.traits.model or settings.name
    if name == "whole_commands":
        listed = np.array(data.tokenizer.to_json()["closed"], object)[:, None]
        shape["commands"] = data.tokenizer.encode(listed).tolist()
    return build_model(name, **shape, dropout=settings.dropout, **sizes)


def _build_pretrained(
    config: TrainConfig,
    data: RunData,
    shape: dict[str, Any],
    texts: tuple[str, ...],
    revision: str | None,
) -> ActionModel:
    settings = config.model
    assert settings.pretrained is not None
    if "text_history" in shape and settings.action_tokens != "added":
        raise ValueError(
            "--data.text-keys and text commands may hold any words, so no entry of the pretrained "
            "vocabulary is free for action tokens: use --model.action-tokens added."
        )
    if isinstance(data.tokenizer, TextTokenizer):
        shape["action_words"] = ("", *data.tokenizer.to_json()["words"])
    base = Path(settings.pretrained).expanduser()
    same = (
        "state_as", "action_tokens", "lora_rank", "lora_alpha", "lora_dropout", "text_length",
        "dtype", "trust_remote_code",
    )  # fmt: skip
    return build_model(
        "pretrained",
        **shape,
        # A run is resumed, and its policy opened, from other folders too.
        base=str(base.resolve()) if base.exists() else settings.pretrained,
        revision=settings.revision or revision,
        instructions=texts,
        random_weights=config.pretrained_weights == "none",
        random_action_rows=config.pretrained_weights == "body",
        train_images=config.trains_images,
        **{name: getattr(settings, name) for name in same},
    )


def make_whole(networks: PolicyNetworks) -> None:
    """Put networks that a stage spread over the processes together again, as plain ones."""
    for name in ("behavior", "value"):
        model = getattr(networks, name)
        if model is None or not has_shards(model):
            continue
        device, weights = next(model.parameters()).device, whole_state(model)
        setattr(networks, name, None)
        if name == "value":  # it shares a frozen base with phi
            plain = copy.deepcopy(networks.behavior)
            assert plain is not None
        else:
            plain = load_model(describe_model(model), trust=OWN)
        plain.load_state_dict(weights)
        setattr(networks, name, plain.to(device))


def take_behavior(run: Path, description: PolicyDescription, networks: PolicyNetworks) -> None:
    """Load phi of another run, refusing one of other data, tokens or shape."""
    theirs, weights = read_policy_folder(run / "checkpoint")
    theirs = replace(theirs, model=with_later_settings(theirs.model))
    one, other = (json.loads(json.dumps(each.to_json())) for each in (theirs, description))
    for part in ("model", "tokenizer", "norm_stats", "state_keys", "text_keys", "cameras"):
        if one[part] != other[part]:
            raise ValueError(
                f"--behavior-from {run}: its {part} differs from this run's, so its behavior "
                "network can't be taken. Use the same data, model and tokenizer settings."
            )
    if not any(name.startswith("behavior.") for name in weights):
        raise ValueError(
            f"--behavior-from {run}: its policy holds no behavior network (an export that acts by "
            "the value alone leaves it out). Give the run that trained it."
        )
    with described_by(run / "checkpoint"):
        networks.load_behavior(weights)


def take_image_encoder(
    checkpoint: Path, description: PolicyDescription, networks: PolicyNetworks
) -> None:
    """Load an RT-style model's image encoder; refuse one for other cameras or of another shape."""
    theirs, weights = read_policy_folder(checkpoint)
    encoder_here = getattr(networks.behavior, "images", None)
    if encoder_here is None:
        raise ValueError(
            "--features-from takes the image encoder of an RT-style run with cameras; this run has "
            "none of its own (a pretrained model keeps its tower)."
        )
    encoder = under(weights, "behavior.images.")
    shapes = {k: x.shape for k, x in encoder.items()}
    ours = {k: x.shape for k, x in encoder_here.state_dict().items()}
    base = theirs.model["config"]
    same = all(
        base.get(name, default) == description.model["config"][name]
        for name, default in (("image_encoder", "small"), ("image_shrink", 1))
    )
    if theirs.cameras != description.cameras or shapes != ours or not same:
        raise ValueError(
            f"--features-from {checkpoint.parent}: its image encoder was made for other cameras or "
            f"another model (cameras {dict(theirs.cameras)}, here {dict(description.cameras)}; "
            f"{base.get('image_encoder')}, width {base.get('width')}). Use the same "
            "--data.cameras and --model settings."
        )
    encoder_here.load_state_dict(encoder)


def check_resumes(checkpoint: Path, description: PolicyDescription) -> None:
    """ValueError unless a checkpoint was trained on the same file and from the same base."""
    theirs = read_description(checkpoint)
    if theirs.data.sha256 != description.data.sha256:
        raise ValueError(
            f"{checkpoint} was trained on {theirs.data.file} with SHA-256 "
            f"{theirs.data.sha256[:12]}..., but the file now has "
            f"{description.data.sha256[:12]}...: an exact resume needs the same file."
        )
    mine, base = description.model, theirs.model
    if mine["kind"] != base["kind"]:
        raise ValueError(f"{checkpoint} holds a model of kind {base['kind']}, not {mine['kind']}.")
    trunk, other = (x["config"].get("decision") or {} for x in (mine, base))
    if trunk.get("fingerprint") != other.get("fingerprint"):
        raise ValueError(
            f"{checkpoint} was trained on another language model than --model.trunk now names "
            f"({trunk.get('base')}): an exact resume needs the same."
        )
    if mine["kind"] != "pretrained":
        for tower in ("image_tower", "text_tower"):
            if json.loads(json.dumps(mine["config"][tower])) != base["config"].get(tower):
                raise ValueError(
                    f"{checkpoint} was trained on another {tower.replace('_', ' ')} than "
                    f"--model.{tower.split('_')[0]}-weights now gives: an exact resume needs the "
                    "same weights and the same version of their library."
                )
        return
    for name in ("revision", "fingerprint"):
        ours, was = mine["config"][name], base["config"][name]
        if ours != was:
            raise ValueError(
                f"{checkpoint} was trained on {base['config']['base']} of {name} {was}, but "
                f"{mine['config']['base']} has {ours}: an exact resume needs the same base model."
            )
