"""All figures of `calico evaluate --interactive`, in the order they are measured and shown."""

from __future__ import annotations

from calico_model.evaluation.interactive.clicks import CLICKS
from calico_model.evaluation.interactive.exemplar import EXEMPLAR
from calico_model.evaluation.interactive.figure import Figure
from calico_model.evaluation.interactive.naming import NAMING
from calico_model.evaluation.interactive.repeated import REPEATED
from calico_model.evaluation.interactive.text import REFERRING

FIGURES: tuple[Figure, ...] = (NAMING, CLICKS, EXEMPLAR, REPEATED, REFERRING)

KEYS = (
    "label_accuracy_seen",
    "label_accuracy_unseen_gain",
    "out_of_set",
    "noc85_scratch",
    "noc85_preannotated",
    "click_iou_median",
    "box_iou_median",
    "exemplar_iou",
    "exemplar_gain_unseen",
    "absent_accuracy",
    "repeated_iou",
    "repeated_iou_without_memory",
    *REFERRING.keys,
)
"""Of the JSON, in order; null where no figure was asked for."""
