"""What answers tasks in this process, wired: model, versions, sources and learned names.

A server holds one side: `build_local_side` with a model of its own, or that of a fleet, whose
model replicas each hold a local side themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.inference_priority import InferencePriority
from backend.learning.prototype_indexer import PrototypeIndexer
from backend.served_model import AdaptableModel, NamedWeights
from backend.serving.adapter_registry import AdapterRegistry
from backend.serving.caches import MemoryLimits
from backend.serving.jobs import PredictsTasks
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.serving.naming import ProjectNames
from backend.serving.rendering import Look, code_version, renderer, with_arrangement
from backend.serving.source_pool import SourcePool
from backend.serving.source_trust import SourceTrustReader
from backend.serving.task_predictor import TaskPredictor
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.source_trust import SourceAnswerStore
from backend.storage.store import Store
from backend.storage.versions import Versions
from backend.types import GroupSource
from calico_model.inference.arrangement import Arrangement
from calico_model.sources.registry import LOADING, SourceChoice, open_source, read_choices
from calico_model.sources.source import Source


@dataclass(frozen=True)
class PredictionSide:
    """What answers tasks, and everything it needs.

    Attributes:
        host: holds the model, or the connection to those that hold it.
        task_predictor: answers a task.
        registry: the version of each project.
        prototype_indexer: learns how labels look; None where others do.
        sources: segmenters asked beside the model; None where others ask them.
        urgent_workers: threads of the queue that only take what somebody waits for.
        on_close: ends what else was started.
    """

    host: ModelHost[NamedWeights]
    task_predictor: PredictsTasks
    registry: AdapterRegistry
    prototype_indexer: PrototypeIndexer | None = None
    sources: SourcePool | None = None
    urgent_workers: int = 0
    on_close: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begins to load the model and the sources; returns at once."""
        self.host.start()
        if self.sources is not None:
            self.sources.start()

    def start_learning_names(self) -> None:
        """Starts the thread that describes accepted regions, where there is one."""
        if self.prototype_indexer is not None:
            self.prototype_indexer.start()

    def close(self) -> None:
        """Stops its threads."""
        if self.prototype_indexer is not None:
            self.prototype_indexer.close()
        self.on_close()


def build_local_side(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    images: GroupSource,
    *,
    leads: Callable[[str], bool],
    load: Callable[[], AdaptableModel] | None = None,
) -> PredictionSide:
    """Builds what predicts with a model in this process; nothing is loaded yet.

    Args:
        settings: everything a deployment chooses.
        store: the database.
        metrics: count tasks and time their stages.
        images: fetches a task's images.
        leads: whether this process is the one of its weights' servers that describes regions.
        load: builds the model instead of the one in `settings`.
    """
    host = ModelHost(load or (lambda: _load_model(settings)))
    prototype_indexer = PrototypeIndexer(store, images, lambda: host.model, leads=leads)
    registry = build_registry(settings, store, metrics)
    arrangement = Arrangement(overlaps=settings.settle_overlaps, gaps=settings.unknown_parts)
    project_names = ProjectNames(prototype_indexer.prototypes, settings.name_least_chance)
    look = Look(relations=settings.relations, groups_to_learn=settings.train_every)
    sources = build_sources(settings, metrics)
    task_predictor = TaskPredictor(
        host,
        images,
        with_arrangement(renderer(look), arrangement),
        store,
        metrics,
        code=code_version(arrangement, look),
        registry=registry,
        inference_priority=InferencePriority(settings.inference_priority_file),
        names=project_names if settings.name_regions else None,
        refines=settings.refine_clicks,
        click_budget_s=settings.click_budget_s,
        unasked_budget_s=settings.source_task_budget_s,
        sources=sources,
        trust=SourceTrustReader(SourceAnswerStore(store)),
        limits=MemoryLimits(
            settings.opened_task_bytes, settings.recent_prediction_bytes, settings.click_steps
        ),
        groups_at_once=settings.groups_at_once,
    )
    return PredictionSide(
        host,
        task_predictor,
        registry,
        prototype_indexer if settings.name_regions else None,
        sources,
    )


def build_registry(settings: Settings, store: Store, metrics: Metrics) -> AdapterRegistry:
    """Returns the versions of all projects, none in memory yet."""
    return AdapterRegistry(
        Versions(store, adapter_files(settings)),
        metrics,
        start_from=settings.start_from_project,
        most_loaded=settings.loaded_adapters,
        most_bytes=settings.loaded_adapter_bytes,
    )


def build_sources(settings: Settings, metrics: Metrics) -> SourcePool:
    """Returns the segmenters asked beside the model, not loaded yet."""

    def opener(choice: SourceChoice) -> Callable[[], Source]:
        # Classes of transformers are imported when a source is opened, and only then.
        return lambda: open_source(choice, settings.device)

    pool = SourcePool(
        [
            (choice.name, opener(choice))
            for choice in read_choices(settings.sources, settings.sources_dir)
        ],
        metrics,
        budget_s=settings.source_budget_s,
        cache_bytes=settings.source_cache_bytes,
    )
    metrics.watch(
        "calico_source_cache_bytes",
        "Memory of the encoded images that sources keep.",
        lambda: pool.cached_bytes,
    )
    return pool


def _load_model(settings: Settings) -> AdaptableModel:
    # Importing torch takes seconds; this runs in the loading thread while /health already answers.
    with LOADING:  # the sources load at the same time
        from backend.serving.loaded_model import load_base_model

        return load_base_model(settings)
