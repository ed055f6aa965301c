"""Makes MixedParts records from the sources: comparable classes, balanced draws, measured truth.

A record never mixes sources, a split never mixes splits of a source. The same arguments and files
give the same bytes. Groups of more than two images are an addition to the paper.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from calico_model.data.mixedparts.classes import ClassPlan, SourcePlan
from calico_model.data.mixedparts.coco import Problems
from calico_model.data.mixedparts.folders import (
    COCO_FOLDER,
    PART_SEGM,
    SOURCE_FOLDERS,
    SourceFolders,
    records_name,
)
from calico_model.data.mixedparts.making import RecordMaker, subtasks_of
from calico_model.data.mixedparts.sheet import Sheets
from calico_model.data.mixedparts.source import DatasetName, SourceSplit
from calico_model.data.records import Record
from calico_model.errors import InvalidConfigError
from calico_model.types import MAX_GROUP_SIZE, RegionKind

REPORT_FILE = "build.json"


@dataclass(frozen=True)
class BuildOptions:
    """How records are made.

    Attributes:
        questions: how many to ask per split, balanced over sources and subtasks; 0 for none. A
            part record may ask about common and unique parts at once.
        group_sizes: smallest and largest number of images per record, within 2 to 8.
        min_object_share: area of an instance over that of its image from which it counts.
        min_part_share: the same for a part.
        seed: same seed, same records.
        skip_broken: pass over broken annotations and images instead of stopping.
    """

    questions: Mapping[SourceSplit, int]
    group_sizes: tuple[int, int] = (2, 2)
    min_object_share: float = 0.02
    min_part_share: float = 0.002
    seed: int = 0
    skip_broken: bool = False

    def __post_init__(self) -> None:
        low, high = self.group_sizes
        if not 2 <= low <= high <= MAX_GROUP_SIZE:
            raise InvalidConfigError(
                f"group_sizes: expected rising numbers in 2 to {MAX_GROUP_SIZE}, got {low}, {high}"
            )
        for name in ("min_object_share", "min_part_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidConfigError(
                    f"{name}: expected a share in [0, 1), got {getattr(self, name)}"
                )
        if self.seed < 0 or not any(self.questions.values()):
            raise InvalidConfigError("seed, questions: expected 0 or more, and any questions")


class Cell(NamedTuple):
    """What questions are counted by."""

    split: SourceSplit
    source: DatasetName
    subtask: RegionKind


@dataclass
class BuildReport:
    """What was built.

    Attributes:
        questions: number by split, source and subtask.
        records: number per split.
        images: number of different images per split.
        skipped: what was broken, in words.
    """

    questions: Counter[Cell] = field(default_factory=Counter)
    records: Counter[SourceSplit] = field(default_factory=Counter)
    images: Counter[SourceSplit] = field(default_factory=Counter)
    skipped: tuple[str, ...] = ()


def build(
    folders: SourceFolders,
    out: Path,
    plan: ClassPlan,
    options: BuildOptions,
    on_progress: Callable[[int], None] = lambda _questions: None,
) -> BuildReport:
    """Writes records of all sources at hand, in the layout of the release.

    The sources are linked to, not copied. Everything is written beside `out` and renamed.

    Args:
        folders: the sources; at least one.
        out: must be missing or empty.
        plan: which classes are comparable and what parts are called.
        options: how many records, and which.
        on_progress: called with the number of questions so far.

    Raises:
        InvalidConfigError: a folder that is not empty, or no source.
        InvalidRecordError: a source is broken; names file and key.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidConfigError(f"--out: expected a new or empty folder, got {out}")
    if not folders.folders:
        raise InvalidConfigError("expected at least one source")
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        report = _write_set(folders, staged, plan, options, on_progress)
        staged.chmod(0o755)
        staged.replace(out)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return report


def _write_set(
    folders: SourceFolders,
    staged: Path,
    plan: ClassPlan,
    options: BuildOptions,
    on_progress: Callable[[int], None],
) -> BuildReport:
    base = staged / PART_SEGM
    base.mkdir()
    for name, folder in folders.folders.items():
        (base / SOURCE_FOLDERS[name]).symlink_to(folder.resolve(), target_is_directory=True)
    if DatasetName.PACO_LVIS in folders.folders:
        (staged / COCO_FOLDER).symlink_to(folders.coco.resolve(), target_is_directory=True)
    problems = Problems(skip=options.skip_broken)
    report = BuildReport()
    for split in SourceSplit:
        if options.questions.get(split, 0) > 0:
            records = _split_records(folders, split, plan, options, problems)
            counted = _counted(records, split, report, on_progress)
            _write_records(base / records_name(split), counted)
    report.skipped = problems.messages
    (base / REPORT_FILE).write_bytes(_report_document(report, options))
    return report


def _split_records(
    folders: SourceFolders,
    split: SourceSplit,
    plan: ClassPlan,
    options: BuildOptions,
    problems: Problems,
) -> Iterator[Record]:
    """Yields the records of a split, source by source, objects before parts."""
    names = [name for name in DatasetName if name in folders.folders]
    cells = len(names) * len(RegionKind)
    total = options.questions[split]
    quotas = [total // cells + (k < total % cells) for k in range(cells)]
    for number, name in enumerate(names):
        source = folders.open(name, split)
        source_plan: SourcePlan = getattr(plan, name)
        census = source.census(source_plan, problems)
        sheets = Sheets(
            source,
            census,
            min_object_share=options.min_object_share,
            min_part_share=options.min_part_share,
            problems=problems,
        )
        rng = np.random.default_rng([options.seed, list(SourceSplit).index(split), number])
        maker = RecordMaker(source, census, sheets, source_plan, options.group_sizes, rng)
        quota_of = dict(zip(RegionKind, quotas[number :: len(names)], strict=True))
        yield from maker.object_records(quota_of[RegionKind.COMMON_OBJECT])
        yield from maker.part_records(quota_of)


def _counted(
    records: Iterable[Record],
    split: SourceSplit,
    report: BuildReport,
    on_progress: Callable[[int], None],
) -> Iterator[Record]:
    """Passes records on, and counts them."""
    images: set[tuple[str, int]] = set()
    for record in records:
        name = DatasetName(record.dataset_name)
        report.questions.update(Cell(split, name, kind) for kind in subtasks_of(record))
        report.records[split] += 1
        images.update((record.dataset_name, image_id) for image_id in record.img_ids)
        report.images[split] = len(images)
        on_progress(report.questions.total())
        yield record


def _write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes a JSON list as its items come, one a line."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        start = b"[\n"
        for record in records:
            file.write(start + encoder.encode(record))
            start = b",\n"
        file.write(b"[]\n" if start == b"[\n" else b"\n]\n")
        file.flush()
        os.fsync(file.fileno())


def _report_document(report: BuildReport, options: BuildOptions) -> bytes:
    """Returns how the set was made and what is in it, as JSON."""
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "options": options,
                "questions": {"/".join(cell): n for cell, n in sorted(report.questions.items())},
                "records": report.records,
                "images": report.images,
                "skipped": report.skipped,
            }
        )
    )
