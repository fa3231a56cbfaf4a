"""Towers: the library's own features, frozen or fine-tuned, and what does not fit refused."""

from __future__ import annotations

import builtins
import copy
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vlm.rt.config import RTConfig
from vlm.rt.model import RTModel
from vlm.rt.sizes import rt_tiny
from vlm.tiny.towers import CLIP_RESNET, SIGLIP, SIGLIP_PIXELS, write_open_clip, write_timm
from vlm.towers.open_clip import describe_open_clip
from vlm.towers.tower import ImageTower, TextTower

SENTENCES = ["put the red cube in the blue bowl", "open the drawer", "put the red cube away"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of three architectures, each in its library's own format."""
    folder = tmp_path_factory.mktemp("towers")
    write_open_clip(folder / "clip")
    write_open_clip(folder / "siglip", SIGLIP, **SIGLIP_PIXELS)
    write_timm(folder / "test_vit.safetensors")
    write_timm(folder / "test_resnet.safetensors", "test_resnet")
    return folder


def pictures(height, width, count=3):
    """Smooth random pictures, uint8 [b, h, w, 3]: resizing noise would be resizing its rounding."""
    torch.manual_seed(3)
    coarse = torch.rand(count, 3, 6, 6)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return fine.clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).contiguous()


def as_floats(images):
    return images.permute(0, 3, 1, 2).float() / 255


def open_clip_model(folder):
    """The library's own model, its preprocessing, and its tokenizer."""
    import open_clip

    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def preprocessed(images, preprocess):
    from PIL import Image

    return torch.stack([preprocess(Image.fromarray(image.numpy())) for image in images])


def test_a_clip_tower_gives_the_librarys_features_under_its_preprocessing(files):
    model, preprocess, _ = open_clip_model(files / "clip")
    images = pictures(32, 32)
    tower = ImageTower(f"open_clip:local-dir:{files}/clip", None, True, (32, 32))
    pixels = preprocessed(images, preprocess)
    torch.testing.assert_close(tower.input(as_floats(images)), pixels, atol=1e-6, rtol=0)
    with torch.no_grad():
        theirs = model.visual.forward_intermediates(pixels, indices=[1])["image_intermediates"][0]
    ours = tower(as_floats(images))
    assert ours.shape == (3, 32, 4, 4)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_residual_clip_tower_gives_the_librarys_last_map(files, tmp_path):
    folder = write_open_clip(tmp_path / "resnet", CLIP_RESNET)
    model, preprocess, _ = open_clip_model(folder)
    images = pictures(128, 128)
    tower = ImageTower(f"open_clip:local-dir:{folder}", None, True, (128, 128))
    with torch.no_grad():
        found = model.visual.forward_intermediates(preprocessed(images, preprocess))
    ours = tower(as_floats(images))
    assert ours.shape == (3, tower.channels, *tower.grid) == (3, 256, 4, 4)
    torch.testing.assert_close(ours, found["image_intermediates"][-1], atol=1e-5, rtol=1e-5)


def test_a_siglip_tower_gives_the_librarys_patch_tokens_under_its_preprocessing(files):
    model, preprocess, _ = open_clip_model(files / "siglip")
    images = pictures(160, 160)
    tower = ImageTower(f"open_clip:local-dir:{files}/siglip", None, True, (160, 160))
    pixels = preprocessed(images, preprocess)
    torch.testing.assert_close(tower.input(as_floats(images)), pixels, atol=1e-6, rtol=0)
    with torch.no_grad():
        theirs = model.visual.trunk.forward_features(pixels)
    prefix = model.visual.trunk.num_prefix_tokens
    ours = tower(as_floats(images)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, theirs[:, prefix:], atol=1e-5, rtol=1e-5)


