"""PartImageNet: one COCO file of whole objects, one of parts, ImageNet pictures.

Parts belong to a super-category (`Quadruped Head`), objects to one of its classes; what ties them
is the image. (TACJu/PartImageNet; layout of its COCO release.)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from calico_model.data.mixedparts.classes import ObjectClass, SourcePlan
from calico_model.data.mixedparts.coco import CocoFile, Problems
from calico_model.data.mixedparts.source import (
    AnnotatedObject,
    AnnotatedSource,
    Census,
    DatasetName,
    SourceSplit,
    area_share,
    first_file,
)
from calico_model.data.records import CocoCategory, Ids
from calico_model.errors import InvalidRecordError
from calico_model.types import BoolMask

_SYNSET_LENGTH = len("n01440764")


class PartImageNet(AnnotatedSource):
    """One split of PartImageNet.

    Image ids are those of the file of whole objects; the part file may number them otherwise.

    Args:
        folder: holds `annotations/{split}/`, `annotations/{split}_whole/` and `images/{split}/`.
        split: all three exist.
    """

    dataset_name = DatasetName.PART_IMAGE_NET

    def __init__(self, folder: Path, split: SourceSplit) -> None:
        self._images_folders = (folder / "images" / split, folder / split)
        whole = _annotation_file(folder / "annotations", split, f"{split}_whole")
        super().__init__(CocoFile(whole))
        self._parts = CocoFile(_annotation_file(folder / "annotations", split, str(split)))

    def image_path(self, image_id: int) -> Path:
        """Returns where an image is: in the folder of its split, or of its synset inside."""
        name = self.objects.images[image_id].file_name
        synset = Path(name).name[:_SYNSET_LENGTH]
        places = [
            path for base in self._images_folders for path in (base / name, base / synset / name)
        ]
        return next((path for path in places if path.is_file()), places[0])

    def check_part(self, key: str, ann_id: int, image_id: int) -> None:
        """Raises InvalidRecordError unless there is such an annotation, of the same file."""
        annotation = self._parts.annotations.get(ann_id)
        if annotation is None:
            raise InvalidRecordError(f"{key}: no annotation {ann_id} in {self._parts.name}")
        image = self._parts.images.get(annotation.image_id)
        expected = self.objects.images[image_id]
        if image is None or image.file_name != expected.file_name:
            raise InvalidRecordError(
                f"{key}: part annotation {ann_id} belongs to image "
                f"{image.file_name if image else annotation.image_id}, "
                f"expected {expected.file_name}"
            )

    def part_mask(self, ann_ids: Ids) -> BoolMask:
        """Returns the union of part annotations of one image, (H, W) bool."""
        return self._parts.union(ann_ids)

    def census(self, plan: SourcePlan, problems: Problems) -> Census:
        """Reads all annotations, without masks; see `AnnotatedSource.census`.

        Parts of an image with objects of several classes of one super-category are left out:
        nothing says whose they are.
        """
        ours = {image.file_name: image.id for image in self.objects.images.values()}
        part_ids: dict[tuple[int, str], dict[int, Ids]] = defaultdict(dict)
        for annotation in self._parts.sound_annotations(problems):
            file_name = self._parts.images[annotation.image_id].file_name
            category = self._parts.categories[annotation.category_id]
            if file_name not in ours:
                problems.add(
                    f"{self._parts.name}: image {annotation.image_id}: file_name: "
                    f"{file_name!r} is not in {self.objects.name}"
                )
                continue
            by_category = part_ids[ours[file_name], _family(category)]
            by_category[category.id] = (*by_category.get(category.id, ()), annotation.id)
        whole = self.objects.sound_annotations(problems)
        owners = Counter(
            (image_id, family)
            for image_id, family, _ in {
                (a.image_id, _family(self.objects.categories[a.category_id]), a.category_id)
                for a in whole
            }
        )
        instances: dict[int, list[AnnotatedObject]] = defaultdict(list)
        for annotation in whole:
            image = self.objects.images[annotation.image_id]
            category = self.objects.categories[annotation.category_id]
            label, key = _tidy(category.name), (image.id, _family(category))
            ids = part_ids.get(key, {}) if owners[key] == 1 else {}
            share = area_share(annotation.area, image)
            parts = self._named(label, ids, plan)
            instances[image.id].append(AnnotatedObject(annotation.id, label, share, parts))
        return Census(instances, self._classes(plan))

    def _named(self, label: str, found: dict[int, Ids], plan: SourcePlan) -> dict[str, Ids]:
        """Returns ids by part name of ids by part category."""
        named: dict[str, Ids] = {}
        for category_id, ids in found.items():
            name = plan.part_name(label, _part_name(self._parts.categories[category_id]))
            if name is not None:
                named[name] = (*named.get(name, ()), *ids)
        return named

    def _classes(self, plan: SourcePlan) -> dict[str, ObjectClass]:
        classes = {}
        for whole in self.objects.categories.values():
            label, family = _tidy(whole.name), _family(whole)
            names = (
                plan.part_name(label, _part_name(part))
                for part in self._parts.categories.values()
                if _family(part) == family
            )
            parts = frozenset(name for name in names if name is not None)
            classes[label] = ObjectClass(parts, frozenset({label, family}))
        return classes


def _annotation_file(folder: Path, split: SourceSplit, which: str) -> Path:
    """Returns a file of MixedParts' release if there, otherwise of PartImageNet's own."""
    names = (f"{split}_mixed_parts.json", f"{split}.json", f"{which}.json")
    return first_file([folder / which / name for name in dict.fromkeys(names)], "PartImageNet")


def _family(category: CocoCategory) -> str:
    return _tidy(category.supercategory)


def _part_name(category: CocoCategory) -> str:
    """Returns `head` for `Quadruped Head` of the super-category `Quadruped`."""
    return _tidy(category.name).removeprefix(_family(category)).strip()


def _tidy(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
