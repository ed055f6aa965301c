"""All wiring and the life cycle: settings in, a Flask app out, and everything it holds closed.

`create_app` builds what answers Label Studio; `create_server_app` adds what a server process runs
beside the requests: the pages, the trainer process, the search for lost events, and the threads
that predict again and index prototypes. Loads without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from flask import Blueprint, Flask

from backend.background import (
    build_duplicate_watch,
    build_membership,
    build_owed_worker,
    build_reconcile_watch,
    build_refresher,
    start_trainer,
    waiting_tasks,
)
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.names import StudioNames
from backend.learning.derivation import Derivation, StudioPredictions
from backend.learning.overview import Overview
from backend.learning.reconcile_loop import ReconcileWatch
from backend.learning.repository import CorrectionRepository
from backend.learning.supervisor import TrainerWatch
from backend.learning.trainer_presence import present_trainers
from backend.prediction_side import PredictionSide, build_local_side
from backend.process_identity import owner_name
from backend.served_model import AdaptableModel, NamedWeights
from backend.serving.batch_progress import BatchProgress
from backend.serving.duplicates import DuplicateWatch
from backend.serving.failures import answer_failures
from backend.serving.late_answers import LateAnswerSender
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.serving.owed_answers import OwedAnswers, OwedAnswerWorker
from backend.serving.prewarming import Prewarmer
from backend.serving.refreshing import Refresher
from backend.serving.request_checks import ConcurrencyLimit, Credentials, watch_requests
from backend.serving.routes import build_routes
from backend.serving.service import PredictionService
from backend.serving.source_pool import SourcePool
from backend.serving.studio import (
    connect_client,
    image_source,
    prediction_sender,
    studio_names,
    upcoming_tasks,
)
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.servers import ServerMembership
from backend.storage.store import Store, open_store
from backend.storage.versions import Versions
from backend.types import GroupSource, Task
from backend.ui.batches import PredictionBatch
from backend.ui.pages import Live, Refreshed, build_pages
from backend.ui.pictures import GroupPictures
from backend.ui.status_routes import SourceReport, build_status_routes
from backend.ui.titles import ProjectTitles

PAGES_AT_ONCE = 8  # a browser asks for six pictures at once
_RESERVED_THREADS = 8  # always free for /health, /setup and /webhook
_COMPONENTS = "calico"
_PROCESSES = "calico.processes"


@dataclass(frozen=True)
class AppComponents:
    """Everything one app holds, for its routes and for closing."""

    settings: Settings
    store: Store
    metrics: Metrics
    side: PredictionSide
    service: PredictionService
    sender: LateAnswerSender | None
    refresher: Refresher | None
    prewarmer: Prewarmer
    names: StudioNames
    progress: BatchProgress
    duplicates: DuplicateWatch | None
    membership: ServerMembership
    owed_worker: OwedAnswerWorker | None

    @property
    def host(self) -> ModelHost[NamedWeights]:
        """What holds the model."""
        return self.side.host

    @property
    def sources(self) -> SourcePool | None:
        """The segmenters asked beside the model; None where replicas ask them."""
        return self.side.sources

    def stop_waiting(self) -> None:
        """Answers every request that waits for the model soon: the process is about to stop."""
        self.service.end()

    def open_task(self, task: Task) -> None:
        """Tells everything that follows what annotators open."""
        self.prewarmer.open(task)
        if self.duplicates is not None:
            self.duplicates.opened(task)

    def close(self) -> None:
        """Stops every thread and closes the database."""
        self.prewarmer.close()
        if self.duplicates is not None:
            self.duplicates.close()
        if self.refresher is not None:
            self.refresher.close()
        if self.owed_worker is not None:
            self.owed_worker.close()
        self.service.close()
        self.side.close()
        if self.sender is not None:
            self.sender.close()
        self.membership.close()
        self.store.close()


def create_app(
    settings: Settings,
    *,
    load: Callable[[], AdaptableModel] | None = None,
    images: GroupSource | None = None,
    client: LabelStudioClient | None = None,
) -> Flask:
    """Builds the app and begins to load the weights in the background.

    Args:
        settings: everything a deployment chooses.
        load: builds the model instead of the one in `settings`.
        images: fetches images instead of Label Studio's API.
        client: Label Studio's API instead of the one in `settings`.

    Raises:
        StoreError: the database cannot be opened.
    """
    components = build_components(settings, load=load, images=images, client=client)
    app = Flask("calico", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions[_COMPONENTS] = components
    answer_failures(app)
    watch_requests(app, components.metrics, Credentials.of(settings))
    routes = build_routes(
        components.store,
        components.host,
        components.service,
        components.metrics,
        components.open_task,
        components.names.announce,
    )
    app.register_blueprint(routes)
    components.side.start()
    return app


def create_server_app(
    settings: Settings,
    *,
    load: Callable[[], AdaptableModel] | None = None,
    images: GroupSource | None = None,
) -> Flask:
    """Builds the app of a server process, with the pages and everything that runs beside them.

    The arguments are those of `create_app`.

    Raises:
        StoreError: the database cannot be opened.
    """
    app = create_app(settings, load=load, images=images)
    components: AppComponents = app.extensions[_COMPONENTS]
    versions = Versions(components.store, adapter_files(settings))
    overview = Overview(components.store, versions, start_from=settings.start_from_project)
    page_limit = ConcurrencyLimit(PAGES_AT_ONCE, "pages and pictures")
    status_routes = build_status_routes(
        components.store,
        overview,
        batch=batches(components),
        sources=lambda: source_reports(components.sources),
    )
    page_limit.guard(status_routes)
    app.register_blueprint(status_routes)
    processes: list[TrainerWatch | ReconcileWatch] = []
    if settings.trainer:
        processes.append(start_trainer(settings, components.metrics))
    client = connect_client(settings)
    if client is not None:
        leads = components.membership.role("reconcile")
        reconcile_watch = build_reconcile_watch(
            components.store, components.metrics, client, leads=leads
        )
        reconcile_watch.start()
        processes.append(reconcile_watch)
    app.extensions[_PROCESSES] = tuple(processes)
    pages = build_ui(components, overview, client)
    page_limit.guard(pages)
    app.register_blueprint(pages)
    components.membership.start()
    if components.refresher is not None:
        components.refresher.start()
    if components.owed_worker is not None:
        components.owed_worker.start()
    if components.duplicates is not None:
        components.duplicates.start()
    components.side.start_learning_names()
    return app


def close_app(app: Flask) -> None:
    """Closes everything an app of `create_app` or `create_server_app` holds."""
    for process in app.extensions.get(_PROCESSES, ()):
        process.close()
    app.extensions[_COMPONENTS].close()


def build_components(
    settings: Settings,
    *,
    load: Callable[[], AdaptableModel] | None = None,
    images: GroupSource | None = None,
    client: LabelStudioClient | None = None,
) -> AppComponents:
    """Builds everything behind the routes; `AppComponents.host.start` begins to load the weights.

    The arguments are those of `create_app`.

    Raises:
        StoreError: the database cannot be opened.
    """
    client = client or connect_client(settings)
    store = open_store(
        settings.store_url,
        queue_size=settings.journal_queue,
        commit_timeout_s=settings.commit_timeout_ms / 1000,
        cached_predictions=settings.cached_predictions,
        cached_prediction_bytes=settings.cached_prediction_bytes,
    )
    metrics = Metrics()
    progress = BatchProgress()
    owed = OwedAnswers(store, owner_name())
    sender = None
    if client is not None:
        sender = LateAnswerSender(prediction_sender(client), metrics, on_end=owed.end)
    names = studio_names(settings)
    if settings.fleet_address is None:
        source = images or image_source(settings, client, names)
        side = build_local_side(
            settings,
            store,
            metrics,
            source,
            leads=lambda base: membership.leads(f"prototypes {base}"),
            load=load,
        )
    else:
        side = _remote_side(settings, store, metrics)
    host = side.host
    duplicates = build_duplicate_watch(store, host, client)
    service = PredictionService(
        host,
        side.task_predictor,
        metrics,
        send_later=None if sender is None else sender.push,
        budget_s=settings.predict_budget_s,
        waiting_requests=settings.threads - _RESERVED_THREADS,
        capacity=settings.predict_queue,
        workers=settings.predict_workers,
        urgent_workers=side.urgent_workers,
        registry=side.registry,
        progress=progress,
        on_given=(lambda _task, _version: None) if duplicates is None else duplicates.given,
        owed=None if client is None else owed,
    )
    prewarmer = Prewarmer(
        side.task_predictor,
        service,
        None if client is None else upcoming_tasks(client),
        max_bytes=settings.prefetch_bytes,
    )
    metrics.watch("calico_queue_depth", "Tasks that wait.", lambda: service.waiting)
    membership = build_membership(store, host, lambda: service.waiting, metrics)
    metrics.watch("calico_journal_depth", "Changes that wait.", lambda: store.waiting)
    return AppComponents(
        settings,
        store,
        metrics,
        side,
        service,
        sender,
        build_refresher(settings, store, host, service, client, leads=membership.role("refresh")),
        prewarmer,
        names,
        progress,
        duplicates,
        membership,
        build_owed_worker(settings, store, host, service, client, membership),
    )


def _remote_side(settings: Settings, store: Store, metrics: Metrics) -> PredictionSide:
    # Only a web server of a fleet has Ray.
    from backend.fleet.connection import build_remote_side

    return build_remote_side(settings, store, metrics)


def source_reports(sources: SourcePool | None) -> tuple[SourceReport, ...]:
    """Returns how every source stands, for `/status`."""
    if sources is None:
        return ()
    return tuple(
        SourceReport(
            status.name,
            status.state,
            status.problem,
            () if status.description is None else tuple(sorted(status.description.abilities)),
            "" if status.description is None else status.description.licence,
            status.asked,
        )
        for status in sources.status()
    )


def batches(components: AppComponents) -> Callable[[int], PredictionBatch | None]:
    """Returns a function from a project to its newest batch of predictions, None without one."""

    def batch(project_id: int) -> PredictionBatch | None:
        status = components.progress.status(project_id)
        if status is None:
            return None
        return PredictionBatch(status.total, status.done, status.waiting, status.problems)

    return batch


def build_ui(
    components: AppComponents, overview: Overview, client: LabelStudioClient | None
) -> Blueprint:
    """Returns the pages below /ui.

    Args:
        components: of the app that shows them.
        overview: of its database.
        client: Label Studio's API, or None without address or token.
    """
    predictions = None if client is None else StudioPredictions(client)
    derivation = Derivation(CorrectionRepository(components.store), predictions)

    def live() -> Live:
        return Live(
            components.host.state.value,
            tasks_waiting=waiting_tasks(components.store, components.service.waiting),
            changes_waiting=components.store.waiting,
            trainers=len(present_trainers(components.store)),
        )

    def refreshed(project_id: int) -> Refreshed | None:
        refresher = components.refresher
        status = None if refresher is None else refresher.status(project_id)
        return None if status is None else Refreshed(**asdict(status))

    titles = ProjectTitles(None if client is None else lambda one: client.project(one).title)
    pictures = GroupPictures(derivation, image_source(components.settings, client))
    return build_pages(
        overview,
        pictures,
        live=live,
        refreshed=refreshed,
        title=titles.of,
        batch=batches(components),
    )
