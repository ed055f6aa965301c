"""What an export would hold, counted without fetching an image or decoding a mask."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from backend.export.data_set import LeftOut
from backend.export.gathering import Choice, chosen, labels_of, ordered_labels
from backend.label_schema import LabelSchema
from backend.label_studio.stored_tasks import StoredTask
from backend.types import StoredPrediction


@dataclass
class Preview:
    """Counts of tasks, addresses of images, and regions.

    Args:
        schema: the project's labeling config.
        choice: which annotations of a task count.
    """

    schema: LabelSchema
    choice: Choice
    tasks: int = 0
    skipped: int = 0
    unannotated: int = 0
    failed: int = 0
    regions: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    addresses: set[int] = field(default_factory=set)

    def add(self, stored: StoredTask, prediction: StoredPrediction | None = None) -> None:
        """Counts a task as `Gatherer.add` would add it."""
        annotations = chosen(stored.annotations, self.choice)
        if not annotations and stored.annotations:
            self.skipped += 1
        elif not annotations and prediction is None:
            self.unannotated += 1
        elif stored.task.problem is not None:
            self.failed += 1
        else:
            self.tasks += 1
            # Hashes: an address may be a whole image.
            self.addresses |= {hash(url) for url in stored.task.image_urls}
            regions = [region for one in annotations for region in one.regions]
            if not annotations and prediction is not None:
                regions = list(prediction.regions)
            for region in regions:
                labels = labels_of(region, self.schema)
                self.labels.update(labels)
                self.regions += bool(labels)
                if not labels:
                    self.left_out[LeftOut.WITHOUT_LABEL] += 1
            unread = sum(len({drawing.id for drawing in one.unread}) for one in annotations)
            if unread:
                self.left_out[LeftOut.UNREADABLE] += unread

    def label_counts(self) -> dict[str, int]:
        """Returns the number of regions of each label, in the order of an export."""
        return {label: self.labels[label] for label in ordered_labels(self.schema, self.labels)}
