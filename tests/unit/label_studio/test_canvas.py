"""What is already drawn: the newest drawing, told by runs, masks undecoded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backend.label_studio import brush
from backend.label_studio.request import parse_predict_request
from backend.types import runs_of
from research.label_studio.sample import click_body


def results(name, mask, label="common_part"):
    height, width = mask.shape
    frame = {"id": name, "to_name": "image_0", "original_width": width, "original_height": height}
    return [
        frame
        | {
            "type": "brush",
            "from_name": "mask_0",
            "value": {"format": "rle", "rle": brush.encode_mask(mask)},
        },
        frame | {"type": "labels", "from_name": "kind_0", "value": {"labels": [label]}},
    ]


@pytest.fixture
def mask():
    rng = np.random.default_rng(0)
    return rng.random((30, 50)) < 0.3


def parsed(**sources):
    body = click_body(["/data/a.png", "/data/b.png"], x=50, y=50)
    body["tasks"][0] |= sources
    return parse_predict_request(json.dumps(body).encode()).canvas


def test_runs_are_those_of_the_decoded_mask():
    rng = np.random.default_rng(1)
    for share in (0.0, 0.01, 0.5, 1.0):
        mask = rng.random((257, 300)) < share
        rle = brush.encode_mask(mask)
        found = brush.decode_runs(rle, size_hw=mask.shape)
        assert np.array_equal(found, runs_of(brush.decode_mask(rle, size_hw=mask.shape)))


def test_a_draft_comes_before_the_annotation_and_that_before_the_prediction(mask):
    def drawing(name, moment):
        return {"result": results(name, mask), "updated_at": moment}

    old, new = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    drafts = [drawing("d1", old), drawing("d2", new)]
    assert [r.id for r in parsed(drafts=drafts, annotations=[drawing("a", new)])] == ["d2"]
    skipped = drawing("a2", new) | {"was_cancelled": True}
    found = parsed(drafts=[], annotations=[drawing("a1", old), skipped])
    assert [r.id for r in found] == ["a1"]
    assert [r.id for r in parsed(annotations=[7], predictions=[drawing("p", old)])] == ["p"]
    assert parsed(drafts=None, predictions=[{"result": "broken"}]) == ()


def test_what_the_annotator_deleted_is_not_there(mask):
    drawn = [{"result": results("old", mask), "updated_at": "2026-01-01T00:00:00Z"}]
    emptied = {"result": [], "updated_at": "2026-01-02T00:00:00Z"}
    click = click_body(["/data/a.png"], x=1, y=1)["params"]["context"]["result"]
    assert parsed(drafts=[emptied, *drawn], predictions=drawn) == ()
    assert parsed(drafts=[emptied | {"result": click}], predictions=drawn) == ()
    assert parsed(annotations=[emptied], predictions=drawn) == ()
    assert [r.id for r in parsed(annotations=[{"result": 7}], predictions=drawn)] == ["old"]


def test_regions_that_relations_name_are_linked(mask):
    link = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "bi"}
    drawn = [item for name in "abc" for item in results(name, mask)]
    found = parsed(predictions=[{"result": [*drawn, link]}])
    assert [(region.id, region.is_linked) for region in found] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert not any(region.is_linked for region in parsed(predictions=[{"result": drawn}]))


def test_regions_that_are_the_same_part_without_an_arrow_are_not_linked(mask):
    drawn = [item for name in "ab" for item in results(name, mask)]
    for item in drawn:
        item["meta"] = {"same_part": "common_part:leg"}
    assert not any(region.is_linked for region in parsed(predictions=[{"result": drawn}]))


def test_no_mask_is_decoded_to_read_the_canvas(mask, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a mask was decoded")

    monkeypatch.setattr(brush, "decode_mask", refuse)
    result = [item for k in range(100) for item in results(f"r{k}", np.roll(mask, k))]
    found = parsed(drafts=[{"result": result}])
    assert len(found) == 100
    assert np.array_equal(found[3].runs, runs_of(np.roll(mask, 3)))


def test_a_request_without_prompts_reads_no_canvas(mask):
    body = click_body(["/data/a.png"], x=1, y=1)
    body["tasks"][0]["drafts"] = [{"result": results("d", mask)}]
    body["params"] = {"context": {"result": []}}
    assert parse_predict_request(json.dumps(body).encode()).canvas == ()
