"""Asks a backend of ours as Label Studio does: its version, and predictions of tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import msgspec

from backend.decoding import read_json
from backend.errors import BackendError, NotReadyError, SettingsError
from backend.label_studio.predictions import TaskState, WireShape, shape_ids
from backend.label_studio.request import predict_request
from backend.label_studio.web import open_client

_TIMEOUT = httpx.Timeout(110.0, connect=3.0)  # the backend answers within 95 s
_T = TypeVar("_T")
_PLACE = re.compile(r"\btasks\[\d+\]\.")


@dataclass(frozen=True)
class BackendAnswer:
    """What the backend says of one task.

    Attributes:
        regions: JSON list of results; None where the task is not finished or failed.
        score: of the prediction.
        version: the model version that answered.
        problem: why there are no regions, in plain words, or None.
    """

    regions: bytes | None
    score: float
    version: str
    problem: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether asking again makes no sense now."""
        return self.regions is not None or self.problem is not None

    @property
    def has_regions(self) -> bool:
        """Whether anything was found; a note to annotators is no region."""
        if self.regions is None:
            return False
        return bool(shape_ids(read_json(self.regions, list[WireShape])))


class _WireProblem(msgspec.Struct):
    error: str = ""
    detail: str = ""


class _WireItem(msgspec.Struct):
    model_version: str = ""
    result: msgspec.Raw = msgspec.Raw()  # missing: not finished
    score: float | None = None
    problem: _WireProblem | None = None


class _WireAnswer(msgspec.Struct):
    results: list[_WireItem]


class _WireSetup(msgspec.Struct):
    model_version: str | None = None


class _WireVersions(msgspec.Struct):
    versions: list[str] = []


class _WireProject(msgspec.Struct):
    project: int
    predictions: dict[str, Any] | None = None


class _WireStatus(msgspec.Struct):
    projects: list[_WireProject]


class _WireHealth(msgspec.Struct):
    status: str = ""
    model: str = ""


class BackendClient:
    """Calls one backend.

    Args:
        url: where it is.
        credentials: user name and password that it requires, or None.
        transport: for tests; None is the network.
    """

    def __init__(
        self,
        url: str,
        credentials: tuple[str, str] | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._credentials = credentials
        self._http = open_client(base_url=self.url, timeout=_TIMEOUT, transport=transport)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def model_state(self) -> str | None:
        """Returns "loading", "ready" or "failed"; None if no backend of ours answers."""
        try:
            answer = self._http.get("/health", timeout=3.0)
            return read_json(answer.content, _WireHealth).model or None
        except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def version(self, project_id: int, config: str) -> str:
        """Returns the version that answers a project now.

        Args:
            project_id: Label Studio's id.
            config: the project's labeling config, XML.

        Raises:
            BackendError: refused, not reached, or the config cannot be used.
            NotReadyError: the weights are still loading.
        """
        body = msgspec.json.encode({"project": str(project_id), "schema": config})
        version = self._send("POST", "/setup", body, _WireSetup).model_version
        if version is None:
            raise NotReadyError(f"the backend at {self.url} is still loading its weights")
        return version

    def versions(self) -> frozenset[str]:
        """Returns every version the backend has ever served.

        Raises:
            BackendError: refused or not reached.
        """
        return frozenset(self._send("GET", "/versions", None, _WireVersions).versions)

    def batches(self) -> dict[int, dict[str, Any]]:
        """Returns the tasks that were asked to be predicted together, newest batch by project.

        Empty where no backend answers within seconds: the callers can do without.
        """
        try:
            answer = self._http.get("/status", auth=self._credentials, timeout=3.0)
            projects = read_json(answer.content, _WireStatus).projects
        except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        return {one.project: one.predictions for one in projects if one.predictions is not None}

    def predict(
        self, project_id: int, config: str, tasks: Sequence[TaskState]
    ) -> tuple[BackendAnswer, ...]:
        """Returns one answer per task, in order; nobody waits in front of these tasks.

        Raises:
            BackendError: refused, not reached, or an answer of another form.
        """
        bodies = [{"id": task.id, "data": task.data, "project": project_id} for task in tasks]
        body = predict_request(bodies, label_config=config, project=project_id, context=None)
        items = self._send("POST", "/predict?background=1", body, _WireAnswer).results
        if len(items) != len(tasks):
            raise BackendError(f"{self.url}: asked for {len(tasks)} tasks, got {len(items)}")
        return tuple(_answer(item) for item in items)

    def _send(self, method: str, path: str, body: bytes | None, kind: type[_T]) -> _T:
        try:
            answer = self._http.request(
                method,
                path,
                content=body,
                headers={"Content-Type": "application/json"},
                auth=self._credentials,
            )
        except httpx.HTTPError as error:
            raise BackendError(
                f"the backend at {self.url} does not answer ({type(error).__name__}); "
                "is `calico serve` running?"
            ) from error
        if answer.status_code == 401:
            raise SettingsError(
                f"{self.url} refuses these credentials; give --user and --password, or "
                "CALICO_BASIC_AUTH_USER and CALICO_BASIC_AUTH_PASSWORD, as the backend was "
                "started with"
            )
        if not answer.is_success:
            raise BackendError(f"the backend at {self.url}: {_detail(answer)}")
        try:
            return read_json(answer.content, kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BackendError(f"{self.url}{path}: unexpected answer ({error})") from error


def _answer(item: _WireItem) -> BackendAnswer:
    problem = None if item.problem is None else _PLACE.sub("", item.problem.detail)
    # A task that cannot be used has an empty result for Label Studio: it is no prediction.
    result = None if problem is not None else bytes(item.result) or None
    return BackendAnswer(result, item.score or 0.0, item.model_version, problem)


def _detail(answer: httpx.Response) -> str:
    try:
        value = answer.json()
    except ValueError:
        return f"{answer.status_code} {answer.reason_phrase}"
    return str(value.get("detail", value) if isinstance(value, dict) else value)[:500]
