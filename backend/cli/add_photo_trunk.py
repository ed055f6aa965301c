"""`calico add-photo-trunk`: gives a trained model a frozen network of photographs to learn on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.teaching import BaseOption, SeedOption
from backend.cli.waiting import training_bar

_GROUPS = 60
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def add_photo_trunk(
    out: Annotated[Path, typer.Option(help="Folder of the new model.", metavar="DIR")],
    photos: Annotated[
        Path,
        typer.Option(
            help="Folder of photographs, unlike what the model learned from.", exists=True
        ),
    ],
    weights: BaseOption = None,
    side: Annotated[
        int, typer.Option(min=32, help="Of the trunk's input: about side * side pixels.")
    ] = 384,
    seed: SeedOption = 37,
) -> None:
    """Put a frozen network of photographs under a trained model.

    What learns from corrections then reads that network, so a handful of corrected photographs is
    enough. The dense head of the new model has not learned anything yet: every project begins it.
    A line is drawn between drawn scenes, which the language model knows, and the photographs given
    here, of which it would only say what is wrong.

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
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training.add_ons.photo_base import add_photo_trunk as add

    torch.set_num_threads(1)  # of two cores, one does more than a team that waits
    began = time.monotonic()
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in _PICTURES)
    if len(files) < 20:
        raise InvalidConfigError(f"--photos: expected at least 20 images, got {len(files)}")
    with training_bar("drawing scenes") as show:
        drawn = DrawnGroups(SceneSplit.SEEN, _GROUPS, seed, (2, 2))
        known = []
        for number in range(_GROUPS):
            known += list(drawn[number].group.images)
            show("drawing scenes", number + 1, _GROUPS)
        show("encoding", 0, 1)
        found = add(
            weights or DEFAULT_WEIGHTS,
            out,
            known,
            [np.asarray(Image.open(path).convert("RGB")) for path in files],
            PhotoTrunkConfig(side=side),
            seed=seed,
        )
    figures = {
        "model": str(out),
        "known": round(found.known, 1),
        "unknown": round(found.unknown, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    typer.echo(json.dumps(figures))
