"""`calico train-photo-refiner`: teaches a trained model to outline what is pointed at in photos."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli import processes
from backend.cli.teaching import BaseOption, OutOption, SeedOption, StepsOption
from backend.cli.waiting import training_bar
from calico_model.training.add_ons.recipes import PhotoRefinerRecipe

if TYPE_CHECKING:
    from calico_model.training.engine import TrainingProgress
    from calico_model.types import LabeledGroup

_DEFAULT = PhotoRefinerRecipe()
_SIDE, _LEAST_PART = 640, 0.0015
_SHOWN = ("iou_click", "iou_box", "iou_unasked", "iou_last")


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
    """Teach a model to outline what is pointed at in photographs.

    Simulated annotators click, box and correct masks of labeled photographs and of drawn scenes; a
    small network on the photo trunk's maps of each place learns to answer them. Everything else
    stays as it is. OUT/model is then a copy of the model folder that has it.

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.data.coco_parts import IMAGES_FOLDER, CocoParts, CocoPlan
    from calico_model.data.drawn_groups import DrawnGroups
    from calico_model.data.synthetic import Split
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training.add_ons.photo_refiner import train_photo_refiner as train

    is_stopping = processes.stop_requests()
    began = time.monotonic()
    plan = CocoPlan(seed=seed, side=_SIDE, least_part=_LEAST_PART)
    pictures: dict[str, Sequence[LabeledGroup]] = {
        "photographs": CocoParts(coco, images or coco.parent / IMAGES_FOLDER, plan)
    }
    if scenes:
        pictures["drawings"] = DrawnGroups(Split.SEEN, scenes, seed, (2, 2))
    with training_bar("encoding") as advance_to:

        def show(progress: TrainingProgress) -> None:
            terms = " ".join(f"{k} {progress.terms[k]:.3f}" for k in _SHOWN if k in progress.terms)
            advance_to(f"{progress.stage} {terms}", progress.step, progress.total)

        folder = train(
            PhotoRefinerRecipe(seed=seed, steps=steps),
            weights or DEFAULT_WEIGHTS,
            pictures,
            out,
            on_progress=show,
            stop=is_stopping,
        )
    seconds = round(time.monotonic() - began, 1)
    typer.echo(
        json.dumps({"model": str(folder), "finished": not is_stopping(), "seconds": seconds})
    )
