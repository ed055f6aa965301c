"""Answers about pairs of images, merged into the answers about their group.

CALICO learns from pairs (paper, section 4). Asked about a larger group at once, it forgets parts of
its images, and asked about two categories that it never saw side by side, it prefers the parts
that both could share. So each image is shown beside itself, where everything is common, and beside
the next image of the group. An image has a part if the certainties of all answers that name the
part add up to enough. A part of all images is common, a part of one image alone is unique.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from calico_model.data.comparison import partition
from calico_model.inference.dense_detection import DenseDetections, Detection
from calico_model.inference.segments import Segment
from calico_model.prompts import END, ParsedAnswer, Phrase, locate_phrases, write_answer
from calico_model.types import AnswerPhrase, RegionKind

_LEAST_CERTAINTY = 0.75
"""Sum of the certainties of all answers that name a part of an image, from which the image has the
part."""
_CERTAIN_ELSEWHERE = 1.0
"""The same sum, from which the part keeps a part of another image from being unique. More than one
answer has to name the part: one wrong answer about one of many images must not be enough."""
_DETECTION_WEIGHT = 1.5
"""Weight of the dense head's certainty beside the certainty of an answer."""
_LEAST_TRUST_FOR_MASKS = 0.5
"""Trust in the dense head from which regions have its masks and not those of the answers."""
_UNDETECTED_WEIGHT, _UNKNOWN_WEIGHT = 0.0, 0.25
"""Share of an answer's certainty that remains where the dense head knows the name and does not
detect it, and where the dense head has not learned the name."""


@dataclass(frozen=True)
class GroupQuestion:
    """One of the three questions, about some images of a group.

    Attributes:
        kind: the question.
        images: 0-based positions in the group, in the order of the conversation; an image may be
            shown twice.
    """

    kind: RegionKind
    images: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class GeneratedAnswer:
    """An answer that the language model generated.

    Attributes:
        question: the question that is answered.
        text: the raw answer.
        parsed: phrases of the text; their images are positions in the conversation.
        segments: regions of the answer; their images are positions in the group.
    """

    question: GroupQuestion
    text: str
    parsed: ParsedAnswer
    segments: tuple[Segment, ...]

    @property
    def phrases(self) -> tuple[AnswerPhrase, ...]:
        """All phrases of an answer about a whole group that was shown in its own order."""
        located = zip(self.parsed.phrases, self.parsed.starts, strict=True)
        return tuple(
            AnswerPhrase(self.question.kind, phrase.label, phrase.images, phrase.is_object, start)
            for phrase, start in located
        )


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


@dataclass
class _ImageVotes:
    """Votes of the answers and of the dense head for the things that one image shows.

    Attributes:
        objects, parts: name -> sum of certainties.
        surest: (is it an object, name) -> the segment of the surest answer.
        owners: name of the compared object -> sum of certainties.
    """

    objects: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    surest: dict[tuple[bool, str], Segment] = field(default_factory=dict)
    owners: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add_segment(self, segment: Segment) -> None:
        """Adds the vote of one answer for a thing."""
        is_object = segment.kind is RegionKind.COMMON_OBJECT
        (self.objects if is_object else self.parts)[segment.label] += segment.certainty
        key = is_object, segment.label
        if key not in self.surest or segment.certainty > self.surest[key].certainty:
            self.surest[key] = segment
        if segment.object_label is not None:
            self.owners[segment.object_label] += segment.certainty

    def add_detection(self, detection: Detection, trust: float) -> None:
        """Adds the vote of the dense head, and takes its mask where the head is trusted."""
        totals = self.objects if detection.is_object else self.parts
        totals[detection.label] += trust * _DETECTION_WEIGHT * detection.certainty
        key = detection.is_object, detection.label
        unanswered = Segment(
            kind=RegionKind.COMMON_OBJECT if detection.is_object else RegionKind.COMMON_PART,
            label=detection.label,
            image=detection.image,
            object_label=None,
            state=None,
            certainty=detection.certainty,
            logits=detection.logits,
            mask=detection.mask,
        )
        known = self.surest.setdefault(key, unanswered)
        if trust >= _LEAST_TRUST_FOR_MASKS:
            self.surest[key] = replace(known, logits=detection.logits, mask=detection.mask)

    def discount_undetected(
        self, dense: DenseDetections, detected: Collection[tuple[bool, str]]
    ) -> None:
        """Lowers the votes for names that the dense head does not detect.

        Args:
            dense: of the group.
            detected: (is it an object, name) of everything it detects in this image.
        """
        for is_object, totals in ((True, self.objects), (False, self.parts)):
            known = dense.known_objects if is_object else dense.known_parts
            for name in totals:
                if known and (is_object, name) not in detected:
                    remaining = _UNDETECTED_WEIGHT if name in known else _UNKNOWN_WEIGHT
                    totals[name] *= 1 - dense.trust * (1 - remaining)

    @property
    def owner(self) -> str | None:
        """The compared object: the name with most votes of answers, else the surest object."""
        totals = self.owners or self.objects
        return max(totals, key=totals.__getitem__) if totals else None


