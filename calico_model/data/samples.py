"""Training samples from a folder of records: one question about one group, with its answer.

Listing samples decodes nothing; text and masks are written when training asks for a sample.
Knows records and text. Does not know tokens or tensors.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from calico_model import prompts
from calico_model.data.groups import GroupSet
from calico_model.prompts import Phrase
from calico_model.types import BoolMask, RegionKind


@dataclass(frozen=True, slots=True)
class Sample:
    """A question that the records answer.

    Attributes:
        group: index in its folder.
        kind: the question.
        objects: names of the common objects to mention; empty for the part questions.
    """

    group: int
    kind: RegionKind
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SampleMask:
    """The target mask of one [SEG].

    Attributes:
        slot: 0-based position of the image in the conversation.
        mask: (H, W) bool in the image's own frame.
    """

    slot: int
    mask: BoolMask


@dataclass(frozen=True, eq=False)
class WrittenSample:
    """A sample as text and masks.

    Attributes:
        prompt, answer: conversation texts; the answer ends with the end tag.
        image_ids: the images in the order of the conversation.
        masks: one per [SEG] of the answer, in its order.
    """

    prompt: str
    answer: str
    image_ids: tuple[int, ...]
    masks: tuple[SampleMask, ...]


def list_samples(
    folder: GroupSet, *, most_objects: int, with_empty: bool = False
) -> tuple[Sample, ...]:
    """Lists the questions of a folder in its order.

    Of several common objects, and of several comparisons of the same images, the most visible are
    taken (summed share of the images' areas).

    Args:
        folder: the records.
        most_objects: largest number of objects, and of comparisons of the same images; the paper's
            code takes 4 in training and 1 in evaluation.
        with_empty: whether to ask also where the records say that nothing is common, or unique.
    """
    taken = _most_visible_comparisons(folder, most_objects)
    samples: list[Sample] = []
    for index in range(len(folder)):
        objects = sorted(folder.common_objects(index), key=lambda o: -sum(o.visibility))
        if objects or (with_empty and RegionKind.COMMON_OBJECT in folder.known(index)):
            names = tuple(dict.fromkeys(o.cat for o in objects))[:most_objects]
            samples.append(Sample(index, RegionKind.COMMON_OBJECT, names))
        comparison = folder.comparison(index)
        if comparison is None or index not in taken:
            continue
        if comparison.common or with_empty:
            samples.append(Sample(index, RegionKind.COMMON_PART))
        if (comparison.unique and any(comparison.unique.part_cats)) or with_empty:
            samples.append(Sample(index, RegionKind.UNIQUE_PART))
    return tuple(samples)


def _most_visible_comparisons(folder: GroupSet, most: int) -> set[int]:
    ranked: dict[tuple[int, ...], list[tuple[float, int]]] = {}
    for index in range(len(folder)):
        comparison = folder.comparison(index)
        if comparison is not None:
            rank = (-sum(comparison.visibility), index)
            ranked.setdefault(folder.image_ids(index), []).append(rank)
    return {index for group in ranked.values() for _, index in sorted(group)[:most]}


def write_sample(
    folder: GroupSet,
    sample: Sample,
    choose: random.Random | None,
    system_prompt: str = "",
) -> WrittenSample:
    """Writes question, answer and masks.

    Args:
        folder: where the sample is from.
        sample: what to ask.
        choose: picks the wordings and the order of the images (two are swapped half the time);
            None takes the first wording and the records' order.
        system_prompt: of the model's configuration.

    Raises:
        InvalidRecordError: a broken or empty mask.
    """
    ids = folder.image_ids(sample.group)
    order = list(range(len(ids)))
    if choose is not None:
        choose.shuffle(order)
    slot_of = {image: slot for slot, image in enumerate(order)}
    parts, compared = folder.truth(sample.group)
    wanted = [
        (slot_of[part.image_index], part.label, part.mask)
        for part in parts
        if part.kind is sample.kind and (not sample.objects or part.label in sample.objects)
    ]
    if sample.kind is RegionKind.COMMON_OBJECT:
        objects, masks = _phrases(wanted, is_object=True)
        named: list[Phrase] = []
    else:
        shown = [(slot_of[thing.image_index], thing.label, thing.mask) for thing in compared]
        objects, masks = _phrases(shown, is_object=True)
        alone = sample.kind is RegionKind.UNIQUE_PART
        named, more = _phrases(wanted, is_object=False, alone=alone)
        masks += more
    questions = prompts.QUESTIONS[sample.kind]
    question = choose.choice(questions) if choose else questions[0]
    return WrittenSample(
        prompts.conversation(question, len(ids), system_prompt),
        prompts.write_answer(sample.kind, objects, named, choose),
        tuple(ids[image] for image in order),
        tuple(masks),
    )


def _phrases(
    named: Iterable[tuple[int, str, BoolMask]], *, is_object: bool, alone: bool = False
) -> tuple[list[Phrase], list[SampleMask]]:
    """Joins the masks of each name into one phrase; with `alone`, one phrase per image."""
    joined: dict[tuple[str, int], list[tuple[int, BoolMask]]] = {}
    for slot, label, mask in sorted(named, key=lambda entry: entry[0]):
        joined.setdefault((label, slot if alone else 0), []).append((slot, mask))
    phrases = [
        Phrase(label, tuple(slot for slot, _ in grounded), is_object)
        for (label, _), grounded in joined.items()
    ]
    masks = [SampleMask(slot, mask) for grounded in joined.values() for slot, mask in grounded]
    return phrases, masks
