"""`calico lint`: labels of a project or data set that the model cannot tell apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.connect import label_studio_of
from backend.cli.label_lint import LabeledOutline, LintGroup, LintReport, Load, lint_labels
from backend.cli.labeled_data import CocoOption, ImagesOption, SidesOption, open_labeled
from backend.cli.lint_page import findings_of, page_of
from backend.cli.options import DataDirOption, WeightsOption, command_settings, guest_store
from backend.cli.progress import progress_bar
from backend.errors import InvalidRleError, MediaError, SettingsError
from backend.export.gathering import Choice, chosen, config_labels, labels_of
from backend.label_schema import LabelSchema
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.stored_tasks import stored_tasks, task_ids
from backend.served_model import ServedModel
from backend.serving.loaded_model import load_base_model
from backend.serving.studio import image_source
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.versions import Versions
from backend.types import GroupSource, Region
from calico_model.errors import CheckpointError
from calico_model.sources.registry import open_source, read_choices
from calico_model.sources.source import Ability, TextSource
from calico_model.types import ImageGroup, LabeledGroup


def lint(
    project: Annotated[
        int | None, typer.Option(help="Project id, the number in its address.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Labeled groups instead of a project.", metavar="PATH"),
    ] = None,
    coco: CocoOption = None,
    images: ImagesOption = None,
    merge_sides: SidesOption = True,
    out: Annotated[
        Path, typer.Option("--out", help="Page with pictures to write.", metavar="FILE")
    ] = Path("lint.html"),
    ask: Annotated[
        int, typer.Option("--ask", min=0, help="Groups on which words are asked; 0 for none.")
    ] = 8,
    weights: WeightsOption = None,
    url: Annotated[str | None, typer.Option(help="Label Studio; default LABEL_STUDIO_URL.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Its token; default LABEL_STUDIO_API_KEY.")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Report labels that the model cannot tell apart, with pictures and what to do.

    It reads the annotations of a project, or labeled groups on disk, and reports

    - labels whose regions look alike: the most similar region of another group has the wrong one
      of two labels nearly as often as by chance,
    - labels that are one word to the model: asked for either, it outlines the same place,
    - labels that mean another label's regions to the model,
    - labels that differ by case, plural or punctuation only.

    Words are asked of the model and of every configured source that takes words (CALICO_SOURCES).
    With a project it uses the version that the project has learned; run it where the backend runs.

    Examples:
    calico lint --project 7
    calico lint --data records --out labels.html --ask 0

    The exit status is 1 if something is reported. The last line of the output is JSON.
    """
    given = [one for one in (project, data, coco) if one is not None]
    if len(given) != 1:
        raise SettingsError("expected one of --project, --data and --coco")
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise SettingsError(f"--out: expected a file in an existing folder, got {out}")
    settings = command_settings(
        data_dir=data_dir, weights=weights, label_studio_url=url, label_studio_api_key=api_key
    )
    if project is None:
        labeled = open_labeled(data, coco, images, group_size="2", seed=0, merge_sides=merge_sides)
        assert labeled is not None  # one of the two options is there
        title = str(data or coco)
        model: ServedModel = load_base_model(settings)
        sources = text_sources(settings)
        report = _checked(model, sources, _records(labeled), len(labeled), (), ask)
    else:
        title = f"project {project}"
        report = _lint_project(settings, project, ask)
    if not report.groups:
        raise SettingsError(f"{title}: expected labeled groups, and found none")
    out.write_text(page_of(report, title), "utf-8")
    _show(report, out)
    typer.echo(json.dumps({"project": project} | _as_json(report) | {"page": str(out)}))
    if report.findings:
        raise typer.Exit(1)


def _lint_project(settings: Settings, project: int, ask: int) -> LintReport:
    with closing(label_studio_of(settings)) as client:
        held = client.project(project)
        schema = parse_label_config(held.label_config)
        ids = task_ids(client, project)
        with closing(image_source(settings, client)) as fetcher:
            load = _tasks(client, project, schema, ids, fetcher)
            model = _served_model(settings, project)
            sources = text_sources(settings)
            return _checked(model, sources, load, len(ids), config_labels(schema), ask)