def questions_in_pairs(images: int) -> tuple[GroupQuestion, ...]:
    """Returns the questions about a group: each image beside itself, and beside the next one.

    Args:
        images: in the group, at least 1.
    """
    alone = [(k, k) for k in range(images)]
    beside = [(k, (k + 1) % images) for k in range(images)] if images > 2 else [(0, 1)]
    questions = [
        GroupQuestion(kind, pair)
        for pair in alone
        for kind in (RegionKind.COMMON_OBJECT, RegionKind.COMMON_PART)
    ]
    if images > 1:
        questions += [GroupQuestion(kind, pair) for pair in beside for kind in RegionKind]
    return tuple(questions)


def merge_pairwise_answers(
    answers: Sequence[GeneratedAnswer], images: int, dense: DenseDetections | None = None
) -> MergedAnswers:
    """Merges answers about pairs of images with the detections of the dense head.

    Args:
        answers: to `questions_in_pairs`, or about the whole group.
        images: in the group.
        dense: detections of the dense head, or None.
    """
    votes = _count_votes(answers, images, dense)
    objects, _ = partition([_sure(image.objects) for image in votes])
    visible = [_sure(image.parts) for image in votes]
    common, _ = partition(visible)
    _, lone = partition(visible, [_sure(image.parts, _CERTAIN_ELSEWHERE) for image in votes])
    unique = [
        [name for name in names if name not in common and _is_surest(name, k, votes)]
        for k, names in enumerate(lone)
    ]

    def region(kind: RegionKind, label: str, image: int) -> Segment:
        is_object = kind is RegionKind.COMMON_OBJECT
        owner = None if is_object else votes[image].owner
        return replace(votes[image].surest[is_object, label], kind=kind, object_label=owner)

    everywhere = range(images)
    segments = [region(RegionKind.COMMON_OBJECT, name, k) for name in objects for k in everywhere]
    segments += [region(RegionKind.COMMON_PART, name, k) for name in common for k in everywhere]
    segments += [
        region(RegionKind.UNIQUE_PART, name, k) for k, names in enumerate(unique) for name in names
    ]
    return write_answers(segments, [image.owner for image in votes])


def write_answers(segments: Sequence[Segment], owners: Sequence[str | None]) -> MergedAnswers:
    """Writes the answers that name some regions.

    Args:
        segments: regions of a group, objects first.
        owners: per image, name of its compared object; None where none is known.
    """
    compared = _phrases([(owner, k) for k, owner in enumerate(owners) if owner], True)
    texts: dict[RegionKind, str] = {}
    phrases: list[AnswerPhrase] = []
    for kind in RegionKind:
        texts[kind], located = _write(kind, segments, compared)
        phrases += located
    return MergedAnswers(list(segments), texts, tuple(phrases))


def _count_votes(
    answers: Sequence[GeneratedAnswer], images: int, dense: DenseDetections | None
) -> list[_ImageVotes]:
    """The votes for every image."""
    votes = [_ImageVotes() for _ in range(images)]
    for segment in _surest_of_pairs(answers):
        votes[segment.image].add_segment(segment)
    if dense is not None:
        for detection in dense.detections:
            votes[detection.image].add_detection(detection, dense.trust)
        for k, image in enumerate(votes):
            detected = {
                (detection.is_object, detection.label)
                for detection in dense.detections
                if detection.image == k
            }
            image.discount_undetected(dense, detected)
    return votes


def _surest_of_pairs(answers: Sequence[GeneratedAnswer]) -> list[Segment]:
    """The surest segment of every thing in every image, per pair: a pair has one vote."""
    surest: dict[tuple[tuple[int, ...], int, bool, str], Segment] = {}
    for answer in answers:
        for segment in answer.segments:
            is_object = segment.kind is RegionKind.COMMON_OBJECT
            key = answer.question.images, segment.image, is_object, segment.label
            if key not in surest or segment.certainty > surest[key].certainty:
                surest[key] = segment
    return list(surest.values())


def _sure(certainties: dict[str, float], least: float = _LEAST_CERTAINTY) -> list[str]:
    return [name for name, total in certainties.items() if total >= least]


def _is_surest(part: str, image: int, votes: Sequence[_ImageVotes]) -> bool:
    """Whether a part has more votes in one image than in any other."""
    total = votes[image].parts[part]
    return all(total > other.parts.get(part, 0.0) for k, other in enumerate(votes) if k != image)


def _write(
    kind: RegionKind, segments: Sequence[Segment], owners: list[Phrase]
) -> tuple[str, tuple[AnswerPhrase, ...]]:
    """The answer to one question, and its phrases; both empty where no image has an object."""
    is_object = kind is RegionKind.COMMON_OBJECT
    named = _phrases([(s.label, s.image) for s in segments if s.kind is kind], is_object)
    if not is_object and not owners:
        return "", ()
    objects, parts = (named, []) if is_object else (owners, named)
    text = write_answer(kind, objects, parts).removesuffix(f" {END}")
    return text, locate_phrases(kind, text, [*objects, *parts])


def _phrases(names: Sequence[tuple[str, int]], is_object: bool) -> list[Phrase]:
    """One phrase per name, in the order of first mention; `names` are (name, image)."""
    images: dict[str, list[int]] = {}
    for name, image in names:
        images.setdefault(name, []).append(image)
    return [Phrase(name, tuple(positions), is_object) for name, positions in images.items()]
