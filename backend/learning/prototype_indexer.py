"""Learns what labels look like from submitted annotations, so that new regions get those labels.

A thread describes the labeled regions of every new annotation, from features that are cached
because somebody just worked on these images, and keeps the vectors in the database. Naming reads
prototypes from memory and never waits for this thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from backend.errors import BackendError, InvalidRleError, MediaUnavailableError
from backend.label_studio.event import read_annotation, read_schema, read_task
from backend.label_studio.label_set import closed_labels
from backend.learning.prototype_store import PrototypeStore, RegionEmbedding, described_by
from backend.served_model import ServedModel
from backend.storage.servers import living_weights, present_servers
from backend.storage.store import Head, Store
from backend.types import Annotation, GroupSource
from calico_model.errors import CalicoError
from calico_model.interactive.naming.closed_set import Outline
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.vocabulary import identity

_log = logging.getLogger(__name__)
_ANNOTATIONS_PER_ROUND = 8  # of one project, before the next project has its turn
_RETRY_S = 60.0
_TIDY_S = 3600.0


class PrototypeIndexer:
    """The thread, and the prototypes of every project.

    Args:
        store: where annotations are journalled.
        images: fetches a task's images.
        model: returns the base weights, None while they load.
        every_s: pause between two rounds over all projects.
        clock: seconds that only grow.
        leads: whether this server is the one of several with its weights, whose version is given,
            that describes regions; the others read what it has kept.
    """

    def __init__(
        self,
        store: Store,
        images: GroupSource,
        model: Callable[[], ServedModel | None],
        *,
        every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        leads: Callable[[str], bool] = lambda _base: True,
    ) -> None:
        self._leads = leads
        self._states: dict[int, tuple[int, int]] = {}
        self._tidied_s = clock()
        self._store, self._embeddings = store, PrototypeStore(store)
        self._images, self._model = images, model
        self._every_s, self._clock = every_s, clock
        self._prototypes: dict[int, Prototypes] = {}
        self._not_before: dict[tuple[int, int], float] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prototype-indexer", daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stops after the annotation under way."""
        self._is_closed.set()

    def prototypes(self, project_id: int | None) -> Prototypes:
        """Returns what is known now of how a project's labels look."""
        if project_id is None:
            return Prototypes()
        return self._prototypes.get(project_id, Prototypes())

    def round(self) -> int:
        """Indexes the outdated annotations of every project; returns how many there were."""
        model = self._model()
        if model is None:
            return 0
        indexed = 0
        for project_id in self._embeddings.projects():
            if self._is_closed.is_set():
                break
            new = removed = 0
            if self._leads(model.version):
                new = self._index_project(project_id, model)
                removed = self._embeddings.forget_gone(project_id)
            is_known = project_id in self._prototypes
            base = described_by(model.version)
            if new or removed or not is_known or self._has_news(project_id, base):
                self._prototypes[project_id] = self._embeddings.prototypes(project_id, base)
            indexed += new
        self._tidy(model.version)
        return indexed

    def _has_news(self, project_id: int, base: str) -> bool:
        """Whether another server has changed the rows of a project."""
        if not self._store.is_shared:
            return False
        state = self._embeddings.state(project_id, base)
        is_new = self._states.get(project_id) != state
        self._states[project_id] = state
        return is_new

    def _tidy(self, base: str) -> None:
        """Drops what belongs to weights of the past, once an hour."""
        if self._clock() - self._tidied_s < _TIDY_S or not self._leads(base):
            return
        self._tidied_s = self._clock()
        used = living_weights(present_servers(self._store))
        self._embeddings.forget_other_weights(frozenset(map(described_by, used | {base})))

    def _index_project(self, project_id: int, model: ServedModel) -> int:
        now = self._clock()
        indexed = 0
        base = described_by(model.version)
        outdated = self._embeddings.outdated(project_id, base)
        for head in outdated[:_ANNOTATIONS_PER_ROUND]:
            annotation = (project_id, head.annotation_id)
            if self._is_closed.is_set() or self._not_before.get(annotation, 0.0) > now:
                continue
            if not self._leads(model.version):
                break
            try:
                embeddings = self._embed(head, model)
                self._embeddings.keep(project_id, head, base, embeddings)
                self._not_before.pop(annotation, None)
                indexed += 1
            except MediaUnavailableError:
                self._not_before[annotation] = now + _RETRY_S
        return indexed

    def _embed(self, head: Head, model: ServedModel) -> list[RegionEmbedding]:
        """Describes the labeled regions of an annotation; returns none if it cannot be read.

        Raises:
            MediaUnavailableError: an image cannot be fetched now, but perhaps later.
        """
        stored = self._store.find_event(head.key)
        if stored is None:
            return []
        try:
            annotation = read_annotation(stored.event)
            task = read_task(stored.event)
            labeled = labeled_outlines(annotation)
            if not labeled or not closed_labels(read_schema(stored.event), task.labels):
                return []
            group = self._images.fetch_group(task)
            fitting = [
                (label, outline)
                for label, outline in labeled
                if outline.image_index < len(group)
                and outline.mask.shape == group.sizes_hw[outline.image_index]
            ]
            if not fitting:
                return []
            vectors = model.describe_regions(group, [outline for _, outline in fitting])
        except MediaUnavailableError:
            raise
        except (BackendError, CalicoError) as error:
            _log.warning(
                "annotation %s teaches no names: %s",
                head.annotation_id,
                error,
                extra={"event": "names_not_learned", "annotation": head.annotation_id},
            )
            return []
        return [
            RegionEmbedding(label, vector)
            for (label, _), vector in zip(fitting, vectors, strict=True)
        ]

    def _run(self) -> None:
        while not self._is_closed.wait(self._every_s):
            try:
                self.round()
            except BackendError as error:
                event = {"event": "accepted_regions_unreadable"}
                _log.warning("accepted regions cannot be read: %s", error, extra=event)
            except Exception:  # the thread has no caller, and serving goes on
                _log.exception("accepted regions", extra={"event": "remembering_failed"})


def labeled_outlines(annotation: Annotation) -> list[tuple[str, Outline]]:
    """Returns the labeled, drawn regions of an annotation, once for each of their labels.

    An annotation that nobody has looked at has none: it repeats what the model predicted.
    """
    outlines: list[tuple[str, Outline]] = []
    if not annotation.was_seen:
        return outlines
    for region in annotation.regions:
        try:
            is_drawn = bool(region.labels) and bool(region.mask.any())
        except InvalidRleError:
            continue  # the others still teach their names
        if is_drawn:
            outline = Outline(region.image_index, region.mask, region.kind)
            outlines += [(identity(label), outline) for label in region.labels]
    return outlines
