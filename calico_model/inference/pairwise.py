"""A group answered two images at a time: what every image shows, and from that the comparison.

CALICO learns from pairs (paper, section 4). Asked about a larger group at once, it forgets parts of
its images, and asked about two categories that it never saw side by side, it prefers what they
would share. So each image is also shown beside itself, where everything is common, and beside the
next one of the group; a part is there if any of these answers is sure enough of it. What is then
in all images is common, what is in one alone is unique.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from calico_model.data.comparison import partition
from calico_model.inference.dense_reading import DenseReading, Seen
from calico_model.inference.generation import GeneratedAnswer, Question
from calico_model.inference.segments import Segment
from calico_model.prompts import END, Phrase, locate_phrases, write_answer
from calico_model.types import AnswerPhrase, RegionKind

_LEAST_CERTAINTY = 0.75
"""Sum of the certainties of all answers that name a part of an image, from which it is there."""
_CERTAIN_ELSEWHERE = 1.0
"""The same, from which it keeps a part of another image from being unique: one slip in many images
must not, so more than one answer has to say it."""
_SEEN_WEIGHT = 1.5
"""What the dense head's certainty counts beside an answer's."""
_DRAWS_FROM = 0.5
"""Trust in the dense head from which its masks are drawn, not those of the answers."""
_UNSEEN_WEIGHT, _UNKNOWN_WEIGHT = 0.0, 0.25
"""What is left of an answer's certainty where the dense head knows the name and does not see it,
and where the name is none of those it was corrected with."""


def questions_in_pairs(images: int) -> tuple[Question, ...]:
    """Returns what to ask about a group: each image beside itself, and beside the next one.

    Args:
        images: in the group, at least 1.
    """
    alone = [(k, k) for k in range(images)]
    beside = [(k, (k + 1) % images) for k in range(images)] if images > 2 else [(0, 1)]
    found = [
        Question(kind, pair)
        for pair in alone
        for kind in (RegionKind.COMMON_OBJECT, RegionKind.COMMON_PART)
    ]
    if images > 1:
        found += [Question(kind, pair) for pair in beside for kind in RegionKind]
    return tuple(found)


@dataclass
class _Sightings:
    """What one image shows.

    Attributes:
        objects, parts: name -> answers' certainties added up.
        surest: (is it an object, name) -> the segment whose answer was surest.
        owners: name of the compared object -> certainties added up.
    """

    objects: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    surest: dict[tuple[bool, str], Segment] = field(default_factory=dict)
    owners: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, segment: Segment) -> None:
        """Counts one pair's view of a thing."""
        is_object = segment.kind is RegionKind.COMMON_OBJECT
        (self.objects if is_object else self.parts)[segment.label] += segment.certainty
        key = is_object, segment.label
        if key not in self.surest or segment.certainty > self.surest[key].certainty:
            self.surest[key] = segment
        if segment.object_label is not None:
            self.owners[segment.object_label] += segment.certainty

    def see(self, seen: Seen, trust: float) -> None:
        """Counts what the dense head sees, and takes its mask where it is trusted."""
        said = self.objects if seen.is_object else self.parts
        said[seen.label] += trust * _SEEN_WEIGHT * seen.certainty
        key = seen.is_object, seen.label
        kind = RegionKind.COMMON_OBJECT if seen.is_object else RegionKind.COMMON_PART
        unsaid = Segment(
            kind, seen.label, seen.image, None, None, seen.certainty, seen.logits, seen.mask
        )
        known = self.surest.setdefault(key, unsaid)
        if trust >= _DRAWS_FROM:
            self.surest[key] = replace(known, logits=seen.logits, mask=seen.mask)

    def doubt(self, reading: DenseReading, seen: Collection[tuple[bool, str]]) -> None:
        """Doubts what is only said to be there: it should be seen, or nobody used that name yet."""
        for is_object, said in ((True, self.objects), (False, self.parts)):
            known = reading.objects if is_object else reading.parts
            for name in said:
                if known and (is_object, name) not in seen:
                    left = _UNSEEN_WEIGHT if name in known else _UNKNOWN_WEIGHT
                    said[name] *= 1 - reading.trust * (1 - left)

    @property
    def owner(self) -> str | None:
        """The compared object: what most answers say, else the surest one that is there."""
        known = self.owners or self.objects
        return max(known, key=known.__getitem__) if known else None


