"""Calls of Label Studio's API that only connecting and checking need.

Also finds out whether Label Studio's own settings forbid the private address of a backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudioClient, ml_backend_body
from backend.label_studio.connection import unreachable_error
from backend.label_studio.web import open_client

BACKEND_TITLE = "CALICO"
"""Title of the backend in Label Studio, until it is renamed to its model version."""

_TIMEOUT = httpx.Timeout(30.0, connect=3.0)
# Label Studio gives a backend 100 s and stores the answer afterwards.
_RETRIEVE_TIMEOUT = httpx.Timeout(180.0, connect=3.0)
_NO_SUCH_ACTION = "CALICO_PROBE"


@dataclass(frozen=True)
class RefusedAddresses:
    """Which calls to a backend's address Label Studio's settings forbid.

    Attributes:
        predictions: asking it for predictions (ML_BLOCK_LOCAL_IP).
        corrections: sending it corrections (SSRF_PROTECTION_ENABLED).
    """

    predictions: bool
    corrections: bool


def refused_addresses(client: LabelStudioClient, backend_url: str) -> RefusedAddresses:
    """Returns which calls Label Studio would refuse, without changing anything there.

    Both requests are incomplete on purpose: Label Studio checks the address before the other
    fields, and stores nothing.

    Raises:
        LabelStudioError: it cannot be reached.
    """
    backend = {"url": backend_url}
    webhook = {"url": f"{backend_url}/webhook", "actions": [_NO_SUCH_ACTION]}
    return RefusedAddresses(
        predictions=_ask(client, "POST", "/api/ml/", backend).status_code == 403,
        corrections=_ask(client, "POST", "/api/webhooks/", webhook).status_code == 403,
    )


def update_ml_backend(
    client: LabelStudioClient,
    backend_id: int,
    project_id: int,
    url: str,
    *,
    title: str,
    credentials: tuple[str, str] | None,
) -> None:
    """Changes a registered backend in place; removing it would delete its predictions.

    Raises:
        LabelStudioError: Label Studio cannot reach the backend, or refuses the change.
    """
    body = ml_backend_body(project_id, url, title, credentials)
    _check(_ask(client, "PATCH", f"/api/ml/{backend_id}", body))


def retrieve_predictions(client: LabelStudioClient, project_id: int) -> None:
    """Runs Label Studio's action *Retrieve predictions* for all tasks.

    Raises:
        LabelStudioError: the action failed. Label Studio reports success even if the backend
            failed, so callers have to count the predictions afterwards.
    """
    path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project_id}"
    body = {"selectedItems": {"all": True, "excluded": []}, "project": str(project_id)}
    _check(_ask(client, "POST", path, body, timeout=_RETRIEVE_TIMEOUT))


def _ask(
    client: LabelStudioClient,
    method: str,
    path: str,
    body: Mapping[str, object],
    *,
    timeout: httpx.Timeout = _TIMEOUT,
) -> httpx.Response:
    headers = {"Authorization": client.authorization.header()}
    try:
        with open_client(
            base_url=client.url, timeout=timeout, certificates=client.certificates
        ) as http:
            return http.request(method, path, json=body, headers=headers)
    except httpx.HTTPError as error:
        raise unreachable_error(client.url, error) from error


def _check(answer: httpx.Response) -> None:
    if not answer.is_success:
        raise LabelStudioError(
            f"{answer.request.method} {answer.request.url.path}: "
            f"Label Studio answered {answer.status_code}: {answer.text[:500]}"
        )
