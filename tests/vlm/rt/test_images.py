"""Images: the shift augmentation, the two encoders, FiLM by words, tokens that say where."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vlm.rt.images import Film, ImageTokens, TokenLearner, random_shift
from vlm.rt.sizes import rt_tiny
from vlm.towers.timm import load_local_weights
from vlm.towers.tower import ImageTower


def words(*instructions):
    import numpy as np

    from vlm.words import hash_words

    return torch.from_numpy(np.stack([hash_words(text) for text in instructions]))


def test_a_random_shift_is_a_crop_of_the_replicated_border():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 9, 11, 3), dtype=torch.uint8, generator=generator)
    shifted = random_shift(images, 2, generator)
    padded = torch.nn.functional.pad(
        images.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="replicate"
    ).permute(0, 2, 3, 1)
    seen = set()
    for i in range(20):
        crops = {
            (y, x): torch.equal(padded[i, y : y + 9, x : x + 11].byte(), shifted[i])
            for y in range(5) for x in range(5)
        }  # fmt: skip
        assert sum(crops.values()) == 1
        seen |= {place for place, same in crops.items() if same}
    assert len(seen) > 8


def test_a_random_shift_is_a_pure_function_of_images_and_generator():
    images = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8)
    before = images.clone()
    one = random_shift(images, 4, torch.Generator().manual_seed(3))
    two = random_shift(images, 4, torch.Generator().manual_seed(3))
    assert torch.equal(one, two)
    assert torch.equal(images, before)
    assert torch.equal(random_shift(images, 0), images)


def test_integer_images_and_the_same_images_as_floats_give_the_same_tokens(model, batch):
    floats = {camera: image.float() / 255 for camera, image in batch.images.items()}
    torch.testing.assert_close(
        model.encode_images(batch.images, batch.text_ids),
        model.encode_images(floats, batch.text_ids),
        atol=1e-5,
        rtol=0,
    )


def test_cameras_are_told_apart_though_they_share_weights(model, batch):
    same = dict.fromkeys(batch.images, batch.images["front_image"])
    front, wrist = model.encode_images(same, batch.text_ids).chunk(2, dim=1)
    assert (front - wrist).abs().mean() > 0.01


def test_the_order_of_words_changes_the_modulated_maps_and_the_tokens(model, batch):
    one = words(*["put the red cube in the blue bowl"] * 3)
    other = words(*["put the blue cube in the red bowl"] * 3)
    assert torch.equal(one.sort().values, other.sort().values)
    maps = []
    model.images.encoder.register_forward_hook(lambda module, inputs, output: maps.append(output))
    tokens = [model.encode_images(batch.images, text_ids) for text_ids in (one, other)]
    assert (maps[0] - maps[1]).abs().max() > 1e-4
    assert (tokens[0] - tokens[1]).abs().max() > 1e-4


def test_film_is_an_affine_map_per_channel():
    torch.manual_seed(0)
    film = Film(5, 3, std=0.5)
    x, condition = torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    gain, shift = film.project(condition).chunk(2, 1)
    expected = x * (1 + gain)[:, :, None, None] + shift[:, :, None, None]
    torch.testing.assert_close(film(x, condition), expected)
    assert torch.equal(Film(5, 3, std=0.0)(x, condition), x)


def test_a_token_says_where_its_peak_is():
    torch.manual_seed(0)
    learner = TokenLearner(channels=4, condition_width=2, tokens=1, width=10)
    # Attend by channel 0 alone and hand the coordinates through: the spatial soft-argmax.
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
        learner.keys.weight[0, 0] = 1.0
        learner.sharpness.fill_(50.0)
        learner.query_bias[0, 0] = 1.0
        learner.values.weight[:, 4:] = torch.eye(10) / 2
    learner.norm = torch.nn.Identity()
    maps = torch.zeros(1, 4, 5, 5)
    maps[0, 0, 4, 1] = 10.0
    token = learner(maps, torch.zeros(1, 2))[0, 0]
    torch.testing.assert_close(token[:2], torch.tensor([-0.5, 1.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
)
def test_any_timm_model_makes_tokens_and_takes_gradients(name):
    torch.manual_seed(0)
    model = rt_tiny(9, 3, 0, cameras=("front_image",), image_encoder=f"timm:{name}")
    images = {"front_image": torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)}
    tokens = model.encode_images(images, words("open the drawer", "put it away"))
    assert tokens.shape == (2, 8, 128)
    tokens.square().mean().backward()
    backbone = model.images.tower.backbone
    assert all(p.grad is not None for p in backbone.parameters())


def timm_resnet():
    import timm

    torch.manual_seed(1)
    return timm.create_model("resnet18")


def encoder(weights):
    return ImageTower("timm:resnet18", str(weights), True, (64, 64), fine_tune=True)


def test_local_safetensors_weights_are_loaded_and_their_statistics_frozen(tmp_path):
    source = timm_resnet()
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith("fc.")}
    save_file(weights, tmp_path / "resnet18.safetensors")
    loaded = encoder(tmp_path / "resnet18.safetensors").train()
    assert torch.equal(loaded.backbone.conv1.weight, source.conv1.weight)
    before = loaded.backbone.bn1.running_mean.clone()
    loaded(torch.rand(2, 3, 64, 64))
    assert torch.equal(loaded.backbone.bn1.running_mean, before)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    source = timm_resnet()
    weights = source.state_dict()
    save_file({k: v for k, v in weights.items() if "layer4" not in k}, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=r"weights of timm model 'resnet18' are missing, first \['l"
    ):
        load_local_weights(source, "resnet18", tmp_path / "a.safetensors")
    save_file(weights | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "b.safetensors")
    with pytest.raises(
        ValueError, match=r"conv1\.weight \[64, 3, 3, 3\] in the file, \[64, 3, 7, 7"
    ):
        load_local_weights(source, "resnet18", tmp_path / "b.safetensors")
    for suffix in ("bin", "pt", "pth"):
        with pytest.raises(ValueError, match="safetensors"):
            encoder(tmp_path / f"resnet18.{suffix}")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        encoder(tmp_path / "none.safetensors")


def image_tokens(encoder_name, weights=None):
    return ImageTokens(
        cameras=("front_image",), image_size=(64, 64), encoder=encoder_name, weights=weights,
        load_weights=True, channels=48, tokens=8, width=64, text_length=16, text_buckets=64,
    )  # fmt: skip


def test_an_unknown_encoder_is_answered_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"nearest names are \[.*resnet18"):
        image_tokens("timm:resnet_18")
    with pytest.raises(ValueError, match="'small', 'timm:<name>'"):
        image_tokens("resnet18")
    with pytest.raises(ValueError, match="no pretrained weights"):
        image_tokens("small", weights="hub")


def test_a_small_object_named_by_words_is_found_within_120_updates():
    torch.manual_seed(0)
    colors = torch.tensor([[200, 40, 40], [50, 60, 200]], dtype=torch.uint8)
    sentences = words("find the red cube", "find the blue cube")
    model = rt_tiny(8, 1, 0, cameras=("front_image",), image_size=(32, 32), depth=1)

    def batch(size):
        columns = torch.stack([torch.randperm(8)[:2] for _ in range(size)])
        images = torch.full((size, 32, 32, 3), 110, dtype=torch.uint8)
        for image, pair in zip(images, columns.tolist(), strict=True):
            for color, column in zip(colors, pair, strict=True):
                row = int(torch.randint(0, 28, ()))
                image[row : row + 4, 4 * column : 4 * column + 4] = color
        named = torch.randint(0, 2, (size,))
        return images, sentences[named], columns[torch.arange(size), named]

    def logits(images, text_ids):
        features = model.encode_images({"front_image": images}, text_ids)[:, None]
        frame_mask = torch.ones(len(images), 1, dtype=torch.bool)
        ids = torch.zeros(len(images), 1, dtype=torch.int64)
        return model(features, None, frame_mask, text_ids, ids).logits[:, 0]

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(120):
        images, text_ids, columns = batch(32)
        loss = torch.nn.functional.cross_entropy(logits(images, text_ids), columns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, text_ids, columns = batch(200)
    with torch.no_grad():
        correct = logits(images, text_ids).argmax(-1) == columns
    assert correct.float().mean() > 0.9