@dataclass(frozen=True, eq=False)
class MergedAnswers:
    """The answers about pairs of images, merged into answers about their group.

    Attributes:
        segments: the group's regions, objects first.
        texts: the answer to every question, without the end-of-turn tag.
        phrases: of these answers, in the order of the questions and of their text.
    """

    segments: list[Segment]
    texts: dict[RegionKind, str]
    phrases: tuple[AnswerPhrase, ...]


def compare(
    said: Sequence[GeneratedAnswer], images: int, reading: DenseReading | None = None
) -> MergedAnswers:
    """Puts together what was said about pairs, and what was seen.

    Args:
        said: answers to `questions_in_pairs`, or about the whole group.
        images: in the group.
        reading: what the dense head sees, a further witness.
    """
    shown = [_Sightings() for _ in range(images)]
    for segment in _counted_once(said):
        shown[segment.image].add(segment)
    if reading is not None:
        for one in reading.seen:
            shown[one.image].see(one, reading.trust)
        for k, own in enumerate(shown):
            here = {(one.is_object, one.label) for one in reading.seen if one.image == k}
            own.doubt(reading, here)
    objects, _ = partition([_sure(one.objects) for one in shown])
    visible = [_sure(one.parts) for one in shown]
    common, _ = partition(visible)
    _, lone = partition(visible, [_sure(one.parts, _CERTAIN_ELSEWHERE) for one in shown])
    unique = [
        [name for name in names if name not in common and _is_surest(name, k, shown)]
        for k, names in enumerate(lone)
    ]

    def region(kind: RegionKind, label: str, image: int) -> Segment:
        is_object = kind is RegionKind.COMMON_OBJECT
        own = shown[image]
        owner = None if is_object else own.owner
        return replace(own.surest[is_object, label], kind=kind, object_label=owner)

    everywhere = range(images)
    found = [region(RegionKind.COMMON_OBJECT, name, k) for name in objects for k in everywhere]
    found += [region(RegionKind.COMMON_PART, name, k) for name in common for k in everywhere]
    found += [
        region(RegionKind.UNIQUE_PART, name, k) for k, names in enumerate(unique) for name in names
    ]
    owners = _phrases([(one.owner, k) for k, one in enumerate(shown) if one.owner], True)
    texts: dict[RegionKind, str] = {}
    phrases: list[AnswerPhrase] = []
    for kind in RegionKind:
        texts[kind], located = _answer(kind, found, owners)
        phrases += located
    return MergedAnswers(found, texts, tuple(phrases))


def _counted_once(said: Sequence[GeneratedAnswer]) -> list[Segment]:
    """Of each pair, the surest mention of every thing in every image."""
    found: dict[tuple[tuple[int, ...], int, bool, str], Segment] = {}
    for one in said:
        for segment in one.segments:
            is_object = segment.kind is RegionKind.COMMON_OBJECT
            key = one.question.images, segment.image, is_object, segment.label
            if key not in found or segment.certainty > found[key].certainty:
                found[key] = segment
    return list(found.values())


def _sure(certainties: dict[str, float], least: float = _LEAST_CERTAINTY) -> list[str]:
    return [name for name, total in certainties.items() if total >= least]


def _is_surest(part: str, image: int, shown: Sequence[_Sightings]) -> bool:
    """Whether more is said for a part in one image than in any other."""
    own = shown[image].parts[part]
    return all(own > one.parts.get(part, 0.0) for k, one in enumerate(shown) if k != image)


def _answer(
    kind: RegionKind, segments: Sequence[Segment], owners: list[Phrase]
) -> tuple[str, tuple[AnswerPhrase, ...]]:
    """The answer to one question, and its phrases; both empty where no object has parts."""
    is_object = kind is RegionKind.COMMON_OBJECT
    named = _phrases([(s.label, s.image) for s in segments if s.kind is kind], is_object)
    if not is_object and not owners:
        return "", ()
    objects, parts = (named, []) if is_object else (owners, named)
    text = write_answer(kind, objects, parts).removesuffix(f" {END}")
    return text, locate_phrases(kind, text, [*objects, *parts])


def _phrases(shown: Sequence[tuple[str, int]], is_object: bool) -> list[Phrase]:
    """One phrase per name, in the order of first mention."""
    images: dict[str, list[int]] = {}
    for name, image in shown:
        images.setdefault(name, []).append(image)
    return [Phrase(name, tuple(where), is_object) for name, where in images.items()]
