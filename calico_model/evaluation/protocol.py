"""Looks at labeled groups with a predictor and says how good it is.

Owns the protocol: which subtask scores which regions, what an image without truth means, and what
is counted beside the metrics. The numbers come from metrics.py, their pooling and intervals from
bootstrap.py, files and pictures from report.py. Does not know files, clocks or torch.

An image without truth for a subtask is left out in compat. In strict it counts only if something
was predicted there: those regions are false positives and the image has mIoU 0. A subtask whose
truth a group does not know is not scored on it at all.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calico_model.errors import CalicoError, InvalidRecordError
from calico_model.evaluation import bootstrap, structure, units
from calico_model.evaluation.bootstrap import Estimate
from calico_model.evaluation.labels import score_labels
from calico_model.evaluation.metrics import COMPAT, STRICT, Unit, ranked_hits
from calico_model.evaluation.outcome import MODES, SS_BACKEND, SUBTASKS, Report, WorstCase
from calico_model.prompts import parse_answer
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, PartMask, RegionKind


class Predictor(Protocol):
    """Whatever can be evaluated; the shape of calico_model.predictor without its torch."""

    @property
    def version(self) -> str:
        """Names the weights."""

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Finds the regions of a group."""


def evaluate(
    predictor: Predictor,
    groups: Iterable[LabeledGroup],
    *,
    resamples: int = 1000,
    seed: int = 0,
    keep_worst: int = 6,
    on_group: Callable[[int], None] = lambda done: None,
) -> Report:
    """Predicts every group and scores the three subtasks, strict and compat.

    Args:
        predictor: what is evaluated.
        groups: read once, one at a time, so a lazy reader keeps memory flat.
        resamples: bootstrap resamples of groups.
        seed: of the bootstrap.
        keep_worst: how many of the worst groups to keep for pictures.
        on_group: called with the number of finished groups after each.

    Raises:
        InvalidRecordError: there are no groups.
    """
    ledger = _Ledger(keep_worst)
    for index, labeled in enumerate(groups):
        ledger.add(index, labeled, _predict(predictor, labeled.group, index, ledger.warnings))
        on_group(index + 1)
    if not ledger.groups:
        raise InvalidRecordError("groups: expected at least one labeled group, got none")
    return ledger.close(predictor.version, resamples, seed)


def _predict(
    predictor: Predictor, group: ImageGroup, index: int, warnings: list[str]
) -> GroupPrediction:
    """A group the model refuses is scored as an empty answer, and named."""
    try:
        return predictor.predict(group)
    except CalicoError as error:
        warnings.append(f"group {index}: no prediction, scored as empty ({error})")
        return GroupPrediction((), predictor.version)


