"""What a server process runs beside the requests: threads of its own, and the trainer process."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable

from backend.clock import parse_hours
from backend.errors import StoreError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.predictions import delete_duplicates
from backend.learning.reconcile import Repair
from backend.learning.reconcile_loop import ReconcileWatch
from backend.learning.repository import CorrectionRepository
from backend.learning.supervisor import TrainerWatch
from backend.served_model import NamedWeights
from backend.serving.duplicates import DuplicateWatch
from backend.serving.metrics import Metrics, package_version
from backend.serving.model_host import ModelHost
from backend.serving.owed_answers import OwedAnswerWorker
from backend.serving.refresh_progress import RefreshProgress
from backend.serving.refreshing import Refresher, RefreshWindow, TaskDescriptors
from backend.serving.service import PredictionService
from backend.serving.studio import StudioTasks, prediction_sender
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.servers import ServerMembership, ServerReport, present_servers
from backend.storage.store import Store
from backend.storage.versions import Versions


def build_membership(
    store: Store, host: ModelHost[NamedWeights], waiting: Callable[[], int], metrics: Metrics
) -> ServerMembership:
    """Returns the thread that reports this server to the others, not started yet.

    Args:
        store: the database.
        host: holds the model.
        waiting: returns the number of tasks that wait for the model.
        metrics: show the servers of the database.
    """

    def count() -> dict[tuple[str, ...], float]:
        try:
            reports = [presence.report for presence in present_servers(store)]
        except StoreError:
            return {}  # the other metrics say why
        counts = Counter((one.release, one.weights or "", one.model) for one in reports)
        return {labels: float(number) for labels, number in counts.items()}

    if store.is_shared:
        labels = ("release", "weights", "model")
        metrics.watch_group("calico_servers", "Servers on this database.", labels, count)

    def report() -> ServerReport:
        return ServerReport(package_version(), host.version, host.state.value, waiting())

    return ServerMembership(store, report)


def waiting_tasks(store: Store, own: int) -> int:
    """Number of tasks that wait for a model: at all servers of a shared database, else `own`."""
    servers = present_servers(store)
    return sum(presence.report.waiting for presence in servers) if servers else own


def build_refresher(
    settings: Settings,
    store: Store,
    host: ModelHost[NamedWeights],
    service: PredictionService,
    client: LabelStudioClient | None,
    *,
    leads: Callable[[], bool],
) -> Refresher | None:
    """Returns the thread that predicts again after a promotion, not started yet.

    None where it is switched off, or nothing could be sent to Label Studio.
    """
    if client is None or not settings.refresh:
        return None
    hours = None if settings.refresh_hours is None else parse_hours(settings.refresh_hours)
    return Refresher(
        lambda: Versions(store, adapter_files(settings)).projects(),
        service,
        studio_tasks(settings, store, host, client),
        TaskDescriptors(store),
        base=lambda: host.version,
        leads=leads,
        window=RefreshWindow(settings.refresh_at_once, hours),
        progress=RefreshProgress(store),
    )


def build_owed_worker(
    settings: Settings,
    store: Store,
    host: ModelHost[NamedWeights],
    service: PredictionService,
    client: LabelStudioClient | None,
    membership: ServerMembership,
) -> OwedAnswerWorker | None:
    """Returns the thread that sends what servers owed when they ended, not started yet.

    None where nothing could be sent to Label Studio.
    """
    if client is None:
        return None
    return OwedAnswerWorker(
        store,
        membership.owner,
        service,
        studio_tasks(settings, store, host, client),
        prediction_sender(client),
        leads=membership.role("owed answers"),
    )


def studio_tasks(
    settings: Settings, store: Store, host: ModelHost[NamedWeights], client: LabelStudioClient
) -> StudioTasks:
    """Returns Label Studio's tasks that wait for a prediction."""
    user, password = settings.basic_auth_user, settings.basic_auth_password
    credentials = None if user is None or password is None else (user, password.get_secret_value())

    def titles() -> frozenset[str]:
        return frozenset(store.versions()) | ({host.version} if host.version else set())

    return StudioTasks(client, credentials, titles)


def build_duplicate_watch(
    store: Store, host: ModelHost[NamedWeights], client: LabelStudioClient | None
) -> DuplicateWatch | None:
    """Returns the thread that deletes predictions stored twice, not started yet.

    None where Label Studio cannot be asked.
    """
    if client is None:
        return None

    def delete(project_id: int, task_id: int) -> int:
        ours = frozenset(store.versions()) | ({host.version} if host.version else set())
        return delete_duplicates(client, project_id, task_id, ours)

    return DuplicateWatch(delete)


def build_reconcile_watch(
    store: Store,
    metrics: Metrics,
    client: LabelStudioClient,
    *,
    leads: Callable[[], bool] = lambda: True,
) -> ReconcileWatch:
    """Returns the thread that finds lost events and counts them, not started yet."""

    def count(_project_id: int, repair: Repair | None) -> None:
        if repair is None:
            metrics.reconcile_failures.inc()
            return
        metrics.reconciled_at.set_to_current_time()
        metrics.reconciled.labels("change").inc(repair.recovered)
        metrics.reconciled.labels("deletion").inc(repair.deleted)
        metrics.reconciled.labels("unreadable").inc(repair.unreadable)

    return ReconcileWatch(CorrectionRepository(store), client, on_done=count, leads=leads)


def start_trainer(settings: Settings, metrics: Metrics) -> TrainerWatch:
    """Starts a trainer process beside this one, and starts it again when it dies."""
    watch = TrainerWatch(
        trainer_command(settings), on_death=lambda _status: metrics.trainer_deaths.inc()
    )
    metrics.watch(
        "calico_trainer_up", "Whether the trainer runs.", lambda: watch.process_id is not None
    )
    watch.start()
    return watch


def trainer_command(settings: Settings) -> list[str]:
    """Returns the command line of a trainer that ends when this process does."""
    options = {
        "--data-dir": settings.data_dir,
        "--weights": settings.weights,
        "--device": settings.device,
        "--precision": settings.precision,
        "--label-studio-url": settings.label_studio_url,
        "--log-level": settings.log_level,
        "--log-format": settings.log_format,
        "--parent": os.getpid(),
    }
    words = [sys.executable, "-m", "backend.cli", "trainer"]
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    return words
