"""The steps of `calico import`: look, leave out, arrange, send.

The command and its options are in import_photographs.py.

What a project has is read from its tasks, so a second run, or one after a stop, adds only what is
missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import typer

from backend.cli.coco_labels import CocoLabels
from backend.cli.contact_sheet import write_sheets
from backend.cli.import_labels import read_labels, send_labels, told_labels
from backend.cli.import_plan import LabelsAs, Plan, Wishes
from backend.cli.photo_cache import PhotoCache
from backend.cli.photo_folder import Listing, natural_order
from backend.cli.photo_groups import Group, arrange, arrange_series, set_duplicates_aside
from backend.cli.photo_survey import Photograph, Survey, survey
from backend.cli.progress import progress_bar, writing_to
from backend.cli.tables import tell_list
from backend.errors import SettingsError
from backend.label_schema import LabelSchema
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.photo_tasks import (
    PhotoTask,
    most_images,
    photo_tasks,
    serve_folder,
    served_url,
    task_of,
    upload,
)
from calico_model.similarity.duplicates import near_duplicates

_BATCH = 40  # groups per request
_MOST_CHARACTERS = 20_000  # of a text beside a photograph
_SHEETS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_UPLOAD_FILES, _UPLOAD_BYTES = 32, 48 * 1024 * 1024


@dataclass(frozen=True)
class Target:
    """The project, and how Label Studio gets at the files.

    Attributes:
        client: of Label Studio.
        project_id: the project.
        schema: its labeling config.
        root: Label Studio's document root if it serves the folder itself; None to upload.
    """

    client: LabelStudioClient
    project_id: int
    schema: LabelSchema
    root: Path | None


@dataclass
class Report:
    """What happened, as the line of JSON has it; most counts are of photographs."""

    project: int | None = None
    dry_run: bool = False
    group_by: str = ""
    group_size: list[int] = field(default_factory=list)
    photographs: int = 0
    already_imported: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    skipped_files: int = 0
    groups: int = 0
    imported_groups: int = 0
    imported_photographs: int = 0
    files: str | None = None
    labels: dict[str, object] | None = None
    preview: list[str] = field(default_factory=list)
    read: int = 0
    encoded: int = 0
    url: str | None = None


def run_import(
    listing: Listing, plan: Plan, cache: PhotoCache, target: Target | None, wishes: Wishes
) -> Report:
    """Imports the photographs of a folder.

    Args:
        listing: the folder.
        plan: how photographs become groups.
        cache: of what is known of photographs.
        target: the project; None for a dry run without one.
        wishes: what else was asked for.

    Raises:
        SettingsError: something that was asked for cannot be done; nothing was imported.
        LabelStudioError: Label Studio refused something; what was imported before stays.
    """
    if wishes.preview is not None and wishes.preview.suffix.lower() not in _SHEETS:
        raise SettingsError(
            f"--preview: expected a .jpg, .png or .webp file, got {wishes.preview.name}"
        )
    known: tuple[PhotoTask, ...] = ()
    if target is not None:
        plan = _fitted(plan, target)
        known = photo_tasks(target.client, target.project_id, target.schema)
    needs_vectors = plan.needs_vectors(listing.names)
    total = len(listing.names)
    with progress_bar("reading photographs", total, unit="photographs") as tell:
        seen = survey(listing, cache, with_vectors=needs_vectors, tell=tell)
    skipped = [f"{one.name}: {one.reason}" for one in (*listing.skipped, *seen.broken)]
    tell_list("files are skipped", skipped)
    labels = None
    if wishes.labels is not None and target is not None:
        labels = read_labels(wishes.labels, seen.photographs, target.project_id, target.schema)
    report = Report(dry_run=wishes.dry_run, skipped_files=len(skipped))
    report.photographs = len(seen.photographs)
    report.group_by, report.group_size = plan.way.value, list(plan.sizes)
    report.read = seen.fresh
    report.encoded = seen.fresh - len(seen.broken) if needs_vectors else 0
    if plan.is_series:
        groups = arrange_series(seen.photographs, plan.sizes[1], [task.digests for task in known])
        left = {one.name for group in groups for one in group}
        report.already_imported = len(seen.photographs) - len(left)
    else:
        coming = _coming(listing, seen, known, target, cache, report, wishes.keep_near_duplicates)
        groups = [group for layer in coming for group in arrange(layer, plan)]
    groups.sort(key=lambda group: natural_order(group[0].name))
    report.groups = len(groups)
    if wishes.preview is not None and groups:
        report.preview = _preview(wishes.preview, listing.folder, groups)
    if wishes.dry_run:
        for number, group in enumerate(groups, start=1):
            typer.echo(f"group {number}: {', '.join(one.name for one in group)}")
    if target is not None:
        _finish(groups, listing.folder, target, report, labels, wishes, seen.photographs, plan)
    return report


def _finish(
    groups: Sequence[Group],
    folder: Path,
    target: Target,
    report: Report,
    labels: CocoLabels | None,
    wishes: Wishes,
    photographs: Sequence[Photograph],
    plan: Plan,
) -> None:
    """Sends everything, unless this is a dry run."""
    report.project = target.project_id
    report.files = "copied" if target.root is None else "served"
    report.url = f"{target.client.url}/projects/{target.project_id}"
    become = LabelsAs.ANNOTATIONS if wishes.labels is None else wishes.labels.become
    if not wishes.dry_run:
        _send(groups, folder, target, report, is_series=plan.is_series)
    if labels is not None and wishes.dry_run:
        report.labels = told_labels(labels, become)
    elif labels is not None:
        report.labels = send_labels(labels, become, photographs, target.client, target.project_id)


def _fitted(plan: Plan, target: Target) -> Plan:
    """Returns the plan within what the project's config can show."""
    most = most_images(target.schema)
    low, high = plan.sizes
    if low > most:
        raise SettingsError(
            f"--group-size: expected at most {most}, the images of a task in project "
            f"{target.project_id}, got {low}"
        )
    return replace(plan, sizes=(low, min(high, most)))