def text_sources(settings: Settings) -> tuple[TextSource, ...]:
    """Opens the configured sources that can be asked for words; reports one that cannot be read."""
    opened = []
    for choice in read_choices(settings.sources, settings.sources_dir):
        try:
            source = open_source(choice, settings.device)
        except CheckpointError as error:
            typer.echo(f"calico lint: source {choice.name} is left out: {error}", err=True)
            continue
        if Ability.TEXT in source.describe().abilities and isinstance(source, TextSource):
            opened.append(source)
    return tuple(opened)


def _served_model(settings: Settings, project: int) -> ServedModel:
    """The version that answers a project; the base where no backend has run."""
    base = load_base_model(settings)
    try:
        with guest_store(settings) as store:
            versions = Versions(store, adapter_files(settings))
            version = versions.served(project, start_from=settings.start_from_project)
            if version is not None:
                return base.with_adapter(version.id, versions.verify(version))
    except SettingsError:
        typer.echo(
            f"calico lint: no backend has run with {settings.data_dir}; the check uses the model "
            "without what the project has taught",
            err=True,
        )
    return base


def _checked(
    model: ServedModel,
    sources: Sequence[TextSource],
    load: Load,
    count: int,
    labels: Sequence[str],
    ask: int,
) -> LintReport:
    with (
        progress_bar("Looking at regions", count) as on_looked,
        progress_bar("Asking for words", min(ask, count)) as on_asked,
    ):
        return lint_labels(
            model,
            load,
            count,
            labels=labels,
            ask=ask,
            sources=sources,
            on_looked=on_looked,
            on_asked=on_asked,
        )


def _records(labeled: Sequence[LabeledGroup]) -> Load:
    def load(number: int) -> LintGroup:
        found = labeled[number]
        outlines = tuple(
            LabeledOutline(part.image_index, part.label, part.mask)
            for part in found.parts
            if part.mask.any()
        )
        return LintGroup(f"group {number + 1}", found.group, outlines)

    return load


def _tasks(
    client: LabelStudioClient,
    project: int,
    schema: LabelSchema,
    ids: Sequence[int],
    images: GroupSource,
) -> Load:
    held = client.project(project)

    def load(number: int) -> LintGroup | None:
        for stored in stored_tasks(client, held, schema, ids[number : number + 1]):
            regions = [
                region
                for annotation in chosen(stored.annotations, Choice.NEWEST)
                for region in annotation.regions
            ]
            if not regions or stored.task.problem is not None:
                return None
            try:
                group = images.fetch_group(stored.task)
            except MediaError as error:
                typer.echo(f"calico lint: task {ids[number]} is left out: {error}", err=True)
                return None
            return LintGroup(f"task {ids[number]}", group, _outlines(regions, schema, group))
        return None

    return load


def _outlines(
    regions: Sequence[Region], schema: LabelSchema, group: ImageGroup
) -> tuple[LabeledOutline, ...]:
    found = []
    for region in regions:
        try:
            mask = region.load_mask()
        except InvalidRleError:
            continue
        if region.image_index >= len(group) or not mask.any():
            continue
        if mask.shape == group.sizes_hw[region.image_index]:
            found += [
                LabeledOutline(region.image_index, label, mask)
                for label in labels_of(region, schema)
            ]
    return tuple(found)


def _show(report: LintReport, out: Path) -> None:
    for finding in findings_of(report):
        typer.secho(finding.title, bold=True)
        typer.echo(f"  {finding.what}\n  What to do: {finding.advice}")
    if not report.findings:
        typer.echo("The model can tell all labels apart.")
    if report.looks.unjudged:
        typer.echo(f"With too few regions to judge: {', '.join(report.looks.unjudged)}")
    if report.unknown_words:
        typer.echo(f"Not known as words, so not asked: {', '.join(report.unknown_words)}")
    typer.echo(f"Pictures: {out}")


def _as_json(report: LintReport) -> dict[str, object]:
    return {
        "groups": report.groups,
        "regions": len(report.pictures),
        "findings": report.findings,
        "alike_looks": [
            {
                "labels": pair.labels,
                "separation": round(pair.separation, 4),
                "regions": pair.regions,
            }
            for pair in report.looks.alike
        ],
        "alike_words": [asdict(pair) for pair in report.words],
        "stray_words": [asdict(word) for word in report.stray],
        "same_spelling": report.spelling,
        "judged": len(report.looks.judged),
        "unjudged": report.looks.unjudged,
        "unknown_words": report.unknown_words,
        "asked_groups": report.asked,
    }
