"""PACO-LVIS: objects and parts in one COCO file, on COCO 2017 images.

Categories are `trash_can` and `trash_can:lid`; a part names its object by `obj_ann_id`.
(facebookresearch/paco: docs/PACO_DATASET.md at bfa4ff7.)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from calico_model.data.mixedparts.classes import ObjectClass, SourcePlan
from calico_model.data.mixedparts.coco import CocoFile, PartAnnotation, Problems
from calico_model.data.mixedparts.source import (
    AnnotatedObject,
    AnnotatedSource,
    Census,
    DatasetName,
    SourceSplit,
    area_share,
    first_file,
)
from calico_model.data.records import Ids
from calico_model.types import BoolMask

_VARIANT = re.compile(r"_\(.*?\)")


class PacoLvis(AnnotatedSource):
    """One split of PACO-LVIS.

    Args:
        folder: holds `paco_lvis_v1_{split}.json`, itself or in `annotations/`.
        coco_folder: holds `train2017/` and `val2017/`.
        split: all three exist.
    """

    dataset_name = DatasetName.PACO_LVIS

    def __init__(self, folder: Path, coco_folder: Path, split: SourceSplit) -> None:
        name = f"paco_lvis_v1_{split}.json"
        places = [folder / "annotations" / name, folder / name]
        super().__init__(CocoFile(first_file(places, "PACO")))
        self._coco_folder = coco_folder

    def image_path(self, image_id: int) -> Path:
        """Returns e.g. coco_2017/train2017/000000000009.jpg."""
        return self._coco_folder / self.objects.images[image_id].file_name

    def check_part(self, key: str, ann_id: int, image_id: int) -> None:
        """Raises InvalidRecordError unless there is such an annotation, of this image."""
        self.objects.check(key, ann_id, image_id)

    def part_mask(self, ann_ids: Ids) -> BoolMask:
        """Returns the union of part annotations of one image, (H, W) bool."""
        return self.objects.union(ann_ids)

    def census(self, plan: SourcePlan, problems: Problems) -> Census:
        """Reads all annotations, without masks; see `AnnotatedSource.census`."""
        names = {c.id: _split_name(c.name) for c in self.objects.categories.values()}
        objects: list[PartAnnotation] = []
        parts: dict[int, dict[str, Ids]] = defaultdict(dict)
        for annotation in self.objects.sound_annotations(problems):
            label, part = names[annotation.category_id]
            if part is None:
                objects.append(annotation)
                continue
            name = plan.part_name(label, part)
            if name is not None and annotation.obj_ann_id is not None:
                by_name = parts[annotation.obj_ann_id]
                by_name[name] = (*by_name.get(name, ()), annotation.id)
        instances: dict[int, list[AnnotatedObject]] = defaultdict(list)
        for annotation in objects:
            image = self.objects.images[annotation.image_id]
            label, _ = names[annotation.category_id]
            share = area_share(annotation.area, image)
            instance = AnnotatedObject(annotation.id, label, share, parts.get(annotation.id, {}))
            instances[image.id].append(instance)
        return Census(instances, _classes(names.values(), plan))


def _split_name(name: str) -> tuple[str, str | None]:
    """Returns the cleaned object and part names of a category: `car_(automobile):wheel`."""
    label, _, part = (_VARIANT.sub("", piece) for piece in name.partition(":"))
    tidy = " ".join(label.split("_")).strip().lower()
    return tidy, " ".join(part.split("_")).strip().lower() or None


def _classes(names: Iterable[tuple[str, str | None]], plan: SourcePlan) -> dict[str, ObjectClass]:
    parts: dict[str, set[str]] = {}
    for label, part in names:
        part_names = parts.setdefault(label, set())
        name = None if part is None else plan.part_name(label, part)
        if name is not None:
            part_names.add(name)
    return {
        label: ObjectClass(frozenset(part_names), frozenset({label}))
        for label, part_names in parts.items()
    }
