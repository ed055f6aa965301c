"""Looks at what annotators submit, so that the next region is called as they call it.

A thread that describes the labeled regions of every new annotation, from features that are cached
because somebody just worked on these images, and keeps them. Predictions read a value in memory;
they never wait for this.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from backend.errors import BackendError, InvalidRleError, MediaUnavailableError
from backend.label_studio.event import read_annotation, read_schema, read_task
from backend.label_studio.label_set import closed_labels
from backend.served_model import ServedModel
from backend.serving.accepted import PrototypeStore, RegionEmbedding
from backend.storage.store import Head, Store
from backend.types import Annotation, Task
from calico_model.errors import CalicoError
from calico_model.interactive.naming.closed_set import Outline
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.types import ImageGroup
from calico_model.vocabulary import identity

_log = logging.getLogger(__name__)
_AT_ONCE = 8  # annotations of a project between two looks at the others
_AGAIN_S = 60.0


class GroupSource(Protocol):
    """Where a task's images come from."""

    def fetch_group(self, task: Task) -> ImageGroup:
        """Fetches every image of a task; raises MediaError naming the field."""


class PrototypeIndexer:
    """The thread, and what it knows.

    Args:
        store: where annotations are journalled.
        images: fetches a task's images.
        model: the base weights, None while they load.
        every_s: pause between two looks.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        store: Store,
        images: GroupSource,
        model: Callable[[], ServedModel | None],
        *,
        every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._looks = store, PrototypeStore(store)
        self._images, self._model = images, model
        self._every_s, self._clock = every_s, clock
        self._known: dict[int, Prototypes] = {}
        self._not_before: dict[tuple[int, int], float] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rememberer", daemon=True)

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stops after the annotation under way."""
        self._is_closed.set()

    def accepted(self, project_id: int | None) -> Prototypes:
        """What is known of a project's labels now."""
        return Prototypes() if project_id is None else self._known.get(project_id, Prototypes())

    def round(self) -> int:
        """Looks at every project once; returns how many annotations were new."""
        model = self._model()
        if model is None:
            return 0
        done = 0
        for project_id in self._looks.projects():
            if self._is_closed.is_set():
                break
            found = self._catch_up(project_id, model)
            gone = self._looks.forget_gone(project_id)
            if found or gone or project_id not in self._known:
                self._known[project_id] = self._looks.prototypes(project_id, model.version)
            done += found
        return done

    def _catch_up(self, project_id: int, model: ServedModel) -> int:
        now = self._clock()
        done = 0
        for head in self._looks.outdated(project_id, model.version)[:_AT_ONCE]:
            place = (project_id, head.annotation_id)
            if self._is_closed.is_set() or self._not_before.get(place, 0.0) > now:
                continue
            try:
                self._looks.keep(project_id, head, model.version, self._describe(head, model))
                self._not_before.pop(place, None)
                done += 1
            except MediaUnavailableError:
                self._not_before[place] = now + _AGAIN_S
        return done

    def _describe(self, head: Head, model: ServedModel) -> list[RegionEmbedding]:
        """What an annotation teaches; nothing if it cannot be read, which stays so."""
        stored = self._store.find_event(head.key)
        if stored is None:
            return []
        try:
            annotation = read_annotation(stored.event)
            task = read_task(stored.event)
            labeled = _outlines(annotation)
            if not labeled or not closed_labels(read_schema(stored.event), task.labels):
                return []
            group = self._images.fetch_group(task)
            fitting = [
                (label, one)
                for label, one in labeled
                if one.image_index < len(group)
                and one.mask.shape == group.sizes_hw[one.image_index]
            ]
            if not fitting:
                return []
            vectors = model.describe_regions(group, [one for _, one in fitting])
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
        return [RegionEmbedding(label, v) for (label, _), v in zip(fitting, vectors, strict=True)]

    def _run(self) -> None:
        while not self._is_closed.wait(self._every_s):
            try:
                self.round()
            except BackendError as error:
                _log.warning("accepted regions cannot be read: %s", error)
            except Exception:  # the thread has no caller: whatever it is, serving goes on
                _log.exception("accepted regions", extra={"event": "remembering_failed"})


def _outlines(annotation: Annotation) -> list[tuple[str, Outline]]:
    """The labeled regions of an annotation that hold anything, once for each of their labels.

    None of an annotation that nobody has looked at: it repeats what the model said.
    """
    found: list[tuple[str, Outline]] = []
    if not annotation.was_seen:
        return found
    for region in annotation.regions:
        try:
            is_drawn = bool(region.labels) and bool(region.mask.any())
        except InvalidRleError:
            continue  # the others still teach their names
        if is_drawn:
            outline = Outline(region.image_index, region.mask, region.kind)
            found += [(identity(label), outline) for label in region.labels]
    return found
