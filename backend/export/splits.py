"""Images for training and for validation: what belongs together stays on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from backend.export.data_set import DataSet, ExportedImage


@dataclass(frozen=True)
class ImageSplit:
    """The two sides, each by rising id; `val` is () if there is only one group."""

    train: tuple[ExportedImage, ...]
    val: tuple[ExportedImage, ...]


def split_images(data: DataSet, share: float) -> ImageSplit:
    """Divides the images of a data set.

    The images of a task stay together, and so do tasks that share an image. A group is on the same
    side in every export as long as it has the same first image.

    Args:
        data: what is exported.
        share: wanted share of images for validation, in [0, 1]; with a share above 0 and two or
            more groups, each side has at least one group.
    """
    groups = sorted(_connected(data), key=lambda group: _draw(group[0]))
    wanted, chosen = share * len(data.images), set[int]()
    for number, group in enumerate(groups):
        is_first = number == 0 and share > 0
        is_last = number == len(groups) - 1
        if is_last or not (is_first or len(chosen) + len(group) <= wanted):
            break
        chosen |= {image.id for image in group}
    return ImageSplit(
        train=tuple(image for image in data.images if image.id not in chosen),
        val=tuple(image for image in data.images if image.id in chosen),
    )


def _connected(data: DataSet) -> list[Sequence[ExportedImage]]:
    """Returns the images by group; each group by rising id."""
    group_of: dict[int, set[int]] = {image.id: {image.id} for image in data.images}
    for group in data.groups:
        ids = [image_id for image_id in group.image_ids if image_id is not None]
        joined = set[int]().union(*(group_of[image_id] for image_id in ids))
        for image_id in joined:
            group_of[image_id] = joined
    images = {image.id: image for image in data.images}
    return [
        [images[image_id] for image_id in sorted(ids)]
        for ids in {min(ids): ids for ids in group_of.values()}.values()
    ]


def _draw(image: ExportedImage) -> str:
    """Returns a random but lasting place in the order; a name holds the image's content."""
    return hashlib.sha256(image.file_name.encode()).hexdigest()
