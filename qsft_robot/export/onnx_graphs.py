"""A policy as two ONNX graphs: images to features, and a whole decision to actions."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qsft_robot.export.code_graphs import KINDS, code_graph
from qsft_robot.policy.onnx_policy import DECISION, FRAME
from qsft_robot.policy.token_policy import TokenPolicy
from vlm.model import Context

# The lowest that has every operation of the graphs, so that old onnxruntimes run them too.
OPSET = 18
# A protobuf file holds 2 GiB; a tenth is left to the graph itself.
MOST_BYTES = int(0.9 * 2**31)
INSTALL = "pip install 'qsft-robot[onnx]'"


class NotExportable(ValueError):
    """This policy has no ONNX form; the message says which part of it and what to do."""


class FrameGraph(nn.Module):
    """Text ids and one image a camera to the image tokens of each trunk that has its own."""

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__()
        self.encoders: Any = nn.ModuleList(feature_trunks(policy))
        self.cameras = list(policy.cameras)

    def forward(self, text_ids: Tensor, *images: Tensor) -> tuple[Tensor, ...]:
        """[b, l] and uint8 [b, h, w, 3] to float32 [b, m, c]."""
        given = dict(zip(self.cameras, images, strict=True))
        return tuple(model.encode_images(given, text_ids) for model in self.encoders)


class DecisionGraph(nn.Module):
    """Everything after the image tokens: all action tokens, the acting rule, actions in the
    environment's units."""

    def __init__(self, policy: TokenPolicy, names: Sequence[str]) -> None:
        super().__init__()
        self.networks, self.decider, self.names = policy.networks, policy.decider, list(names)
        self.candidates = policy.acting.candidates
        self.shared = len(feature_trunks(policy)) == 1
        self.tokens: Any = code_graph(policy.tokenizer, policy.norm_stats)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Actions [b, h, d], token ids [b, n], whether all was finite [b], and V(s) [b] where the
        policy has one."""
        given = dict(zip(self.names, inputs, strict=True))

        def context(i: int) -> Context:
            features = given.get(f"features_{0 if self.shared else i}")
            frame = (given.get("state"), given["frame_mask"], given["text_ids"])
            return Context(features, *frame, given.get("returns"))

        contexts = [context(i) for i in range(len(self.decider.trunks))]
        noise = given["noise"] if self.candidates > 1 else given["noise"][:, None]
        ids, value, finite = self.decider.decide(
            contexts, self.tokens.legal, noise, given["temperature"], self.tokens.numbers
        )
        actions = self.tokens.decode(ids)
        return (actions, ids, finite) if value is None else (actions, ids, finite, value)


def feature_trunks(policy: TokenPolicy) -> list[Any]:
    """The acting trunks whose image encoders run: one where they share their features."""
    if not policy.cameras:
        return []
    shared = policy.description.shared_image_features
    return policy.decider.trunks[:1] if shared else policy.decider.trunks


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each tensor once."""
    return list({id(x): x for x in (*model.parameters(), *model.buffers())}.values())


def refuse(policy: TokenPolicy) -> None:
    """Raise NotExportable, naming the part, unless the policy can be a fixed pair of graphs and the
    exporter is installed."""
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise NotExportable(f"the exporter needs {package}, which is not installed: {INSTALL}.")
    size = sum(x.nbytes for model in policy.decider.trunks for x in tensors_of(model))
    if size > MOST_BYTES:
        raise NotExportable(
            f"the acting networks have {size / 1e9:.1f} GB of weights, and an ONNX file holds "
            f"{MOST_BYTES / 1e9:.1f} GB; torch runs this policy."
        )
    model = policy.description.model
    if model["config"].get("text_encoder", "words") != "words":
        raise NotExportable(
            f"the text encoder {model['config']['text_encoder']!r} needs its own tokenizer, which "
            "an ONNX graph doesn't carry; torch runs this policy."
        )
    if not isinstance(policy.tokenizer, KINDS):
        raise NotExportable(
            f"{policy.tokenizer.to_json()['kind']} tokens have no tables of which are legal and "
            "what they stand for, so a decision is no fixed graph; torch runs this policy."
        )
    if policy.text_history:
        raise NotExportable(
            f"it reads {', '.join(policy.text_keys)} as text, which no list of ids can foresee; "
            "torch runs this policy."
        )


