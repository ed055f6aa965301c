"""Features of frozen encoders: constants of an image, computed once and kept.

An image is always encoded alone and rounded to bfloat16, so that training from kept features and
from fresh ones is the same to the bit. Legend: M images.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import cv2
import torch
from PIL import __version__ as pillow_version

from calico_model.data.groups import GroupSet
from calico_model.errors import InvalidRecordError
from calico_model.inference.feature_store import FeatureStore
from calico_model.inference.images import to_pixels
from calico_model.modeling.features import ImageFeatures, Pixels, concatenate
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.staging import file_sha256

_HEADER_BYTES = 1024
_ENCODERS = ("trunk.", "eva.", "dino.", "sam_encoder.", "mask_decoder.fine.")


@torch.no_grad()
def frozen_features(model: Calico, pixels: Pixels) -> ImageFeatures:
    """Encodes M images one by one.

    Args:
        model: its encoders in evaluation mode.
        pixels: of M images, on the model's device.

    Returns:
        Features in bfloat16.
    """
    return concatenate([_encode(model, pixels.image(m)) for m in range(len(pixels.square))])


def _encode(model: Calico, pixels: Pixels) -> ImageFeatures:
    return rounded(model.encode(pixels), torch.bfloat16)


def rounded(features: ImageFeatures, dtype: torch.dtype) -> ImageFeatures:
    """Converts all tensors."""
    return ImageFeatures(
        features.global_tokens.to(dtype),
        features.semantic_tokens.to(dtype),
        MaskFeatures(
            features.mask.embedding.to(dtype), tuple(fine.to(dtype) for fine in features.mask.fine)
        ),
        tuple(level.to(dtype) for level in features.photo),
    )


def freeze(model: Calico) -> None:
    """Sets evaluation mode, but training mode of the language model, whose LoRA has dropout."""
    model.eval()
    model.language.train()


def encoder_fingerprint(model: Calico) -> str:
    """Returns a hash of what an image's features depend on: weights, sizes, image libraries."""
    config = model.config
    digest = sha256(f"{cv2.__version__} {pillow_version} {config.image_size}".encode())
    digest.update(f"{config.trunk} {config.eva} {config.dino} {config.mask}".encode())
    digest.update(f"{config.photo_trunk}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(_ENCODERS):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().reshape(-1).cpu().contiguous()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class ImageKeys:
    """Content hashes of the images of a data set, each file read once."""

    def __init__(self, folder: GroupSet) -> None:
        self._folder = folder
        self._keys: dict[int, str] = {}

    def __getitem__(self, image_id: int) -> str:
        if image_id not in self._keys:
            path = self._folder.image_path(image_id)
            try:
                self._keys[image_id] = file_sha256(path)
            except OSError as error:
                raise InvalidRecordError(f"{path.name}: expected a readable image") from error
        return self._keys[image_id]


def fill(
    store: FeatureStore,
    model: Calico,
    folder: GroupSet,
    keys: ImageKeys,
    *,
    share: tuple[int, int] = (0, 1),
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Encodes the images of a data set that the store does not hold yet.

    Args:
        store: gets the features.
        model: on its device, encoders in evaluation mode.
        folder: the records.
        keys: of its images.
        share: (process, processes); each takes every n-th image.
        on_image: called with images done and images to do by this process.

    Raises:
        InvalidConfigError: over the store's ceiling, or more than the disk has left.
        InvalidRecordError: an image that cannot be read.
    """
    every = dict.fromkeys(i for group in range(len(folder)) for i in folder.image_ids(group))
    different = list({keys[i]: i for i in every}.values())
    missing = [i for i in different if keys[i] not in store]
    # Shared out before the store is searched: another process may be writing its part already.
    assigned = [i for i in different[share[0] :: share[1]] if keys[i] not in store]
    if not assigned:
        return
    device = next(model.parameters()).device
    first = _encode_file(model, folder, assigned[0], device)
    store.reserve(len(missing), first.nbytes + _HEADER_BYTES)
    for done, image_id in enumerate(assigned, start=1):
        store.put(keys[image_id], _encode_file(model, folder, image_id, device))
        on_image(done, len(assigned))


def _encode_file(
    model: Calico, folder: GroupSet, image_id: int, device: torch.device
) -> ImageFeatures:
    pixels = to_pixels([folder.read_image(image_id)], model.config)
    return frozen_features(model, pixels.to(device))
