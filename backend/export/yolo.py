"""A data set for YOLO segmentation: a text file of polygons per image, and `data.yaml`.

A region is one line: the label's number, then x and y of its outline as shares of the image. Pieces
are joined into one outline, as ultralytics' converter joins them, and holes as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from backend.export.data_set import DataSet, ExportedImage, Instance
from backend.export.document import write_file
from backend.export.polygons import Ring, fill_line, outline, single_line
from backend.export.splits import split_images
from calico_model.data.records import IMAGES_FOLDER
from calico_model.masks import mask_iou
from calico_model.types import BoolMask

LABELS_FOLDER = "labels"
DATA_FILE = "data.yaml"
_MOST_CORNERS = 999  # ultralytics draws every outline with 1000 points
_DIGITS = 6
_COARSE_IOU = 0.97


class _Loss:
    """How well the outlines show their masks."""

    def __init__(self) -> None:
        self._ious: list[float] = []
        self.with_holes = self.in_pieces = 0

    def add(self, mask: BoolMask, line: Ring) -> None:
        """Compares a mask with its outline as ultralytics draws it."""
        drawn = fill_line(line, (mask.shape[0], mask.shape[1]))
        self._ious.append(mask_iou(drawn, mask))
        found = outline(mask)
        self.with_holes += bool(found.holes)
        self.in_pieces += len(found.outer) > 1

    def summary(self) -> dict[str, object]:
        """Returns the figures; IoU is None without regions."""
        ious = self._ious
        return {
            "outline_iou_mean": round(sum(ious) / len(ious), 4) if ious else None,
            "outline_iou_min": round(min(ious), 4) if ious else None,
            "coarse": sum(iou < _COARSE_IOU for iou in ious),
            "with_holes": self.with_holes,
            "in_pieces": self.in_pieces,
        }


def write_yolo(
    folder: Path, data: DataSet, *, val: float, on_progress: Callable[[int], None]
) -> dict[str, object]:
    """Writes labels/, train.txt, val.txt and data.yaml.

    An image without regions has an empty file: it teaches that nothing is there.

    Args:
        folder: the folder with the images.
        data: what is exported.
        val: share of images for validation, in [0, 1].
        on_progress: called with the number of finished images.

    Returns:
        Counts for the summary, and the IoU of masks and outlines.
    """
    labels = folder / LABELS_FOLDER
    labels.mkdir()
    numbers = {label: number for number, label in enumerate(data.labels)}
    instances, loss, count = data.by_image(), _Loss(), 0
    for done, image in enumerate(data.images, start=1):
        lines = _lines(image, instances[image.id], numbers, loss)
        count += len(lines)
        (labels / f"{image.stem}.txt").write_text("".join(f"{line}\n" for line in lines))
        on_progress(done)
    split = split_images(data, val)
    _write_list(folder / "train.txt", split.train)
    # The trainer wants images there; with a single group there are no others.
    _write_list(folder / "val.txt", split.val or split.train)
    names = [f"  {number}: {_quoted(label)}\n" for label, number in numbers.items()]
    content = f"train: train.txt\nval: val.txt\nnames:\n{''.join(names)}"
    write_file(folder / DATA_FILE, content.encode())
    counts = {"annotations": count, "train": len(split.train), "val": len(split.val)}
    return counts | loss.summary()


def _quoted(label: str) -> str:
    """A text in quotes, as YAML reads it: JSON has two escapes for a character beyond U+FFFF."""
    escaped = (json.dumps(c)[1:-1] if c <= "\uffff" else f"\\U{ord(c):08x}" for c in label)
    return f'"{"".join(escaped)}"'


def _lines(
    image: ExportedImage, instances: Sequence[Instance], numbers: dict[str, int], loss: _Loss
) -> list[str]:
    height, width = image.size_hw
    lines = []
    for instance in instances:
        mask = instance.mask
        line = single_line(mask, most_corners=_MOST_CORNERS)
        loss.add(mask, line)
        shares = (line / (width, height)).ravel()
        places = " ".join(f"{share:.{_DIGITS}f}" for share in shares)
        lines += [f"{numbers[label]} {places}" for label in instance.labels]
    return lines


def _write_list(path: Path, images: Sequence[ExportedImage]) -> None:
    path.write_text("".join(f"./{IMAGES_FOLDER}/{image.file_name}\n" for image in images))
