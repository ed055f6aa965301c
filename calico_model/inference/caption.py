"""A caption of a group whose phrases are linked to masks: objects, their parts, their attributes.

The caption is written from regions, predicted or drawn by people, so that every phrase has masks.
A caption that a person has edited is linked again by the names in it. Attributes are read from the
pixels: the colour of a region, the size of an object. Knows arrays and text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from calico_model.types import BoolMask, PartMask, RgbImage
from calico_model.vocabulary import ARTICLES, normalise

_LARGE, _SMALL = 0.25, 0.05  # least share of the image of a large object, most of a small one
_MOST_PIXELS = 4096  # of a region that are looked at, to name its colour
_LEAST_SHARE = 0.15  # of an object that must be outside its parts, to name the object's colour
_WITHIN = 0.6  # share of a part inside an object from which the part belongs to the object
_BLACK, _WHITE, _GREY = 45, 205, 40  # of value, value and saturation, 0-255
_BROWN_BELOW = 150  # value of an orange that is called brown
_PINK_BELOW = 130  # saturation of a red or purple that is called pink
_HUES = (
    (10, "red"), (23, "orange"), (34, "yellow"), (82, "green"), (98, "turquoise"),
    (128, "blue"), (150, "purple"), (168, "pink"), (180, "red"),
)  # fmt: skip
"""Upper ends of OpenCV's hues, 0-179."""


class Level(StrEnum):
    """What a phrase names."""

    OBJECT = "object"
    PART = "part"
    ATTRIBUTE = "attribute"


@dataclass(frozen=True)
class CaptionPhrase:
    """A phrase of a caption.

    Attributes:
        level: what it names.
        start, end: 0-based characters of the caption, [start, end).
        regions: positions of its regions in the parts that the caption is about.
        parent: position of the phrase it belongs to: the object of a part, the thing with an
            attribute; None for an object, and for a part of no object.
    """

    level: Level
    start: int
    end: int
    regions: tuple[int, ...]
    parent: int | None = None


@dataclass(frozen=True)
class Caption:
    """A text, and what its phrases show.

    Attributes:
        text: of one or more sentences.
        phrases: in the order of the text; a parent comes before its children.
    """

    text: str
    phrases: tuple[CaptionPhrase, ...]

    def words(self, phrase: CaptionPhrase) -> str:
        """Returns the text of a phrase."""
        return self.text[phrase.start : phrase.end]


@dataclass(frozen=True)
class _Thing:
    """All regions of one name and owner."""

    label: str
    regions: tuple[int, ...]


def compose_caption(parts: Sequence[PartMask], images: Sequence[RgbImage]) -> Caption:
    """Writes a caption of regions.

    "Images 1 and 2 show a large teapot (blue). It has a handle (red in image 1, blue in image 2)
    and a spout (blue). Only image 2 shows its lid (green)."

    Args:
        parts: regions of a group; those without a label or pixels are not named.
        images: (H_i, W_i, 3) uint8, the group's pixels.

    Returns:
        An empty caption where nothing has a name.
    """
    writer = _Writer(parts, images)
    owners = owners_of(parts)
    objects = _things(parts, (n for n in range(len(parts)) if not parts[n].kind.is_part))
    for thing in objects:
        writer.write_object(thing, _parts_of(parts, owners, thing))
    named = {number for thing in objects for number in thing.regions}
    rest = (n for n in range(len(parts)) if parts[n].kind.is_part and owners[n] not in named)
    writer.write_rest(_things(parts, rest))
    return writer.caption()


def link_caption(text: str, parts: Sequence[PartMask]) -> Caption:
    """Links the phrases of a given text to regions by the regions' names.

    Longer names win over shorter ones ("chair leg" over "chair"); plurals and case do not matter.

    Args:
        text: as a person wrote it.
        parts: regions of the group.
    """
    owners = owners_of(parts)
    by_name: dict[str, list[int]] = defaultdict(list)
    for number, part in enumerate(parts):
        if part.label and part.mask.any():
            by_name[normalise(part.label)].append(number)
    phrases: list[CaptionPhrase] = []
    object_phrases: dict[int, int] = {}  # region of an object -> the phrase that names it
    for start, end in _named_spans(text, by_name):
        regions = by_name[normalise(text[start:end])]
        is_object = not parts[regions[0]].kind.is_part
        if is_object:
            object_phrases |= dict.fromkeys(regions, len(phrases))
        owner = next((owners[n] for n in regions if owners[n] in object_phrases), None)
        parent = None if is_object or owner is None else object_phrases[owner]
        level = Level.OBJECT if is_object else Level.PART
        phrases.append(CaptionPhrase(level, start, end, tuple(regions), parent))
    return Caption(text, tuple(phrases))


