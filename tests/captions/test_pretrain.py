"""A pretraining of our own makes a folder like any other, of a model that looks at the images."""

from __future__ import annotations

import dataclasses
import filecmp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from qsft_robot.captions.batches import (
    Example,
    answer_labels,
    answer_losses,
    encode,
    mean_answer_loss,
)
from qsft_robot.captions.cell_head import CellHead, cell_targets
from qsft_robot.captions.model import END
from qsft_robot.captions.pretrain import REPORT, PretrainConfig, pretrain
from qsft_robot.captions.questions import converse
from qsft_robot.captions.scenes import sample_scenes
from qsft_robot.captions.scores import evaluate_captions, held_out
from qsft_robot.files import check_sums, read_json
from qsft_robot.parts.models import build_model

SMALL = PretrainConfig(
    scenes=24,
    valid_scenes=8,
    turns=6,
    batch_size=4,
    steps=3,
    valid_every=3,
    width=32,
    depth=1,
    vision_width=32,
    vision_depth=1,
    precision="float32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "vlm"
    pretrain(dataclasses.replace(SMALL, out=out), say=lambda line: None)
    return out


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder, local_files_only=True)


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return held_out(8, 0, 6)


def test_the_folder_is_whole_and_holds_nothing_but_json_text_and_safetensors(folder: Path) -> None:
    check_sums(folder)
    kinds = {path.suffix for path in folder.iterdir()}
    assert kinds == {".json", ".safetensors", ".jinja", ""}  # "" is SHA256SUMS
    report = read_json(folder / REPORT)
    assert report["settings"]["steps"] == report["curve"][-1]["step"] == 3
    assert "blind/loss/answers" in report["curve"][-1]


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def weights_and_curve(folder: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
        curve = [
            {name: x for name, x in line.items() if name != "time/s"}
            for line in read_json(folder / REPORT)["curve"]
        ]
        return load_file(folder / "model.safetensors"), curve

    config = dataclasses.replace(SMALL, out=tmp_path / "whole", steps=5, valid_every=2)
    pretrain(config, say=lambda line: None)
    stopped = dataclasses.replace(config, out=tmp_path / "stopped")

    class Stop(Exception):
        pass

    def stop_after_the_second_validation(line: str) -> None:
        if "step 4 " in line:
            raise Stop

    with pytest.raises(Stop):
        pretrain(stopped, say=stop_after_the_second_validation)
    assert not stopped.out.exists()
    with pytest.raises(ValueError, match=r"steps was 5, is 6.*delete the folder"):
        pretrain(dataclasses.replace(stopped, steps=6), say=lambda line: None)
    said: list[str] = []
    pretrain(stopped, say=said.append)
    assert any("going on from step 4" in line for line in said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]
    (ours, our_curve), (theirs, their_curve) = map(weights_and_curve, (stopped.out, config.out))
    assert our_curve == their_curve
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_same_seed_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    pretrain(dataclasses.replace(SMALL, out=tmp_path / "again"), say=lambda line: None)
    for name in ("model.safetensors", "tokenizer.json"):
        assert filecmp.cmp(tmp_path / "again" / name, folder / name, shallow=False)


def test_what_is_learnt_is_the_answers_and_their_ends(
    processor: Any, examples: list[Example]
) -> None:
    batch = encode(processor, examples)
    labels = batch["labels"]
    for row, example in zip(labels, examples, strict=True):
        said = processor.tokenizer.decode(row[row >= 0])
        assert said == "".join(f" {turn.answer}{END}" for turn in example.turns)
    learnt = labels >= 0
    assert (labels[learnt] == batch["input_ids"][learnt]).all()


def test_a_prompt_without_an_answer_has_nothing_to_learn(processor: Any) -> None:
    ids = processor.tokenizer(f"User: what next?{END}\nAssistant:", return_tensors="pt")[
        "input_ids"
    ]
    assert (answer_labels(processor.tokenizer, ids) == -100).all()


def test_padding_has_no_effect_on_losses(
    model: Any, processor: Any, examples: list[Example]
) -> None:
    long, short = examples[0], Example(examples[1].scene, examples[1].turns[:2])
    together, _ = answer_losses(model, encode(processor, [long, short]))
    alone, _ = answer_losses(model, encode(processor, [short]))
    torch.testing.assert_close(together[1, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-5)
    assert not together[1, alone.shape[1] :].any()


def test_exact_answers_are_counted_by_kind_and_blindness_changes_the_images_only(
    model: Any, processor: Any, examples: list[Example]
) -> None:
    metrics = evaluate_captions(model, processor, examples)
    with torch.no_grad():
        losses, _ = answer_losses(model, batch := encode(processor, examples))
    assert metrics["loss/answers"] == pytest.approx(
        float(losses.sum()) / int((batch["labels"] >= 0).sum()), rel=1e-5
    )
    kinds = {f"exact/{turn.kind}" for example in examples for turn in example.turns}
    assert kinds <= set(metrics)
    same = [Example(examples[0].scene, each.turns) for each in examples]
    seeing = evaluate_captions(model, processor, same)
    blind = evaluate_captions(model, processor, same, blind=True)
    assert seeing["loss/answers"] == pytest.approx(blind["loss/answers"], rel=1e-6)


def test_it_learns_to_answer_from_the_image(
    model: Any, processor: Any, examples: list[Example]
) -> None:
    rng = np.random.default_rng(0)
    few = [Example(e.scene, converse(e.scene, rng, 6, ("side", "holding"))) for e in examples[:4]]
    batch = encode(processor, few)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    before = float(mean_answer_loss(model, batch).detach())
    for _ in range(60):
        loss = mean_answer_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < before / 10
    images = [*few[0].scene.images.values()]
    question = {"type": "text", "text": few[0].turns[0].prompt}
    text = processor.apply_chat_template(
        [{"role": "user", "content": [*({"type": "image"} for _ in images), question]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    prompt = processor(text=[text], images=[images], add_special_tokens=False, return_tensors="pt")
    model.eval()
    written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    answer = processor.tokenizer.decode(written[0, prompt["input_ids"].shape[1] :])
    assert answer == f" {few[0].turns[0].answer}{END}"


def test_it_is_fine_tuned_like_any_pretrained_model(folder: Path, processor: Any) -> None:
    text = "put the red cube in the blue bowl"
    model = build_model(
        "pretrained",
        base=str(folder),
        vocab_size=256,
        n_tokens=4,
        state_dim=8,
        cameras=("front_image", "wrist_image"),
        instructions=(text,),
    )
    described = model.preprocessing
    ids = processor.tokenizer(f"{text}{END}\nAssistant:")["input_ids"]
    padded = model.encode_words(text)
    assert padded[padded >= 0].tolist() == ids
    assert described["image_tokens"] == 16
    assert not set(described["action_ids"]) & set(ids)


def test_a_cell_says_what_has_its_centre_there_and_where() -> None:
    scenes = list(sample_scenes(10, seed=1))
    names = ["blue bowl", "gripper", "red cube"]
    targets = cell_targets(scenes, names, side=4).reshape(10, 2, 4, 4, 3, 3).numpy()
    for scene, cells in zip(scenes, targets, strict=True):
        for i, name in enumerate(names):
            for camera, grid in zip(("front", "wrist"), cells[..., i, :], strict=True):
                sighting = scene.truth.sightings[camera].get(name)
                rows, columns = grid[..., 0].nonzero()
                if sighting is None or sighting.share < 0.5:
                    assert not len(rows)
                    continue
                (row,), (column,) = rows, columns
                left, top = grid[row, column, 1:]
                assert (column + left) / 4 == pytest.approx(sighting.column, abs=1e-6)
                assert (row + top) / 4 == pytest.approx(sighting.row, abs=1e-6)


def test_the_cell_head_learns_cells_from_tokens_that_hold_them() -> None:
    names = ["red cube", "blue bowl"]
    targets = cell_targets(list(sample_scenes(10, seed=2)), names, side=4)
    head = CellHead(6, names)
    tokens = targets.flatten(-2)
    optimizer = torch.optim.AdamW(head.parameters(), 0.05)
    before = float(head(tokens, targets).detach())
    for _ in range(200):
        loss = head(tokens, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < before / 10


@pytest.mark.parametrize("name", ["scenes", "steps", "batch_size"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be at least 1"):
        PretrainConfig(**{name: 0})
