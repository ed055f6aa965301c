"""Equal JSON has one text, other JSON another, and masks are not decoded on the way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import InvalidEventError
from backend.label_studio.event_key import canonical, canonical_results

WORDS = st.text(max_size=5)
RLE = st.lists(st.integers(0, 255), max_size=6)
SIMPLE = st.none() | st.booleans() | st.integers(-5, 5) | WORDS | st.lists(WORDS, max_size=2)
VALUE = st.fixed_dictionaries({}, optional={"rle": RLE | WORDS, "format": WORDS, "x": SIMPLE})
RESULT = st.fixed_dictionaries({"id": WORDS}, optional={"value": VALUE, "type": SIMPLE})
RESULTS = st.lists(RESULT, max_size=3)


def shuffled(value):
    """The same JSON with every object's keys the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(RESULTS)
def test_spaces_and_order_do_not_matter(results):
    texts = {
        canonical_results(json.dumps(results, indent=2).encode(), "result"),
        canonical_results(json.dumps(shuffled(results), separators=(",", ":")).encode(), "result"),
    }
    assert len(texts) == 1
    assert json.loads(texts.pop()) == results


@given(RESULTS, RESULTS)
def test_other_results_have_another_text(first, second):
    texts = [canonical_results(json.dumps(one).encode(), "result") for one in (first, second)]
    assert (texts[0] == texts[1]) == (
        json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    )


@pytest.mark.parametrize("odd", [b"null", b"{}", b"[1, 2]", b'[{"value": [ 1 ]}]', b'"x"'])
def test_what_is_no_result_list_is_read_as_any_json(odd):
    assert json.loads(canonical_results(odd, "result")) == json.loads(odd)
    assert b" " not in canonical_results(odd, "result")


@pytest.mark.parametrize("broken", [b"", b"[", b"[" * 100_000, b'[{"value": {"rle": [1, }}]'])
def test_broken_json_is_refused_with_its_place(broken):
    for read in (canonical, canonical_results):
        with pytest.raises(InvalidEventError, match="annotation.result"):
            read(broken, "annotation.result")
