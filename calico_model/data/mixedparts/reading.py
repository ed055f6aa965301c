"""Reads a file of MixedParts records, released or built here, as groups with truth.

Records and annotations stay in memory-mapped files. References are checked when the file is
opened, one record at a time; pixels are decoded when a group is asked for.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec

from calico_model.data.groups import GroupSet
from calico_model.data.mixedparts.coco import Problems, decode_file
from calico_model.data.mixedparts.folders import folders_of, split_of
from calico_model.data.mixedparts.source import AnnotatedSource, DatasetName
from calico_model.data.records import CommonObject, ComparedPair, Ids, Record
from calico_model.data.truth import check_record, object_truth, part_truth, tidy
from calico_model.errors import InvalidRecordError
from calico_model.types import ComparedObject, LabeledGroup, PartMask, RegionKind, RgbImage

_LEAST_IMAGES = 2
_NONE = -1
_NAMES = tuple(DatasetName)


class MixedPartsGroups(GroupSet):
    """The groups of a file of records, in order of first mention.

    An object record and a part record of the same images make one group; a part record with
    several comparisons makes one group for each. A group knows the truth of the subtasks its
    records speak of, and of no other.

    Image ids are unique over all sources: different from those in the records.

    Args:
        records: e.g. `Part_Segm/mixed_parts_test.json`, beside the folders of its sources.
        skip_broken: leave out broken records instead of raising; every group is then read once,
            which takes as long as reading the set does.
        on_progress: called with the number of records looked at.

    Raises:
        InvalidRecordError: a file is missing or truncated, a reference dangles, lists that belong
            together differ in length; names file, index of the record and key. Also raised on
            access, for broken images and masks.
    """

    def __init__(
        self,
        records: Path,
        *,
        skip_broken: bool = False,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> None:
        self._split = split_of(records)
        self._folders = folders_of(records)
        self._name = records.name
        self._raw = decode_file(records, list[msgspec.Raw])
        self._sources: dict[str, AnnotatedSource] = {}
        self._object_record = array("q")
        self._part_record = array("q")
        self._pair = array("q")
        problems = Problems(skip=skip_broken)
        self._index(problems, on_progress)
        if skip_broken:
            self._drop_unreadable(problems)
        self.skipped = problems.messages

    def __len__(self) -> int:
        return len(self._pair)

    def image_ids(self, index: int) -> Ids:
        """Returns the image ids of one group, in its order."""
        record = self._any_record(index)
        number = _NAMES.index(DatasetName(record.dataset_name))
        return tuple(image_id * len(_NAMES) + number for image_id in record.img_ids)

    def image_names(self, index: int) -> tuple[str, ...]:
        """Returns source, folder and file of each image of one group, without suffix."""
        name = self.dataset_name(index)
        paths = [self.image_path(image_id) for image_id in self.image_ids(index)]
        return tuple(f"{name}/{path.parent.name}/{path.stem}" for path in paths)

    def dataset_name(self, index: int) -> DatasetName:
        """Returns the source of one group."""
        return DatasetName(self._any_record(index).dataset_name)

    def common_objects(self, index: int) -> tuple[CommonObject, ...]:
        """Returns what the records call common objects of one group; empty if they are silent."""
        number = self._object_record[index]
        return () if number == _NONE else self._record(number).common

    def comparison(self, index: int) -> ComparedPair | None:
        """Returns the compared objects of one group, if its records compare any."""
        number = self._part_record[index]
        return None if number == _NONE else self._record(number).pairs[self._pair[index]]

    def known(self, index: int) -> frozenset[RegionKind]:
        """Returns the subtasks the records of one group speak of."""
        known = set()
        if self._object_record[index] != _NONE:
            known.add(RegionKind.COMMON_OBJECT)
        if self._part_record[index] != _NONE:
            known |= {RegionKind.COMMON_PART, RegionKind.UNIQUE_PART}
        return frozenset(known)

    def image_path(self, image_id: int) -> Path:
        """Returns the file of one image, by an id from `image_ids`."""
        own_id, number = divmod(image_id, len(_NAMES))
        return self._source(_NAMES[number]).image_path(own_id)

    def read_image(self, image_id: int) -> RgbImage:
        """Decodes one image, by an id from `image_ids`: (H, W, 3) uint8 RGB.

        Raises:
            InvalidRecordError: not readable, or of another size than the annotations say.
        """
        own_id, number = divmod(image_id, len(_NAMES))
        return self._source(_NAMES[number]).image(own_id)

    def truth(self, index: int) -> tuple[tuple[PartMask, ...], tuple[ComparedObject, ...]]:
        """Returns parts and compared objects of one group, without decoding its images.

        Raises:
            InvalidRecordError: a broken or empty mask; names file and annotation.
        """
        record = self._any_record(index)
        source = self._source(record.dataset_name)
        parts = object_truth(self.common_objects(index), source)
        comparison = self.comparison(index)
        if comparison is None:
            return parts, ()
        compared, mains = part_truth(record.img_ids, comparison, source)
        return parts + compared, mains

    def _load(self, index: int) -> LabeledGroup:
        try:
            return super()._load(index)
        except InvalidRecordError as error:
            raise InvalidRecordError(f"{self._key(index)}: {error}") from error

    def _index(self, problems: Problems, on_progress: Callable[[int], None]) -> None:
        """Checks every record, and notes which make a group."""
        groups: dict[tuple[str, Ids], int] = {}
        for number in range(len(self._raw)):
            try:
                record = self._record(number)
                key = f"{self._name}: [{number}]"
                source = self._source(record.dataset_name, f"{key}.dataset_name")
                check_record(key, record, source, _LEAST_IMAGES)
                self._add(number, record, groups)
            except InvalidRecordError as error:
                problems.add(str(error), error)
            on_progress(number + 1)

    def _add(self, number: int, record: Record, groups: dict[tuple[str, Ids], int]) -> None:
        images = (record.dataset_name, record.img_ids)
        index = groups.get(images)
        if record.is_object:
            if index is None:
                groups[images] = self._append(number, _NONE, _NONE)
                return
            if self._object_record[index] != _NONE:
                raise InvalidRecordError(
                    f"{self._name}: [{number}].img_ids: record {self._object_record[index]} "
                    f"names the common objects of {list(record.img_ids)} already"
                )
            self._object_record[index] = number
            return
        for pair in range(len(record.pairs)):
            if index is None:
                index = groups[images] = self._append(_NONE, number, pair)
            elif self._part_record[index] == _NONE:
                self._part_record[index], self._pair[index] = number, pair
            else:
                self._append(_NONE, number, pair)

    def _append(self, object_record: int, part_record: int, pair: int) -> int:
        self._object_record.append(object_record)
        self._part_record.append(part_record)
        self._pair.append(pair)
        return len(self._pair) - 1

    def _drop_unreadable(self, problems: Problems) -> None:
        columns = (self._object_record, self._part_record, self._pair)
        kept = []
        for index in range(len(self)):
            try:
                self._load(index)
                kept.append(index)
            except InvalidRecordError as error:
                problems.add(str(error), error)
        self._object_record, self._part_record, self._pair = (
            array("q", [column[index] for index in kept]) for column in columns
        )

    def _any_record(self, index: int) -> Record:
        """Returns a record of a group: all agree in source and images."""
        number = self._object_record[index]
        return self._record(self._part_record[index] if number == _NONE else number)

    def _record(self, number: int) -> Record:
        try:
            return tidy(msgspec.json.decode(self._raw[number], type=Record))
        except msgspec.DecodeError as error:
            raise InvalidRecordError(f"{self._name}: [{number}]: {error}") from error

    def _key(self, index: int) -> str:
        numbers = (self._object_record[index], self._part_record[index])
        named = " and ".join(f"[{number}]" for number in numbers if number != _NONE)
        return f"{self._name}: {named}"

    def _source(self, name: str, key: str = "dataset_name") -> AnnotatedSource:
        """Opens a source when the first record names it."""
        if name not in self._sources:
            if name not in _NAMES:
                known = ", ".join(_NAMES)
                raise InvalidRecordError(f"{key}: expected one of {known}, got {name!r}")
            self._sources[name] = self._folders.open(DatasetName(name), self._split)
        return self._sources[name]
