"""Named things put in the model's mouth: outlined where they are, absent where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.assistant import Assistant
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng, labeled_group
from calico_model.inference.teacher_forcing import draw_answers, draw_scored_answers
from calico_model.interactive.referring import (
    IS_THERE,
    Reference,
    find_learned,
    segment_by_name,
    shown_objects,
)
from calico_model.predictor import ModelSession, Predictor, load_predictor
from calico_model.prompts import Phrase, write_answer
from calico_model.types import AnswerPhrase, LabeledGroup, PartMask, RegionKind

SHARED = (
    AnswerPhrase(RegionKind.COMMON_PART, "chair", (0,), is_object=True, start=16),
    AnswerPhrase(RegionKind.COMMON_PART, "stool", (2,), is_object=True, start=53),
    AnswerPhrase(RegionKind.COMMON_PART, "leg", (0, 1, 2), is_object=False, start=98),
)


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return load_predictor(threads=1)


@pytest.fixture(scope="module")
def labeled() -> LabeledGroup:
    drawn = (
        labeled_group(
            draw_group(group_rng(Stream.EVALUATION, 3, index), split=SceneSplit.SEEN, group_size=2)
        )
        for index in range(20)
    )
    return next(
        one
        for one in drawn
        if one.of_kind(RegionKind.COMMON_OBJECT) and one.of_kind(RegionKind.COMMON_PART)
    )


def look_for(
    predictor: Predictor, labeled: LabeledGroup, label: str, owner: str | None = None
) -> Reference:
    phrases = predictor.predict(labeled.group).phrases
    objects = shown_objects(phrases, len(labeled.group), owner=owner)
    with predictor.acquire(labeled.group) as session:
        return segment_by_name(
            session.model, session.tokenizer, session.features, labeled.group.images, label, objects
        )


def test_a_common_part_is_outlined_where_it_is(shipped: Predictor, labeled: LabeledGroup) -> None:
    truth = max(labeled.of_kind(RegionKind.COMMON_PART), key=lambda part: int(part.mask.sum()))

    found = look_for(shipped, labeled, truth.label)

    assert sorted([*found.absent, *(part.image_index for part in found.parts)]) == [0, 1]
    assert all(part.score >= IS_THERE and part.label == truth.label for part in found.parts)
    masks = {one.image_index: one.mask for one in labeled.parts if one.label == truth.label}
    overlaps = [
        (part.mask & masks[part.image_index]).sum() / (part.mask | masks[part.image_index]).sum()
        for part in found.parts
    ]
    assert max(overlaps) > 0.5


def test_what_is_nowhere_is_absent_everywhere(shipped: Predictor, labeled: LabeledGroup) -> None:
    found = look_for(shipped, labeled, "rotor blade")

    assert found.parts == ()
    assert found.absent == (0, 1)


@pytest.mark.parametrize(
    ("name", "broader"), [("hood", None), ("rotor blade", "blade"), ("asdfgh", None)]
)
def test_a_name_without_words_is_unknown_not_absent(
    shipped: Predictor, labeled: LabeledGroup, name: str, broader: str | None
) -> None:
    prediction = shipped.predict(labeled.group)
    known = labeled.of_kind(RegionKind.COMMON_PART)[0].label

    missing, there = Assistant(shipped).refer(
        labeled.group, [(name, None), (known, None)], prediction
    )

    assert (missing.is_known, missing.broader) == (False, broader)
    assert missing.parts == missing.absent == ()
    assert there.is_known
    assert sorted([*there.absent, *(part.image_index for part in there.parts)]) == [0, 1]


def test_on_pictures_of_another_kind_no_word_is_known(
    shipped: Predictor, labeled: LabeledGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = labeled.of_kind(RegionKind.COMMON_PART)[0].label
    prediction = shipped.predict(labeled.group)
    monkeypatch.setattr(ModelSession, "is_familiar", property(lambda _self: False))

    (found,) = Assistant(shipped).refer(labeled.group, [(known, None)], prediction)

    assert not found.is_known


def test_a_learned_name_is_where_it_was_predicted() -> None:
    mask = np.ones((4, 4), np.bool_)
    handle = PartMask(1, RegionKind.COMMON_PART, "handle", mask)
    lid = PartMask(0, RegionKind.COMMON_PART, "lid", mask)

    found = find_learned("Handles", [lid, handle], 3)

    assert [(part.image_index, part.label) for part in found.parts] == [(1, "Handles")]
    assert (found.absent, found.is_known) == ((0, 2), True)


def test_an_object_is_found_as_an_object(shipped: Predictor, labeled: LabeledGroup) -> None:
    truth = labeled.of_kind(RegionKind.COMMON_OBJECT)[0]

    found = look_for(shipped, labeled, truth.label)

    assert {part.kind for part in found.parts} == {RegionKind.COMMON_OBJECT}


def test_asking_twice_is_asking_once(shipped: Predictor, labeled: LabeledGroup) -> None:
    label = labeled.of_kind(RegionKind.COMMON_PART)[0].label
    first, second = (look_for(shipped, labeled, label) for _ in range(2))

    for one, other in zip(first.parts, second.parts, strict=True):
        assert one.score == other.score
        assert np.array_equal(one.mask, other.mask)


def test_images_show_what_the_model_says_of_them() -> None:
    shown = shown_objects(SHARED, 3)

    assert shown == (
        Phrase("chair", (0,), True),
        Phrase("object", (1,), True),
        Phrase("stool", (2,), True),
    )


def test_an_owner_leaves_its_own_images() -> None:
    assert shown_objects(SHARED, 3, owner="stool") == (Phrase("stool", (2,), True),)


def test_an_owner_the_model_does_not_see_is_believed() -> None:
    assert shown_objects(SHARED, 3, owner="sofa") == (Phrase("sofa", (0, 1, 2), True),)


@pytest.mark.parametrize("kind", list(RegionKind))
def test_masks_that_are_asked_for_by_name_are_sharpened_like_all_others(
    shipped: Predictor, labeled: LabeledGroup, kind: RegionKind
) -> None:
    objects = [Phrase("chair", (0, 1), True)]
    parts = [] if kind is RegionKind.COMMON_OBJECT else [Phrase("leg", (0, 1), False)]
    text = write_answer(kind, objects, parts)
    sizes, images = labeled.group.sizes_hw, labeled.group.images
    with shipped.acquire(labeled.group) as session:
        about = session.model, session.tokenizer, session.features, sizes
        told = draw_answers(*about, {kind: text}, images=images)
        (each,) = draw_scored_answers(*about, [(kind, text)], images=images)
        (rough,) = draw_scored_answers(*about, [(kind, text)])

    assert [one.mask.tolist() for one in each] == [one.mask.tolist() for one in told]
    assert any(not np.array_equal(a.mask, b.mask) for a, b in zip(each, rough, strict=True))
