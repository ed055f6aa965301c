"""One region becomes suggestions on every image, and absence is told."""

from __future__ import annotations

import numpy as np
import pytest

from backend.serving.interactive import Suggestions
from backend.serving.metrics import Metrics
from backend.serving.propagation import carry_on, propagate
from backend.serving.source_pool import SourcePool
from backend.types import Region, RegionOrigin
from calico_model.interactive.propagate.transfer import Proposal
from calico_model.sources.source import Ability, Encoding, SourceDescription, SourceMask
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from tests.doubles import ModelDouble, proposal


class Transferring(ModelDouble):
    """Finds the part on the second image alone, in two pieces."""

    def transfer(
        self, group: ImageGroup, part: PartMask, group_prediction: GroupPrediction | None
    ) -> tuple[Proposal, ...]:
        return (proposal(1, leg(1, "@0"), leg(1, "@1")), proposal(2))


class Finding(ModelDouble):
    """Finds the part on the third image alone."""

    def transfer(
        self, group: ImageGroup, part: PartMask, group_prediction: GroupPrediction | None
    ) -> tuple[Proposal, ...]:
        return (proposal(1), proposal(2, leg(2)))


class FindingMore(ModelDouble):
    """Finds the part on the second image, too."""

    def transfer(
        self, group: ImageGroup, part: PartMask, group_prediction: GroupPrediction | None
    ) -> tuple[Proposal, ...]:
        return (proposal(1, leg(1)), proposal(2, leg(2)))


def leg(image: int, place: str = "", *, is_drawn: bool = True) -> PartMask:
    mask = np.full((4, 4), is_drawn)
    return PartMask(image, RegionKind.COMMON_PART, "leg", mask, part_id=f"legs{place}")


@pytest.fixture
def group() -> ImageGroup:
    images = tuple(np.full((4, 4, 3), k, dtype=np.uint8) for k in range(3))
    return ImageGroup(images, ("a", "b", "c"))


SAID = GroupPrediction((), "v")


def test_suggestions_follow_the_region_and_absence_is_told(group: ImageGroup) -> None:
    found = propagate(leg(0), group, SAID, Transferring())
    assert [part.image_index for part in found.parts] == [0, 1, 1]
    assert found.absent == (2,)


def test_a_region_spreads_only_where_something_is_drawn(group: ImageGroup) -> None:
    part = leg(0, is_drawn=False)
    found = propagate(part, group, SAID, Transferring())
    assert found.parts == (part,)


def test_a_lone_image_has_nowhere_to_spread(group: ImageGroup) -> None:
    assert propagate(leg(0), group.only(0), SAID, Transferring()).absent == ()


def test_alike_parts_of_one_image_have_ids_of_their_own(group: ImageGroup) -> None:
    own = Suggestions(GroupPrediction((leg(0),), "v"), ("own",))
    found = own.propagated(group, Transferring(), None, ())
    assert len(found.ids) == len(set(found.ids)) == 3


def test_a_suggestion_keeps_its_id_whatever_is_found_elsewhere(group: ImageGroup) -> None:
    own = Suggestions(GroupPrediction((leg(0),), "v"), ("own",))
    once = own.propagated(group, Finding(), None, ())
    assert once.absent == (1,)
    _, third = once.ids
    assert own.propagated(group, FindingMore(), None, ()).ids[2] == third


class Carrying(ModelDouble):
    """Carries a part to the third image, loses it on the second; keeps what it was given."""

    def carry(self, group, part, accepted):
        self.accepted = accepted
        return (proposal(1), proposal(2, leg(2)))


def drawn(image: int, label: str = "leg", size: int = 4) -> Region:
    return Region(
        id=f"{image}{label}{size}",
        image_index=image,
        size_hw=(size, size),
        kind=None,
        label=label,
        origin=RegionOrigin.MANUAL,
        score=None,
        load_mask=lambda: np.ones((size, size), bool),
    )


def test_a_series_carries_on_and_says_where_it_is_lost(group: ImageGroup) -> None:
    found = carry_on(leg(0), group, Carrying(), ())
    assert [part.image_index for part in found.parts] == [0, 2]
    assert found.absent == (1,)


def test_what_is_drawn_under_the_same_name_is_the_same_part(group: ImageGroup) -> None:
    model = Carrying()
    canvas = (drawn(0), drawn(1, "Legs"), drawn(2, "seat"))
    carry_on(leg(0), group, model, canvas)
    assert list(model.accepted) == [1]


def test_two_of_a_name_or_another_size_say_nothing(group: ImageGroup) -> None:
    model = Carrying()
    carry_on(leg(0), group, model, (drawn(1), drawn(1, "legs"), drawn(2, size=5)))
    assert model.accepted == {}


def test_suggestions_of_a_series_are_those_that_follow(group: ImageGroup) -> None:
    prediction = GroupPrediction((leg(0),), "v")
    suggestions = Suggestions(prediction, ("a",)).propagated(
        group, Carrying(), None, (), is_series=True
    )
    assert [part.image_index for part in suggestions.prediction.parts] == [0, 2]
    assert suggestions.absent == (1,)


class Remembering:
    """A source that carries a region to the third image, and loses it on the second."""

    def describe(self):
        return SourceDescription("sam2", frozenset({Ability.SERIES}), "w", "own", 1)

    def encode(self, image):
        return Encoding(image.shape[:2], None, 0)

    def carry_series(self, images, accepted):
        if not accepted[0].all():
            raise RuntimeError("the source broke")
        lost = np.zeros((4, 4), bool)
        return {1: SourceMask(lost, 0.1), 2: SourceMask(~lost, 0.9)}


@pytest.fixture
def remembering():
    pool = SourcePool([("sam2", Remembering)], Metrics(), budget_s=30.0, cache_bytes=0)
    pool.start()
    pool.wait_until_loaded()
    return pool


def test_a_source_that_remembers_series_answers_in_place_of_the_model(group, remembering) -> None:
    model = Carrying()
    found = carry_on(leg(0), group, model, (), sources=remembering)
    assert [(part.image_index, part.score) for part in found.parts] == [(0, 1.0), (2, 0.9)]
    assert found.parts[1].label == "leg"
    assert found.absent == (1,)
    assert not hasattr(model, "accepted")


def test_the_model_carries_on_where_the_source_breaks(group, remembering) -> None:
    corner = np.zeros((4, 4), bool)
    corner[0, 0] = True
    part = PartMask(0, RegionKind.COMMON_PART, "leg", corner)
    found = carry_on(part, group, Carrying(), (), sources=remembering)
    assert [part.image_index for part in found.parts] == [0, 2]
    assert remembering.status()[0].asked["failed"] == 1