def test_a_timm_tower_gives_the_librarys_patch_tokens(files):
    import timm

    model = timm.create_model("test_vit", checkpoint_path=files / "test_vit.safetensors").eval()
    tower = ImageTower("timm:test_vit", str(files / "test_vit.safetensors"), True, (160, 160))
    images = as_floats(pictures(160, 160))
    with torch.no_grad():
        theirs = model.forward_features((images - 0.5) / 0.5)[:, model.num_prefix_tokens :]
    ours = tower(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_resized_image_is_the_librarys_up_to_the_rounding_of_its_pixels(files, name):
    _, preprocess, _ = open_clip_model(files / name)
    tower = ImageTower(f"open_clip:local-dir:{files}/{name}", None, True, (84, 84))
    images = pictures(84, 84)
    theirs, ours = preprocessed(images, preprocess), tower.input(as_floats(images))
    level = 1 / (255 * tower.input.std.min())  # one step of an 8-bit pixel
    assert (ours - theirs).abs().max() <= 1.5 * level


def test_a_text_tower_gives_the_librarys_embeddings(files):
    model, _, tokenizer = open_clip_model(files / "clip")
    tower = TextTower(f"open_clip:local-dir:{files}/clip", None, True)
    ids = torch.from_numpy(np.stack([tower.encode_words(text) for text in SENTENCES]))
    assert torch.equal(ids, tokenizer(SENTENCES))
    with torch.no_grad():
        theirs = model.encode_text(ids, normalize=True) * 24**0.5
    torch.testing.assert_close(tower(ids), theirs, atol=1e-5, rtol=1e-5)


def test_each_different_instruction_is_embedded_once(files):
    tower = TextTower(f"open_clip:local-dir:{files}/clip", None, True)
    ids = torch.from_numpy(np.stack([tower.encode_words(text) for text in SENTENCES]))
    seen = []
    tower.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with torch.inference_mode():
        first = tower(ids[[0, 0, 1]])
    again = tower(ids[[1, 2, 0, 0]])
    assert seen == [2, 1]
    assert torch.equal(again[3], first[0])
    assert not again.is_inference()


def test_an_instruction_that_the_text_tower_would_cut_is_refused(files):
    tower = TextTower(f"open_clip:local-dir:{files}/clip", None, True)
    assert tower.encode_words("a " * 10).shape == (12,)
    with pytest.raises(ValueError, match="more tokens than the 12"):
        tower.encode_words("a " * 11)


def test_a_tokenizer_of_the_hugging_face_kind_is_read_from_the_folder(files, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = shutil.copytree(files / "clip", tmp_path / "clip")
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "open", "the", "drawer"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    words = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
    words.save_pretrained(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "somewhere/on-the-hub"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tower = TextTower(f"open_clip:local-dir:{folder}", None, True)
    assert tower.encode_words("open the drawer").tolist() == [2, 3, 4, 1] + 8 * [0]
    assert tower.encode_words("open " * 11).shape == (12,)
    with pytest.raises(ValueError, match="more tokens than the 12"):
        tower.encode_words("open " * 12)


def model(files, **changes):
    torch.manual_seed(0)
    source = {"image_encoder": f"open_clip:local-dir:{files}/clip"}
    source |= {"text_encoder": f"open_clip:local-dir:{files}/clip"}
    shape = {"cameras": ("front_image", "wrist_image"), "image_size": (32, 32), "width": 64}
    return rt_tiny(9, 3, 5, **shape, **(source | changes))


def step(model, updates=2):
    """A few updates of whatever may be trained, on images and words."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    ids = torch.from_numpy(np.stack([model.encode_words(text) for text in SENTENCES]))
    images = dict.fromkeys(("front_image", "wrist_image"), pictures(32, 32))
    for _ in range(updates):
        features = model.encode_images(images, ids)[:, None]
        frame_mask = torch.ones(3, 1, dtype=torch.bool)
        actions = torch.zeros(3, 3, dtype=torch.int64)
        output = model(features, torch.ones(3, 1, 5), frame_mask, ids, actions)
        loss = output.logits.log_softmax(-1)[..., 0].mean().neg()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def changed(before, model, prefix):
    after = model.state_dict()
    return [k for k, x in before.items() if k.startswith(prefix) and not torch.equal(x, after[k])]


def test_frozen_means_frozen_and_fine_tuning_changes_tower_weights(files):
    for fine_tune in (False, True):
        towers = model(files, fine_tune_towers=fine_tune)
        before = copy.deepcopy(towers.state_dict())
        step(towers)
        for prefix in ("images.encoder.tower.", "text_tower."):
            assert bool(changed(before, towers, prefix)) == fine_tune
        assert changed(before, towers, "images.encoder.film.")
        assert changed(before, towers, "instruction.")
        assert towers.images.tower.training == fine_tune
    assert model(files).frozen_tower is not None
    assert towers.frozen_tower is None


def test_batch_norms_of_a_pretrained_tower_keep_their_statistics(files):
    weights = str(files / "test_resnet.safetensors")
    for fine_tune in (False, True):
        tower = ImageTower("timm:test_resnet", weights, True, (64, 64), fine_tune=fine_tune).train()
        before = {name: x.clone() for name, x in tower.named_buffers() if "running" in name}
        tower(as_floats(pictures(64, 64)))
        assert before
        assert all(torch.equal(x, dict(tower.named_buffers())[k]) for k, x in before.items())


def test_a_copy_of_a_frozen_tower_is_itself_and_of_a_trained_one_its_own(files):
    frozen, trained = model(files), model(files, fine_tune_towers=True)
    assert copy.deepcopy(frozen).images.tower is frozen.images.tower
    assert copy.deepcopy(frozen).text_tower is frozen.text_tower
    twin = copy.deepcopy(trained)
    assert twin.images.tower is not trained.images.tower
    step(trained)
    assert changed(twin.state_dict(), trained, "images.encoder.tower.")


def test_patches_in_place_of_images_give_the_same_tokens(files):
    towers = model(files).eval()
    images = {"front_image": pictures(32, 32), "wrist_image": pictures(32, 32).flip(0)}
    ids = torch.from_numpy(np.stack([towers.encode_words(text) for text in SENTENCES]))
    patches = {camera: towers.images.patches(image) for camera, image in images.items()}
    assert patches["front_image"].shape == (3, 16, 32)
    direct = towers.encode_images(images, ids)
    torch.testing.assert_close(towers.encode_images(patches, ids), direct, atol=1e-5, rtol=0)
    halves = {camera: x.half() for camera, x in patches.items()}
    # Relative rounding of float16 is 2 ** -11; tokens leave a LayerNorm with mean square 1.
    assert (towers.encode_images(halves, ids) - direct).abs().max() < 2e-2
    with pytest.raises(ValueError, match="features of shape"):
        towers.encode_images({k: x[:, :9] for k, x in patches.items()}, ids)


def test_a_model_is_rebuilt_from_its_description_alone(files, tmp_path):
    folder = shutil.copytree(files / "clip", tmp_path / "clip")
    built = model(tmp_path).eval()
    described = json.loads(json.dumps(vars(built.config)))
    shutil.rmtree(folder)
    again = RTModel(RTConfig(**described), load_image_weights=False).eval()
    again.load_state_dict(built.state_dict())
    assert again.config == RTConfig(**described)
    assert again.frozen_tower is not None
    images = dict.fromkeys(("front_image", "wrist_image"), pictures(32, 32))
    ids = torch.from_numpy(np.stack([built.encode_words(text) for text in SENTENCES]))
    assert np.array_equal(again.encode_words(SENTENCES[0]), ids[0].numpy())
    assert torch.equal(again.encode_images(images, ids), built.encode_images(images, ids))


def test_a_tower_without_weights_is_trained_from_scratch():
    tower = ImageTower("timm:test_vit", None, True, (64, 64))
    assert not tower.frozen
    assert tower.description["size"] == [64, 64]  # with weights it would be their 160 x 160
    assert tower.description["weights"] is None


def test_the_description_changes_with_weights_and_preprocessing(files, tmp_path):
    def described(folder):
        return ImageTower(f"open_clip:local-dir:{folder}", None, True, (32, 32)).description

    one = described(files / "clip")
    shutil.copytree(files / "clip", tmp_path / "same")
    same = described(tmp_path / "same")
    assert {**same, "name": one["name"]} == one
    assert described(write_open_clip(tmp_path / "b", seed=1))["weights"] != one["weights"]
    assert described(write_open_clip(tmp_path / "c", mean=[0.5] * 3))["mean"] != one["mean"]


def test_an_unknown_tower_is_answered_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"open_clip has no model 'ViT-B16'.*\['ViT-B-16"):
        ImageTower("open_clip:ViT-B16", None, True, (32, 32))
    with pytest.raises(ValueError, match=r"timm has no model 'test-vit'.*'test_vit"):
        ImageTower("timm:test-vit", None, True, (32, 32))
    with pytest.raises(ValueError, match="'open_clip:<name>'"):
        TextTower("clip", None, True)
    with pytest.raises(FileNotFoundError, match=r"no open_clip_config\.json"):
        ImageTower("open_clip:local-dir:/nowhere", None, True, (32, 32))


def test_weights_that_do_not_fit_are_named(files, tmp_path):
    given = load_file(files / "clip" / "open_clip_model.safetensors")
    name = f"open_clip:local-dir:{files}/clip"

    def load(weights, file="weights.safetensors"):
        save_file(weights, tmp_path / file)
        return ImageTower(name, str(tmp_path / file), True, (32, 32))

    assert load(given).frozen
    with pytest.raises(ValueError, match=r"1 of \d+ weights .*missing, first \['visual\.conv1"):
        load({k: x for k, x in given.items() if k != "visual.conv1.weight"})
    with pytest.raises(ValueError, match=r"does not have, first \['visual\.extra'\]"):
        load(given | {"visual.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"visual\.conv1\.weight \[4\] in the file, \[32, 3, 8, 8"):
        load(given | {"visual.conv1.weight": torch.zeros(4)})
    with pytest.raises(ValueError, match="no weights begin with 'visual"):
        load({"conv1": torch.zeros(1)})
    # What the other half is like does not matter: a file of the image half alone is enough.
    assert load({k: x for k, x in given.items() if k.startswith("visual.")}).frozen
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        ImageTower(name, str(tmp_path / "cut.safetensors"), True, (32, 32))


@pytest.mark.parametrize("suffix", ["pt", "bin", "pth", "npz"])
def test_pickled_weights_are_refused_with_the_way_to_convert_them(files, tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(b"")
    for encoder in (f"open_clip:local-dir:{files}/clip", "timm:test_vit"):
        with pytest.raises(ValueError, match=r"pickle files can run code.*save_file"):
            ImageTower(encoder, str(path), True, (32, 32))


@pytest.mark.parametrize(("library", "extra"), [("timm", "train"), ("open_clip", "vlm")])
def test_a_missing_package_is_answered_with_the_line_that_installs_it(monkeypatch, library, extra):
    imported = builtins.__import__

    def without(name, *arguments, **words):
        if name == library:
            raise ImportError(name)
        return imported(name, *arguments, **words)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"pip install 'qsft-robot\[{extra}\]'"):
        ImageTower(f"{library}:name", None, True, (32, 32))


def hub_cache(folder, repository, files):
    """What huggingface_hub keeps of a repository that it has fetched."""
    root = folder / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for name, source in files.items():
        target = root / "snapshots" / commit / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def test_names_of_the_hub_are_read_from_its_cache_without_a_network(files, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    parts = ("open_clip_config.json", "open_clip_model.safetensors")
    hub_cache(tmp_path, "someone/clip", {name: files / "clip" / name for name in parts})
    published = {"model.safetensors": files / "test_vit.safetensors"}
    hub_cache(tmp_path, "timm/test_vit.r160_in1k", published)
    for encoder, weights, local in (
        ("open_clip:hf-hub:someone/clip", None, f"open_clip:local-dir:{files}/clip"),
        ("timm:test_vit", "hub", "timm:test_vit"),
    ):
        file = str(files / "test_vit.safetensors") if local.startswith("timm") else None
        ours = ImageTower(encoder, weights, True, (32, 32)).description
        assert ours["weights"] == ImageTower(local, file, True, (32, 32)).description["weights"]
    with pytest.raises(OSError, match=r"model\.safetensors of timm/test_vit2\S* can't be fetched"):
        ImageTower("timm:test_vit2", "hub", True, (32, 32))


def test_weights_of_the_hub_are_chosen_by_tag_and_activation():
    with pytest.raises(ValueError, match=r"write hub:<tag>; there are the tags openai, laion400m"):
        describe_open_clip("ViT-B-16", "hub", "vision")
    with pytest.raises(ValueError, match=r"use open_clip:ViT-B-16-quickgelu"):
        describe_open_clip("ViT-B-16", "hub:openai", "vision")
    # A local file of a SigLIP was trained on SigLIP's pixels, not on CLIP's.
    assert (
        describe_open_clip("ViT-B-16-SigLIP", "siglip.safetensors", "vision")["mean"] == [0.5] * 3
    )
