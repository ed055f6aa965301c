"""Where a MixedParts set keeps what: the layout of the release.

DIR/Part_Segm/mixed_parts_{train,val,test}.json
DIR/Part_Segm/{paco_lvis,PartImageNet,ADE20KPart234}/
DIR/coco_2017/{train2017,val2017}/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from calico_model.data.mixedparts.ade import AdePart234
from calico_model.data.mixedparts.paco import PacoLvis
from calico_model.data.mixedparts.partimagenet import PartImageNet
from calico_model.data.mixedparts.source import AnnotatedSource, DatasetName, SourceSplit
from calico_model.errors import InvalidRecordError

PART_SEGM = "Part_Segm"
COCO_FOLDER = "coco_2017"
SOURCE_FOLDERS: Mapping[DatasetName, str] = {
    DatasetName.PACO_LVIS: "paco_lvis",
    DatasetName.PART_IMAGE_NET: "PartImageNet",
    DatasetName.ADE20K_PART_234: "ADE20KPart234",
}
_RECORDS_FILE = re.compile(r".+_(train|val|test)(?:_[^_]+)?\.json")


@dataclass(frozen=True)
class SourceFolders:
    """Folders of the sources at hand, and of the COCO images that PACO uses."""

    folders: Mapping[DatasetName, Path]
    coco: Path

    def open(self, name: DatasetName, split: SourceSplit) -> AnnotatedSource:
        """Opens one split of a source.

        Raises:
            InvalidRecordError: a file is missing or broken.
        """
        folder = self.folders[name]
        if not folder.is_dir():
            raise InvalidRecordError(f"{name}: expected a folder {folder}")
        if name is DatasetName.PACO_LVIS:
            return PacoLvis(folder, self.coco, split)
        if name is DatasetName.PART_IMAGE_NET:
            return PartImageNet(folder, split)
        return AdePart234(folder, split)


def records_name(split: SourceSplit) -> str:
    """Returns the name of the records' file of a split."""
    return f"mixed_parts_{split}.json"


def split_of(records: Path) -> SourceSplit:
    """Returns the split a file of records is of, by its name.

    Raises:
        InvalidRecordError: the name says no split.
    """
    name = _RECORDS_FILE.fullmatch(records.name)
    if name is None:
        raise InvalidRecordError(f"{records.name}: expected a name like mixed_parts_test.json")
    return SourceSplit(name[1])


def folders_of(records: Path) -> SourceFolders:
    """Returns where the sources of a file of records are: beside it."""
    base = records.parent
    coco = next(
        (path for path in (base.parent / COCO_FOLDER, base / COCO_FOLDER) if path.is_dir()),
        base.parent / COCO_FOLDER,
    )
    return SourceFolders({name: base / folder for name, folder in SOURCE_FOLDERS.items()}, coco)


def find_records(path: Path) -> Path | None:
    """Returns the file of records that a path means, None if it means none.

    Args:
        path: the file, or a folder with just one, itself or in `Part_Segm`.

    Raises:
        InvalidRecordError: a folder with several; names them.
    """
    if path.is_file():
        return path
    names = [records_name(split) for split in SourceSplit]
    files = [
        folder / name
        for folder in (path, path / PART_SEGM)
        for name in names
        if (folder / name).is_file()
    ]
    if len(files) > 1:
        listed = ", ".join(str(file) for file in files)
        raise InvalidRecordError(f"{path}: expected one file of records, name one of {listed}")
    return files[0] if files else None
