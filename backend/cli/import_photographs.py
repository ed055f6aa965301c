"""`calico import`: photographs of a folder become groups, and groups become tasks of a project.

The steps are in photo_import.py; how photographs become groups is in photo_groups.py.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.connect import KeyOption, UrlOption, ends_of
from backend.cli.import_plan import (
    LabelsAs,
    LabelsFile,
    Plan,
    Way,
    Wishes,
    folders_are_groups,
)
from backend.cli.labeled_data import read_group_size
from backend.cli.options import DataDirOption, command_settings
from backend.cli.photo_folder import Listing, list_photographs
from backend.cli.progress import peak_rss_mib, told_how_to_go_on
from backend.errors import SettingsError
from calico_model.types import MAX_GROUP_SIZE

if TYPE_CHECKING:
    from backend.cli.photo_import import Report, Target
    from backend.label_studio.client import LabelStudioClient

_SIMILAR_SIZES = (2, 4)


def import_photographs(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Photographs, also in subfolders.", exists=True, file_okay=False, metavar="FOLDER"
        ),
    ],
    project: Annotated[
        int | None, typer.Option(help="Project id; not needed for a dry run.")
    ] = None,
    group_by: Annotated[
        Way | None,
        typer.Option(
            metavar="WAY",
            help="folder; name (chair_01_a.jpg, chair_01_b.jpg); time (EXIF); similarity of what "
            "they show. Default: folder where every subfolder holds 2 to 8, else similarity.",
        ),
    ] = None,
    group_size: Annotated[
        str | None,
        typer.Option(
            metavar="N-M", help="Photographs per group. Default: 2-4 by similarity, else 1-8."
        ),
    ] = None,
    name_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="With --group-by name: what the names of a group share, for example '^(\\d+)_'.",
        ),
    ] = None,
    series: Annotated[
        bool,
        typer.Option(
            "--series",
            help="Every folder is an ordered series, such as the frames of a video: tasks keep the "
            "order of the names, and two that follow share an image.",
        ),
    ] = False,
    gap: Annotated[
        float,
        typer.Option(
            metavar="S", min=0, help="With --group-by time: a longer pause in seconds divides."
        ),
    ] = 120.0,
    copy: Annotated[
        bool | None,
        typer.Option(
            "--copy/--serve",
            help="Upload into Label Studio, or serve from the folder. Default: serve if Label "
            "Studio's document root holds the folder.",
        ),
    ] = None,
    keep_near_duplicates: Annotated[
        bool,
        typer.Option(
            "--keep-near-duplicates",
            help="Import pictures that are there twice, in groups apart, instead of leaving all "
            "but the largest out.",
        ),
    ] = False,
    preview: Annotated[
        Path | None,
        typer.Option(help="Write a contact sheet of the groups.", metavar="FILE", dir_okay=False),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Existing masks (COCO instances).", metavar="FILE", exists=True, dir_okay=False
        ),
    ] = None,
    labels_as: Annotated[
        LabelsAs,
        typer.Option(
            "--as",
            metavar="KIND",
            help="What masks become: annotations, which are learned from at once, or predictions.",
        ),
    ] = LabelsAs.ANNOTATIONS,
    skip_unknown_labels: Annotated[
        bool, typer.Option("--skip-unknown-labels", help="Leave out labels the config lacks.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the groups and import nothing.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Import a folder of photographs as groups.

    Photographs are compared by content: none comes into a project twice, however often the command
    runs, and a run that was stopped continues where it was. What photographs show is kept in the
    data folder, so that no later run has to look at them again.

    Examples:
    calico import photographs --project 7
    calico import photographs --dry-run --preview sheet.jpg
    calico import photographs --project 7 --labels coco.json
    calico import frames --project 7 --series

    The last line of the output is JSON.
    """
    began = time.monotonic()
    if project is None and not dry_run:
        raise SettingsError("--project: expected the id of a project, or --dry-run")
    if labels is not None and project is None:
        raise SettingsError("--labels: expected --project beside it, whose labels they are")
    settings = command_settings(
        label_studio_url=url, label_studio_api_key=api_key, data_dir=data_dir
    )
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from backend.cli.photo_cache import PhotoCache
    from backend.cli.photo_import import run_import

    listing = list_photographs(folder)
    if series:
        plan = _series_plan(group_by, group_size, name_pattern, keep_near_duplicates)
    else:
        plan = _plan(listing, group_by, group_size, name_pattern, gap)
    masks = None if labels is None else LabelsFile(labels, labels_as, skip_unknown_labels)
    wishes = Wishes(dry_run, keep_near_duplicates, preview, masks)
    with PhotoCache(settings.data_dir) as cache:
        if project is None:
            report = run_import(listing, plan, cache, None, wishes)
        else:
            ends = ends_of(settings, None)
            with closing(ends.client):
                target = _target(ends.client, project, listing.folder, copy)
                with told_how_to_go_on():
                    report = run_import(listing, plan, cache, target, wishes)
    _tell(report)
    seconds = max(time.monotonic() - began, 0.01)
    figures = {
        "seconds": round(seconds, 2),
        "photographs_per_second": round(report.photographs / seconds, 1),
        "peak_rss_mib": round(peak_rss_mib(), 1),
    }
    typer.echo(json.dumps(vars(report) | figures))


