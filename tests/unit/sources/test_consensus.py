"""Masks of several sources become one answer: by place, by name, and by earned trust."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.errors import InvalidMaskError
from calico_model.sources.consensus import SourceProposal, combine
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey, TrustTable
from calico_model.types import BoolMask

TEXT = Ability.TEXT
GOOD, FAIR, BAD = (
    TrustCounts(20, 20, 19.0, 20),
    TrustCounts(20, 16, 12.0, 20),
    TrustCounts(20, 0, 0.0, 20),
)


def square(x: int, y: int = 10, side: int = 20) -> BoolMask:
    mask = np.zeros((60, 80), np.bool_)
    mask[y : y + side, x : x + side] = True
    return mask


def give(source: str, x: int, label: str | None = "wheel", score: float = 0.9) -> SourceProposal:
    return SourceProposal(source, square(x), score, label)


def table(label: str = "wheel", **counts: TrustCounts) -> TrustTable:
    return TrustTable({TrustKey(name, TEXT, label): one for name, one in counts.items()})


def test_agreement_raises_the_score_and_disagreement_lowers_it() -> None:
    trust = TrustTable()
    alone = combine([give("a", 10)], trust, TEXT, asked=["a"])[0]
    agreed = combine([give("a", 10), give("b", 11)], trust, TEXT, asked=["a", "b"])[0]
    refused = combine([give("a", 10)], trust, TEXT, asked=["a", "b"])[0]
    assert refused.score < alone.score < agreed.score
    assert agreed.sources == ("a", "b")


def test_the_doubt_of_a_trusted_source_weighs_more() -> None:
    trust = table(a=GOOD, b=GOOD, c=FAIR)
    by_good = combine([give("a", 10)], trust, TEXT, asked=["a", "b"])[0]
    by_fair = combine([give("a", 10)], trust, TEXT, asked=["a", "c"])[0]
    assert by_good.score < by_fair.score


def test_silent_sources_neither_give_nor_refuse() -> None:
    trust = table(a=GOOD, b=BAD)
    given = [give("a", 10), give("b", 10), give("b", 50)]
    answer = combine(given, trust, TEXT, asked=["a", "b"])
    alone = combine(given[:1], trust, TEXT, asked=["a"])
    assert [one.sources for one in answer] == [("a",)]
    assert answer[0].score == alone[0].score


def test_the_most_trusted_outline_wins_against_a_rougher_one() -> None:
    answer = combine([give("b", 15), give("a", 10)], table(a=GOOD, b=FAIR), TEXT, asked=["a", "b"])
    assert np.array_equal(answer[0].mask, square(10))


def test_equal_sources_outvote_the_errors_of_each() -> None:
    shifts = {"a": (8, 10), "b": (12, 10), "c": (10, 10)}
    given = [SourceProposal(name, square(x, y), 0.9, "wheel") for name, (x, y) in shifts.items()]
    answer = combine(given, table(a=FAIR, b=FAIR, c=FAIR), TEXT, asked=list(shifts))
    assert np.array_equal(answer[0].mask, square(10))


def test_masks_below_half_overlap_stay_two_regions() -> None:
    answer = combine([give("a", 10), give("b", 20)], TrustTable(), TEXT, asked=["a", "b"])
    assert len(answer) == 2


def test_of_two_names_for_one_place_the_trusted_one_stays() -> None:
    trust = TrustTable(
        {TrustKey("a", TEXT, "wheel"): GOOD, TrustKey("b", TEXT, "door"): TrustCounts(4, 2, 2.0, 4)}
    )
    given = [give("b", 10, "door"), give("a", 11)]
    answer = combine(given, trust, TEXT, asked=["a", "b"])
    assert [one.label for one in answer] == ["wheel"]


def test_a_part_within_a_region_of_the_same_source_stays() -> None:
    inner = SourceProposal("a", square(10, side=16), 0.9, "tyre")
    answer = combine([give("a", 10), inner], TrustTable(), TEXT, asked=["a"])
    assert {one.label for one in answer} == {"wheel", "tyre"}


def test_one_source_gives_a_region_and_its_name_once() -> None:
    given = [give("a", 10, score=0.4), give("a", 12, score=0.8), give("a", 12, "tyre", 0.3)]
    answer = combine(given, TrustTable(), TEXT, asked=["a"])
    assert [one.label for one in answer] == ["wheel"]
    assert np.array_equal(answer[0].mask, square(12))


def test_a_click_is_judged_by_the_selected_label() -> None:
    keys = [TrustKey(name, Ability.CLICK, "wheel") for name in "ab"]
    trust = TrustTable({keys[0]: BAD, keys[1]: FAIR})
    given = [give("a", 10, None), give("b", 30, None)]
    answer = combine(given, trust, Ability.CLICK, asked=["a", "b"], label="wheel")
    assert [one.sources for one in answer] == [("b",)]


def test_the_order_of_sources_changes_nothing() -> None:
    given = [give("a", 10), give("b", 12), give("c", 50), give("a", 50, "door")]
    trust = table(a=GOOD, b=FAIR)
    there = combine(given, trust, TEXT, asked=["a", "b", "c"])
    back = combine(given[::-1], trust, TEXT, asked=["c", "b", "a"])
    assert [(one.label, one.sources, one.score) for one in there] == [
        (one.label, one.sources, one.score) for one in back
    ]


def test_empty_masks_and_no_masks_give_no_regions() -> None:
    empty = SourceProposal("a", np.zeros((60, 80), np.bool_), 0.9, "wheel")
    assert combine([empty], TrustTable(), TEXT, asked=["a"]) == ()
    assert combine([], TrustTable(), TEXT, asked=["a"]) == ()


def test_masks_of_two_sizes_are_refused() -> None:
    other = SourceProposal("b", np.ones((10, 10), np.bool_), 0.9, "wheel")
    with pytest.raises(InvalidMaskError, match="expected the size"):
        combine([give("a", 10), other], TrustTable(), TEXT, asked=["a", "b"])
