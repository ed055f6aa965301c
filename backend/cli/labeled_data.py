"""Options that name labeled groups, and how they are opened: records, or COCO part data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from calico_model.data.coco_parts import ANNOTATIONS_FILE, IMAGES_FOLDER, CocoParts, CocoPlan
from calico_model.data.opening import open_groups
from calico_model.errors import InvalidConfigError
from calico_model.types import LabeledGroup

CocoOption = Annotated[
    Path | None,
    typer.Option(
        "--coco",
        help="Labeled photographs instead: COCO instances whose categories are parts and whose "
        "supercategories are objects.",
        metavar="FILE",
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", help="With --coco: folder of its images.", metavar="DIR"),
]
SidesOption = Annotated[
    bool,
    typer.Option(
        "--merge-sides/--keep-sides", help="With --coco: count left and right as one part."
    ),
]
_SIZES = re.compile(r"([1-8])(?:-([1-8]))?")


def open_labeled(
    data: Path | None,
    coco: Path | None,
    images: Path | None,
    *,
    group_size: str,
    seed: int,
    merge_sides: bool,
) -> Sequence[LabeledGroup] | None:
    """Opens what the options name; None if they name nothing.

    Raises:
        InvalidConfigError: options that do not go together.
        InvalidRecordError: the data cannot be read.
    """
    if data is not None and coco is not None:
        raise InvalidConfigError("--coco: expected either --data or --coco, got both")
    if images is not None and coco is None:
        raise InvalidConfigError("--images: expected --coco beside it")
    if data is not None:
        return open_groups(data)
    if coco is None:
        return None
    return open_coco(coco, images, group_size=group_size, seed=seed, merge_sides=merge_sides)


def open_coco(
    coco: Path, images: Path | None, *, group_size: str, seed: int, merge_sides: bool
) -> CocoParts:
    """Opens COCO part data; a folder holds annotations.json and images."""
    if coco.is_dir():
        coco = coco / ANNOTATIONS_FILE
    plan = CocoPlan(read_group_size(group_size), seed, merge_sides)
    return CocoParts(coco, images or coco.parent / IMAGES_FOLDER, plan)


def read_group_size(text: str) -> tuple[int, int]:
    """Reads "2" or "2-4" as the smallest and largest number of images per group.

    Raises:
        InvalidConfigError: another form, falling numbers, or outside 1 to 8.
    """
    form = _SIZES.fullmatch(text.strip())
    low, high = (int(form[1]), int(form[2] or form[1])) if form else (0, 0)
    if not 1 <= low <= high:
        raise InvalidConfigError(f"--group-size: expected 2 or 2-4, within 1 to 8, got {text!r}")
    return low, high
