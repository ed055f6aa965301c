"""Trust is sums of judged masks, and what is believed follows from them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey, TrustTable, add_counts

WHEEL = TrustKey("sam", Ability.TEXT, "wheel")
DOOR = TrustKey("sam", Ability.TEXT, "door")
GOOD, BAD = TrustCounts(10, 10, 9.0, 10), TrustCounts(10, 0, 0.5, 10)


def test_a_source_nobody_judged_speaks_and_is_half_believed() -> None:
    belief = TrustTable().of("sam", Ability.TEXT, "wheel")
    assert not belief.is_silent
    assert 0.5 < belief.trust < 0.7
    assert belief.proposals == 0


def test_ten_failures_silence_a_source_for_one_label_only() -> None:
    table = TrustTable({WHEEL: BAD, DOOR: GOOD})
    assert table.of("sam", Ability.TEXT, "wheel").is_silent
    assert not table.of("sam", Ability.TEXT, "door").is_silent


def test_an_unseen_label_is_believed_like_the_others() -> None:
    good = TrustTable({WHEEL: GOOD}).of("sam", Ability.TEXT, "door")
    bad = TrustTable({WHEEL: BAD}).of("sam", Ability.TEXT, "door")
    assert good.precision > 0.9
    assert bad.is_silent


def test_a_source_that_knows_some_labels_may_still_answer_a_new_one() -> None:
    labels = [TrustKey("sam", Ability.TEXT, f"label {k}") for k in range(9)]
    mixed = TrustTable({key: GOOD if k % 3 == 0 else BAD for k, key in enumerate(labels)})
    same = TrustTable(dict.fromkeys(labels, TrustCounts(9, 3, 2.0, 9)))
    assert mixed.of("sam", Ability.TEXT, "door").precision == pytest.approx(
        same.of("sam", Ability.TEXT, "door").precision, abs=0.02
    )
    assert not mixed.of("sam", Ability.TEXT, "door").is_silent
    assert same.of("sam", Ability.TEXT, "door").is_silent


def test_other_labels_count_less_for_a_source_whose_labels_differ() -> None:
    labels = [TrustKey("sam", Ability.TEXT, f"label {k}") for k in range(6)]
    one = {WHEEL: TrustCounts(2, 2, 2.0, 2)}
    mixed = TrustTable(one | {key: (GOOD, BAD)[k % 2] for k, key in enumerate(labels)})
    same = TrustTable(one | dict.fromkeys(labels, TrustCounts(10, 5, 4.75, 10)))
    assert mixed.of(*WHEEL).precision > same.of(*WHEEL).precision + 0.1


def test_a_silent_source_speaks_again_after_good_masks() -> None:
    total = add_counts([{WHEEL: BAD}, *[{WHEEL: GOOD}] * 3])
    assert not TrustTable(total).of("sam", Ability.TEXT, "wheel").is_silent


def test_abilities_are_believed_apart() -> None:
    table = TrustTable({WHEEL: BAD, WHEEL._replace(ability=Ability.CLICK): GOOD})
    assert table.of("sam", Ability.TEXT, "wheel").is_silent
    assert table.of("sam", Ability.CLICK, "wheel").precision > 0.85


def test_better_outlines_are_trusted_more() -> None:
    rough = TrustTable({WHEEL: TrustCounts(10, 10, 6.0, 10)}).of("sam", Ability.TEXT, "wheel")
    exact = TrustTable({WHEEL: GOOD}).of("sam", Ability.TEXT, "wheel")
    assert exact.trust > rough.trust
    assert exact.vote > rough.vote


def test_beliefs_are_probabilities_and_bounded_votes() -> None:
    for count in (1, 10, 100_000):
        for kept in (0, count // 2, count):
            table = TrustTable({WHEEL: TrustCounts(count, kept, float(kept), count)})
            for belief in (table.of(*WHEEL), table.answering(*WHEEL)):
                assert 0 < belief.trust < 1
                assert 0 < belief.precision < 1
                assert 0 < belief.recall < 1
                assert -3 <= belief.support <= 3
                assert -3 <= belief.doubt <= 0
                assert belief.vote > 0


def test_the_order_of_groups_does_not_matter() -> None:
    parts = [{WHEEL: BAD}, {WHEEL: GOOD, DOOR: BAD}, {DOOR: TrustCounts(3, 1, 1.25, 2)}]
    states = {TrustTable(add_counts(order)).state for order in permutations(parts)}
    assert len(states) == 1


def test_the_state_changes_with_what_is_believed() -> None:
    counts = [GOOD, BAD, TrustCounts(10, 10, 6.0, 10), TrustCounts(10, 10, 9.0, 20)]
    assert len({TrustTable({WHEEL: one}).state for one in counts}) == len(counts)
    assert TrustTable({WHEEL: GOOD}).state != TrustTable({DOOR: GOOD}).state
    assert TrustTable({WHEEL: GOOD}).state != TrustTable().state


def test_tables_of_one_state_answer_alike() -> None:
    rng = np.random.default_rng(0)
    by_state: dict[str, list[TrustTable]] = {}
    for _ in range(300):
        counts = {}
        for key in (WHEEL, DOOR):
            masks = int(rng.integers(18, 24))
            kept = int(rng.integers(17, masks + 1))
            counts[key] = TrustCounts(masks, kept, 0.9 * kept, masks)
        table = TrustTable(counts)
        by_state.setdefault(table.state, []).append(table)
    assert 1 < len(by_state) < 200
    for tables in by_state.values():
        for label in ("wheel", "door", "lid", None):
            assert len({table.answering("sam", Ability.TEXT, label) for table in tables}) == 1


def test_one_correction_more_seldom_makes_answers_anew() -> None:
    states = [
        TrustTable({WHEEL: TrustCounts(count, count, 0.9 * count, count)}).state
        for count in range(30, 130)
    ]
    assert len(set(states)) <= 4


@pytest.mark.parametrize(
    "numbers", [(1, 2, 0.0, 2), (2, 2, 0.0, 1), (1, -1, 0.0, 1), (1, 1, 1.5, 1), (1, 1, -0.1, 1)]
)
def test_impossible_counts_are_refused(numbers: tuple[int, int, float, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TrustCounts(*numbers)