@dataclass(eq=False)
class _Ledger:
    """Everything counted so far; masks are reduced to overlaps at once."""

    keep_worst: int
    groups: int = 0
    images: int = 0
    strict: dict[RegionKind, list[Unit]] = field(default_factory=lambda: defaultdict(list))
    compat: dict[RegionKind, list[Unit]] = field(default_factory=lambda: defaultdict(list))
    true_labels: dict[RegionKind, list[Unit]] = field(default_factory=lambda: defaultdict(list))
    true_masks: dict[RegionKind, list[Unit]] = field(default_factory=lambda: defaultdict(list))
    tallies: dict[str, list[tuple[int, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    answers: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    worst: list[tuple[float, int, WorstCase]] = field(default_factory=list)

    def add(self, index: int, labeled: LabeledGroup, prediction: GroupPrediction) -> None:
        """Scores one group."""
        regions = self._usable(index, labeled, prediction)
        self.groups += 1
        self.images += len(labeled.group)
        self._fingerprint(labeled)
        quality: list[float] = []
        for kind in (kind for kind in SUBTASKS if kind in labeled.known):
            ours = [region for region in regions if region.kind is kind]
            self._count_answer(kind, ours, labeled, prediction)
            for image in range(len(labeled.group)):
                quality += self._add_image(index, kind, image, ours, labeled.of_kind(kind))
            if kind is not RegionKind.UNIQUE_PART:
                pair = structure.pair_tally(ours, labeled.of_kind(kind))
                same = structure.consistency_tally(ours, len(labeled.group))
                self.tallies[f"{kind}.pair_recall50"].append((index, *pair))
                self.tallies[f"{kind}.label_consistency"].append((index, *same))
        for name, tally in structure.part_tallies(regions, labeled.parts).items():
            self.tallies[name].append((index, *tally))
        self._remember(index, float(np.mean(quality)) if quality else 1.0, labeled, prediction)

    def close(self, version: str, resamples: int, seed: int) -> Report:
        """Turns the counts into metrics with intervals."""
        counts = bootstrap.draw_counts(self.groups, resamples, seed)
        estimates = {str(kind): self._estimate(kind, counts) for kind in SUBTASKS}
        means = {mode: _mean(estimates, mode) for mode in MODES}
        return Report(
            model_version=version,
            data_sha256=self.digest.hexdigest(),
            groups=self.groups,
            images=self.images,
            tasks={
                task: {
                    mode: {name: value.metric() for name, value in table.items()}
                    for mode, table in modes.items()
                }
                for task, modes in estimates.items()
            },
            mean={
                mode: {name: value.metric() for name, value in table.items()}
                for mode, table in means.items()
            },
            resampled=means,
            parts={
                name: bootstrap.ratio(tallies, counts).metric()
                for name, tallies in self.tallies.items()
                if "." not in name
            },
            oracle={str(kind): self._oracle(kind) for kind in SUBTASKS},
            labels={str(kind): score_labels(self.strict[kind]) for kind in SUBTASKS},
            answers={**self.answers},
            worst=tuple(case for _, _, case in sorted(self.worst, key=lambda e: (-e[0], -e[1]))),
            warnings=(*self.warnings, *self._closing_warnings()),
            seed=seed,
            resamples=resamples,
        )

    def _usable(
        self, index: int, labeled: LabeledGroup, prediction: GroupPrediction
    ) -> list[PartMask]:
        """Drops regions without known truth; also misplaced ones, and says so."""
        group = labeled.group
        usable = []
        for region in prediction.parts:
            if region.kind not in labeled.known:
                continue
            inside = 0 <= region.image_index < len(group)
            if inside and region.mask.shape == group.sizes_hw[region.image_index]:
                usable.append(region)
                continue
            self.answers["skipped_regions"] += 1
            self.warnings.append(
                f"group {index}: skipped region {region.label!r} of image {region.image_index}"
            )
        return usable

    def _add_image(
        self,
        index: int,
        kind: RegionKind,
        image: int,
        predicted: Sequence[PartMask],
        truth: Sequence[PartMask],
    ) -> list[float]:
        """Adds one unit in every variant; returns its strict mIoU, if it has one."""
        ours = [region for region in predicted if region.image_index == image]
        theirs = [region for region in truth if region.image_index == image]
        if not ours and not theirs:
            return []
        strict = units.strict_unit(index, ours, theirs)
        self.strict[kind].append(strict)
        self.true_labels[kind].append(units.oracle_label_unit(index, ours, theirs))
        self.true_masks[kind].append(units.oracle_mask_unit(index, ours, theirs))
        if theirs:
            self.compat[kind].append(units.compat_unit(index, ours, theirs))
        return [STRICT["mIoU"](strict)[0]]

    def _count_answer(
        self,
        kind: RegionKind,
        predicted: Sequence[PartMask],
        labeled: LabeledGroup,
        prediction: GroupPrediction,
    ) -> None:
        truth = labeled.of_kind(kind)
        self.answers["questions"] += 1
        self.answers["skipped_regions"] += 0
        self.answers["empty_wrongly"] += bool(truth) and not predicted
        self.answers["empty_rightly"] += not truth and not predicted
        self.answers["answered_nothing_to_find"] += bool(predicted) and not truth
        text = prediction.answers.get(kind)
        self.answers["malformed"] += text is not None and parse_answer(kind, text).malformed > 0

    def _fingerprint(self, labeled: LabeledGroup) -> None:
        for image in labeled.group.images:
            self.digest.update(repr(image.shape).encode() + image.tobytes())
        for part in labeled.parts:
            named = f"{part.image_index}|{part.kind}|{part.label}"
            self.digest.update(named.encode() + np.packbits(part.mask).tobytes())

    def _remember(
        self, index: int, miou: float, labeled: LabeledGroup, prediction: GroupPrediction
    ) -> None:
        case = WorstCase(index, 100 * miou, labeled, prediction)
        heapq.heappush(self.worst, (-miou, -index, case))
        if len(self.worst) > self.keep_worst:
            heapq.heappop(self.worst)

    def _estimate(
        self, kind: RegionKind, counts: NDArray[np.int64]
    ) -> dict[str, dict[str, Estimate]]:
        tables = {"strict": (STRICT, self.strict[kind]), "compat": (COMPAT, self.compat[kind])}
        estimates: dict[str, dict[str, Estimate]] = {}
        for mode, (table, scored) in tables.items():
            by_score = mode == "strict"
            estimates[mode] = {
                "AP50": _precision(scored, counts, by_score=by_score, same_label=False),
                "AP50_cls": _precision(scored, counts, by_score=by_score, same_label=True),
            } | {
                name: bootstrap.ratio([(u.group_index, *tally(u)) for u in scored], counts)
                for name, tally in table.items()
            }
        for name in structure.PAIR_METRICS:
            if tallies := self.tallies.get(f"{kind}.{name}"):
                estimates["strict"][name] = bootstrap.ratio(tallies, counts)
        return estimates

    def _oracle(self, kind: RegionKind) -> dict[str, float | str]:
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

    def _closing_warnings(self) -> list[str]:
        notes = [
            f"ss_backend={SS_BACKEND}: Recall and SS compare spelling (hashed character 3-5-grams),"
            " the paper compares sentence embeddings",
            "SS and S-IoU compare labels through matched masks (assumed)",
        ]
        notes += [
            f"{kind}: no truth in this data, left out of the mean"
            for kind in SUBTASKS
            if not self.compat[kind]
        ]
        if self.answers["malformed"]:
            notes.append(f"{self.answers['malformed']} answers had tags outside the grammar")
        return notes


def _mean(estimates: dict[str, dict[str, dict[str, Estimate]]], mode: str) -> dict[str, Estimate]:
    """Mean over the subtasks of every metric all of them have."""
    tables = [modes[mode] for modes in estimates.values()]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: bootstrap.mean_of([t[name] for t in tables]) for name in shared}


def _precision(
    scored: Sequence[Unit], counts: NDArray[np.int64], *, by_score: bool, same_label: bool
) -> Estimate:
    ranked = [
        (u.group_index, score, hit)
        for u in scored
        for score, hit in ranked_hits(u, by_score=by_score, same_label=same_label)
    ]
    truths = [(u.group_index, len(u.truth_labels)) for u in scored]
    return bootstrap.average_precision(ranked, truths, counts)


def _pool(tally: Callable[[Unit], tuple[float, float]], scored: Sequence[Unit]) -> float:
    """Percent over all units; 0 where there is nothing to measure."""
    pairs = [tally(u) for u in scored]
    whole = sum(w for _, w in pairs)
    return 100 * float(sum(p for p, _ in pairs)) / whole if whole else 0.0
