"""`calico prelabel --project`: worker processes predict a project's tasks into Label Studio.

Label Studio itself says what is left to do, so a job that was killed goes on where it ended.
Answers are those of a server with the same settings: learned version, names, sources and look.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backend.cli.options import guest_store
from backend.cli.prelabel_parts import PartFolder
from backend.cli.prelabel_workers import PrelabelError, ShareWork, WorkerPool
from backend.cli.progress import progress_bar, stop_requests
from backend.errors import SettingsError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.predictions import has_prediction
from backend.label_studio.untouched import untouched_tasks
from backend.prediction_side import build_local_side
from backend.served_model import AdaptableModel
from backend.serving.jobs import PredictionJob
from backend.serving.metrics import Metrics
from backend.serving.studio import connect_client, image_source, prediction_sender, studio_names
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.store import open_store
from backend.storage.versions import AdapterVersion, Versions
from backend.types import GroupSource, Task

_PAGE = 200


@dataclass(frozen=True)
class TaskShare:
    """Tasks that one worker gets at once.

    Attributes:
        tasks: at least one, by rising id.
    """

    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        """Ids of its tasks."""
        return ",".join(str(task.id) for task in self.tasks)

    @property
    def first(self) -> str:
        """Its first task."""
        return f"task {self.tasks[0].id}"


class ProjectWork:
    """Predicts tasks as a server does, and stores the predictions in Label Studio.

    Args:
        settings: of the servers.
        project_id: Label Studio's project.
        version: that answers for the project; None for the base weights.
        load: builds the model instead of the one in `settings`.
        images: fetches images instead of Label Studio's API.

    Raises:
        FilesUnavailableError: the version's files are not here now.
        NotReadyError: the weights cannot be used.
        LabelStudioError: the project cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        project_id: int,
        version: AdapterVersion | None,
        *,
        load: Callable[[], AdaptableModel] | None = None,
        images: GroupSource | None = None,
    ) -> None:
        self._client = studio_of(settings)
        self._schema = parse_label_config(self._client.project(project_id).label_config)
        self._send = prediction_sender(self._client)
        self._version, self._at_once = version, settings.groups_at_once
        self._store = open_store(settings.store_url, is_guest=True, commit_timeout_s=30)
        source = images or image_source(settings, self._client, studio_names(settings))
        self._side = build_local_side(
            settings, self._store, Metrics(), source, leads=lambda _base: False, load=load
        )
        self._side.start()
        base = self._side.host.wait()
        if self._side.prototype_indexer is not None:
            self._side.prototype_indexer.round()  # reads what the servers have described
        self.version = base.version if version is None else version.id
        self._side.task_predictor.require(version)

    def do(self, share: TaskShare, on_group: Callable[[], None]) -> Mapping[str, str]:
        """Predicts tasks; one that has a prediction of the version by now is left alone."""
        problems = {}
        threads = ThreadPoolExecutor(self._at_once, thread_name_prefix="task")
        in_turn = map if self._at_once == 1 else threads.map  # tasks that wait meet at the model
        try:
            for task, problem in zip(share.tasks, in_turn(self._predict, share.tasks), strict=True):
                if problem is not None:
                    problems[str(task.id)] = problem
                on_group()
        finally:
            threads.shutdown(cancel_futures=True)  # those under way are stored
        return problems

    def close(self) -> None:
        """Stops all threads; kept answers are in the database then."""
        self._side.close()
        self._store.close()
        self._client.close()

    def _predict(self, task: Task) -> str | None:
        """Stores the prediction of a task without one; returns what is wrong with the task."""
        if task.id is None or has_prediction(self._client, task.id, self.version):
            return None
        if task.problem is not None:
            return task.problem
        job = PredictionJob(task, self._schema, version=self._version)
        result = self._side.task_predictor.predict_task(job)
        if result.problem is not None:
            return result.problem.detail
        if result.version != self.version:
            raise PrelabelError(f"{self.version} cannot be loaded here: {result.version} answered")
        self._send(task, result)
        return None


BeginProject = Callable[[Settings, int, AdapterVersion | None], ShareWork[TaskShare]]


def run_project(
    settings: Settings,
    project_id: int,
    *,
    workers: int,
    size: int,
    begin: BeginProject = ProjectWork,
) -> dict[str, object]:
    """Predicts the tasks of a project that nobody has begun and its version has not predicted.

    Args:
        settings: of the servers; each worker has a model of its own.
        project_id: Label Studio's project.
        workers: processes.
        size: tasks that a worker gets at once.
        begin: makes what a worker does; has to be importable by its name.

    Returns:
        The counts of the last line.

    Raises:
        SettingsError: another job predicts the project, or a setting is missing.
        PrelabelError: workers die of a share, or Label Studio cannot be reached.
        LabelStudioError: the tasks cannot be read.
    """
    began = time.monotonic()
    client = studio_of(settings)
    with guest_store(settings) as store:
        versions = Versions(store, adapter_files(settings))
        version = versions.served(project_id, start_from=settings.start_from_project)
    folder = settings.data_dir / "prelabel" / f"project-{project_id}"
    is_stopping, done = stop_requests(), 0
    start = functools.partial(begin, settings, project_id, version)
    with (
        PartFolder(folder, "--project").alone(),
        WorkerPool(start, folder, workers) as pool,
    ):
        tasks = left_to_do(client, project_id, pool.version)
        starts = range(0, len(tasks), size)
        shares = [TaskShare(tasks[at : at + size]) for at in starts]
        with progress_bar("Predicting", len(tasks), unit="tasks") as advance_to:

            def count() -> None:
                nonlocal done
                done += 1
                advance_to(min(done, len(tasks)))

            pool.run(shares, count, is_stopping)
        failed = len(left_to_do(client, project_id, pool.version))
    client.close()
    return {
        "project": project_id,
        "version": pool.version,
        "tasks": len(tasks),
        "done": len(tasks) - failed,
        "left": failed,
        "problems": [{"task": int(one), "reason": why} for one, why in pool.problems.items()],
        "seconds": round(time.monotonic() - began, 1),
        "stopped": is_stopping(),
    }


def left_to_do(client: LabelStudioClient, project_id: int, version: str) -> tuple[Task, ...]:
    """Returns the tasks without annotation, skip, draft and prediction of a version, by id.

    Raises:
        LabelStudioError: refused, or not reached.
    """
    schema = parse_label_config(client.project(project_id).label_config)
    tasks: list[Task] = []
    after = 0
    while True:
        page = untouched_tasks(
            client, project_id, schema, version=version, after=after, page_size=_PAGE
        ).tasks
        tasks += page
        if len(page) < _PAGE:
            return tuple(tasks)
        after = page[-1].id or after


def studio_of(settings: Settings) -> LabelStudioClient:
    """Returns a client of Label Studio.

    Raises:
        SettingsError: address or token is missing.
    """
    client = connect_client(settings)
    if client is None:
        raise SettingsError("--project: expected LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    return client
