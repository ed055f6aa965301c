"""A data set as PNG images of numbers, in the layout of Pascal VOC.

`SegmentationClass` holds the number of the label at each pixel, `SegmentationObject` the number of
the region; 0 is background. A pixel has one number, so of two regions the smaller one is on top: a
part hides its object there, not the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.errors import SettingsError
from backend.export.data_set import DataSet, ExportedImage, Instance
from backend.export.splits import split_images

CLASS_FOLDER = "SegmentationClass"
OBJECT_FOLDER = "SegmentationObject"
SETS_FOLDER = "ImageSets/Segmentation"
LABELS_FILE = "labels.txt"
BACKGROUND = "background"
MOST_LABELS = 254  # 255 means "do not count" to readers of VOC
_MOST_IN_PALETTE = 254


@dataclass
class _Overlaps:
    """Regions that lose pixels to smaller ones."""

    covered: int = 0
    hidden: int = 0
    further_labels: int = 0


def check_label_count(labels: Sequence[str]) -> None:
    """Refuses more labels than a palette has numbers.

    Raises:
        SettingsError: too many labels.
    """
    if len(labels) > MOST_LABELS:
        raise SettingsError(
            f"--format: voc-png holds at most {MOST_LABELS} labels, and the project has "
            f"{len(labels)}; expected coco or yolo-seg"
        )


def write_voc(
    folder: Path, data: DataSet, *, val: float, on_progress: Callable[[int], None]
) -> dict[str, object]:
    """Writes the PNG files, the lists of images and labels.txt.

    Line n of labels.txt, counted from 0, names number n. An image with more than 254 regions has
    16-bit numbers of regions.

    Args:
        folder: the folder with the images.
        data: what is exported.
        val: share of images for validation, in [0, 1].
        on_progress: called with the number of finished images.

    Returns:
        Counts for the summary: `covered` regions lose pixels, `hidden` ones lose all of them.

    Raises:
        SettingsError: more labels than a palette has numbers.
    """
    check_label_count(data.labels)
    for name in (CLASS_FOLDER, OBJECT_FOLDER, SETS_FOLDER):
        (folder / name).mkdir(parents=True)
    numbers = {label: number for number, label in enumerate(data.labels, start=1)}
    instances, overlaps = data.by_image(), _Overlaps()
    for done, image in enumerate(data.images, start=1):
        classes, objects = _draw(image, instances[image.id], numbers, overlaps)
        _save(classes, folder / CLASS_FOLDER / f"{image.stem}.png")
        _save(objects, folder / OBJECT_FOLDER / f"{image.stem}.png")
        on_progress(done)
    split = split_images(data, val)
    for name, images in (("train", split.train), ("val", split.val), ("trainval", data.images)):
        lines = "".join(f"{image.stem}\n" for image in images)
        (folder / SETS_FOLDER / f"{name}.txt").write_text(lines)
    names = [" ".join(name.split()) for name in (BACKGROUND, *data.labels)]
    (folder / LABELS_FILE).write_text("".join(f"{name}\n" for name in names), "utf-8")
    return {
        "annotations": len(data.instances),
        "train": len(split.train),
        "val": len(split.val),
        "covered": overlaps.covered,
        "hidden": overlaps.hidden,
        "further_labels": overlaps.further_labels,
    }


def _draw(
    image: ExportedImage,
    instances: Sequence[Instance],
    numbers: dict[str, int],
    overlaps: _Overlaps,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Returns (H, W) numbers of labels and of regions, the largest region drawn first."""
    classes = np.zeros(image.size_hw, np.uint8)
    objects = np.zeros(image.size_hw, np.uint16)
    in_order = sorted(enumerate(instances, start=1), key=lambda pair: -pair[1].area)
    for number, instance in in_order:
        mask = instance.mask
        classes[mask] = min(numbers[label] for label in instance.labels)
        objects[mask] = number
        overlaps.further_labels += len(instance.labels) - 1
    visible = np.bincount(objects.ravel(), minlength=len(instances) + 1)
    for number, instance in in_order:
        overlaps.covered += bool(visible[number] < instance.area)
        overlaps.hidden += bool(visible[number] == 0)
    return classes, objects


def _save(numbers: NDArray[np.uint8] | NDArray[np.uint16], path: Path) -> None:
    """Writes numbers with VOC's colours, or as 16-bit grey where a palette has too few."""
    if numbers.max(initial=0) > _MOST_IN_PALETTE:
        Image.fromarray(numbers.astype(np.uint16)).save(path)
        return
    picture = Image.fromarray(numbers.astype(np.uint8), mode="P")
    picture.putpalette(voc_palette())
    picture.save(path)


def voc_palette() -> list[int]:
    """Returns the 256 colours of Pascal VOC as 768 numbers: red, green, blue of each."""
    palette = []
    for number in range(256):
        for channel in range(3):
            bits = [(number >> (3 * place + channel)) & 1 for place in range(3)]
            palette.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return palette
