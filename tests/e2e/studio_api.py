"""Calls of Label Studio's API that only these tests need."""

from __future__ import annotations

import httpx

from backend.label_studio.client import LabelStudioClient

_TIMEOUT_S = 300.0


def delete_project(client: LabelStudioClient, project_id: int) -> None:
    """Deletes a project with its tasks."""
    _call(client, "DELETE", f"/api/projects/{project_id}/")


def update_project(client: LabelStudioClient, project_id: int, **fields: object) -> None:
    """Changes fields of a project."""
    _call(client, "PATCH", f"/api/projects/{project_id}/", json=fields)


def export(client: LabelStudioClient, project_id: int) -> list[dict[str, object]]:
    """Every annotated task with its annotations (Label Studio's JSON export)."""
    path = f"/api/projects/{project_id}/export?exportType=JSON"
    tasks: list[dict[str, object]] = _call(client, "GET", path).json()
    return tasks


def _call(
    client: LabelStudioClient, method: str, path: str, *, json: object = None
) -> httpx.Response:
    answer = httpx.request(
        method,
        client.url + path,
        json=json,
        headers={"Authorization": client.authorization.header()},
        timeout=_TIMEOUT_S,
        trust_env=False,
    )
    return answer.raise_for_status()
