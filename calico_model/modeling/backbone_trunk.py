"""Any `AutoBackbone` of transformers in place of the shipped photo trunk.

A convolutional backbone (ConvNeXtV2, DINOv3's ConvNeXt) has maps at strides 4, 8, 16 and 32. A
transformer (DINOv2, DINOv3) has one grid: three of its layers are read, and the pixels themselves
stand in for the finest map. Frozen. The folder of its weights lies inside the model folder.
Legend: M images, H x W input in pixels, D width of a transformer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import PhotoTrunkConfig
from calico_model.errors import CheckpointError

_STRIDES = (4, 8, 16, 32)
_PIXEL_CHANNELS = 3 * _STRIDES[0] ** 2
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_CHUNK = 8 * 2**20


class BackboneTrunk(nn.Module):
    """A backbone of transformers as a photo trunk.

    Args:
        backbone: gives four maps at strides 4, 8, 16 and 32, or three maps of one grid.
        patch: side of a token in pixels; None for a convolutional backbone.
        mean, deviation: of red, green and blue in [0, 1], as the backbone was trained.

    Attributes:
        widths: channels of the four maps.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        backbone: Any,
        patch: int | None,
        mean: Sequence[float] = _MEAN,
        deviation: Sequence[float] = _DEVIATION,
    ) -> None:
        super().__init__()
        self.backbone, self.patch = backbone, patch
        channels = tuple(backbone.channels)
        self.widths = channels if patch is None else (_PIXEL_CHANNELS, *channels)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None] * 255, persistent=False)
        deviations = torch.tensor(deviation)[:, None, None] * 255
        self.register_buffer("deviation", deviations, persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Maps (M, 3, H, W) float RGB pixels in 0-255, sides multiples of 32, to the four maps.

        A transformer's three maps have its own grid, (M, D, ceil(H / patch), ceil(W / patch)).
        """
        values = (pixels - self.mean) / self.deviation
        if self.patch is None:
            return tuple(self.backbone(values).feature_maps)
        height, width = (-(-side // self.patch) * self.patch for side in values.shape[-2:])
        whole = functional.interpolate(
            values, size=(height, width), mode="bilinear", align_corners=False
        )
        fine = functional.pixel_unshuffle(values, _STRIDES[0])
        return (fine, *self.backbone(whole).feature_maps)


def read_backbone(folder: Path, *, side: int) -> PhotoTrunkConfig:
    """Returns the configuration of a photo trunk made of a backbone's folder.

    Args:
        folder: of the hub's layout: config.json, safetensors, perhaps preprocessor_config.json.
        side: P of the photo trunk.

    Raises:
        CheckpointError: a file is missing, or the weights are no backbone of transformers.
        InvalidConfigError: the side is no multiple of 32.
    """
    trunk = _open(folder)
    return PhotoTrunkConfig(
        kind=f"{PhotoTrunkConfig.BACKBONE}{_digest(folder)}",
        side=side,
        widths=trunk.widths,
        folder=str(folder.resolve()),
    )


def load_backbone(config: PhotoTrunkConfig) -> BackboneTrunk:
    """Opens the backbone that a configuration names, frozen and in evaluation mode.

    Raises:
        CheckpointError: its folder is missing, or holds other weights.
    """
    folder = Path(config.folder)
    expected = config.kind.removeprefix(PhotoTrunkConfig.BACKBONE)
    digest = _digest(folder)
    if digest != expected:
        raise CheckpointError(
            f"photo trunk: {folder}: expected the weights {expected}, got {digest}: run "
            "`calico add-photo-trunk --backbone` again"
        )
    return _open(folder)


def backbone_files(folder: Path) -> tuple[Path, ...]:
    """Returns the files of a backbone that a model folder keeps.

    Raises:
        CheckpointError: there is no configuration or no weights.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / _CONFIG).is_file() or not weights:
        raise CheckpointError(
            f"photo trunk: {folder}: expected {_CONFIG} and *.safetensors of a backbone"
        )
    others = (folder / _PROCESSOR, folder / "model.safetensors.index.json")
    return (folder / _CONFIG, *weights, *(path for path in others if path.is_file()))


def _digest(folder: Path) -> str:
    """Hash of a backbone's files, 16 hexadecimal digits."""
    digest = sha256()
    for path in backbone_files(folder):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _open(folder: Path) -> BackboneTrunk:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    backbone_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        patch = getattr(config, "patch_size", None) if _is_transformer(config) else None
        loaded, report = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            out_indices=_stages(config),
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises nearly everything
        raise CheckpointError(
            f"photo trunk: {folder}: expected a backbone of transformers: {error}"
        ) from error
    # A backbone normalises the maps of convolutional stages; plain checkpoints lack these norms,
    # which start as the identity.
    missing = [key for key in report["missing_keys"] if not key.startswith("hidden_states_norms.")]
    if missing:
        raise CheckpointError(
            f"photo trunk: {folder}: the weights lack {len(missing)} tensors, such as "
            f"{min(missing)}"
        )
    hold_weights(loaded, folder)
    trunk = BackboneTrunk(loaded, patch, *_normalisation(folder))
    return trunk.eval().requires_grad_(False)


@torch.no_grad()
def hold_weights(model: nn.Module, folder: Path) -> None:
    """Copies the weights that a model has read from a folder into memory of its own.

    `transformers` leaves them where the file is mapped: whoever writes other weights over the file
    would change them under a running server, and whoever cuts it off would end the server.

    Raises:
        CheckpointError: weights are not finite.
    """
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise CheckpointError(f"{folder}: {name}: holds values that are not finite")
        parameter.data = parameter.data.clone()
    for buffer in model.buffers():
        buffer.data = buffer.data.clone()


def _is_transformer(config: Any) -> bool:
    return hasattr(config, "num_hidden_layers") and hasattr(config, "patch_size")


def _stages(config: Any) -> list[int]:
    """The stages to read: all four, or three layers of a transformer, the last among them."""
    if not _is_transformer(config):
        return [1, 2, 3, 4]
    layers = config.num_hidden_layers
    if layers < 4:
        raise CheckpointError(f"photo trunk: expected a transformer of 4 layers, got {layers}")
    return [-(-layers // 2), -(-3 * layers // 4), layers]


def _normalisation(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation that a backbone's images are normalised by."""
    path = folder / _PROCESSOR
    if not path.is_file():
        return _MEAN, _DEVIATION
    try:
        config = json.loads(path.read_text("utf-8"))
        return config.get("image_mean", _MEAN), config.get("image_std", _DEVIATION)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected a JSON object: {error}") from error
