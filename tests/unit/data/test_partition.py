"""Whatever names a group has, each is common, unique, or neither, by the words of the paper."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from calico_model.data.comparison import partition

_NAMES = st.sampled_from(["leg", "seat", "back", "arm", "wheel", "door"])
_IMAGE = st.tuples(st.lists(_NAMES, unique=True), st.frozensets(_NAMES))
_GROUP = st.lists(_IMAGE, min_size=1, max_size=8)


@given(_GROUP)
def test_common_is_on_all_and_unique_on_exactly_one(
    group: list[tuple[list[str], frozenset[str]]],
) -> None:
    visible = [names for names, _ in group]
    known = [{*names, *hidden} for names, hidden in group]
    common, unique = partition(visible, known)
    assert set(common) == set.intersection(*map(set, visible))
    for n, own in enumerate(unique):
        others = set().union(*(names for k, names in enumerate(known) if k != n))
        expected = set(visible[n]) - others if len(group) > 1 else set()
        assert set(own) == expected
        assert len(set(own)) == len(own)
        if len(group) > 1:
            assert not set(own) & set(common)


@given(_GROUP)
def test_no_name_is_unique_to_two_images(
    group: list[tuple[list[str], frozenset[str]]],
) -> None:
    _, unique = partition([names for names, _ in group])
    told = [name for own in unique for name in own]
    assert len(told) == len(set(told))


@given(_GROUP, st.randoms())
def test_the_order_of_images_does_not_matter(
    group: list[tuple[list[str], frozenset[str]]], random: object
) -> None:
    order = list(range(len(group)))
    random.shuffle(order)  # type: ignore[attr-defined]
    visible = [names for names, _ in group]
    known = [{*names, *hidden} for names, hidden in group]
    common, unique = partition(visible, known)
    mixed_common, mixed_unique = partition([visible[k] for k in order], [known[k] for k in order])
    assert set(mixed_common) == set(common)
    assert list(mixed_unique) == [unique[k] for k in order]


@given(_GROUP)
def test_what_is_hidden_only_takes_names_away(
    group: list[tuple[list[str], frozenset[str]]],
) -> None:
    visible = [names for names, _ in group]
    known = [{*names, *hidden} for names, hidden in group]
    open_common, open_unique = partition(visible)
    common, unique = partition(visible, known)
    assert common == open_common
    assert all(set(a) <= set(b) for a, b in zip(unique, open_unique, strict=True))
