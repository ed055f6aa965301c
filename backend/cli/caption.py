"""`calico caption`: captions of groups whose phrases are linked to masks, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.cli.connect import label_studio_of
from backend.cli.options import DeviceOption, WeightsOption, command_settings, load_weights
from backend.cli.predict import read_group
from backend.cli.progress import progress_bar
from backend.errors import InvalidRleError, MediaError, SettingsError
from backend.export.gathering import Choice, chosen, labels_of
from backend.label_schema import LabelSchema
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.stored_tasks import StoredTask, stored_tasks, task_ids
from backend.serving.studio import image_source
from backend.settings import Settings
from backend.types import Annotation, GroupSource, Region
from calico_model.data.grounded_caption import as_grounded
from calico_model.inference.caption import Level, compose_caption, link_caption
from calico_model.types import ImageGroup, PartMask, RegionKind


def caption(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="1 to 8 pictures of comparable objects.", metavar="A.png B.png ..."),
    ] = None,
    project: Annotated[
        int | None, typer.Option(help="The annotated tasks of this project instead.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="JSON file to write.", metavar="FILE")] = Path(
        "captions.json"
    ),
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    url: Annotated[str | None, typer.Option(help="Label Studio; default LABEL_STUDIO_URL.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Its token; default LABEL_STUDIO_API_KEY.")
    ] = None,
) -> None:
    """Describe a group of images in a caption whose phrases are linked to masks.

    Of pictures, the caption is about what the model finds. Of a project, it is about what people
    drew: the text of the task's caption area if there is one, linked to regions by their names,
    else a text written from the regions.

    Examples:
    calico caption A.png B.png --out caption.json
    calico caption --project 7 --out captions.json

    FILE holds a list with one entry per group: caption, phrases with their places and masks, the
    hierarchy of objects, parts and attributes, and the same as a conversation. The last line of
    the output is JSON.
    """
    if (project is None) == (not images):
        raise SettingsError("expected either pictures or --project")
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise SettingsError(f"--out: expected a file in an existing folder, got {out}")
    if project is None:
        entries = [_of_pictures(images or [], weights, device)]
    else:
        settings = command_settings(label_studio_url=url, label_studio_api_key=api_key)
        entries = _of_project(settings, project)
        if not entries:
            raise SettingsError(f"--project: no task of project {project} has annotated regions")
    out.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for entry in entries[:3]:
        typer.echo(entry["caption"] or "Nothing with a name was found.")
    phrases = [detail for entry in entries for detail in entry["details"]]
    counts = {level: sum(one["level"] == level for one in phrases) for level in Level}
    summary = {"project": project, "groups": len(entries), "phrases": counts, "out": str(out)}
    typer.echo(json.dumps(summary))


def _of_pictures(images: list[Path], weights: Path | None, device: str) -> dict[str, Any]:
    group = read_group(images)
    with progress_bar("Looking at the images", None):
        prediction = load_weights(weights, device).predict(group)
    written = compose_caption(prediction.parts, group.images)
    names = [str(path) for path in images]
    return as_grounded(written, prediction.parts, names, group.sizes_hw) | {
        "version": prediction.version
    }


def _of_project(settings: Settings, project: int) -> list[dict[str, Any]]:
    with closing(label_studio_of(settings)) as client:
        held = client.project(project)
        schema = parse_label_config(held.label_config)
        ids = task_ids(client, project)
        with (
            closing(image_source(settings, client)) as fetcher,
            progress_bar("Captions", len(ids)) as show,
        ):
            entries: list[dict[str, Any]] = []
            for done, stored in enumerate(stored_tasks(client, held, schema, ids), start=1):
                entries += _of_task(stored, schema, fetcher)
                show(done)
            return entries


def _of_task(
    stored: StoredTask, schema: LabelSchema, images: GroupSource
) -> Iterator[dict[str, Any]]:
    """Yields the caption of a task, if somebody annotated it and its images can be read."""
    for annotation in chosen(stored.annotations, Choice.NEWEST):
        if stored.task.problem is not None or not annotation.regions:
            return
        try:
            group = images.fetch_group(stored.task)
        except MediaError as error:
            typer.echo(f"calico caption: task {stored.task.id} is left out: {error}", err=True)
            return
        parts = _parts(annotation, schema, group)
        text = annotation.caption
        written = link_caption(text, parts) if text else compose_caption(parts, group.images)
        yield as_grounded(written, parts, stored.task.image_urls, group.sizes_hw) | {
            "task": stored.task.id,
            "annotation": annotation.id,
            "is_edited": bool(text),
        }


def _parts(annotation: Annotation, schema: LabelSchema, group: ImageGroup) -> tuple[PartMask, ...]:
    parts: list[PartMask] = []
    for region in annotation.regions:
        names = labels_of(region, schema)
        if names and region.image_index < len(group):
            parts += _part(region, names[0], group)
    return tuple(parts)


def _part(region: Region, label: str, group: ImageGroup) -> Iterator[PartMask]:
    try:
        mask = region.load_mask()
    except InvalidRleError:
        return
    if mask.any() and mask.shape == group.sizes_hw[region.image_index]:
        kind = region.kind or RegionKind.COMMON_PART
        yield PartMask(region.image_index, kind, label, mask)
