"""What `calico lint` does with labeled groups: it looks at every region, then asks for words.

Knows the model as the backend serves it. A picture of every region is kept as a small JPEG.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from backend.served_model import ServedModel
from calico_model.evaluation.label_check import (
    AlikeWords,
    LabeledLook,
    LooksCheck,
    StrayWord,
    WordsTally,
    check_looks,
    same_spelling,
)
from calico_model.interactive.naming.closed_set import Outline
from calico_model.masks import window_of
from calico_model.sources.source import TextSource
from calico_model.types import BoolMask, ImageGroup, RgbImage

MOST_REGIONS = 100
"""Regions of one label that are looked at."""
THUMB = 144
"""Pixels of a side of a region's picture."""
_MARGIN = 0.6  # of the longer side of a region, shown around it
_LINE = (255, 40, 40)
_OWN = "CALICO"


@dataclass(frozen=True, eq=False)
class LabeledOutline:
    """A region that a person labeled.

    Attributes:
        image_index: 0-based position of the image in its group.
        label: as written.
        mask: (H, W) bool in the original frame, not empty.
    """

    image_index: int
    label: str
    mask: BoolMask


@dataclass(frozen=True, eq=False)
class LintGroup:
    """A labeled group.

    Attributes:
        name: for people.
        group: the images.
        outlines: labeled regions.
    """

    name: str
    group: ImageGroup
    outlines: tuple[LabeledOutline, ...]


@dataclass(frozen=True, eq=False)
class LintReport:
    """What was found.

    Attributes:
        groups: number of groups that were read.
        looks: pairs whose regions look alike; their examples are positions in `pictures`.
        pictures: JPEG of every region that was looked at.
        words: pairs of labels for which a source outlines the same place.
        stray: labels for which a source outlines another label's regions.
        spelling: labels that differ by case, plural or punctuation only.
        unknown_words: labels that the model was asked for and does not know as words.
        asked: number of groups on which words were asked.
    """

    groups: int
    looks: LooksCheck
    pictures: tuple[bytes, ...]
    words: tuple[AlikeWords, ...]
    stray: tuple[StrayWord, ...]
    spelling: tuple[tuple[str, ...], ...]
    unknown_words: tuple[str, ...]
    asked: int

    @property
    def findings(self) -> int:
        """Number of pairs and labels to look at."""
        return sum(map(len, (self.looks.alike, self.words, self.stray, self.spelling)))


Load = Callable[[int], LintGroup | None]
"""Number of a group -> the group; None if it has no labels."""


def lint_labels(
    model: ServedModel,
    load: Load,
    count: int,
    *,
    labels: Sequence[str] = (),
    ask: int,
    sources: Sequence[TextSource] = (),
    on_looked: Callable[[int], None] = lambda _done: None,
    on_asked: Callable[[int], None] = lambda _done: None,
) -> LintReport:
    """Checks the labels of groups.

    Args:
        model: looks at regions and is asked for words.
        load: reads a group; called again for the groups on which words are asked.
        count: number of groups.
        labels: of the labeling config, compared by spelling as well.
        ask: number of groups on which words are asked.
        sources: asked for words beside the model.
        on_looked, on_asked: called with the number of groups that are done.
    """
    looks: list[LabeledLook] = []
    pictures: list[bytes] = []
    labels_of: dict[int, tuple[str, ...]] = {}
    taken = Counter[str]()
    for number in range(count):
        loaded = load(number)
        on_looked(number + 1)
        if loaded is None or not loaded.outlines:
            continue
        labels_of[number] = tuple(dict.fromkeys(one.label for one in loaded.outlines))
        outlines = [one for one in loaded.outlines if taken[one.label] < MOST_REGIONS]
        taken.update(one.label for one in outlines)
        vectors = model.describe_regions(
            loaded.group, [Outline(one.image_index, one.mask) for one in outlines]
        )
        for outline, vector in zip(outlines, vectors, strict=True):
            looks.append(LabeledLook(number, outline.label, vector))
            pictures.append(region_picture(loaded.group.images[outline.image_index], outline.mask))
    checked = check_looks(looks)
    partners: dict[str, set[str]] = defaultdict(set)
    for pair in checked.alike:
        first, second = pair.labels
        partners[first].add(second)
        partners[second].add(first)
    chosen = choose_groups(labels_of, ask)
    tally, unknown = WordsTally(), set[str]()
    for done, number in enumerate(chosen, start=1):
        loaded = load(number)
        if loaded is not None:
            here = labels_of[number]
            wanted = sorted({*here, *(other for label in here for other in partners[label])})
            unknown |= _ask(model, loaded, wanted, tally)
            for source in sources:
                _ask_source(source, loaded, wanted, tally)
        on_asked(done)
    used = [*labels, *(label for found in labels_of.values() for label in found)]
    return LintReport(
        groups=len(labels_of),
        looks=checked,
        pictures=tuple(pictures),
        words=tally.alike(),
        stray=tally.stray(),
        spelling=same_spelling(used),
        unknown_words=tuple(sorted(unknown)),
        asked=len(chosen),
    )


