"""The domain that is unseen in every way at once."""

from __future__ import annotations

from calico_model.data.casting import SceneSplit, Stream, draw_mains, draw_styles, group_rng
from calico_model.data.catalogue import HELD_OUT_CATEGORIES
from calico_model.data.styles import HELD_OUT_STYLES


def test_categories_and_style_are_held_out_together() -> None:
    names, styles = set(), set()
    for index in range(40):
        rng = group_rng(Stream.EVALUATION, 0, index)
        names |= set(draw_mains(rng, SceneSplit.UNSEEN_DOMAIN, 2))
        styles |= {style.name for style in draw_styles(rng, SceneSplit.UNSEEN_DOMAIN, 2)}
    assert names == set(HELD_OUT_CATEGORIES)
    assert styles <= {style.name for style in HELD_OUT_STYLES}
