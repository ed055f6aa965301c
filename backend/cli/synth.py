"""`calico synth`: writes labeled groups to measure a model on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.labeled_data import read_group_size
from backend.cli.progress import progress_bar
from calico_model.data.synthetic import SceneSplit, write_groups


def synth(
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write; it must be new or empty.", metavar="DIR")
    ],
    groups: Annotated[int, typer.Option("--groups", min=1, help="Number of groups.")] = 300,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The same seed draws the same groups.")
    ] = 0,
    split: Annotated[
        SceneSplit, typer.Option("--split", help="What the model has not seen in training.")
    ] = SceneSplit.SEEN,
    group_size: Annotated[
        str, typer.Option("--group-size", help="Images per group, as 2 or 2-4.", metavar="N[-M]")
    ] = "2",
    size: Annotated[int, typer.Option("--size", min=32, help="Image side in pixels.")] = 256,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Number of processes that draw.")
    ] = 1,
) -> None:
    """Draw labeled groups of images, in the record format of MixedParts.

    Training never draws these groups, so they measure what a model can do on new pictures:

    - seen: objects, parts and styles of the training set.
    - unseen-combination: known things in combinations that training never had.
    - unseen-style: a way of drawing that training never showed.
    - unseen-category: objects that training never showed.
    - unseen-domain: such objects, drawn in a way that training never showed.

    Draw groups, look at the pictures in DIR/images, then measure a model on them:
    calico synth --out DIR
    calico evaluate --data DIR

    The last line of the output is JSON: groups, images, seconds, images_per_s.
    """
    sizes = read_group_size(group_size)
    started = time.perf_counter()
    with progress_bar("Drawing groups", groups) as advance_to:
        write_groups(
            out,
            groups=groups,
            seed=seed,
            split=split,
            group_sizes=sizes,
            size_px=size,
            workers=workers,
            on_progress=advance_to,
        )
    seconds = time.perf_counter() - started
    images = sum(1 for path in (out / "images").iterdir() if path.is_file())
    typer.echo(f"{groups} groups, {images} images of split '{split}' are in {out}.")
    outcome = {
        "groups": groups,
        "images": images,
        "split": str(split),
        "seed": seed,
        "seconds": round(seconds, 2),
        "images_per_s": round(images / seconds, 1),
    }
    typer.echo(json.dumps(outcome))
