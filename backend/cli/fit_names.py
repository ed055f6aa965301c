"""`calico fit-names`: teaches weights which names go with outlined regions."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.rendering import rendered_pool
from backend.cli.waiting import training_bar

_SCENES = 2500


def fit_names(
    out: Annotated[Path, typer.Option(help="Run folder; the new model is OUT/model.")],
    weights: Annotated[
        Path | None, typer.Option(help="Model folder; the shipped one when not given.")
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Folder of rendered scenes; OUT/pool when not given.")
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=20, help="Scenes to learn from; rendered when the pool is yours.")
    ] = _SCENES,
    seed: Annotated[int, typer.Option(help="Of scenes, outlines and weights.")] = 31,
) -> None:
    """Teach a model to name outlined regions out of a closed label set.

    Drawn scenes are encoded once, every visible object and part is described by what the encoders
    say inside and around it, and a small head learns which of the model's own words go with it.
    Everything else stays as it is. OUT/model is then a copy of the model folder that has the head;
    a model without one names by its answers and by what annotators accepted.

    The last line of stdout is JSON: model, regions, names, accuracy (percent of held-out regions),
    temperature, fusion (the exponents that suit these weights), seconds.
    """
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training.add_ons.recipes import RegionRecipe
    from calico_model.training.add_ons.region_fit import fit_region_head

    began = time.monotonic()
    with training_bar("rendering scenes") as advance_to:
        folder = rendered_pool(
            out, pool, scenes=scenes, seed=seed, size_px=128, advance_to=advance_to
        )
        fit = fit_region_head(
            weights or DEFAULT_WEIGHTS,
            folder,
            out,
            RegionRecipe(scenes=scenes, seed=seed),
            on_progress=advance_to,
        )
    typer.echo(
        json.dumps(
            {
                "model": str(fit.model),
                "regions": fit.regions,
                "names": fit.names,
                "accuracy": round(fit.accuracy, 2),
                "temperature": round(fit.temperature, 3),
                "fusion": asdict(fit.fusion),
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    )
