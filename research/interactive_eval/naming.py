"""How well outlined regions are named with the labels of a closed set, on true masks.

Naming is measured apart from outlining: every true region is named, objects and parts alike, and
the model is not told which of both a region is. For known names, all names of training are
candidates. For unknown names, the labels of a project of held-out categories are candidates, before
and after five groups were accepted; the baseline is the label in the plain model's text. And for
any outline and any set, no label from outside the set may be returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calico_model.data.catalogue import HELD_OUT_CATEGORIES, TRAINED_CATEGORIES, parts_of
from calico_model.data.synthetic import SceneSplit
from calico_model.evaluation.matching import iou_matrix
from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.types import BoolMask, GroupPrediction, LabeledGroup, RegionKind
from calico_model.vocabulary import Vocabulary, match
from research.interactive_eval.figure import Figure, FigureResult, OnStep, Subject, TableRow

ACCEPTED = 5
"""Groups that are accepted before regions with unknown names are named."""
REGIONS = 10_000
"""Number of random regions over which labels from outside the set are counted."""
_GROUP_SIZE = 2
_PROJECTS = (SceneSplit.UNSEEN_CATEGORY, SceneSplit.UNSEEN_DOMAIN)
_BATCH = 500
_SET_SIZES = (1, 24)


@dataclass(frozen=True, eq=False)
class TrueRegion:
    """A true region.

    Attributes:
        outline: mask and image, without label and kind.
        label: true label.
        is_object: True for a whole object, False for a part.
    """

    outline: Outline
    label: str
    is_object: bool


def true_regions(labeled: LabeledGroup) -> tuple[TrueRegion, ...]:
    """Returns every region of a group once, compared objects included."""
    masks: dict[tuple[int, str, bool], BoolMask] = {}
    for part in labeled.parts:
        is_object = part.kind is RegionKind.COMMON_OBJECT
        masks[part.image_index, part.label, is_object] = part.mask
    for compared in labeled.objects:
        masks.setdefault((compared.image_index, compared.label, True), compared.mask)
    return tuple(
        TrueRegion(Outline(image, mask), label, is_object)
        for (image, label, is_object), mask in masks.items()
        if mask.any()
    )


def names_of(categories: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of drawn categories and of all their parts, sorted."""
    return tuple(sorted({*categories, *(part for name in categories for part in parts_of(name))}))


def plain_label(
    region: TrueRegion, group_prediction: GroupPrediction, vocabulary: Vocabulary
) -> str | None:
    """Returns the label of the predicted region that overlaps a true region best, or None."""
    parts = tuple(group_prediction.of_image(region.outline.image_index))
    if not parts:
        return None
    overlap = iou_matrix([part.mask for part in parts], [region.outline.mask])[:, 0]
    best = int(overlap.argmax())
    return match(parts[best].label, vocabulary) if overlap[best] > 0 else None


@dataclass
class _Tally:
    """Counts of regions, and of those named right: by plain text, before and after accepting."""

    regions: int = 0
    plain: int = 0
    before: int = 0
    after: int = 0
    given: int = 0
    given_right: int = 0

    def percent(self, right: int, of: int | None = None) -> float:
        """Percent of `right` among `of`, by default all regions; 0 where there are none."""
        total = self.regions if of is None else of
        return 100 * right / total if total else 0.0


def _measure(subject: Subject, on_step: OnStep) -> FigureResult:
    steps = iter(range(1, _steps(subject) + 1))

    def advance() -> None:
        on_step(next(steps))

    seen = _seen(subject, advance)
    projects = {split: _project(subject, split, advance) for split in _PROJECTS}
    outside = sum(1 for _ in _outside(subject, advance))
    gains = [tally.percent(tally.after) - tally.percent(tally.plain) for tally in projects.values()]
    values = {
        "label_accuracy_seen": seen.percent(seen.after),
        "label_accuracy_unseen_gain": float(np.mean(gains)),
        "out_of_set": float(outside),
    }
    rows = [
        TableRow(
            "Known names, true masks",
            f"{values['label_accuracy_seen']:.1f} % of {seen.regions} regions",
            ">= 95 %",
        ),
        TableRow("  where it was sure enough", _given(seen)),
        TableRow("  plain text", f"{seen.percent(seen.plain):.1f} %"),
    ]
    for split, tally in projects.items():
        rows += [
            TableRow(
                f"{split}, after {ACCEPTED} accepted groups",
                f"{tally.percent(tally.after):.1f} % of {tally.regions} regions",
                f">= {tally.percent(tally.plain) + 10:.1f} %",
            ),
            TableRow("  where it was sure enough", _given(tally)),
            TableRow("  before any", f"{tally.percent(tally.before):.1f} %"),
            TableRow("  plain text", f"{tally.percent(tally.plain):.1f} %"),
        ]
    rows.append(TableRow(f"Labels outside the set, {REGIONS:,} regions", str(outside), "0"))
    return FigureResult(values, tuple(rows))


