"""A data set as MixedParts records, which `calico train` and `calico evaluate` read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backend.export.data_set import DataSet, Instance
from backend.export.document import Document, group_records, write_record_files
from backend.learning.supervision import merge_regions, with_one_kind, written_label
from backend.types import Region, RegionOrigin
from calico_model.data.records import Record
from calico_model.vocabulary import Vocabulary


def write_mixedparts(
    folder: Path,
    data: DataSet,
    *,
    vocabulary: Vocabulary | None,
    on_progress: Callable[[int], None],
) -> dict[str, object]:
    """Writes annotations.json and records.json.

    Regions of one name and kind in an image become one mask, as the format asks. Each annotation of
    a task makes records of its own.

    Args:
        folder: the folder with the images.
        data: what is exported.
        vocabulary: the labels of the project; None where any text may be written.
        on_progress: called with the number of finished groups.

    Returns:
        Counts for the summary.
    """
    document, records = Document(), list[Record]()
    for image in data.images:
        document.add_image(image.file_name, image.size_hw)
    for label in () if vocabulary is None else data.labels:
        document.add_category(label, "part")
    drawn: dict[tuple[int, int | None], list[Instance]] = {}
    for instance in data.instances:
        drawn.setdefault((instance.task_id, instance.annotation_id), []).append(instance)
    for done, group in enumerate(data.groups, start=1):
        shown = list(dict.fromkeys(i for i in group.image_ids if i is not None))
        for annotation_id in group.annotation_ids or (None,):
            instances = drawn.get((group.task_id, annotation_id), [])
            records += _records(document, shown, instances, vocabulary, data)
        on_progress(done)
    write_record_files(folder, document, records)
    return {"annotations": len(document.annotations), "records": len(records)}


def _records(
    document: Document,
    image_ids: Sequence[int],
    instances: Sequence[Instance],
    vocabulary: Vocabulary | None,
    data: DataSet,
) -> list[Record]:
    """Returns the records of one annotation; `image_ids` are the images of its task, each once."""
    index_of = {image_id: index for index, image_id in enumerate(image_ids)}
    regions = [
        _region(instance, label, index_of) for instance in instances for label in instance.labels
    ]
    unknown = {
        (index, label or None)
        for image_id, index in index_of.items()
        for label in data.images[image_id - 1].unknown
    }
    parts = [
        replace(part, label=written_label(part.label, vocabulary))
        for part in merge_regions(with_one_kind(regions, vocabulary), vocabulary, unknown)
    ]
    return group_records(document, parts, dict(enumerate(image_ids)))


def _region(instance: Instance, label: str, index_of: Mapping[int, int]) -> Region:
    return Region(
        id=instance.region_id,
        image_index=index_of[instance.image_id],
        size_hw=instance.rle.size,
        kind=instance.kind,
        label=label,
        origin=RegionOrigin.MANUAL,
        score=None,
        load_mask=lambda: instance.mask,
    )
