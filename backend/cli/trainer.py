"""`calico trainer`: the process that learns from corrections, beside the serving process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.options import (
    DataDirOption,
    LogFormatOption,
    LogLevelOption,
    ServerDeviceOption,
    StudioUrlOption,
    command_settings,
)
from backend.inference_priority import InferencePriority, Yielding
from backend.learning.derivation import Derivation, StudioPredictions
from backend.learning.reconcile import Reconciler
from backend.learning.repository import CorrectionRepository
from backend.learning.schedule import SchedulePolicy
from backend.learning.session import TrainingSession
from backend.learning.source_learner import SourceLearner
from backend.learning.trainer_presence import Attendance
from backend.learning.training_runs import RunRepository
from backend.learning.worker import Trainer
from backend.served_model import SHIPPED_WEIGHTS
from backend.serving.logs import LogFormat, start_logging
from backend.serving.rendering import code_version
from backend.serving.studio import connect_client, image_source
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.store import Store, open_store
from backend.storage.versions import Versions
from calico_model.loading.precision import Precision

if TYPE_CHECKING:
    from backend.label_studio.client import LabelStudioClient
    from backend.learning.updater import BaseGroups, OnlineUpdater
    from calico_model.data.synthetic import Stream
    from calico_model.types import LabeledGroup

_log = logging.getLogger(__name__)
_REPLAYED, _PROBED = 24, 12  # groups of base data
BASE_GROUPS = _REPLAYED + _PROBED
"""Number of groups of the base data that a trainer reads; the first ones."""
_SEED = 4
_PARENT_GONE_S = 2.0


def trainer(
    data_dir: DataDirOption = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="DIR",
            help="Model folder, the same as for `calico serve`. [CALICO_WEIGHTS]",
        ),
    ] = None,
    device: ServerDeviceOption = None,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="Number format of the weights. [CALICO_PRECISION]"),
    ] = None,
    label_studio_url: StudioUrlOption = None,
    parent: Annotated[
        int | None, typer.Option("--parent", help="End when this process has ended.", hidden=True)
    ] = None,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Learn from corrections until Ctrl-C or SIGTERM. `calico serve` starts one by itself.

    A project is trained when it has enough new corrections, when one correction has waited long,
    when somebody presses the training button of Label Studio, or on `calico train-now`. A new
    version is served only if it passes the quality check.

    Nothing is lost when it stops: the next trainer begins the unfinished training again. Several
    trainers may share a database, and each project is trained by one at a time.

    Example: calico trainer --data-dir .calico
    """
    settings = command_settings(
        {"label_studio_url": "--label-studio-url"},
        data_dir=data_dir,
        weights=weights,
        device=device,
        precision=precision,
        label_studio_url=label_studio_url,
        log_level=log_level,
        log_format=None if log_format is None else log_format.value,
    )
    start_logging(settings.log_level, LogFormat(settings.log_format))
    stop = _stop_on_signals()
    if parent is not None:
        threading.Thread(target=_watch_parent, args=(parent, stop), daemon=True).start()
    # The writer thread starts before `nice` lowers the priority of this thread: a thread of low
    # priority must not hold a lock of the database.
    store = open_store(settings.store_url, is_guest=True, commit_timeout_s=30)
    attendance = Attendance(store)
    try:
        _prefer_for_oom_kill()
        attendance.start()
        os.nice(settings.trainer_nice)
        build_trainer(settings, store, stop).run(stop)
    finally:
        attendance.close()
        store.close()


def build_trainer(settings: Settings, store: Store, stop: threading.Event) -> Trainer:
    """Wires a trainer; the model is loaded when there is something to learn."""
    yielding = Yielding(InferencePriority(settings.inference_priority_file), stop=stop.is_set)
    client = connect_client(settings)
    repository = CorrectionRepository(store)
    derivation = Derivation(repository, None if client is None else StudioPredictions(client))
    versions = Versions(store, adapter_files(settings))
    runs = RunRepository(store)

    def open_session() -> TrainingSession:
        return TrainingSession(
            repository,
            derivation,
            None if client is None else Reconciler(repository, client),
            versions,
            runs,
            load_updater(settings, client, yielding),
            start_from=settings.start_from_project,
            code=code_version(),
        )

    return Trainer(
        repository,
        derivation,
        versions,
        runs,
        open_session,
        policy=SchedulePolicy(every=settings.train_every, age_s=settings.train_age_s),
        start_from=settings.start_from_project,
        base=lambda: _fingerprint(settings),
        learn_sources=SourceLearner(store, derivation).learn,
    )


def _fingerprint(settings: Settings) -> str:
    # torch takes seconds to import, and only a version of an earlier start asks for it.
    from calico_model.loading.checkpoints import fingerprint

    return fingerprint(settings.weights or SHIPPED_WEIGHTS)


def load_updater(
    settings: Settings, client: LabelStudioClient | None, yielding: Yielding | None = None
) -> OnlineUpdater:
    """Loads the trainer's own model.

    Raises:
        CheckpointError: missing or unusable weights.
        InvalidRecordError: the base data cannot be read.
    """
    # Importing torch takes seconds, and is needed only once there is something to learn.
    from backend.learning.updater import OnlineUpdater
    from calico_model.loading.checkpoints import fingerprint
    from calico_model.predictor import load_predictor
    from calico_model.training.online.plan import UpdatePlan

    plan = UpdatePlan()
    if settings.train_seconds is not None:
        plan = replace(plan, seconds=settings.train_seconds)
    weights = settings.weights or SHIPPED_WEIGHTS
    predictor = load_predictor(
        weights,
        device=settings.device,
        threads=settings.trainer_threads,
        precision=settings.precision,
    )
    return OnlineUpdater(
        predictor,
        fingerprint(weights),
        image_source(settings, client),
        settings.data_dir / "features",
        feature_bytes=settings.feature_bytes,
        base_groups=find_base_groups(settings),
        plan=plan,
        yielding=yielding,
    )


def find_base_groups(settings: Settings) -> BaseGroups:
    """Returns data of the base training: the folder in the settings, or calico-tiny's own data.

    Raises:
        InvalidRecordError: the folder cannot be read.
    """
    from backend.learning.updater import BaseGroups
    from calico_model.data.opening import open_groups

    if settings.base_data is not None:
        groups = list(islice(open_groups(settings.base_data), BASE_GROUPS))
        return BaseGroups(tuple(groups[1::2]), tuple(groups[::2][:_PROBED]))
    if settings.weights is None:
        from calico_model.data.synthetic import Stream

        return BaseGroups(_drawn(Stream.TRAINING, _REPLAYED), _drawn(Stream.PROBE, _PROBED))
    _log.warning(
        "no base data: nothing is rehearsed, and forgetting is not measured",
        extra={"event": "no_base_data"},
    )
    return BaseGroups()


def _drawn(stream: Stream, count: int) -> tuple[LabeledGroup, ...]:
    """Draws groups like those in calico-tiny's training."""
    from calico_model.data.synthetic import draw_group, group_rng, labeled_group

    return tuple(
        labeled_group(draw_group(group_rng(stream, _SEED, number))) for number in range(count)
    )


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _prefer_for_oom_kill() -> None:
    """Makes Linux end the trainer before the server when memory runs out; a trainer can resume."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _watch_parent(parent: int, stop: threading.Event) -> None:
    # A killed server cannot stop its trainer; the next server starts a new one.
    while not stop.wait(_PARENT_GONE_S):
        if os.getppid() != parent:
            stop.set()