def _given(tally: _Tally) -> str:
    right = tally.percent(tally.given_right, tally.given)
    return f"{right:.1f} %, {tally.percent(tally.given):.1f} % of the regions"


def _seen(subject: Subject, advance: Callable[[], None]) -> _Tally:
    closed = ClosedSet(Vocabulary(names_of(TRAINED_CATEGORIES)), rejects=False)
    tally = _Tally()
    for labeled in subject.draw(SceneSplit.SEEN, subject.groups, _GROUP_SIZE):
        group_prediction = subject.predictor.predict(labeled.group)
        _judge(subject, labeled, group_prediction, closed, closed, tally)
        advance()
    return tally


def _project(subject: Subject, split: SceneSplit, advance: Callable[[], None]) -> _Tally:
    """Accepts the first groups of a project, and names the regions of the others."""
    groups = subject.draw(split, ACCEPTED + subject.groups, _GROUP_SIZE)
    by_group = [true_regions(labeled) for labeled in groups]
    labels = {region.label for regions in by_group for region in regions}
    labels |= set(names_of(HELD_OUT_CATEGORIES))
    closed = ClosedSet(Vocabulary(tuple(sorted(labels))), rejects=False)
    accepted = Prototypes()
    tally = _Tally()
    for number, labeled in enumerate(groups):
        if number < ACCEPTED:
            outlines = [region.outline for region in by_group[number]]
            embeddings = subject.assistant.describe(labeled.group, outlines)
            for region, embedding in zip(by_group[number], embeddings, strict=True):
                accepted = accepted.add(region.label, embedding)
        else:
            group_prediction = subject.predictor.predict(labeled.group)
            learned = replace(closed, accepted=accepted)
            _judge(subject, labeled, group_prediction, closed, learned, tally)
        advance()
    return tally


def _judge(
    subject: Subject,
    labeled: LabeledGroup,
    group_prediction: GroupPrediction,
    before: ClosedSet,
    after: ClosedSet,
    tally: _Tally,
) -> None:
    regions = true_regions(labeled)
    outlines = [region.outline for region in regions]
    named = subject.assistant.name(labeled.group, outlines, after, group_prediction)
    first = named
    if before is not after:
        first = subject.assistant.name(labeled.group, outlines, before, group_prediction)
    for region, early, late in zip(regions, first, named, strict=True):
        tally.regions += 1
        tally.plain += plain_label(region, group_prediction, after.vocabulary) == region.label
        tally.before += _likeliest(early) == region.label
        tally.after += _likeliest(late) == region.label
        tally.given += late.label is not None
        tally.given_right += late.label == region.label


def _likeliest(named: Named) -> str:
    return named.ranked[0][0]


def _outside(subject: Subject, advance: Callable[[], None]) -> Iterator[Named]:
    """Names random outlines with random closed sets; yields answers from outside the set."""
    rng = np.random.default_rng((subject.seed, 6))
    names = np.array(names_of((*TRAINED_CATEGORIES, *HELD_OUT_CATEGORIES)))
    groups = subject.draw(SceneSplit.SEEN, REGIONS // _BATCH, _GROUP_SIZE)
    accepted = Prototypes()
    for labeled in groups:
        chosen = rng.permutation(names)[: rng.integers(*_SET_SIZES, endpoint=True)]
        aliases = {f"any {name}": str(name) for name in chosen[::2]}
        closed = ClosedSet(
            Vocabulary(tuple(map(str, chosen)), aliases), accepted, least=0.0, rejects=False
        )
        outlines = [_scribble(labeled, rng) for _ in range(_BATCH)]
        group_prediction = subject.predictor.predict(labeled.group) if rng.random() < 0.5 else None
        answers = subject.assistant.name(labeled.group, outlines, closed, group_prediction)
        yield from (named for named in answers if named.label not in closed.vocabulary.labels)
        # Accepted regions may have any label, also labels that no set holds.
        for embedding in subject.assistant.describe(labeled.group, outlines[:20]):
            accepted = accepted.add(str(rng.choice([*names, "nobody's name"])), embedding)
        advance()


def _scribble(labeled: LabeledGroup, rng: np.random.Generator) -> Outline:
    """A random box or ellipse, down to a single pixel."""
    image = int(rng.integers(len(labeled.group)))
    height, width = labeled.group.sizes_hw[image]
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    tall, wide = rng.uniform(1, height / 2), rng.uniform(1, width / 2)
    rows, columns = np.ogrid[:height, :width]
    down, right = np.abs(rows - y) / tall, np.abs(columns - x) / wide
    mask: BoolMask = down**2 + right**2 <= 1 if rng.random() < 0.5 else np.maximum(down, right) <= 1
    if not mask.any():
        mask[int(y), int(x)] = True
    return Outline(image, mask)


def _steps(subject: Subject) -> int:
    return subject.groups + len(_PROJECTS) * (ACCEPTED + subject.groups) + REGIONS // _BATCH


NAMING = Figure(
    "Naming true masks",
    ("label_accuracy_seen", "label_accuracy_unseen_gain", "out_of_set"),
    _steps,
    _measure,
)
