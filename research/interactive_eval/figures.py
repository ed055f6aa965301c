"""All figures of `calico evaluate --interactive`, in the order they are measured and shown."""

from __future__ import annotations

from research.interactive_eval.clicks import CLICKS
from research.interactive_eval.exemplar import EXEMPLAR
from research.interactive_eval.figure import Figure
from research.interactive_eval.naming import NAMING
from research.interactive_eval.repeated import REPEATED
from research.interactive_eval.text import REFERRING

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
