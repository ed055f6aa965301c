"""`calico versions` and `calico rollback`: lists learned versions, and serves an earlier one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from backend.cli.options import (
    DataDirOption,
    ProjectOption,
    check_is_known,
    command_settings,
    guest_store,
)
from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from backend.errors import SettingsError, VersionError
from backend.learning.explanation import explain_version
from backend.learning.publisher import roll_back
from backend.learning.repository import CorrectionRepository
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.versions import AdapterVersion, Versions

_COLUMNS = (
    "version",
    "project",
    "status",
    "corrections",
    "mIoU",
    "Recall",
    "mIoU, old drawings",
    "Recall, old drawings",
    "created (UTC)",
    "reason",
)


def versions(
    project: ProjectOption = None,
    upload: Annotated[
        bool,
        typer.Option(
            "--upload", help="First put the versions of this machine where other servers find them."
        ),
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """List the learned versions, newest first. Run it where the backend runs.

    - current: it answers now.
    - retired: it answered before.
    - rejected: the quality check refused it.
    - candidate: the quality check has not judged it yet.
    - quarantined: its files were damaged.

    mIoU and Recall are strict, in percent, before -> after. They are measured on the corrections
    kept for testing. A star marks figures on the learned corrections: they are shown while no
    corrections are kept for testing. "Old drawings" are drawings like those that the shipped model
    learned from.

    Example: calico versions --project 7

    Copy the name of a version into `calico rollback --project ID --to VERSION`.

    --upload is for a move from one server to several: CALICO_ADAPTERS_URL names the place, and what
    is there already stays.

    The last line of the output is JSON with every version, and what was uploaded.
    """
    settings = command_settings(data_dir=data_dir)
    with guest_store(settings) as store:
        if project is not None:
            check_is_known(project, CorrectionRepository(store).projects())
        known = Versions(store, adapter_files(settings))
        listed = known.all(project)
        uploaded = _upload(known, listed, settings) if upload else ()
    print_fitted(_table(listed) if listed else "No version was learned yet.")
    outcome: dict[str, Any] = {"versions": [_as_json(version) for version in listed]}
    if upload:
        typer.echo(f"{len(uploaded)} versions were put into {settings.adapters_url}.")
        outcome["uploaded"] = uploaded
    typer.echo(json.dumps(outcome))


def _upload(
    known: Versions, listed: Sequence[AdapterVersion], settings: Settings
) -> tuple[str, ...]:
    """Puts whole versions of this machine onto the shelf; returns the ids of those new there."""
    if settings.adapters_url is None:
        raise SettingsError("CALICO_ADAPTERS_URL: expected the place to upload versions to")
    there = known.files.shared()
    fresh = [v for v in listed if v.uri not in there and known.path(v).is_dir()]
    with progress_bar("Uploading", len(fresh)) as advance_to:
        for number, version in enumerate(fresh, start=1):
            known.verify(version)
            known.files.share(version.uri)
            advance_to(number)
    return tuple(version.id for version in fresh)


def rollback(
    project: Annotated[int, typer.Option("--project", help="The project to roll back.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="VERSION|base",
            help="Version to serve, or base for the shipped model; default: the one before.",
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Stored with the version that is taken back.")
    ] = "rolled back by hand",
    data_dir: DataDirOption = None,
) -> None:
    """Serve a project with an earlier version again, from the next request on.

    The version that was taken back stays in the list, and --to serves it again. All corrections
    stay. The next training learns from those that the served version has not seen.

    Example: calico rollback --project 7

    The last line of the output is JSON: {"project", "version"}. The version null is the shipped
    model.
    """
    settings = command_settings(data_dir=data_dir)
    with guest_store(settings) as store:
        published = Versions(store, adapter_files(settings))
        try:
            served = roll_back(published, project, to=to, reason=reason)
        except VersionError as error:
            raise VersionError(f"{'--project' if to is None else '--to'}: {error}") from error
    typer.echo(f"{served or 'The shipped model'} answers project {project} now.")
    typer.echo(json.dumps({"project": project, "version": served}))


def _table(listed: Sequence[AdapterVersion]) -> Table:
    table = Table(title="Versions")
    for name in _COLUMNS:
        table.add_column(name)
    for version in listed:
        table.add_row(*_row(version))
    return table


def _row(version: AdapterVersion) -> tuple[str, ...]:
    gate = version.gate
    mark = "" if "held_out" in gate else "*"
    judged = gate.get("held_out") or gate.get("learned") or {}
    probe = gate.get("probe") or {}
    return (
        version.id,
        str(version.project_id),
        version.status.value,
        str(version.corrections),
        _change(judged, "mIoU", mark),
        _change(judged, "Recall", mark),
        _change(probe, "mIoU"),
        _change(probe, "Recall"),
        f"{version.created_at:%Y-%m-%d %H:%M:%S}",
        explain_version(version).why,
    )


def _change(metrics: dict[str, Any], metric: str, mark: str = "") -> str:
    if metric not in metrics:
        return "-"
    before, after = metrics[metric]
    return f"{before:.1f} -> {after:.1f}{mark}"


def _as_json(version: AdapterVersion) -> dict[str, Any]:
    return {
        "project": version.project_id,
        "version": version.id,
        "status": version.status.value,
        "parent": version.parent_id,
        "corrections": version.corrections,
        "gate": version.gate,
        "reason": version.reason,
        "explanation": asdict(explain_version(version)),
        "sha256": version.sha256,
        "base": version.base,
        "created_at": version.created_at.isoformat(),
    }
