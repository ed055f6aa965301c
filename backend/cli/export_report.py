"""What `calico export` says about a data set: in JSON, and in words for the person who asked."""

from __future__ import annotations

from collections.abc import Mapping

import typer
from rich.table import Table

from backend.cli.tables import print_fitted
from backend.export.data_set import DataSet, LeftOut
from backend.export.images import ImageStore

GROUPS_FILE = "groups.json"
SUMMARY_FILE = "export.json"
_MOST_SHOWN = 10
_REASONS = {
    LeftOut.WITHOUT_LABEL: "without a label",
    LeftOut.UNREADABLE: "that are no masks",
    LeftOut.WRONG_SIZE: "of another size than their image",
    LeftOut.WITHOUT_IMAGE: "on images that could not be fetched",
}


def summary_of(data: DataSet, store: ImageStore) -> dict[str, object]:
    """Returns the counts of a data set, whatever its format."""
    return {
        "tasks": len(data.groups),
        "skipped": data.skipped,
        "unannotated": data.unannotated,
        "images": len(data.images),
        "reused_images": store.reused,
        "linked_images": store.linked,
        "rewritten_images": store.rewritten,
        "regions": sum(not instance.is_repeat for instance in data.instances),
        "unreviewed": sum(not instance.is_reviewed for instance in data.instances),
        "repeated": sum(instance.is_repeat for instance in data.instances),
        "labels": data.label_counts(),
        "left_out": dict(data.left_out),
        "failed": [
            {"task": failure.task_id, "image": failure.image, "reason": failure.reason}
            for failure in data.failures
        ],
    }


def groups_of(data: DataSet) -> list[dict[str, object]]:
    """Returns the content of groups.json: the images of each task, null for one that is missing."""
    names = {image.id: image.file_name for image in data.images}
    return [
        {
            "task": group.task_id,
            "annotations": list(group.annotation_ids),
            "images": [None if number is None else names[number] for number in group.image_ids],
        }
        for group in data.groups
    ]


def show_failures(data: DataSet) -> None:
    """Names what could not be fetched or read."""
    for failure in data.failures[:_MOST_SHOWN]:
        image = "" if failure.image is None else f" ({failure.image})"
        typer.secho(f"left out: {failure.reason}{image}", fg="yellow", err=True)
    if len(data.failures) > _MOST_SHOWN:
        more = len(data.failures) - _MOST_SHOWN
        typer.secho(f"and {more} more; all are in {SUMMARY_FILE}", fg="yellow", err=True)


def show_summary(summary: Mapping[str, object]) -> None:
    """Prints a table of the labels, and what was exported and left out."""
    labels, left_out = summary["labels"], summary["left_out"]
    assert isinstance(labels, dict)
    assert isinstance(left_out, dict)
    table = Table(box=None)
    table.add_column("label")
    table.add_column("regions", justify="right")
    for label, count in labels.items():
        table.add_row(str(label), str(count))
    print_fitted(table)
    counts = ", ".join(_counted(summary[f"{what}s"], what) for what in ("task", "image", "region"))
    is_dry = "dry_run" in summary
    typer.echo(f"{'Would export' if is_dry else 'Exported'} {counts} to {summary['to']}")
    if not summary["regions"]:
        typer.secho("No task has a region with a label, so no mask is exported.", fg="yellow")
    missing = [
        f"{_counted(count, 'region')} {_REASONS[LeftOut(reason)]}"
        for reason, count in left_out.items()
    ]
    for name, words in (("skipped", "that were skipped"), ("unannotated", "without annotation")):
        if summary[name]:
            missing.append(f"{_counted(summary[name], 'task')} {words}")
    if missing:
        typer.echo(f"Left out: {'; '.join(missing)}")
    if summary.get("coarse"):
        typer.echo(
            f"Outlines that overlap their masks by less than 0.97: {summary['coarse']} "
            f"({summary['outline_iou_min']} at worst). A line that joins far pieces of a small "
            "mask is the usual reason; --format coco keeps every pixel."
        )


def _counted(count: object, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
