"""`calico disconnect`: takes the backend and its webhook away from a project, and no data."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import msgspec
import typer

from backend.cli.connect import (
    BackendUrlOption,
    KeyOption,
    UrlOption,
    connected_backend,
    ends_of,
)
from backend.cli.options import command_settings


def disconnect(
    project: Annotated[int, typer.Option(help="Project id, the number in its address.")],
    url: UrlOption = None,
    api_key: KeyOption = None,
    backend_url: BackendUrlOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed and change nothing.")
    ] = False,
) -> None:
    """Remove the backend and its webhook from a project. Tasks, annotations and predictions stay.

    What was learned stays too, in the backend's data folder, and `calico connect` makes it serve
    the project again.

    Example: calico disconnect --project 7

    The last line of the output is JSON: project, backends, webhooks (how many were removed).
    """
    settings = command_settings(label_studio_url=url, label_studio_api_key=api_key)
    ends = ends_of(settings, backend_url)
    with closing(ends.client) as client:
        title = client.project(project).title
        backend = connected_backend(client.ml_backends(project), ends.backend_url)
        addresses = {ends.webhook_url}
        if backend is not None:
            addresses.add(f"{backend.url.rstrip('/')}/webhook")
        address = ends.backend_url if backend is None else backend.url
        hooks = [hook for hook in client.webhooks(project) if hook.url in addresses]
        if not dry_run:
            # The webhook first: Label Studio would go on sending to a backend that is gone.
            for hook in hooks:
                client.remove_webhook(hook.id)
            if backend is not None:
                client.remove_ml_backend(backend.id)
    if backend is None and not hooks:
        typer.echo(f'project {project}, "{title}", is not connected to {address}')
    else:
        would = "would be " if dry_run else ""
        typer.echo(f'project {project}, "{title}": {would}disconnected from {address}')
        typer.echo(
            "Its tasks, annotations and predictions stay, and what was learned from them. "
            f"`calico connect --project {project}` connects it again."
        )
    report = {
        "project": project,
        "backends": int(backend is not None),
        "webhooks": len(hooks),
        "dry_run": dry_run,
    }
    typer.echo(msgspec.json.encode(report).decode())
