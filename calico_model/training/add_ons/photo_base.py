"""Puts the photo trunk under a trained model: a dense head that every project learns from its own
beginning, and the line between pictures the language model knows and photographs.
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
from calico_model.modeling.domain import Familiarity, describe_maps
from calico_model.modeling.model import Calico
from calico_model.types import RgbImage

KNOWN_SHARE = 0.28
"""Where the line is between drawings and photographs: nearer to the drawings, since a style nobody
drew before is still a drawing, and a photograph taken for one costs an annotator more."""


@dataclass(frozen=True)
class Familiar:
    """How well the line tells both kinds apart.

    Attributes:
        known, unknown: percent of the images it was drawn between that are on their side.
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
) -> Familiar:
    """Writes a copy of a model folder with a photo trunk.

    Args:
        weights: trained model folder.
        out: folder of the new model.
        known: pictures of the kind its language model learned from.
        photos: photographs.
        config: which trunk.
        seed: of the dense head's first weights.
    """
    model, tokenizer = load_model(weights)
    torch.manual_seed(seed)
    grown = Calico(replace(model.config, photo_trunk=config))
    grown.add_on([*model.add_ons])
    grown.load_state_dict(model.state_dict())
    grown.dense_head = DenseHead(grown.config)
    grown.familiarity = Familiarity(grown.config)
    looks = [
        torch.cat([_look(grown, image, config.side) for image in images])
        for images in (known, photos)
    ]
    grown.familiarity.fit(*looks, known_share=KNOWN_SHARE)
    shares = [
        100 * float(((look @ grown.familiarity.weight + grown.familiarity.bias) > 0).float().mean())
        for look in looks
    ]
    if weights.resolve() != out.resolve():
        shutil.copytree(weights, out, dirs_exist_ok=True)
    save_model(grown, tokenizer, out, dtype=torch.bfloat16)
    return Familiar(shares[0], 100 - shares[1])


@torch.inference_mode()
def _look(model: Calico, image: RgbImage, side: int) -> Tensor:
    return describe_maps(model.encode_photos([to_photo(image, side)])).clone()
