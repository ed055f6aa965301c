"""`calico disconnect`: takes the backend and its webhook away from a project, and no data.

Label Studio deletes a backend's predictions together with the backend. They are unlinked from it
first, so that the project shows what it showed before.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from backend.cli.progress import progress_bar
from backend.label_studio.client import LabelStudioClient
from backend.settings import load_settings


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

    What was learned stays too, in the backend's data folder; `calico connect` takes it up again.
    The last line of the output is JSON: project, backends, webhooks, predictions_kept.
    """
    settings = load_settings(label_studio_url=url, label_studio_api_key=api_key)
    ends = ends_of(settings, backend_url)
    with closing(ends.client) as client:
        title = client.project(project).title
        backend = connected_backend(client.ml_backends(project), ends.backend_url)
        addresses = {ends.webhook_url}
        if backend is not None:
            addresses.add(f"{backend.url.rstrip('/')}/webhook")
        hooks = [hook for hook in client.webhooks(project) if hook.url in addresses]
        linked = [] if backend is None else _linked(client, project, backend.id)
        if not dry_run:
            # The webhook first: Label Studio would go on sending to a backend that is gone.
            for hook in hooks:
                client.remove_webhook(hook.id)
            if backend is not None:
                _unlink(client, linked)
                client.remove_ml_backend(backend.id)
    if backend is None and not hooks:
        typer.echo(f'project {project}, "{title}", is not connected to {ends.backend_url}')
    else:
        would = "would be " if dry_run else ""
        typer.echo(f'project {project}, "{title}": {would}disconnected from {ends.backend_url}')
        typer.echo(
            f"Its tasks, annotations and predictions stay, and what was learned from them. "
            f"`calico connect --project {project}` connects it again."
        )
    report = {
        "project": project,
        "backends": int(backend is not None),
        "webhooks": len(hooks),
        "predictions_kept": len(linked),
        "dry_run": dry_run,
    }
    typer.echo(msgspec.json.encode(report).decode())


def _linked(client: LabelStudioClient, project_id: int, backend_id: int) -> list[int]:
    """Returns the ids of predictions that would be deleted with a backend."""
    ids = list[int]()
    with progress_bar("Looking for predictions to keep", None) as tell:
        for count, task in enumerate(client.raw_tasks(project_id, fields="all"), start=1):
            predictions = task.get("predictions")
            for prediction in predictions if isinstance(predictions, list) else []:
                if prediction.get("model") == backend_id:
                    ids.append(int(prediction["id"]))
            tell(count)
    return ids


def _unlink(client: LabelStudioClient, ids: Sequence[int]) -> None:
    with progress_bar("Keeping predictions", len(ids)) as tell:
        for count, prediction_id in enumerate(ids, start=1):
            client.unlink_prediction(prediction_id)
            tell(count)
