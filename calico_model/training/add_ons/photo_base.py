"""Adds the photo trunk to a trained model, with an untrained dense head and a familiarity test.

Every project trains the dense head from its first weights. The familiarity test tells photographs
from pictures of the kind the language model was trained on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from calico_model.config import PhotoTrunkConfig
from calico_model.inference.images import to_photo
from calico_model.loading.checkpoints import load_model, save_model
from calico_model.modeling.dense_head import DenseHead
from calico_model.modeling.domain import Familiarity, photo_style
from calico_model.modeling.model import Calico
from calico_model.types import RgbImage

KNOWN_SHARE = 0.28
"""Place of the boundary between drawings and photographs, as `Familiarity.fit` takes it: nearer to
the drawings, since a photograph that is taken for a drawing costs an annotator more than a drawing
that is taken for a photograph."""


@dataclass(frozen=True)
class FamiliarityFit:
    """Accuracy of the familiarity test on the images it was fitted to.

    Attributes:
        known, unknown: percent of the known pictures, and of the photographs, on the right side.
    """

    known: float
    unknown: float


def add_photo_trunk(
    weights: Path,
    out: Path,
    known: Sequence[RgbImage],
    photos: Sequence[RgbImage],
    config: PhotoTrunkConfig,
    *,
    seed: int,
) -> FamiliarityFit:
    """Writes a copy of a model folder with a photo trunk.

    Args:
        weights: trained model folder.
        out: folder of the new model.
        known: pictures of the kind its language model was trained on.
        photos: photographs.
        config: which trunk.
        seed: of the dense head's first weights.
    """
    model, tokenizer = load_model(weights)
    torch.manual_seed(seed)
    grown = Calico(replace(model.config, photo_trunk=config))
    # What reads the maps of another trunk is learned anew.
    before = model.config.photo_trunk
    is_same = before is not None and before.kind == config.kind
    anew = {"dense_head", "familiarity"} | (set() if is_same else {"photo_refiner"})
    grown.add_on([name for name in model.add_ons if name not in anew])
    state = model.state_dict()
    grown.load_state_dict({name: state[name] for name in state if name.split(".")[0] not in anew})
    grown.dense_head = DenseHead(grown.config)
    grown.familiarity = Familiarity(grown.config)
    descriptors = [
        torch.cat([_describe(grown, image, config.side) for image in images])
        for images in (known, photos)
    ]
    familiarity = grown.familiarity
    familiarity.fit(*descriptors, known_share=KNOWN_SHARE)
    shares = [
        100 * float(((rows @ familiarity.weight + familiarity.bias) > 0).float().mean())
        for rows in descriptors
    ]
    if weights.resolve() != out.resolve():
        shutil.copytree(weights, out, dirs_exist_ok=True)
    save_model(grown, tokenizer, out, dtype=torch.bfloat16)
    return FamiliarityFit(shares[0], 100 - shares[1])


@torch.inference_mode()
def _describe(model: Calico, image: RgbImage, side: int) -> Tensor:
    return photo_style(model.encode_photos([to_photo(image, side)])).clone()
