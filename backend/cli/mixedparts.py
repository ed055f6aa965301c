"""`calico mixedparts`: makes co-segmentation records from part data sets, and checks them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from backend.cli.labeled_data import read_group_size
from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.data.mixedparts.building import (
    REPORT_FILE,
    BuildOptions,
    BuildReport,
    Cell,
    build,
)
from calico_model.data.mixedparts.classes import read_plan
from calico_model.data.mixedparts.folders import SourceFolders, find_records
from calico_model.data.mixedparts.reading import MixedPartsGroups
from calico_model.data.mixedparts.source import DatasetName, SourceSplit
from calico_model.errors import InvalidConfigError, InvalidRecordError
from calico_model.types import RegionKind

_SHOWN_PROBLEMS = 20
_DEFAULTS = BuildOptions({SourceSplit.TRAIN: 24_000})

_Skip = Annotated[
    bool, typer.Option("--skip-broken", help="List broken items and continue without them.")
]


def build_mixedparts(
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write; it must be new or empty.", metavar="DIR")
    ],
    paco: Annotated[
        Path | None, typer.Option("--paco", help="Has annotations/paco_lvis_v1_*.json.")
    ] = None,
    coco: Annotated[
        Path | None,
        typer.Option("--coco", help="Has train2017/ and val2017/; for PACO. Default: beside it."),
    ] = None,
    partimagenet: Annotated[
        Path | None,
        typer.Option("--partimagenet", help="Has annotations/{train,train_whole,...}/, images/."),
    ] = None,
    ade: Annotated[
        Path | None,
        typer.Option("--ade", help="ADE20K-Part-234: ade20k_instance_*.json, images/, ..."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="Comparable classes, TOML or JSON; ours if not given."),
    ] = None,
    train: Annotated[int, typer.Option("--train", min=0, help="Questions for training.")] = 24_000,
    val: Annotated[int, typer.Option("--val", min=0, help="Questions for validation.")] = 1000,
    test: Annotated[int, typer.Option("--test", min=0, help="Questions for testing.")] = 1000,
    group_size: Annotated[
        str, typer.Option("--group-size", help="Images per record, as 2 or 2-4.", metavar="N[-M]")
    ] = "2",
    min_object_share: Annotated[
        float, typer.Option(help="Smallest object, as a share of its image.")
    ] = _DEFAULTS.min_object_share,
    min_part_share: Annotated[
        float, typer.Option(help="Smallest part, as a share of its image.")
    ] = _DEFAULTS.min_part_share,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The same seed makes the same records.")
    ] = 0,
    skip_broken: _Skip = False,
    allow_short: Annotated[
        bool, typer.Option("--allow-short", help="Accept fewer questions than asked for.")
    ] = False,
) -> None:
    """Make records of common objects, common parts and unique parts from part data sets.

    Give at least one source, in the layout that its authors publish. Images are grouped within a
    source and a split. Questions are balanced over sources, subtasks and classes. The result has
    the layout of the MixedParts release and links to the sources.

    Examples:
    calico mixedparts build --paco paco --coco coco_2017 --partimagenet PartImageNet
    --ade ADE20KPart234 --out mixedparts
    calico evaluate --data mixedparts/Part_Segm/mixed_parts_test.json

    ADE20K-Part-234 has no test split: its test records come from val, as in the release. Groups of
    more than two images are our extension: `--group-size 2-4`.

    If the sources have fewer questions than you ask for, the records are written all the same, and
    the exit status is 1 unless you give --allow-short.

    The last line of the output is JSON: records, images and questions, by split.
    """
    sizes = read_group_size(group_size)
    options = BuildOptions(
        questions={SourceSplit.TRAIN: train, SourceSplit.VAL: val, SourceSplit.TEST: test},
        group_sizes=sizes,
        min_object_share=min_object_share,
        min_part_share=min_part_share,
        seed=seed,
        skip_broken=skip_broken,
    )
    folders = _source_folders(paco, coco, partimagenet, ade)
    plan = read_plan(classes)
    started = time.perf_counter()
    with progress_bar("Making records", train + val + test) as advance_to:
        report = build(folders, out, plan, options, advance_to)
    seconds = time.perf_counter() - started
    print_fitted(_table(report))
    _print_problems(report.skipped[:_SHOWN_PROBLEMS], len(report.skipped))
    if len(report.skipped) > _SHOWN_PROBLEMS:
        typer.echo(f"{REPORT_FILE} lists them all.")
    typer.echo(f"{report.records.total()} records are in {out / 'Part_Segm'}.")
    outcome = {
        "records": dict(report.records),
        "images": dict(report.images),
        "questions": dict(_by_split(report.questions)),
        "skipped": len(report.skipped),
        "seed": seed,
        "seconds": round(seconds, 2),
    }
    short = _short(report, options)
    for message in short:
        typer.secho(f"calico mixedparts: {message}", fg=typer.colors.RED, err=True)
    typer.echo(json.dumps(outcome))
    if short and not allow_short:
        raise typer.Exit(1)


def check_mixedparts(
    data: Annotated[
        Path, typer.Argument(help="mixed_parts_{train,val,test}.json, or a folder with one.")
    ],
    skip_broken: _Skip = False,
) -> None:
    """Check records, references, images and masks of a MixedParts set, released or built.

    It follows every reference and reads every group once, so it takes as long as one pass of
    training data. It stops at the first broken item and names its file, record and key. With
    --skip-broken it lists all broken items. The exit status is 2 if anything is broken, and 1 if
    that was skipped.

    Example: calico mixedparts check mixedparts/Part_Segm/mixed_parts_test.json

    The last line of the output is JSON: groups, questions and skipped.
    """
    records = find_records(data)
    if records is None:
        raise InvalidRecordError(f"{data}: expected a file mixed_parts_{{train,val,test}}.json")
    with progress_bar("Checking records", None) as advance_to:
        groups = MixedPartsGroups(records, skip_broken=skip_broken, on_progress=advance_to)
    counts: Counter[str] = Counter()
    with progress_bar("Reading groups", len(groups)) as advance_to:
        for index, labeled in enumerate(groups):
            counts.update({str(part.kind) for part in labeled.parts})
            advance_to(index + 1)
    _print_problems(groups.skipped, len(groups.skipped))
    typer.echo(f"{len(groups)} groups of {records} can be read.")
    outcome = {"groups": len(groups), "questions": dict(counts), "skipped": len(groups.skipped)}
    typer.echo(json.dumps(outcome))
    if groups.skipped:
        raise typer.Exit(1)


def _source_folders(
    paco: Path | None, coco: Path | None, partimagenet: Path | None, ade: Path | None
) -> SourceFolders:
    given = {
        DatasetName.PACO_LVIS: paco,
        DatasetName.PART_IMAGE_NET: partimagenet,
        DatasetName.ADE20K_PART_234: ade,
    }
    folders = {name: folder for name, folder in given.items() if folder is not None}
    if not folders:
        raise InvalidConfigError("expected at least one of --paco, --partimagenet and --ade")
    if paco is None:
        return SourceFolders(folders, coco or Path())
    places = (coco,) if coco else (paco / "images", paco.parent / "coco_2017", paco)
    folder = next((place for place in places if (place / "train2017").is_dir()), None)
    folder = folder or next((place for place in places if (place / "val2017").is_dir()), None)
    if folder is None:
        listed = ", ".join(str(place) for place in places)
        raise InvalidConfigError(f"--coco: expected train2017 or val2017 in one of {listed}")
    return SourceFolders(folders, folder)


def _short(report: BuildReport, options: BuildOptions) -> list[str]:
    """Says for each split how many of the questions asked for there are, if not all."""
    made: Counter[str] = Counter()
    for cell, count in report.questions.items():
        made[cell.split] += count
    return [
        f"{split}: {made[split]} of {wanted} questions; the sources have no more"
        for split, wanted in options.questions.items()
        if made[split] < wanted
    ]


def _table(report: BuildReport) -> Table:
    """Returns questions by split and source (rows) and subtask (columns)."""
    table = Table(title="Questions")
    for heading in ("split", "source"):
        table.add_column(heading)
    for kind in RegionKind:
        table.add_column(kind.replace("_", " "), justify="right")
    rows = dict.fromkeys((cell.split, cell.source) for cell in report.questions)
    for split, source in rows:
        counts = (str(report.questions[Cell(split, source, kind)]) for kind in RegionKind)
        table.add_row(split, source, *counts)
    return table


def _print_problems(problems: Sequence[str], count: int) -> None:
    if count:
        typer.echo(f"{count} broken items were skipped:")
    for message in problems:
        typer.echo(f"  {message}")


def _by_split(questions: Counter[Cell]) -> dict[str, dict[str, int]]:
    by_split: dict[str, dict[str, int]] = {}
    for cell, count in questions.items():
        by_subtask = by_split.setdefault(cell.split, {})
        by_subtask[cell.subtask] = by_subtask.get(cell.subtask, 0) + count
    return by_split
