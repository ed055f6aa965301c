"""The CALICO block: three subtasks, strict and compat, and the gain of true names or true masks.

Keeps one unit per image and subtask in every variant; masks are reduced to overlaps at once. Any
subset of groups can be summed up afterwards: all groups, or those of one size.

An image without truth for a subtask is left out in compat. In strict it counts only if something
was predicted there: those regions are false positives and the image has mIoU 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calico_model.evaluation import bootstrap, structure, units
from calico_model.evaluation.bootstrap import Estimate
from calico_model.evaluation.metrics import COMPAT, STRICT, ranked_hits
from calico_model.evaluation.regions import CroppedRegion
from calico_model.evaluation.units import Unit
from calico_model.types import RegionKind

Entry = tuple[int, float, float]
"""(group, part, whole) of one unit."""

Estimates = dict[str, dict[str, Estimate]]
"""mode -> metric -> estimate."""


def _by_kind() -> dict[RegionKind, list[Unit]]:
    return {kind: [] for kind in RegionKind}


@dataclass(eq=False)
class Cosegmentation:
    """All units seen so far, by variant and subtask, and the tallies of whole groups."""

    strict: dict[RegionKind, list[Unit]] = field(default_factory=_by_kind)
    compat: dict[RegionKind, list[Unit]] = field(default_factory=_by_kind)
    true_labels: dict[RegionKind, list[Unit]] = field(default_factory=_by_kind)
    true_masks: dict[RegionKind, list[Unit]] = field(default_factory=_by_kind)
    pairs: dict[tuple[RegionKind, str], list[Entry]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add_image(
        self,
        index: int,
        kind: RegionKind,
        predicted: Sequence[CroppedRegion],
        truth: Sequence[CroppedRegion],
    ) -> Unit | None:
        """Adds one image of one subtask; returns its strict unit, None if there is nothing."""
        if not predicted and not truth:
            return None
        strict = units.strict_unit(index, predicted, truth)
        self.strict[kind].append(strict)
        self.true_labels[kind].append(units.oracle_label_unit(index, predicted, truth))
        self.true_masks[kind].append(units.oracle_mask_unit(index, predicted, truth))
        if truth:
            self.compat[kind].append(units.compat_unit(index, predicted, truth))
        return strict

    def add_group(
        self,
        index: int,
        kind: RegionKind,
        predicted: Sequence[CroppedRegion],
        truth: Sequence[CroppedRegion],
        images: int,
    ) -> None:
        """Adds the tallies of common things across the images of a group."""
        if kind is RegionKind.UNIQUE_PART:
            return
        recall = structure.pair_tally(predicted, truth)
        consistency = structure.consistency_tally(predicted, images)
        self.pairs[kind, "pair_recall50"].append((index, *recall))
        self.pairs[kind, "label_consistency"].append((index, *consistency))

    def estimate(
        self, kind: RegionKind, places: Mapping[int, int], counts: NDArray[np.int64]
    ) -> Estimates:
        """Sums up one subtask over some groups.

        Args:
            kind: the subtask.
            places: group index -> column of `counts`; other groups are left out.
            counts: (R, G) from `draw_counts`.
        """
        estimates: Estimates = {}
        tables = {"strict": (STRICT, self.strict), "compat": (COMPAT, self.compat)}
        for mode, (table, scored) in tables.items():
            chosen = [u for u in scored[kind] if u.group_index in places]
            strict = mode == "strict"
            estimates[mode] = {
                "AP50": _precision(chosen, places, counts, by_score=strict, same_label=False),
                "AP50_cls": _precision(chosen, places, counts, by_score=strict, same_label=True),
            } | {
                name: bootstrap.ratio([(places[u.group_index], *tally(u)) for u in chosen], counts)
                for name, tally in table.items()
            }
        for name in structure.PAIR_METRICS:
            if entries := self.pairs.get((kind, name)):
                estimates["strict"][name] = bootstrap.ratio(
                    [(places[g], part, whole) for g, part, whole in entries if g in places], counts
                )
        return estimates

    def oracle(self, kind: RegionKind) -> dict[str, float | str]:
        """Gains of label-aware mIoU and PQ, in points, when one half of the output is true."""
        outcome: dict[str, float | str] = {}
        for name in ("mIoU_cls", "PQ"):
            base, labels, masks = (
                _pool(STRICT[name], scored[kind])
                for scored in (self.strict, self.true_labels, self.true_masks)
            )
            outcome[name] = base
            outcome[f"{name}_gain_oracle_label"] = labels - base
            outcome[f"{name}_gain_oracle_mask"] = masks - base
        by_label, by_mask = (float(outcome[f"PQ_gain_oracle_{half}"]) for half in ("label", "mask"))
        outcome["bottleneck"] = "label" if by_label > by_mask else "mask"
        return outcome


def mean_of_subtasks(estimates: Iterable[Estimates], mode: str) -> dict[str, Estimate]:
    """Mean over the subtasks of every metric that all of them have."""
    tables = [modes[mode] for modes in estimates]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: bootstrap.mean_of([t[name] for t in tables]) for name in shared}


def _precision(
    scored: Sequence[Unit],
    places: Mapping[int, int],
    counts: NDArray[np.int64],
    *,
    by_score: bool,
    same_label: bool,
) -> Estimate:
    ranked = [
        (places[u.group_index], score, hit)
        for u in scored
        for score, hit in ranked_hits(u, by_score=by_score, same_label=same_label)
    ]
    truths = [(places[u.group_index], len(u.truth_labels)) for u in scored]
    return bootstrap.average_precision(ranked, truths, counts)


def _pool(tally: Callable[[Unit], tuple[float, float]], scored: Sequence[Unit]) -> float:
    """Percent over all units; 0 where there is nothing to measure."""
    pairs = [tally(u) for u in scored]
    whole = sum(w for _, w in pairs)
    return 100 * float(sum(p for p, _ in pairs)) / whole if whole else 0.0
