"""Label Studio's API: the calls the backend needs, with errors in plain words.

connection.py sends the calls and turns refusals into errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec

from backend.errors import LabelStudioError
from backend.label_schema import LabelSchema
from backend.label_studio.annotation import parse_prediction
from backend.label_studio.connection import Connection, convert_answer
from backend.label_studio.task import parse_task
from backend.types import StoredPrediction, Task

JsonObject = dict[str, object]
_PAGE_SIZE = 100


@dataclass(frozen=True)
class LabelStudioProject:
    """A project as Label Studio holds it."""

    id: int
    title: str
    label_config: str
    model_version: str | None = None


@dataclass(frozen=True)
class ConnectedBackend:
    """An ML backend of a project.

    `state` is CO (connected), DI (disconnected), ER (error), TR (training) or PR (predicting).
    """

    id: int
    url: str
    title: str
    state: str
    is_interactive: bool
    auth_method: str


@dataclass(frozen=True)
class Webhook:
    """A webhook of a project."""

    id: int
    url: str
    is_active: bool
    send_payload: bool
    send_for_all_actions: bool
    actions: tuple[str, ...]
    headers: Mapping[str, str] = field(repr=False)


class LabelStudioClient:
    """Calls Label Studio's API.

    Args:
        url: where Label Studio is, with the path prefix if it has one.
        token: legacy token or personal access token.
        transport: for tests; None is the network.
        certificates: file or folder of further certificate authorities that are trusted, or None.

    Raises:
        SettingsError: the certificates cannot be read.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        certificates: Path | None = None,
    ) -> None:
        self._api = Connection(url, token, transport=transport, certificates=certificates)
        self.certificates = certificates
        self.url, self.authorization = self._api.url, self._api.authorization

    def close(self) -> None:
        """Closes the connections."""
        self._api.close()

    def version(self) -> str:
        """Returns Label Studio's version; needs no token."""
        answer = self._api.send("GET", "/api/version", with_token=False)
        release = _object(answer).get("release")
        return str(release) if release is not None else "unknown"

    def whoami(self) -> str:
        """Returns the e-mail address of the token's user."""
        return str(_object(self._api.send("GET", "/api/current-user/whoami")).get("email", ""))

    def project(self, project_id: int) -> LabelStudioProject:
        """Returns a project.

        Raises:
            LabelStudioError: there is no project with this id, or the token may not see it.
        """
        answer = self._api.send("GET", f"/api/projects/{project_id}/", may_miss=True)
        if answer is None:
            raise LabelStudioError(
                f"Label Studio at {self.url} has no project {project_id}, or this token may not "
                "see it; the number is in the project's address"
            )
        return convert_answer(answer, LabelStudioProject)

    def projects(self) -> tuple[LabelStudioProject, ...]:
        """Returns every project that the token may see."""
        projects: list[LabelStudioProject] = []
        for page in range(1, 10_000):
            params = {"page": page, "page_size": _PAGE_SIZE}
            answer = _object(self._api.send("GET", "/api/projects/", params=params))
            projects += convert_answer(answer.get("results"), list[LabelStudioProject])
            if not answer.get("next"):
                break
        return tuple(projects)

    def create_project(
        self, title: str, label_config: str, **settings: object
    ) -> LabelStudioProject:
        """Creates a project; `settings` are further fields of Label Studio's API."""
        body = {"title": title, "label_config": label_config, **settings}
        return convert_answer(
            self._api.send("POST", "/api/projects/", json=body), LabelStudioProject
        )

    def raw_tasks(self, project_id: int, *, fields: str = "task_only") -> Iterator[JsonObject]:
        """Yields a project's tasks, page by page; `fields="all"` brings their predictions."""
        seen = 0
        for page in range(1, 1_000_000):
            params: dict[str, str | int] = {"project": project_id, "page": page, "fields": fields}
            params["page_size"] = _PAGE_SIZE
            answer = self._api.send("GET", "/api/tasks/", params=params, may_miss=True)
            if answer is None:  # past the last page
                return
            tasks = convert_answer(_object(answer).get("tasks"), list[JsonObject])
            yield from tasks
            seen += len(tasks)
            total = _object(answer).get("total")
            if not tasks or (isinstance(total, int) and seen >= total):
                return

    def task_page(
        self,
        project_id: int,
        query: Mapping[str, object],
        *,
        page: int,
        page_size: int,
        fields: str = "task_only",
    ) -> object:
        """Returns a page of the tasks that a query of the Data Manager chooses, not yet converted.

        Args:
            project_id: the project of the tasks.
            query: filters, ordering, hidden columns or selected tasks.
            page: 1-based.
            page_size: most tasks of the page.
            fields: "all" brings annotations and predictions.

        Returns:
            None for a page after the first that is not there: the pages have ended.

        Raises:
            LabelStudioError: refused, not reached, or no such project.
        """
        params: dict[str, str | int] = {
            "project": project_id,
            "page": page,
            "page_size": page_size,
            "fields": fields,
            "resolve_uri": "false",
            "query": msgspec.json.encode(query).decode(),
        }
        return self.get("/api/tasks/", params=params, may_miss=page > 1)

    def tasks(self, project_id: int, schema: LabelSchema) -> Iterator[Task]:
        """Yields a project's tasks; a task without usable images carries its problem."""
        for value in self.raw_tasks(project_id):
            value.setdefault("project", project_id)
            yield parse_task(value, schema, place=f"task {value.get('id')}")

    def import_tasks(self, project_id: int, tasks: list[JsonObject]) -> tuple[int, ...]:
        """Adds tasks (`{"data": {...}}`); returns their ids."""
        answer = self._api.send(
            "POST",
            f"/api/projects/{project_id}/import",
            params={"return_task_ids": "true"},
            json=tasks,
        )
        return tuple(convert_answer(_object(answer).get("task_ids", []), list[int]))

    def create_prediction(
        self,
        task_id: int,
        result: bytes,
        *,
        score: float,
        version: str,
        cluster: int | None = None,
        neighbors: Sequence[int] = (),
    ) -> int:
        """Stores a prediction for a task.

        Args:
            task_id: id of the task.
            result: JSON list of results.
            score: uncertainty sampling shows the lowest first.
            version: model version of the prediction.
            cluster: uncertainty sampling prefers the least solved cluster; None for no cluster.
            neighbors: ids of the tasks with the most similar images.

        Returns:
            The id of the prediction.
        """
        body: JsonObject = {
            "task": task_id,
            "result": msgspec.Raw(result),
            "score": score,
            "model_version": version,
        }
        if cluster is not None:
            body |= {"cluster": cluster, "neighbors": list(neighbors)}
        content = msgspec.json.encode(body)
        answer = self._api.send("POST", "/api/predictions/", content=content)
        return convert_answer(_object(answer).get("id"), int)

    def predictions(self, task_id: int, schema: LabelSchema) -> tuple[StoredPrediction, ...]:
        """Returns every prediction of a task."""
        return tuple(parse_prediction(value, schema) for value in self.raw_predictions(task_id))

    def raw_predictions(self, task_id: int) -> list[JsonObject]:
        """Returns every prediction of a task as Label Studio stores it."""
        values = self._api.send("GET", "/api/predictions/", params={"task": task_id})
        if isinstance(values, dict):  # some versions answer in pages
            values = values.get("results")
        return convert_answer(values, list[JsonObject])

    def ml_backends(self, project_id: int) -> tuple[ConnectedBackend, ...]:
        """Returns a project's ML backends; Label Studio calls the /health of each first."""
        answer = self._api.send("GET", "/api/ml/", params={"project": project_id})
        return tuple(convert_answer(answer, list[ConnectedBackend]))

    def add_ml_backend(
        self,
        project_id: int,
        url: str,
        *,
        title: str,
        credentials: tuple[str, str] | None = None,
    ) -> ConnectedBackend:
        """Connects a backend; Label Studio calls its /health and /setup before it answers."""
        body = ml_backend_body(project_id, url, title, credentials)
        return convert_answer(self._api.send("POST", "/api/ml/", json=body), ConnectedBackend)

    def remove_ml_backend(self, backend_id: int) -> None:
        """Removes a backend; predictions that Label Studio stored from it stay."""
        self._api.send("DELETE", f"/api/ml/{backend_id}")

    def add_view(self, project_id: int, data: JsonObject) -> int:
        """Adds a tab to a project's Data Manager; `data` is as Label Studio stores it."""
        body = {"project": project_id, "data": data}
        answer = self._api.send("POST", "/api/dm/views/", json=body)
        return convert_answer(_object(answer).get("id"), int)

    def webhooks(self, project_id: int) -> tuple[Webhook, ...]:
        """Returns a project's webhooks."""
        answer = self._api.send("GET", "/api/webhooks/", params={"project": project_id})
        return tuple(convert_answer(answer, list[Webhook]))

    def add_webhook(
        self, project_id: int, url: str, *, headers: Mapping[str, str] | None = None
    ) -> Webhook:
        """Creates a webhook for every event, with its own headers (Authorization)."""
        return self._put_webhook("POST", "/api/webhooks/", project_id, url, headers)

    def update_webhook(
        self, webhook: Webhook, project_id: int, *, headers: Mapping[str, str] | None = None
    ) -> Webhook:
        """Switches a webhook on for every event and sets its headers."""
        path = f"/api/webhooks/{webhook.id}/"
        return self._put_webhook("PATCH", path, project_id, webhook.url, headers)

    def remove_webhook(self, webhook_id: int) -> None:
        """Deletes a webhook."""
        self._api.send("DELETE", f"/api/webhooks/{webhook_id}/")

    def get(
        self, path: str, *, params: Mapping[str, str | int] | None = None, may_miss: bool = False
    ) -> object:
        """Returns the decoded answer of any other GET call; None for 404 if `may_miss`.

        Raises:
            LabelStudioError: refused or not reached, with the time to wait if the answer has it.
        """
        return self._api.send("GET", path, params=params, may_miss=may_miss)

    def post(
        self, path: str, body: object, *, params: Mapping[str, str | int] | None = None
    ) -> object:
        """Returns the decoded answer of any other POST call; a body may hold `msgspec.Raw`.

        Raises:
            LabelStudioError: refused or not reached.
        """
        return self._api.send("POST", path, params=params, content=msgspec.json.encode(body))

    def patch(self, path: str, body: object) -> object:
        """Returns the decoded answer of any other PATCH call.

        Raises:
            LabelStudioError: refused or not reached.
        """
        return self._api.send("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        """Deletes what is at an address; nothing there is no error.

        Raises:
            LabelStudioError: refused or not reached.
        """
        self._api.send("DELETE", path, may_miss=True)

    def upload(self, project_id: int, files: Mapping[str, tuple[str, bytes]]) -> tuple[int, ...]:
        """Stores files without making tasks of them.

        Args:
            project_id: they belong to it.
            files: name and content by any distinct keys; at most 100, and 250 MiB together.

        Returns:
            Ids of the stored files, in order.
        """
        path = f"/api/projects/{project_id}/import"
        params = {"commit_to_project": "false"}
        answer = self._api.send("POST", path, params=params, files=files)
        return tuple(convert_answer(_object(answer).get("file_upload_ids"), list[int]))

    def add_local_storage(self, project_id: int, path: str, *, title: str) -> int:
        """Serves a folder under Label Studio's document root as `/data/local-files/`."""
        body = {"project": project_id, "path": path, "title": title, "use_blob_urls": True}
        answer = self._api.send("POST", "/api/storages/localfiles/", json=body)
        return convert_answer(_object(answer).get("id"), int)

    def _put_webhook(
        self,
        method: str,
        path: str,
        project_id: int,
        url: str,
        headers: Mapping[str, str] | None,
    ) -> Webhook:
        body = {
            "project": project_id,
            "url": url,
            "send_payload": True,
            "send_for_all_actions": True,
            "is_active": True,
            "headers": dict(headers or {}),
        }
        return convert_answer(self._api.send(method, path, json=body), Webhook)


def _object(value: object) -> JsonObject:
    return convert_answer(value, JsonObject)


def ml_backend_body(
    project_id: int, url: str, title: str, credentials: tuple[str, str] | None
) -> JsonObject:
    """Returns what `/api/ml/` stores about a backend, with the user and password that it asks."""
    body: JsonObject = {
        "project": project_id,
        "url": url,
        "title": title,
        "is_interactive": True,
        "auth_method": "NONE",
    }
    if credentials is not None:
        user, password = credentials
        body |= {
            "auth_method": "BASIC_AUTH",
            "basic_auth_user": user,
            "basic_auth_pass": password,
        }
    return body
