"""`calico export`: all annotations of a project as a data set for training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.connect import label_studio_of
from backend.cli.export_report import (
    GROUPS_FILE,
    SUMMARY_FILE,
    groups_of,
    show_failures,
    show_summary,
    summary_of,
)
from backend.cli.options import command_settings
from backend.cli.progress import progress_bar, told_how_to_go_on, writing_to
from backend.errors import SettingsError
from backend.export.coco import write_coco
from backend.export.data_set import DataSet
from backend.export.document import write_file
from backend.export.gathering import Choice, Gatherer, config_labels
from backend.export.images import ImageFiles, ImageStore
from backend.export.mixedparts import write_mixedparts
from backend.export.preview import Preview
from backend.export.staging import check_target, staged
from backend.export.voc import check_label_count, write_voc
from backend.export.yolo import write_yolo
from backend.label_schema import LabelSchema, LabelValue
from backend.label_studio.client import LabelStudioClient, LabelStudioProject
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import vocabulary_in
from backend.label_studio.stored_tasks import (
    StoredTask,
    newest_prediction,
    stored_tasks,
    task_ids,
)
from backend.serving.studio import image_source
from backend.types import StoredPrediction


class Format(StrEnum):
    """Formats of a data set."""

    COCO = "coco"
    YOLO_SEG = "yolo-seg"
    VOC_PNG = "voc-png"
    MIXEDPARTS = "mixedparts"


@dataclass(frozen=True)
class _Source:
    """The project, and which of its tasks are read."""

    client: LabelStudioClient
    project: LabelStudioProject
    schema: LabelSchema
    with_unreviewed: bool

    def tasks(self, ids: tuple[int, ...]) -> Iterator[tuple[StoredTask, StoredPrediction | None]]:
        """Yields each task, and the prediction that stands for its annotation if it has none."""
        for stored in stored_tasks(self.client, self.project, self.schema, ids):
            prediction = None
            if self.with_unreviewed and not stored.annotations and stored.task.id is not None:
                prediction = newest_prediction(self.client, stored.task.id, self.schema)
            yield stored, prediction


def export(
    project: Annotated[int, typer.Option(help="Project id, the number in its address.")],
    kind: Annotated[Format, typer.Option("--format", help="Format of the data set.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new or empty folder.")],
    images: Annotated[
        ImageFiles,
        typer.Option("--images", help="link: no copy of images that lie on this machine."),
    ] = ImageFiles.COPY,
    annotations: Annotated[
        Choice,
        typer.Option("--annotations", help="Of several annotations of a task: one or all."),
    ] = Choice.NEWEST,
    unreviewed: Annotated[
        bool,
        typer.Option("--unreviewed", help="Also predictions of tasks that nobody annotated."),
    ] = False,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="coco: outlines instead of run lengths.")
    ] = False,
    val: Annotated[
        float,
        typer.Option("--val", min=0.0, max=0.9, help="yolo-seg, voc-png: share for validation."),
    ] = 0.2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count tasks and labels; write nothing.")
    ] = False,
    url: Annotated[str | None, typer.Option(help="Label Studio; default LABEL_STUDIO_URL.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Its token; default LABEL_STUDIO_API_KEY.")
    ] = None,
) -> None:
    """Export all annotations of a Label Studio project as a data set.

    Exported are annotations of people and imported ones, whether CALICO predicted the task or not.
    Of several annotations of a task, ground truth counts first, then the newest. Skipped tasks and
    regions without a label stay out and are counted. Every label of the project is in the data set,
    also without masks, numbered in the order of the labeling config.

    A picture that several tasks show is one image. groups.json says which images belong together,
    and validation images never share a task with training images.

    A stopped export continues where it was: run the same command again. The folder has its name
    only when it is complete.

    Examples:
    calico export --project 7 --format coco --to chairs
    calico export --project 7 --format yolo-seg --to chairs --dry-run

    The last line of the output is JSON, and is in export.json as well.
    """
    if polygons and kind is not Format.COCO:
        raise SettingsError(f"--polygons: goes with --format coco, not with {kind}")
    settings = command_settings(label_studio_url=url, label_studio_api_key=api_key)
    check_target(to)
    with closing(label_studio_of(settings)) as client:
        found = client.project(project)
        schema = parse_label_config(found.label_config)
        if kind is Format.VOC_PNG:
            check_label_count(config_labels(schema))
        source = _Source(client, found, schema, unreviewed)
        head: dict[str, object] = {"project": project, "format": kind, "to": str(to)}
        if dry_run:
            summary = head | _previewed(source, annotations) | {"dry_run": True}
        else:
            with (
                writing_to("--to", to),
                staged(to) as folder,
                told_how_to_go_on(),
                closing(image_source(settings, client)) as fetcher,
            ):
                store = ImageStore(folder, fetcher, images, origin=client.url)
                data = _gathered(source, store, annotations)
                counts = _written(folder, data, kind, schema, polygons=polygons, val=val)
                store.finish()
                summary = head | summary_of(data, store) | counts
                write_file(folder / GROUPS_FILE, json.dumps(groups_of(data), indent=1).encode())
                write_file(folder / SUMMARY_FILE, json.dumps(summary, indent=1).encode())
            show_failures(data)
    show_summary(summary)
    typer.echo(json.dumps(summary))


def _gathered(source: _Source, store: ImageStore, choice: Choice) -> DataSet:
    """Reads every task and brings its images into the folder.

    Raises:
        SettingsError: there is nothing to export.
    """
    gatherer = Gatherer(source.schema, store, choice)
    ids = task_ids(source.client, source.project.id)
    with progress_bar(f"Reading project {source.project.id}", len(ids)) as show:
        for done, (stored, prediction) in enumerate(source.tasks(ids), start=1):
            gatherer.add(stored, prediction)
            show(done)
    data = gatherer.data_set(source.project.title)
    if not data.images and data.failures:
        raise SettingsError(f"--project: no image could be exported; {data.failures[0].reason}")
    if not data.images:
        more = "" if source.with_unreviewed else "; --unreviewed exports predictions"
        raise SettingsError(
            f"--project: expected a project with annotations, and none of the {len(ids)} tasks of "
            f"project {source.project.id} has one{more}"
        )
    return data


def _written(
    folder: Path, data: DataSet, kind: Format, schema: LabelSchema, *, polygons: bool, val: float
) -> dict[str, object]:
    """Writes the data set; returns the counts of its format."""
    is_by_group = kind is Format.MIXEDPARTS
    total = len(data.groups if is_by_group else data.images)
    with progress_bar(f"Writing {kind}", total) as show:
        if kind is Format.COCO:
            return write_coco(folder, data, with_polygons=polygons, on_progress=show)
        if kind is Format.YOLO_SEG:
            return write_yolo(folder, data, val=val, on_progress=show)
        if kind is Format.VOC_PNG:
            return write_voc(folder, data, val=val, on_progress=show)
        known = tuple(LabelValue(label) for label in data.labels)
        vocabulary = vocabulary_in(schema, known)
        return write_mixedparts(folder, data, vocabulary=vocabulary, on_progress=show)


def _previewed(source: _Source, choice: Choice) -> dict[str, object]:
    preview = Preview(source.schema, choice)
    ids = task_ids(source.client, source.project.id)
    with progress_bar(f"Reading project {source.project.id}", len(ids)) as show:
        for done, (stored, prediction) in enumerate(source.tasks(ids), start=1):
            preview.add(stored, prediction)
            show(done)
    return {
        "tasks": preview.tasks,
        "skipped": preview.skipped,
        "unannotated": preview.unannotated,
        "images": len(preview.addresses),
        "regions": preview.regions,
        "labels": preview.label_counts(),
        "left_out": dict(preview.left_out),
        "failed_tasks": preview.failed,
    }
