"""`calico versions` and `calico rollback`: lists learned versions, and serves an earlier one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backend.cli.options import DataDirOption, ProjectOption, guest_store
from backend.learning.explanation import explain_version
from backend.learning.publisher import roll_back
from backend.settings import load_settings
from backend.storage.versions import AdapterVersion, Versions

_COLUMNS = (
    "project",
    "version",
    "status",
    "corrections",
    "mIoU",
    "Recall",
    "base mIoU",
    "base Recall",
    "created (UTC)",
    "reason",
)


def versions(
    project: ProjectOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List the learned versions, newest first. Run it where the backend runs.

    current: serves now. retired: served before. rejected: refused by the gate.
    candidate: not judged yet. quarantined: its files were damaged.

    mIoU and Recall are strict, in percent, before -> after, on held-out corrections (on
    the learned ones, marked *, while none are held out) and on data of the base.

    The last line of the output is JSON with every version.
    """
    settings = load_settings(data_dir=data_dir)
    with guest_store(settings) as store:
        listed = Versions(store, settings.adapters_dir).all(project)
    table = Table(title="Versions")
    for name in _COLUMNS:
        table.add_column(name, overflow="fold")
    for version in listed:
        table.add_row(*_row(version))
    Console().print(table)
    typer.echo(json.dumps({"versions": [_as_json(version) for version in listed]}))


def rollback(
    project: Annotated[int, typer.Option("--project", help="The project to roll back.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="VERSION|base", help="Version to serve; default: the one before."
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Stored with the version that is taken back.")
    ] = "rolled back by hand",
    data_dir: DataDirOption = None,
) -> None:
    """Serve a project with an earlier version again, from the next request on.

    The version that was taken back stays in the list; --to serves it again. Corrections
    are kept: the next training learns from all that the served version has not seen.

    The last line of the output is JSON: {"project", "version"}; null stands for the base.
    """
    settings = load_settings(data_dir=data_dir)
    with guest_store(settings) as store:
        published = Versions(store, settings.adapters_dir)
        served = roll_back(published, project, to=to, reason=reason)
    typer.echo(f"Project {project} is answered by {served or 'the base'} now.")
    typer.echo(json.dumps({"project": project, "version": served}))


def _row(version: AdapterVersion) -> tuple[str, ...]:
    gate = version.gate
    mark = "" if "held_out" in gate else "*"
    judged = gate.get("held_out") or gate.get("learned") or {}
    probe = gate.get("probe") or {}
    return (
        str(version.project_id),
        version.id,
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