def write_graphs(policy: TokenPolicy, folder: Path) -> dict[str, Any]:
    """Write decision.onnx and, for a policy with cameras, frame.onnx to `folder`.

    Returns what policy.json says of them. NotExportable names what has no ONNX form.
    """
    refuse(policy)
    config, description = policy.description.model["config"], policy.description
    tokenizer, k = policy.tokenizer, policy.history
    batch = 2  # 0 and 1 would be taken for constants
    trunks = feature_trunks(policy)
    texts = known_texts(policy)
    text_ids = torch.from_numpy(next(iter(texts.values())))
    given = {"text_ids": text_ids.expand(batch, -1).clone()}
    if trunks:
        images = {
            f"image_{i}": torch.zeros(batch, *size, 3, dtype=torch.uint8)
            for i, size in enumerate(policy.cameras.values())
        }
        names = [f"features_{i}" for i in range(len(trunks))]
        _write(FrameGraph(policy), {**given, **images}, names, folder / FRAME)
        tokens = trunks[0].config.frame_image_tokens
        given |= {name: torch.zeros(batch, k, tokens, config["width"]) for name in names}
    if config["state_dim"]:
        given["state"] = torch.zeros(batch, k, config["state_dim"])
    given["frame_mask"] = torch.ones(batch, k, dtype=torch.bool)
    if description.conditions_on_return:
        given["returns"] = torch.ones(batch)
    count = policy.acting.candidates
    several = (count,) if count > 1 else ()
    given["noise"] = torch.zeros(batch, *several, tokenizer.n_tokens, tokenizer.vocab_size)
    given["temperature"] = torch.tensor(1.0)
    outputs = ["actions", "token_ids", "finite", *(["value"] if policy.decider.has_value else [])]
    _write(DecisionGraph(policy, list(given)), given, outputs, folder / DECISION)
    packages = ("torch", "onnx", "onnxscript", "onnxruntime")
    # Hashed words need no list. A pretrained model's tokenizer is not at hand without torch.
    listed = {} if description.model["kind"] == "rt" else {"texts": texts}
    return {
        **{name: {text: ids.tolist() for text, ids in x.items()} for name, x in listed.items()},
        "opset": OPSET,
        "graphs": [FRAME, DECISION] if trunks else [DECISION],
        "versions": {name: version(name) for name in packages},
    }


def known_texts(policy: TokenPolicy) -> dict[str, np.ndarray]:
    """The instructions that the policy was trained on, and their ids as its model reads them."""
    known = policy.description.data.instructions or [""]
    words = policy.decider.trunks[0].encode_words
    return {text: words(text) for text in known}


def _write(graph: nn.Module, given: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    """Export a graph whose inputs share a batch of any size and have these names."""
    shapes = [{0: torch.export.Dim.DYNAMIC} if x.ndim else None for x in given.values()]
    varying = (tuple(shapes),) if path.name == DECISION else (shapes[0], tuple(shapes[1:]))
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                graph.eval(), tuple(given.values()), dynamic_shapes=varying, strict=False
            )
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(given),
                output_names=outputs,
                external_data=False,
                # onnxruntime folds the same constants when it loads the graph: no decision is
                # slower, and the exporter is done in two thirds of the time.
                optimize=False,
                verbose=False,
            )
            assert made is not None
            # The exporter notes where in the source each node came from: folders of this machine.
            model = made.model
            parts: list[Any] = [model, model.graph, *model.graph.all_nodes()]
            for part in parts:
                part.metadata_props.clear()
            made.save(path, external_data=False)
    except Exception as error:  # the exporter raises many kinds
        encoder = "" if path.name == DECISION else f" (image encoder {_encoder(graph)!r})"
        reason = str(error).strip().splitlines()[0]
        raise NotExportable(
            f"{path.name}{encoder} could not be exported: {type(error).__name__}: {reason}; torch "
            "runs this policy."
        ) from error
    finally:
        for log, level in zip(noisy, levels, strict=True):
            log.setLevel(level)


def _encoder(graph: nn.Module) -> str:
    assert isinstance(graph, FrameGraph)
    config = graph.encoders[0].config
    return getattr(config, "image_encoder", None) or config.base
