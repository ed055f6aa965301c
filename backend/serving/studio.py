"""Label Studio as serving sees it: images, tasks nobody has begun, and where predictions go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.label_schema import LabelSchema
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.image_decoding import MediaLimits
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.media import MediaFetcher
from backend.label_studio.names import StudioNames
from backend.label_studio.predictions import has_prediction
from backend.label_studio.untouched import show_version, untouched_tasks
from backend.serving.jobs import PredictionResult
from backend.settings import Settings
from backend.types import Task

_NO_VERSION = "-"  # stamped on no prediction: tasks are wanted whether they have one or not


def connect_client(settings: Settings) -> LabelStudioClient | None:
    """Returns a client of the configured Label Studio, or None without address or token."""
    if settings.label_studio_url is None or settings.label_studio_api_key is None:
        return None
    token = settings.label_studio_api_key.get_secret_value()
    return LabelStudioClient(settings.label_studio_url, token, certificates=settings.ca_bundle)


def studio_names(settings: Settings) -> StudioNames:
    """Returns the addresses under which tasks may name Label Studio."""
    return StudioNames(settings.label_studio_names, file=settings.names_file)


def image_source(
    settings: Settings, client: LabelStudioClient | None, names: StudioNames | None = None
) -> MediaFetcher:
    """Returns the fetcher of images, with the client's token for Label Studio's own files."""
    return MediaFetcher(
        label_studio_url=settings.label_studio_url,
        authorization=None if client is None else client.authorization,
        hosts=settings.image_hosts,
        local_files_root=settings.local_files_root,
        limits=MediaLimits(
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            max_side=settings.max_image_side,
            max_group_pixels=settings.max_group_pixels,
            timeout_s=settings.image_timeout_s,
        ),
        names=names or studio_names(settings),
        certificates=settings.ca_bundle,
    )


def prediction_sender(client: LabelStudioClient) -> Callable[[Task, PredictionResult], None]:
    """Returns a function that stores one result in Label Studio; it raises LabelStudioError.

    A task that has a prediction of the version keeps it: Label Studio has asked again meanwhile.
    """

    def send(task: Task, result: PredictionResult) -> None:
        if task.id is None or has_prediction(client, task.id, result.version or ""):
            return
        client.create_prediction(
            task.id, result.regions, score=result.score, version=result.version or ""
        )

    return send


def upcoming_tasks(client: LabelStudioClient) -> Callable[[int, int], tuple[Task, ...]]:
    """Returns a function from project and task to the tasks nobody has begun after it, by id."""

    def following(project_id: int, task_id: int) -> tuple[Task, ...]:
        schema = parse_label_config(client.project(project_id).label_config)
        page = untouched_tasks(client, project_id, schema, version=_NO_VERSION, after=task_id)
        return page.tasks

    return following


@dataclass(frozen=True)
class PendingTasks:
    """Tasks that wait for a prediction of a version.

    Attributes:
        tasks: the next ones, by rising id.
        schema: of the project's labeling config.
        total: how many there are.
    """

    tasks: tuple[Task, ...]
    schema: LabelSchema
    total: int


@dataclass(frozen=True)
class TaskPlace:
    """Where a task stands among those that look like it.

    Attributes:
        cluster: number of its cluster, None if nothing is known about its looks.
        neighbors: ids of the most similar tasks, the nearest first.
    """

    cluster: int | None = None
    neighbors: tuple[int, ...] = ()


class StudioTasks:
    """Label Studio's tasks that wait for a prediction. Every call may raise LabelStudioError.

    Args:
        client: its API.
        credentials: user name and password it sends to this backend, or None.
        titles: returns the names this backend may have had in Label Studio before.
    """

    def __init__(
        self,
        client: LabelStudioClient,
        credentials: tuple[str, str] | None,
        titles: Callable[[], frozenset[str]],
    ) -> None:
        self._client, self._credentials, self._titles = client, credentials, titles

    def pending(self, project_id: int, version: str, after: int) -> PendingTasks:
        """Returns the next tasks that nobody has begun and this version has not predicted."""
        schema = parse_label_config(self._client.project(project_id).label_config)
        page = untouched_tasks(self._client, project_id, schema, version=version, after=after)
        return PendingTasks(page.tasks, schema, page.total)

    def least_certain(self, project_id: int, version: str, limit: int) -> PendingTasks:
        """Returns tasks that wait like those of `pending`, by rising score of what they have."""
        schema = parse_label_config(self._client.project(project_id).label_config)
        tasks: list[Task] = []
        for number in range(1, limit + 1):
            page = untouched_tasks(
                self._client, project_id, schema, version=version, least_certain_page=number
            )
            tasks += page.tasks
            if len(tasks) >= min(limit, page.total) or not page.tasks:
                break
        return PendingTasks(tuple(tasks[:limit]), schema, len(tasks[:limit]))

    def pending_task(self, project_id: int, version: str, task_id: int) -> PendingTasks:
        """Returns one task if nobody has begun it and this version has not predicted it."""
        schema = parse_label_config(self._client.project(project_id).label_config)
        page = untouched_tasks(self._client, project_id, schema, version=version, only=task_id)
        return PendingTasks(page.tasks, schema, page.total)

    def is_pending(self, project_id: int, version: str, task_id: int) -> bool:
        """Whether a task still waits for a prediction of this version."""
        return bool(self.pending_task(project_id, version, task_id).tasks)

    def push(self, task: Task, result: PredictionResult, place: TaskPlace) -> None:
        """Stores a prediction with the task's place."""
        if task.id is not None:
            self._client.create_prediction(
                task.id,
                result.regions,
                score=result.score,
                version=result.version or "",
                cluster=place.cluster,
                neighbors=place.neighbors,
            )

    def show(self, project_id: int, version: str) -> bool:
        """Makes the order of tasks follow the scores of a version; returns whether it does."""
        return show_version(
            self._client,
            project_id,
            version,
            ours=self._titles(),
            credentials=self._credentials,
        )
