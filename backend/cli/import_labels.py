"""Existing masks of imported photographs, as annotations that are learned from or predictions."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from backend.cli.coco_labels import VERSION, CocoLabels
from backend.cli.import_plan import LabelsAs, LabelsFile
from backend.cli.photo_survey import Photograph
from backend.cli.progress import progress_bar
from backend.cli.tables import tell_list
from backend.errors import SettingsError
from backend.label_schema import LabelSchema
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.photo_tasks import (
    PhotoTask,
    create_annotation,
    photo_tasks,
    prediction_versions,
)

_TOP_SCORE = 1.0


def read_labels(
    labels: LabelsFile, photographs: Sequence[Photograph], project_id: int, schema: LabelSchema
) -> CocoLabels:
    """Reads masks, before anything is imported.

    Raises:
        SettingsError: the config lacks some of their labels; names them.
    """
    read = CocoLabels(labels.path, [one.name for one in photographs], schema)
    if read.unknown and not labels.skip_unknown:
        raise SettingsError(
            f"--labels: the labeling config of project {project_id} lacks "
            f"{', '.join(map(repr, read.unknown))}; add them under Settings > Labeling Interface, "
            "or leave them out with --skip-unknown-labels"
        )
    return read


def send_labels(
    read: CocoLabels,
    become: LabelsAs,
    photographs: Sequence[Photograph],
    client: LabelStudioClient,
    project_id: int,
) -> dict[str, object]:
    """Gives every imported task its masks, unless somebody annotated it or an earlier run did so.

    Returns:
        What happened, for the report.
    """
    by_digest = {one.facts.digest: one for one in photographs}
    tasks = []
    for task in photo_tasks(client, project_id, read.schema):
        group = [by_digest.get(digest) for digest in task.digests]
        if any(one is not None and read.has(one.name) for one in group):
            tasks.append((task, group))
    labeled = regions = kept = 0
    with progress_bar("importing labels", len(tasks), unit="groups") as tell:
        for number, (task, group) in enumerate(tasks, start=1):
            tell(number)
            if _is_labeled(client, task, become):
                kept += 1
                continue
            rendered = read.render(group)
            if not rendered.region_ids:
                continue
            if become is LabelsAs.ANNOTATIONS:
                create_annotation(client, task.id, rendered.result)
            else:
                client.create_prediction(
                    task.id, rendered.result, score=_TOP_SCORE, version=VERSION
                )
            labeled += 1
            regions += len(rendered.region_ids)
    counts = {"groups": labeled, "regions": regions, "already_labeled": kept}
    return counts | told_labels(read, become)


def told_labels(read: CocoLabels, become: LabelsAs) -> dict[str, object]:
    """Tells people what the file holds and what of it is not read.

    Returns:
        The same, for the report.
    """
    typer.echo(
        f"labels: {read.masks} masks for {read.photographs} of the photographs as {become.value}; "
        f"not read: {read.crowds} of crowds (iscrowd), "
        f"{read.without_image} whose image_id is not in the file",
        err=True,
    )
    problems = list(dict.fromkeys(read.problems))
    tell_list("masks cannot be used", problems)
    return {
        "as": become.value,
        "photographs": read.photographs,
        "masks": read.masks,
        "crowds": read.crowds,
        "without_image": read.without_image,
        "problems": len(problems),
        "unknown_labels": list(read.unknown),
    }


def _is_labeled(client: LabelStudioClient, task: PhotoTask, become: LabelsAs) -> bool:
    if become is LabelsAs.ANNOTATIONS:
        return task.annotations > 0
    return task.predictions > 0 and VERSION in prediction_versions(client, task.id)
