"""A backbone of transformers in place of the shipped photo trunk."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calico_model.config import CalicoConfig, PhotoTrunkConfig
from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.inference.images import to_photo
from calico_model.interactive.naming.closed_set import Outline
from calico_model.interactive.naming.descriptors import describe_outlines
from calico_model.interactive.propagate.photo_exemplar import find_in_photos
from calico_model.loading.checkpoints import BACKBONE, fingerprint, load_model, save_model
from calico_model.modeling.backbone_trunk import load_backbone, read_backbone
from calico_model.modeling.dense_head import DenseHead
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.predictor import DEFAULT_WEIGHTS
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.photo_base import add_photo_trunk
from tests.conftest import build_micro

SIDE = 64
KINDS = ("dinov2", "dinov3", "dinov3-convnext", "convnextv2")


def transformer(kind: str) -> Any:
    from transformers import (
        ConvNextV2Config,
        ConvNextV2Model,
        Dinov2Config,
        Dinov2Model,
        DINOv3ConvNextConfig,
        DINOv3ConvNextModel,
        DINOv3ViTConfig,
        DINOv3ViTModel,
    )

    torch.manual_seed(1)
    vit = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    stages = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    match kind:
        case "dinov2":
            return Dinov2Model(Dinov2Config(**vit, image_size=56, patch_size=14))
        case "dinov3":
            size = {"intermediate_size": 64, "image_size": 64, "patch_size": 16}
            return DINOv3ViTModel(DINOv3ViTConfig(**vit, **size, num_register_tokens=2))
        case "dinov3-convnext":
            return DINOv3ConvNextModel(DINOv3ConvNextConfig(**stages))
        case _:
            return ConvNextV2Model(ConvNextV2Config(**stages))


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    transformer(request.param).save_pretrained(path)
    return path


def photograph(seed: int, height: int = 80, width: int = 120) -> Any:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return image.repeat(8, 0).repeat(8, 1)


def test_the_maps_are_those_of_the_backbone(folder: Path) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    trunk = load_backbone(read_backbone(folder, side=SIDE))
    pixels = to_photo(photograph(0), SIDE)[None]
    with torch.no_grad():
        maps = trunk(pixels)
    assert tuple(level.shape[1] for level in maps) == trunk.widths
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    values = (pixels / 255 - mean) / deviation
    is_vit = trunk.patch is not None
    stages = [2, 3, 4] if is_vit else [1, 2, 3, 4]
    kind = MODEL_FOR_BACKBONE_MAPPING[type(AutoConfig.from_pretrained(folder))]
    reference = kind.from_pretrained(folder, out_indices=stages).eval()
    if trunk.patch == 14:
        height, width = (-(-side // 14) * 14 for side in values.shape[-2:])
        values = torch.nn.functional.interpolate(values, size=(height, width), mode="bilinear")
    with torch.no_grad():
        expected = reference(values).feature_maps
    for ours, theirs in zip(maps[1:] if is_vit else maps, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    if not is_vit:
        sides = [
            level.shape[-1] * stride for level, stride in zip(maps, (4, 8, 16, 32), strict=True)
        ]
        assert sides == [pixels.shape[-1]] * 4


def test_a_configuration_says_which_weights(folder: Path, tmp_path: Path) -> None:
    config = read_backbone(folder, side=SIDE)
    assert config.is_backbone
    assert len(config.widths) == 4
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    assert read_backbone(copied, side=SIDE).kind == config.kind
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    moved = PhotoTrunkConfig(config.kind, SIDE, config.widths, str(copied))
    with pytest.raises(CheckpointError, match="expected the weights .* add-photo-trunk"):
        load_backbone(moved)


def test_a_backbone_that_is_written_over_does_not_change_while_it_runs(tmp_path: Path) -> None:
    transformer("dinov2").save_pretrained(tmp_path)
    trunk = load_backbone(read_backbone(tmp_path, side=SIDE))
    pixels = to_photo(photograph(0), SIDE)[None]
    with torch.no_grad():
        before = trunk(pixels)
    weights = tmp_path / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\0" * (size - size // 4))
    with torch.no_grad():
        after = trunk(pixels)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_images_are_normalised_as_the_backbone_was_trained(tmp_path: Path) -> None:
    transformer("convnextv2").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    trunk = load_backbone(read_backbone(tmp_path, side=SIDE))
    assert trunk.mean.flatten().tolist() == [127.5] * 3
    assert trunk.deviation.flatten().tolist() == [63.75] * 3


def test_what_is_no_backbone_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    with pytest.raises(CheckpointError, match=r"expected config.json and \*.safetensors"):
        read_backbone(tmp_path, side=SIDE)
    CLIPTextModel(
        CLIPTextConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=50,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expected a backbone of transformers"):
        read_backbone(tmp_path, side=SIDE)
    with pytest.raises(InvalidConfigError, match="expected four widths and a folder"):
        PhotoTrunkConfig(kind="backbone:0123")


def test_the_default_says_the_same_as_before() -> None:
    """Kept features and adapters of the shipped trunk stay valid."""
    assert f"{PhotoTrunkConfig()}" == "PhotoTrunkConfig(kind='efficientnet-lite2', side=384)"


@pytest.fixture(scope="module", params=["dinov3", "convnextv2"])
def model_folder(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model that had the shipped trunk and everything that reads it, with a backbone instead."""
    folder = tmp_path_factory.mktemp(request.param)
    transformer(request.param).save_pretrained(folder)
    before = build_micro(tokenizer.size, photo_side=SIDE)
    before.add_on(["dense_head", "familiarity", "photo_refiner", "exemplar"])
    base = tmp_path_factory.mktemp("base") / "model"
    save_model(before, tokenizer, base, dtype=torch.float32)
    out = tmp_path_factory.mktemp("grown") / "model"
    photos = [photograph(seed) for seed in range(6)]
    drawn = [photograph(seed) // 4 for seed in range(6)]
    config = read_backbone(folder, side=SIDE)
    fit = add_photo_trunk(base, out, drawn, photos, config, seed=1)
    assert fit.known + fit.unknown > 100
    return out


def test_a_model_folder_is_whole_and_can_be_moved(model_folder: Path, tmp_path: Path) -> None:
    written = CalicoConfig.from_file(model_folder / "config.json")
    assert written.photo_trunk is not None
    assert written.photo_trunk.folder == BACKBONE
    moved = tmp_path / "elsewhere"
    shutil.copytree(model_folder, moved)
    model, tokenizer = load_model(moved)
    assert set(model.add_ons) == {"dense_head", "exemplar", "familiarity"}
    again = tmp_path / "again"
    save_model(model, tokenizer, again, dtype=torch.float32)
    image = [to_photo(photograph(1), SIDE)]
    expected = load_model(model_folder)[0].encode_photos(image)
    for path in (moved, again):
        maps = load_model(path)[0].encode_photos(image)
        assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


def encode(model: Calico, *images: Any) -> ImageFeatures:
    photo = model.encode_photos([to_photo(image, SIDE) for image in images])
    empty = torch.zeros(len(images), 1, 1)
    return ImageFeatures(empty, empty, MaskFeatures(empty, ()), photo)


def test_the_heads_read_the_backbone(model_folder: Path) -> None:
    model, _ = load_model(model_folder)
    features = encode(model, photograph(1), photograph(2))
    assert model.dense_head is not None
    assert model.familiarity is not None
    assert [level.shape[-1] for level in features.photo] == [16, 8, 4, 2]
    cells = model.dense_head([level.float() for level in features.photo])
    assert cells.cells.shape == (2, 32, 16, 16)
    assert isinstance(model.familiarity.covers(features), bool)


def test_a_dense_head_learns_on_the_backbone(model_folder: Path) -> None:
    """From scratch: bright cells against dark ones, as far as the maps can tell."""
    model, _ = load_model(model_folder)
    image = np.full((64, 64, 3), 30, dtype=np.uint8)
    image[:, 32:] = 220
    features = encode(model, image)
    torch.manual_seed(0)
    head = DenseHead(model.config).requires_grad_(True)
    maps = [level.float() for level in features.photo]
    wanted = torch.zeros(16, 16)
    wanted[:, 8:] = 1
    row = torch.nn.Parameter(torch.randn(32) * 0.1)
    optimiser = torch.optim.Adam([*head.parameters(), row], lr=3e-3)
    for _ in range(60):
        logits = torch.einsum("c,chw->hw", row, head(maps).cells[0])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert ((logits > 0).float() == wanted).float().mean() > 0.9


def test_exemplars_are_found_by_the_backbone(model_folder: Path) -> None:
    model, _ = load_model(model_folder)
    rng = np.random.default_rng(0)
    texture = rng.integers(120, 255, (32, 32, 3), dtype=np.uint8)
    images = []
    for x in (8, 72):
        image = np.full((80, 120, 3), 40, dtype=np.uint8)
        image[24:56, x : x + 32] = texture
        images.append(image)
    outline = np.zeros((80, 120), dtype=bool)
    outline[24:56, 8:40] = True
    (proposal,) = find_in_photos(encode(model, *images), 0, outline, ((80, 120), (80, 120)))
    wanted = np.zeros((80, 120), dtype=bool)
    wanted[24:56, 72:104] = True
    assert (proposal.mask & wanted).sum() / wanted.sum() > 0.4
    assert 0.0 <= proposal.presence <= 1.0


def test_prototypes_read_the_backbone_for_every_picture(model_folder: Path) -> None:
    model, _ = load_model(model_folder)
    images = photograph(1), photograph(2)
    features = encode(model, *images)
    model.familiarity = None  # every picture is familiar
    masks = [np.zeros((80, 120), np.bool_) for _ in images]
    for mask in masks:
        mask[24:56, 8:40] = True
    outlines = [Outline(number, mask) for number, mask in enumerate(masks)]
    rows = describe_outlines(model, features, outlines)
    assert model.config.photo_trunk is not None
    assert rows.shape == (2, 2 * sum(model.config.photo_trunk.widths[1:]))
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-5)
    swapped = encode(model, images[1], images[0])
    assert np.allclose(rows[::-1], describe_outlines(model, swapped, outlines), atol=1e-5)
    assert not np.allclose(rows[0], rows[1], atol=0.05)


def test_the_fingerprint_of_a_model_counts_its_backbone(model_folder: Path, tmp_path: Path) -> None:
    """Prototypes and adapters of another backbone are not those of this one."""
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    assert fingerprint(other) == fingerprint(model_folder)
    config = json.loads((other / "config.json").read_text())
    config["photo_trunk"]["kind"] = f"{PhotoTrunkConfig.BACKBONE}0123456789abcdef"
    (other / "config.json").write_text(json.dumps(config))
    assert fingerprint(other) != fingerprint(model_folder)


def test_the_fingerprint_without_a_backbone_is_that_of_the_weights() -> None:
    weights = (DEFAULT_WEIGHTS / "model.safetensors").read_bytes()
    assert fingerprint(DEFAULT_WEIGHTS) == sha256(weights).hexdigest()
