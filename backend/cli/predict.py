"""`calico predict`: segments a group of images and writes the regions as pictures and JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption, load_weights
from backend.cli.prediction_files import write_prediction
from backend.cli.progress import peak_rss_mib, progress_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError, InvalidImageError
from calico_model.loading.precision import Precision
from calico_model.picture import read_rgb
from calico_model.types import MAX_GROUP_SIZE, GroupPrediction, ImageGroup


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(help="1 to 8 pictures of comparable objects.", metavar="A.png B.png ..."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.", metavar="DIR")],
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision", help="Number format of the weights; the best that fits if not given."
        ),
    ] = None,
    repeat_json: Annotated[
        bool,
        typer.Option(
            "--repeat-json",
            help="Predict a second time, so that the JSON line also holds warm_s.",
        ),
    ] = False,
) -> None:
    """Find the common objects, common parts and unique parts of a group of images.

    It works without Label Studio and writes these files into DIR:

    - sheet.png: all images side by side, with the same part in the same colour.
    - NAME_overlay.png: one picture per image.
    - prediction.json: every region with its name, kind, score and mask.
    - coco.json: the same as a COCO data set.

    Example: calico predict A.png B.png --out result

    It reads PNG, JPEG, WEBP, BMP, GIF and TIFF, turns them upright, and takes up to 40 megapixels
    and 16384 px a side.

    The last line of the output is JSON: images, regions, load_s (seconds to load the weights),
    first_s (seconds of the first prediction), warm_s (of the second one, with --repeat-json) and
    peak_rss_mib.
    """
    group = read_group(images)
    if out.exists() and not out.is_dir():
        raise InvalidConfigError(f"--out: expected a folder, got the file {out}")
    with progress_bar("Loading weights", None):
        started = time.perf_counter()
        predictor = load_weights(weights, device, precision)
        load_s = time.perf_counter() - started
    with progress_bar("Looking at the images", None):
        started = time.perf_counter()
        prediction = predictor.predict(group)
        first_s = time.perf_counter() - started
    warm_s = None
    if repeat_json:
        with progress_bar("Looking again", None):
            started = time.perf_counter()
            predictor.predict(group)
            warm_s = round(time.perf_counter() - started, 3)
    write_prediction(out, images, group, prediction)
    _show(images, prediction, out)
    outcome = {
        "images": len(group),
        "regions": len(prediction.parts),
        "load_s": round(load_s, 3),
        "first_s": round(first_s, 3),
        "warm_s": warm_s,
        "peak_rss_mib": round(peak_rss_mib(), 1),
    }
    typer.echo(json.dumps(outcome))


def read_group(files: Sequence[Path]) -> ImageGroup:
    """Reads pictures as one group, named by position and file.

    Raises:
        InvalidImageError: too many, or one that cannot be read; the message names it.
    """
    if not 1 <= len(files) <= MAX_GROUP_SIZE:
        raise InvalidImageError(
            f"IMAGES: expected 1 to {MAX_GROUP_SIZE} pictures, got {len(files)}"
        )
    pictures = tuple(read_rgb(file) for file in files)
    return ImageGroup(pictures, tuple(f"{n}_{file.stem}" for n, file in enumerate(files, start=1)))


def _show(files: Sequence[Path], prediction: GroupPrediction, out: Path) -> None:
    """Prints a table of the regions, image by image."""
    table = Table(title=f"{prediction.version}: {len(prediction.parts)} regions")
    for name in ("image", "kind", "name", "of", "score", "share of image"):
        table.add_column(name, justify="right" if name in ("score", "share of image") else "left")
    for part in sorted(prediction.parts, key=lambda part: part.image_index):
        table.add_row(
            files[part.image_index].name,
            part.kind.replace("_", " "),
            part.label,
            part.object_label or "",
            f"{part.score:.2f}",
            f"{part.mask.mean():.1%}",
        )
    if prediction.parts:
        print_fitted(table)
    else:
        typer.echo(f"{prediction.version} found nothing to name in this group.")
    typer.echo(f"Pictures and JSON are in {out}; look at {out / 'sheet.png'} first.")
