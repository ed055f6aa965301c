"""Which mask is chosen among those of several sources."""

from __future__ import annotations

import numpy as np

from calico_model.sources.choice import choose
from calico_model.sources.consensus import SourceProposal


def proposal(source, left, right, score=0.5):
    mask = np.zeros((10, 40), np.bool_)
    mask[:, left:right] = True
    return SourceProposal(source, mask, score)


def test_calicos_own_mask_stays_where_it_is_alone():
    own = proposal("calico", 0, 10)
    assert choose([own]) is own


def test_an_added_source_is_believed_beside_calico_alone():
    own, added = proposal("calico", 0, 10, 0.9), proposal("sam", 0, 8, 0.1)
    assert choose([own, added]) is added


def test_of_masks_of_several_sizes_the_one_that_others_see_is_chosen():
    own = proposal("calico", 0, 10)
    sizes = [proposal("sam", 0, 40, 0.9), proposal("sam", 0, 11, 0.5), proposal("sam", 0, 2, 0.1)]
    assert choose([own, *sizes]) is sizes[1]


def test_the_majority_outvotes_a_single_source():
    own, odd, other = proposal("calico", 0, 10), proposal("a", 25, 40), proposal("b", 0, 11)
    assert choose([own, odd, other]) is other


def test_where_nobody_agrees_the_first_added_source_is_believed_in_its_first_mask():
    own = proposal("calico", 0, 10)
    first, second = proposal("a", 12, 20, 0.2), proposal("a", 20, 24, 0.1)
    last = proposal("b", 30, 40, 0.9)
    assert choose([own, first, second, last]) is first


def test_an_empty_mask_is_never_chosen_while_there_is_another():
    own, empty = proposal("calico", 0, 10), proposal("sam", 5, 5, 1.0)
    assert choose([own, empty]) is own
    assert choose([proposal("calico", 0, 0), empty]).mask.sum() == 0
