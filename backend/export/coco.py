"""A data set as one COCO file: `annotations.json` beside the images.

COCO knows no groups. Further fields say what belongs together: `tasks` of an image, `task`, `part`
and `kind` of an annotation. Readers that do not know these fields pass over them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from backend.export.data_set import DataSet, ExportedImage, Instance
from backend.export.document import box_of, write_file
from backend.export.polygons import outline
from calico_model.data.records import ANNOTATIONS_FILE
from calico_model.types import RegionKind

Content = dict[str, object]


def write_coco(
    folder: Path, data: DataSet, *, with_polygons: bool, on_progress: Callable[[int], None]
) -> Content:
    """Writes the file.

    A region with two labels is two annotations with one `region`. Categories are numbered from 1,
    in the order of the labels, whether they have masks or not.

    Args:
        folder: the folder with the images.
        data: what is exported.
        with_polygons: writes outlines instead of run lengths, except for masks with holes, which
            outlines in COCO cannot show.
        on_progress: called with the number of finished images.

    Returns:
        Counts for the summary.
    """
    category_ids = {label: number for number, label in enumerate(data.labels, start=1)}
    instances = data.by_image()
    annotations: list[msgspec.Raw] = []
    with_holes = 0
    for done, image in enumerate(data.images, start=1):
        for instance in instances[image.id]:
            segmentation = _polygons(instance) if with_polygons else None
            with_holes += with_polygons and segmentation is None
            shape = instance.rle if segmentation is None else segmentation
            for label in instance.labels:
                found = _annotation(instance, shape, len(annotations) + 1, category_ids[label])
                annotations.append(msgspec.Raw(msgspec.json.encode(found)))
        on_progress(done)
    content = {
        "info": {"description": data.title},
        "images": [_image(image) for image in data.images],
        "annotations": annotations,
        "categories": _categories(data, category_ids),
    }
    write_file(folder / ANNOTATIONS_FILE, msgspec.json.encode(content))
    counts: Content = {"annotations": len(annotations)}
    return counts | ({"with_holes": with_holes} if with_polygons else {})


def _image(image: ExportedImage) -> Content:
    height, width = image.size_hw
    content: Content = {"id": image.id, "file_name": image.file_name}
    content |= {"width": width, "height": height, "tasks": image.task_ids}
    return content | ({"unknown": sorted(image.unknown)} if image.unknown else {})


def _annotation(instance: Instance, shape: object, number: int, category_id: int) -> Content:
    content: Content = {
        "id": number,
        "image_id": instance.image_id,
        "category_id": category_id,
        "segmentation": shape,
        "area": instance.area,
        "bbox": box_of(instance.rle),
        "iscrowd": 0,
        "task": instance.task_id,
        "annotation": instance.annotation_id,
        "region": instance.region_id,
        "reviewed": instance.is_reviewed,
    }
    more = {"kind": instance.kind, "part": instance.part}
    return content | {name: value for name, value in more.items() if value is not None}


def _polygons(instance: Instance) -> list[list[float]] | None:
    """Returns flat x, y lists, one per piece; None for a mask with holes."""
    found = outline(instance.mask)
    if found.holes:
        return None
    return [[round(float(n), 2) for n in ring.ravel()] for ring in found.outer]


def _categories(data: DataSet, ids: dict[str, int]) -> list[Content]:
    """Returns every label; `supercategory` is "object" if its regions are objects."""
    kinds: dict[str, set[bool]] = {}
    for instance in data.instances:
        for label in instance.labels:
            is_object = instance.kind is RegionKind.COMMON_OBJECT
            kinds.setdefault(label, set()).add(is_object)
    return [
        {
            "id": number,
            "name": label,
            "supercategory": "object" if kinds.get(label) == {True} else "part",
        }
        for label, number in ids.items()
    ]