def _named_spans(text: str, names: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yields the characters [start, end) of each name in a text; longer names win.

    Args:
        text: in any case, singular or plural.
        names: in normal form.
    """
    words = list(re.finditer(r"[\w'+#]+", text))
    longest = max((len(name.split()) for name in names), default=0)
    at = 0
    while at < len(words):
        is_article = words[at][0].lower() in ARTICLES  # no name begins with one
        start = words[at].start()
        ends = [word.end() for word in words[at : at + (0 if is_article else longest)]]
        named = (
            n for n in range(len(ends), 0, -1) if normalise(text[start : ends[n - 1]]) in names
        )
        count = next(named, 0)
        if count:
            yield start, ends[count - 1]
        at += max(1, count)


def owners_of(parts: Sequence[PartMask]) -> tuple[int | None, ...]:
    """Finds the object that each part belongs to, by the part's `object_label` and by its place.

    Args:
        parts: regions of a group, objects and parts.

    Returns:
        Per region the position of its object in `parts`; None for objects, and for parts of none.
    """
    objects = [n for n, part in enumerate(parts) if part.label and not part.kind.is_part]
    owners: list[int | None] = []
    for part in parts:
        owner, best = None, 0.0
        if part.kind.is_part and part.mask.any():
            for number in objects:
                thing = parts[number]
                if thing.image_index != part.image_index:
                    continue
                inside = _inside(part.mask, thing.mask)
                is_named = part.object_label is not None and normalise(
                    part.object_label
                ) == normalise(thing.label)
                if (is_named or inside >= _WITHIN) and inside + is_named > best:
                    owner, best = number, inside + is_named
        owners.append(owner)
    return tuple(owners)


def colour_name(image: RgbImage, mask: BoolMask) -> str:
    """Returns the name of the most frequent colour of an (H, W) region that has pixels."""
    pixels = image[mask]
    pixels = pixels[:: max(1, len(pixels) // _MOST_PIXELS)]
    hsv = cv2.cvtColor(np.ascontiguousarray(pixels[None]), cv2.COLOR_RGB2HSV)[0].astype(int)
    ends = np.array([end for end, _ in _HUES])
    counts: dict[str, int] = defaultdict(int)
    for hue, saturation, value in hsv:
        counts[_colour(int(np.searchsorted(ends, hue, "right")), saturation, value)] += 1
    return max(sorted(counts), key=lambda name: counts[name])


def _colour(hue: int, saturation: int, value: int) -> str:
    if value < _BLACK:
        return "black"
    if saturation < _GREY:
        return "white" if value > _WHITE else "grey"
    name = _HUES[min(hue, len(_HUES) - 1)][1]
    if name == "orange" and value < _BROWN_BELOW:
        return "brown"
    if name in ("red", "purple") and saturation < _PINK_BELOW and value > _BROWN_BELOW:
        return "pink"
    return name


class _Writer:
    """Writes sentences and keeps the places of their phrases."""

    def __init__(self, parts: Sequence[PartMask], images: Sequence[RgbImage]) -> None:
        self._parts, self._images = parts, images
        self._text = ""
        self._phrases: list[CaptionPhrase] = []

    def caption(self) -> Caption:
        return Caption(self._text, tuple(self._phrases))

    def write_object(self, thing: _Thing, parts: Sequence[_Thing]) -> None:
        """Writes the sentences about an object and its parts."""
        self._begin(f"{self._images_of(thing)} ")
        size = self._size(thing)
        self._text += _article(size or thing.label)
        size_at = len(self._text)
        self._text += f"{size} " if size else ""
        number = self._add(Level.OBJECT, thing.label, thing.regions)
        if size:
            end = size_at + len(size)
            self._phrases.append(
                CaptionPhrase(Level.ATTRIBUTE, size_at, end, thing.regions, number)
            )
        self._write_colours(thing, number, parts)
        self._text += "."
        everywhere = self._image_set(thing)
        shared = [part for part in parts if self._image_set(part) == everywhere]
        others = [part for part in parts if self._image_set(part) != everywhere]
        if shared:
            self._begin("It has ")
            self._write_list(shared, number)
        for part in others:
            self._begin(f"{self._images_of(part, only=True)} its ")
            self._write_colours(part, self._add(Level.PART, part.label, part.regions, number))
            self._text += "."

    def write_rest(self, things: Sequence[_Thing]) -> None:
        """Writes about parts of no object."""
        for thing in things:
            self._begin(f"{self._images_of(thing)} {_article(thing.label)}")
            self._write_colours(thing, self._add(Level.PART, thing.label, thing.regions))
            self._text += "."

    def _write_list(self, things: Sequence[_Thing], parent: int) -> None:
        for place, thing in enumerate(things):
            if place:
                self._text += " and " if place == len(things) - 1 else ", "
            self._text += _article(thing.label)
            self._write_colours(thing, self._add(Level.PART, thing.label, thing.regions, parent))
        self._text += "."

    def _write_colours(self, thing: _Thing, parent: int, parts: Sequence[_Thing] = ()) -> None:
        """Writes " (red)", or " (red in image 1, blue in image 2)"."""
        colours: dict[str, list[int]] = defaultdict(list)
        for number in thing.regions:
            region = self._parts[number]
            mask = self._beside(number, parts)
            if np.count_nonzero(mask) >= _LEAST_SHARE * np.count_nonzero(region.mask):
                colours[colour_name(self._images[region.image_index], mask)].append(number)
        if not colours:
            return
        self._text += " ("
        for place, (colour, regions) in enumerate(colours.items()):
            self._text += ", " if place else ""
            self._add(Level.ATTRIBUTE, colour, tuple(regions), parent)
            if len(colours) > 1:
                self._text += f" in {self._places({self._parts[n].image_index for n in regions})}"
        self._text += ")"

    def _beside(self, number: int, parts: Sequence[_Thing]) -> BoolMask:
        """The mask of a region without those of its parts."""
        region = self._parts[number]
        mask = region.mask
        for part in parts:
            for other in part.regions:
                if self._parts[other].image_index == region.image_index:
                    mask = mask & ~self._parts[other].mask
        return mask

    def _add(
        self, level: Level, words: str, regions: tuple[int, ...], parent: int | None = None
    ) -> int:
        start = len(self._text)
        self._text += words
        self._phrases.append(CaptionPhrase(level, start, len(self._text), regions, parent))
        return len(self._phrases) - 1

    def _begin(self, words: str) -> None:
        self._text += f" {words}" if self._text else words

    def _size(self, thing: _Thing) -> str:
        shares = [float(self._parts[number].mask.mean()) for number in thing.regions]
        if min(shares) >= _LARGE:
            return "large"
        return "small" if max(shares) <= _SMALL else ""

    def _image_set(self, thing: _Thing) -> frozenset[int]:
        return frozenset(self._parts[number].image_index for number in thing.regions)

    def _images_of(self, thing: _Thing, *, only: bool = False) -> str:
        images = self._image_set(thing)
        if len(images) == len(self._images) > 1:
            return "All images show" if len(images) > 2 else "Both images show"
        places = self._places(images)
        verb = "shows" if len(images) == 1 else "show"
        return f"Only {places} {verb}" if only else f"{places[0].upper()}{places[1:]} {verb}"

    @staticmethod
    def _places(images: Iterable[int]) -> str:
        numbers = [str(image + 1) for image in sorted(images)]
        if len(numbers) == 1:
            return f"image {numbers[0]}"
        return f"images {', '.join(numbers[:-1])} and {numbers[-1]}"


def _things(parts: Sequence[PartMask], numbers: Iterable[int]) -> list[_Thing]:
    """Joins regions of one name, in order of their first region."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        if parts[number].label and parts[number].mask.any():
            by_name[normalise(parts[number].label)].append(number)
    return [_Thing(parts[found[0]].label, tuple(found)) for found in by_name.values()]


def _parts_of(
    parts: Sequence[PartMask], owners: Sequence[int | None], thing: _Thing
) -> list[_Thing]:
    return _things(parts, (n for n, owner in enumerate(owners) if owner in thing.regions))


def _inside(part: BoolMask, whole: BoolMask) -> float:
    if part.shape != whole.shape:
        return 0.0
    return float(np.count_nonzero(part & whole) / np.count_nonzero(part))


def _article(words: str) -> str:
    return "an " if words[:1].lower() in "aeiou" else "a "