def choose_groups(labels_of: dict[int, tuple[str, ...]], most: int) -> list[int]:
    """Returns groups in which every label occurs about as often, rising.

    Args:
        labels_of: number of a group -> its labels.
        most: number of groups at most.
    """
    seen, chosen, left = Counter[str](), list[int](), dict(labels_of)
    while left and len(chosen) < most:
        best = min(left, key=lambda number: (min(seen[one] for one in left[number]), number))
        seen.update(left.pop(best))
        chosen.append(best)
    return sorted(chosen)


def _ask(
    model: ServedModel, loaded: LintGroup, wanted: Sequence[str], tally: WordsTally
) -> set[str]:
    """Asks the model for labels on one group; returns those that it does not know as words."""
    prediction = model.predict(loaded.group)
    references = model.refer(loaded.group, [(label, None) for label in wanted], prediction)
    truth = united((one.image_index, one.label, one.mask) for one in loaded.outlines)
    answers = united(
        (part.image_index, reference.label, part.mask)
        for reference in references
        for part in reference.parts
    )
    for image in range(len(loaded.group)):
        tally.add(_OWN, answers.get(image, {}), truth.get(image, {}))
    return {reference.label for reference in references if not reference.is_known}


def _ask_source(
    source: TextSource, loaded: LintGroup, wanted: Sequence[str], tally: WordsTally
) -> None:
    """Asks a source for labels on every image of a group."""
    truth = united((one.image_index, one.label, one.mask) for one in loaded.outlines)
    for image, pixels in enumerate(loaded.group.images):
        masks = source.segment_names(source.encode(pixels), wanted)
        answers = united((image, mask.label, mask.mask) for mask in masks if mask.label is not None)
        tally.add(source.describe().name, answers.get(image, {}), truth.get(image, {}))


def united(regions: Iterable[tuple[int, str, BoolMask]]) -> dict[int, dict[str, BoolMask]]:
    """Image -> label -> union of its masks, from (image, label, mask)."""
    found: dict[int, dict[str, BoolMask]] = defaultdict(dict)
    for image, label, mask in regions:
        known = found[image].get(label)
        found[image][label] = mask if known is None else known | mask
    return found


def region_picture(image: RgbImage, mask: BoolMask) -> bytes:
    """Returns a square JPEG of a region in its surroundings, outlined."""
    bounds = window_of(mask)
    assert bounds is not None  # a region has pixels
    rows, columns = bounds
    top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
    side = max(8, int((1 + _MARGIN) * max(bottom - top, right - left)))
    y0, x0 = (top + bottom - side) // 2, (left + right - side) // 2
    # What lies outside the image stays white.
    window = np.full((side, side, 3), 255, np.uint8)
    inside = np.zeros((side, side), np.uint8)
    y, x = max(0, y0), max(0, x0)
    y1, x1 = min(image.shape[0], y0 + side), min(image.shape[1], x0 + side)
    place = (slice(y - y0, y1 - y0), slice(x - x0, x1 - x0))
    window[place], inside[place] = image[y:y1, x:x1], mask[y:y1, x:x1]
    how = cv2.INTER_AREA if side > THUMB else cv2.INTER_LINEAR
    shown = cv2.resize(window, (THUMB, THUMB), interpolation=how)
    small = cv2.resize(inside, (THUMB, THUMB), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, contours, -1, _LINE, 2)
    is_written, encoded = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
    assert is_written
    return encoded.tobytes()
