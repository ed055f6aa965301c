"""Commands that teach a trained model on photographs.

`calico add-photo-trunk` puts a frozen network of photographs under the model, and
`calico train-photo-refiner` teaches it to outline what is pointed at.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.add_ons import (
    BaseOption,
    OutOption,
    SeedOption,
    StepsOption,
    show_terms,
)
from backend.cli.progress import print_outcome, stop_requests, training_bar
from calico_model.training.add_ons.recipes import PhotoRefinerRecipe

if TYPE_CHECKING:
    from calico_model.types import LabeledGroup

_DEFAULT = PhotoRefinerRecipe()
_TRUNK_GROUPS = 60
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SIDE, _LEAST_PART = 640, 0.0015
_SHOWN = ("iou_click", "iou_box", "iou_unasked", "iou_last")


def add_photo_trunk(
    out: Annotated[Path, typer.Option(help="Folder of the new model.", metavar="DIR")],
    photos: Annotated[
        Path,
        typer.Option(
            help="Folder of photographs, unlike what the model learned from.", exists=True
        ),
    ],
    weights: BaseOption = None,
    backbone: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a backbone of transformers, instead of the shipped network.",
            metavar="DIR",
        ),
    ] = None,
    side: Annotated[
        int, typer.Option(min=32, help="Of the trunk's input: about side * side pixels.")
    ] = 384,
    seed: SeedOption = 37,
) -> None:
    """Add a frozen network that has seen photographs to a trained model.

    Projects then learn from the maps of that network, so a few corrected photographs are enough.
    The dense head of the new model has learned nothing yet: every project starts it anew.

    The command also fits a line between drawn scenes, which the language model knows, and the
    given photographs, which it does not know. On the far side of that line the language model is
    not asked.

    With --backbone the network is any `AutoBackbone` of transformers: DINOv2, DINOv3 (ViT or
    ConvNeXt), ConvNeXtV2. Its files are copied into the model folder. A network that refined
    clicks on photographs from the shipped maps is left out: train it again.

    Examples:
    calico add-photo-trunk --photos DIR --out model
    calico add-photo-trunk --photos DIR --backbone dinov3-vits16 --side 512 --out model

    The last line of stdout is JSON: model, known and unknown (percent of the images of either kind
    that are on their side of the line), seconds.
    """
    import numpy as np
    import torch
    from PIL import Image

    from calico_model.config import PhotoTrunkConfig
    from calico_model.data.opening import DrawnGroups
    from calico_model.data.synthetic import SceneSplit
    from calico_model.errors import InvalidConfigError
    from calico_model.modeling.backbone_trunk import read_backbone
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training.add_ons.photo_base import add_photo_trunk as add

    torch.set_num_threads(1)  # of two cores, one does more than a team that waits
    began = time.monotonic()
    trunk_config = (
        PhotoTrunkConfig(side=side) if backbone is None else read_backbone(backbone, side=side)
    )
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if len(files) < 20:
        raise InvalidConfigError(f"--photos: expected at least 20 images, got {len(files)}")
    with training_bar("drawing scenes") as show:
        drawn = DrawnGroups(SceneSplit.SEEN, _TRUNK_GROUPS, seed, (2, 2))
        known = []
        for number in range(_TRUNK_GROUPS):
            known += list(drawn[number].group.images)
            show("drawing scenes", number + 1, _TRUNK_GROUPS)
        show("encoding", 0, 1)
        trunk = add(
            weights or DEFAULT_WEIGHTS,
            out,
            known,
            [np.asarray(Image.open(path).convert("RGB")) for path in files],
            trunk_config,
            seed=seed,
        )
    figures = {
        "model": str(out),
        "known": round(trunk.known, 1),
        "unknown": round(trunk.unknown, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    typer.echo(json.dumps(figures))


def train_photo_refiner(
    out: OutOption,
    coco: Annotated[
        Path, typer.Option(help="COCO instances with masks of parts.", metavar="FILE", exists=True)
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of its images; beside FILE when not given.")
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=0, help="Drawn pairs to learn from as well; 0 for none.")
    ] = 500,
    weights: BaseOption = None,
    steps: StepsOption = _DEFAULT.steps,
    seed: SeedOption = _DEFAULT.seed,
) -> None:
    """Teach a model to answer clicks and boxes on photographs.

    Simulated annotators click, box and correct masks of labeled photographs and of drawn scenes. A
    small network learns to answer them from the maps of the photo trunk. Everything else stays as
    it is. OUT/model is a copy of the model folder with that network.

    Example: calico train-photo-refiner --coco annotations.json --out run

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.data.coco_parts import IMAGES_FOLDER, CocoParts, CocoPlan
    from calico_model.data.opening import DrawnGroups
    from calico_model.data.synthetic import SceneSplit
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training.add_ons.photo_refiner import train_photo_refiner as train

    is_stopping = stop_requests()
    began = time.monotonic()
    plan = CocoPlan(seed=seed, side=_SIDE, least_part=_LEAST_PART)
    pictures: dict[str, Sequence[LabeledGroup]] = {
        "photographs": CocoParts(coco, images or coco.parent / IMAGES_FOLDER, plan)
    }
    if scenes:
        pictures["drawings"] = DrawnGroups(SceneSplit.SEEN, scenes, seed, (2, 2))
    with training_bar("encoding") as advance_to:
        folder = train(
            PhotoRefinerRecipe(seed=seed, steps=steps),
            weights or DEFAULT_WEIGHTS,
            pictures,
            out,
            on_progress=show_terms(advance_to, _SHOWN),
            stop=is_stopping,
        )
    print_outcome({"model": folder}, is_finished=folder is not None, began=began)
