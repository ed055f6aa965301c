"""What an annotator left says which masks of the sources were right."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.sources.consensus import SourceProposal
from calico_model.sources.judging import AcceptedRegion, judge_names, judge_prompt
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey
from calico_model.types import BoolMask


def bar(left: int, right: int) -> BoolMask:
    mask = np.zeros((10, 100), np.bool_)
    mask[:, left:right] = True
    return mask


def give(source: str, left: int, right: int, label: str | None = "wheel") -> SourceProposal:
    return SourceProposal(source, bar(left, right), 0.5, label)


def key(source: str, label: str = "wheel", ability: Ability = Ability.TEXT) -> TrustKey:
    return TrustKey(source, ability, label)


def test_accepted_reshaped_removed_and_missed_regions_are_counted() -> None:
    accepted = [AcceptedRegion("wheel", bar(0, 20)), AcceptedRegion("wheel", bar(50, 60))]
    given = [give("a", 0, 20), give("b", 0, 16), give("b", 80, 90)]
    counts = judge_names(given, accepted, sources=["a", "b", "c"], labels=["wheel"])
    assert counts[key("a")] == TrustCounts(1, 1, 1.0, 2)
    assert counts[key("b")] == TrustCounts(2, 1, 0.8, 2)
    assert counts[key("c")] == TrustCounts(0, 0, 0.0, 2)


def test_a_renamed_region_fails_under_its_old_name() -> None:
    accepted = [AcceptedRegion("door", bar(0, 20))]
    given = [give("a", 0, 20, "wheel")]
    counts = judge_names(given, accepted, sources=["a"], labels=["wheel", "door"])
    assert counts[key("a", "wheel")] == TrustCounts(1, 0, 0.0, 0)
    assert counts[key("a", "door")] == TrustCounts(0, 0, 0.0, 1)


def test_nothing_is_learned_of_names_that_were_not_asked() -> None:
    accepted = [AcceptedRegion("door", bar(0, 20))]
    assert not judge_names([], accepted, sources=["a"], labels=["wheel"])


def test_several_masks_of_one_place_count_once() -> None:
    accepted = [AcceptedRegion("wheel", bar(0, 20))]
    given = [give("a", 5, 20), give("a", 0, 20), give("a", 0, 30), give("a", 60, 80)]
    given += [give("a", 65, 85)]
    counts = judge_names(given, accepted, sources=["a"], labels=["wheel"])
    assert counts[key("a")] == TrustCounts(2, 1, 1.0, 1)


def test_two_regions_side_by_side_are_two_places() -> None:
    accepted = [AcceptedRegion("wheel", bar(0, 20)), AcceptedRegion("wheel", bar(15, 40))]
    given = [give("a", 0, 20), give("a", 15, 40)]
    counts = judge_names(given, accepted, sources=["a"], labels=["wheel"])
    assert counts[key("a")] == TrustCounts(2, 2, 2.0, 2)


@pytest.mark.parametrize("is_drawn_as_one", [True, False])
def test_parts_of_one_region_are_judged_by_their_union(is_drawn_as_one: bool) -> None:
    pieces = [(0, 10), (40, 50), (80, 90)]
    union = np.logical_or.reduce([bar(*piece) for piece in pieces])
    if is_drawn_as_one:
        accepted = [AcceptedRegion("wheel", union)]
        given = [give("a", *piece) for piece in pieces]
    else:
        accepted = [AcceptedRegion("wheel", bar(*piece)) for piece in pieces]
        given = [SourceProposal("a", union, 0.5, "wheel")]
    counts = judge_names(given, accepted, sources=["a"], labels=["wheel"])
    assert counts[key("a")] == TrustCounts(1, 1, 1.0, 1)


def test_a_click_teaches_about_the_label_that_it_became() -> None:
    accepted = [AcceptedRegion("door", bar(50, 90)), AcceptedRegion("wheel", bar(0, 20))]
    given = [give("a", 0, 18, None), give("b", 45, 60, None)]
    counts = judge_prompt(given, accepted, ability=Ability.CLICK)
    assert counts == {
        key("a", ability=Ability.CLICK): TrustCounts(1, 1, 0.9, 1),
        key("b", ability=Ability.CLICK): TrustCounts(1, 0, 0.0, 1),
    }


def test_a_click_whose_region_is_gone_teaches_only_with_a_label() -> None:
    given = [give("a", 0, 18, None)]
    assert not judge_prompt(given, [], ability=Ability.CLICK)
    counts = judge_prompt(given, [], ability=Ability.CLICK, label="wheel")
    assert counts == {key("a", ability=Ability.CLICK): TrustCounts(1, 0, 0.0, 0)}