def _coming(
    listing: Listing,
    seen: Survey,
    known: Sequence[PhotoTask],
    target: Target | None,
    cache: PhotoCache,
    report: Report,
    keep_near_duplicates: bool,
) -> list[list[Photograph]]:
    """Returns the photographs to import; what repeats another is left out or in a list apart."""
    digests = {digest for task in known for digest in task.digests}
    paths = {path for task in known for path in task.paths if path}
    fresh = [
        one
        for one in seen.photographs
        if one.facts.digest not in digests and not _is_served(one, listing.folder, paths, target)
    ]
    report.already_imported = len(seen.photographs) - len(fresh)
    distinct, repeated = set_duplicates_aside(fresh)
    near = [pair for pair in repeated if pair[0].facts.digest != pair[1].facts.digest]
    report.duplicates, report.near_duplicates = len(repeated) - len(near), len(near)
    lines = [f"{one.name} repeats {other.name}" for one, other in repeated]
    there = list(cache.fingerprints(digests).values())
    looks = [one.facts.fingerprint for one in distinct] + there
    again = {
        place
        for members in near_duplicates(looks)
        if members[-1] >= len(distinct)
        for place in members
        if place < len(distinct)
    }
    report.near_duplicates += len(again)
    lines += [
        f"{distinct[place].name} repeats a photograph of the project" for place in sorted(again)
    ]
    tell_list("photographs are there more than once", lines)
    layers = [[one for place, one in enumerate(distinct) if place not in again]]
    if keep_near_duplicates:
        layers += _layers(near, [distinct[place] for place in sorted(again)])
    return [layer for layer in layers if layer]


def _is_served(
    photograph: Photograph, folder: Path, paths: set[str], target: Target | None
) -> bool:
    """Whether a task shows this very file already, whoever made the task."""
    if target is None or target.root is None:
        return False
    return (folder / photograph.name).relative_to(target.root).as_posix() in paths


def _layers(
    near: Sequence[tuple[Photograph, Photograph]], again: Sequence[Photograph]
) -> list[list[Photograph]]:
    """Repetitions in lists that hold each picture once, so that no group holds one twice."""
    layers: list[list[Photograph]] = [list(again)]
    turn: dict[str, int] = {}
    for photograph, original in near:
        number = turn[original.name] = turn.get(original.name, 0) + 1
        while len(layers) <= number:
            layers.append([])
        layers[number].append(photograph)
    return layers


def _preview(path: Path, folder: Path, groups: Sequence[Group]) -> list[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        writing_to("--preview", path),
        progress_bar("drawing the contact sheet", len(groups), unit="groups") as tell,
    ):
        return [str(sheet) for sheet in write_sheets(path, folder, groups, tell)]


def _send(
    groups: Sequence[Group], folder: Path, target: Target, report: Report, *, is_series: bool
) -> None:
    """Makes a task of every group, in requests of several."""
    if target.root is not None and groups:
        serve_folder(target.client, target.project_id, folder)
    total = sum(map(len, groups))
    with progress_bar("importing", total, unit="photographs") as tell:
        for batch in _batches(groups, folder, is_copied=target.root is None):
            members = [one for group in batch for one in group]
            if target.root is None:
                addresses = _upload(members, folder, target)
            else:
                root = target.root
                addresses = [served_url(target.client, folder / one.name, root) for one in members]
            url_of = {one.name: url for one, url in zip(members, addresses, strict=True)}
            tasks = [
                task_of(
                    [url_of[one.name] for one in group],
                    [one.facts.digest for one in group],
                    target.schema,
                    is_series=is_series,
                    text=_text_beside(group, folder) if target.schema.texts else "",
                )
                for group in batch
            ]
            target.client.import_tasks(target.project_id, tasks)
            report.imported_groups += len(batch)
            report.imported_photographs += len(members)
            tell(report.imported_photographs)


def _text_beside(group: Group, folder: Path) -> str:
    """The texts beside a group's photographs: those of the files a.txt of a.jpg, each once."""
    texts = []
    for one in group:
        path = (folder / one.name).with_suffix(".txt")
        if path.is_file():
            texts.append(path.read_text("utf-8", "replace")[:_MOST_CHARACTERS].strip())
    return "\n".join(dict.fromkeys(filter(None, texts)))


def _batches(groups: Sequence[Group], folder: Path, *, is_copied: bool) -> list[list[Group]]:
    """Groups of one request: few enough, and files small enough together where they are sent."""
    batches: list[list[Group]] = []
    files = size = 0
    for group in groups:
        weight = sum((folder / one.name).stat().st_size for one in group) if is_copied else 0
        is_full = bool(batches) and (
            len(batches[-1]) >= _BATCH
            or (is_copied and files + len(group) > _UPLOAD_FILES)
            or size + weight > _UPLOAD_BYTES
        )
        if is_full or not batches:
            batches.append([])
            files = size = 0
        batches[-1].append(group)
        files, size = files + len(group), size + weight
    return batches


def _upload(members: Sequence[Photograph], folder: Path, target: Target) -> list[str]:
    files = [(Path(one.name).name, (folder / one.name).read_bytes()) for one in members]
    return upload(target.client, target.project_id, files)