def _plan(
    listing: Listing,
    group_by: Way | None,
    group_size: str | None,
    name_pattern: str | None,
    gap: float,
) -> Plan:
    """Reads how photographs become groups.

    Raises:
        SettingsError: options that do not go together.
    """
    if group_by is None:
        way = Way.FOLDER if folders_are_groups(listing.names) else Way.SIMILARITY
        way = Way.NAME if name_pattern is not None else way
    else:
        way = group_by
    if name_pattern is not None and way is not Way.NAME:
        raise SettingsError(f"--name-pattern: expected --group-by name beside it, got {way.value}")
    try:
        pattern = None if name_pattern is None else re.compile(name_pattern)
    except re.error as error:
        raise SettingsError(f"--name-pattern: expected a regular expression ({error})") from error
    default = _SIMILAR_SIZES if way is Way.SIMILARITY else (1, MAX_GROUP_SIZE)
    sizes = default if group_size is None else read_group_size(group_size)
    try:
        pause = timedelta(seconds=gap)
    except (OverflowError, ValueError) as error:
        raise SettingsError(f"--gap: expected a number of seconds, got {gap:g}") from error
    return Plan(way, sizes, pattern, pause)


def _series_plan(
    group_by: Way | None, group_size: str | None, name_pattern: str | None, keeps_near: bool
) -> Plan:
    """Reads how folders become series.

    Raises:
        SettingsError: an option that divides groups in another way.
    """
    if group_by not in (None, Way.FOLDER) or name_pattern is not None or keeps_near:
        raise SettingsError(
            "--series: expected no --group-by, --name-pattern or --keep-near-duplicates beside it: "
            "a folder is a series, and all of its images are kept"
        )
    sizes = (1, MAX_GROUP_SIZE) if group_size is None else read_group_size(group_size)
    if sizes[1] < 2:
        raise SettingsError("--group-size: expected 2 images or more for --series, got 1")
    return Plan(Way.FOLDER, sizes, is_series=True)


def _target(client: LabelStudioClient, project_id: int, folder: Path, copy: bool | None) -> Target:
    """Looks at the project.

    Raises:
        InvalidLabelConfigError: its labeling config shows no groups of images.
        SettingsError: the folder shall be served and Label Studio does not serve it.
    """
    from backend.cli.photo_import import Target
    from backend.label_studio.label_config import parse_label_config
    from backend.label_studio.photo_tasks import document_root

    schema = parse_label_config(client.project(project_id).label_config)
    root = None if copy else document_root(client, project_id, folder)
    if copy is False and root is None:
        raise SettingsError(
            f"--serve: Label Studio does not serve {folder}; start it with "
            "LOCAL_FILES_SERVING_ENABLED=true and LOCAL_FILES_DOCUMENT_ROOT set to a folder "
            "above it, or use --copy"
        )
    return Target(client, project_id, schema, root)


def _tell(report: Report) -> None:
    """Says the result to people."""
    low, high = report.group_size
    sizes = str(low) if low == high else f"{low} to {high}"
    counts = {
        "imported before": report.already_imported,
        "repetitions": report.duplicates + report.near_duplicates,
        "files that cannot be used": report.skipped_files,
    }
    left = "".join(f"; {what}: {count}" for what, count in counts.items() if count)
    typer.echo(
        f"{report.photographs} photographs: {report.groups} new groups of {sizes} by "
        f"{report.group_by}{left}",
        err=True,
    )
    for sheet in report.preview:
        typer.echo(f"contact sheet: {sheet}", err=True)
    if report.imported_groups:
        typer.echo(f"imported {report.imported_groups} groups into {report.url}", err=True)
        typer.echo(f"Next, predictions: calico predict-all --project {report.project}", err=True)
    if report.dry_run:
        typer.echo("This was a dry run: nothing is imported.", err=True)
