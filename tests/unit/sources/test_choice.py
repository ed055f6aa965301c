"""Which mask is chosen among those of several sources."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from calico_model.sources.choice import choose
from calico_model.sources.consensus import SourceProposal
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey, TrustTable

GOOD, FAIR, BAD = (
    TrustCounts(20, 20, 19.0, 20),
    TrustCounts(20, 15, 12.0, 20),
    TrustCounts(20, 0, 0.0, 20),
)


def proposal(source, left, right, score=0.5):
    mask = np.zeros((10, 40), np.bool_)
    mask[:, left:right] = True
    return SourceProposal(source, mask, score)


def chosen(*proposals, label=None, ability=Ability.CLICK, **counts):
    """The region of a click under a label, where the sources have earned some trust."""
    trust = {TrustKey(name, Ability.CLICK, "lid"): one for name, one in counts.items()}
    return choose(proposals, TrustTable(trust), ability, label=label)


def same(region, one):
    return np.array_equal(region.mask, one.mask) and region.sources[0] == one.source


def test_calicos_own_mask_stays_where_it_is_alone():
    own = proposal("calico", 0, 10)
    assert same(chosen(own), own)


def test_an_added_source_is_believed_beside_calico_alone():
    own, added = proposal("calico", 0, 10, 0.9), proposal("sam", 0, 8, 0.1)
    assert same(chosen(own, added), added)


def test_of_masks_of_several_sizes_the_one_that_others_see_is_chosen():
    own = proposal("calico", 0, 10)
    sizes = [proposal("sam", 0, 40, 0.9), proposal("sam", 0, 11, 0.5), proposal("sam", 0, 2, 0.1)]
    assert same(chosen(own, *sizes), sizes[1])


def test_the_majority_outvotes_a_single_source():
    own, odd, other = proposal("calico", 0, 10), proposal("a", 25, 40), proposal("b", 0, 11)
    assert same(chosen(own, odd, other), other)


def test_where_nobody_agrees_the_first_added_source_is_believed_in_its_first_mask():
    own = proposal("calico", 0, 10)
    first, second = proposal("a", 12, 20, 0.2), proposal("a", 20, 24, 0.1)
    last = proposal("b", 30, 40, 0.9)
    assert same(chosen(own, first, second, last), first)


def test_an_empty_mask_is_never_chosen_while_there_is_another():
    own, empty = proposal("calico", 0, 10), proposal("sam", 5, 5, 1.0)
    assert same(chosen(own, empty), own)
    assert chosen(proposal("calico", 0, 0), empty).mask.sum() == 0


def test_who_was_right_about_the_label_is_believed():
    own, added = proposal("calico", 0, 10), proposal("sam", 20, 30, 0.9)
    assert same(chosen(own, added, label="lid", calico=GOOD, sam=FAIR), own)
    assert same(chosen(own, added, label="lid", calico=FAIR, sam=GOOD), added)


def test_one_trusted_source_outvotes_two_that_were_often_wrong():
    right, wrong = proposal("sam", 20, 30), [proposal("calico", 0, 10), proposal("b", 0, 11)]
    weak = TrustCounts(20, 9, 8.0, 20)
    assert same(chosen(*wrong, right, label="lid", sam=GOOD, calico=weak, b=weak), right)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_silent_source_changes_nothing(order):
    masks = [proposal("calico", 0, 10), proposal("sam", 2, 12), proposal("guess", 20, 40, 1.0)]
    with_it = chosen(*(masks[k] for k in order), label="lid", calico=FAIR, sam=GOOD, guess=BAD)
    without = chosen(*masks[:2], label="lid", calico=FAIR, sam=GOOD)
    assert np.array_equal(with_it.mask, without.mask)
    assert (with_it.score, with_it.sources) == (without.score, without.sources)


def test_a_mask_is_given_even_where_all_are_silent():
    own, added = proposal("calico", 0, 10), proposal("sam", 20, 30)
    assert same(chosen(own, added, label="lid", calico=BAD, sam=BAD), own)


def test_agreement_raises_the_score():
    own, near, far = proposal("calico", 0, 10), proposal("sam", 0, 9), proposal("sam", 20, 30)
    assert chosen(own, near).score > chosen(own).score > chosen(own, far).score
