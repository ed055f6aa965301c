"""Bodies that are small as bytes and large as objects: what they take is bounded.

Memory is what Python and the decoder allocate; no allocator and no clock of this machine decides.
"""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress

import pytest

from backend.errors import RequestError
from backend.label_studio.event import parse_events
from backend.label_studio.request import parse_predict_request, parse_setup_request
from backend.label_studio.wire import MAX_CONTAINERS, MAX_STRINGS
from research.label_studio.sample import REPEATER_CONFIG, event_body, predict_body

SIZE = 12_000_000
MOST_BYTES = 6 * SIZE
_PLACE = b'"@"'


def many(text):
    """SIZE bytes of one JSON value after the other."""
    return b",".join([text] * (SIZE // (len(text) + 1)))


def keys():
    return b",".join(b'"%x":0' % number for number in range(SIZE // 9))


def with_many(body, content):
    """A body in which "@" stands for something large."""
    return json.dumps(body).encode().replace(_PLACE, content)


def predict(**changes):
    return predict_body([["a.png"]]) | changes


def clicked(result):
    return predict(params={"context": {"result": result}})


def annotated(**changes):
    body = event_body(7, rle=[1])
    body["annotation"] |= changes
    return body


def told(**changes):
    return {"action": "TASKS_CREATED", "project": {"id": 1}} | changes


VALUES = {
    "objects": b"[" + many(b"{}") + b"]",
    "lists": b"[" + many(b"[]") + b"]",
    "numbers": b"[" + many(b"0") + b"]",
    "texts": b"[" + many(b'"a"') + b"]",
    "nothing": b"[" + many(b"null") + b"]",
    "results": b"[" + many(b'{"type":"brush"}') + b"]",
    "keys": b"{" + keys() + b"}",
    "nested": b"[" + many(b"[[[{}]]]") + b"]",
}
KNOWN = {"type": "keypointlabels", "from_name": "k", "value": {"x": 1, "y": 1, "labels": "@"}}
PREDICTS = {
    "tasks": predict(tasks="@"),
    "data": predict(tasks=[{"id": 1, "data": "@"}]),
    "a field of the data": predict(tasks=[{"id": 1, "data": {"images": ["a.png"], "x": "@"}}]),
    "drafts": predict(tasks=[{"id": 1, "data": {}, "drafts": "@"}]),
    "context": clicked("@"),
    "labels": clicked([KNOWN]),
    "drafts of a click": clicked([]) | {"tasks": [{"id": 1, "data": {}, "drafts": "@"}]},
    "somewhere": predict(anything="@"),
}
WEBHOOKS = {
    "annotation": event_body(7, rle=[1]) | {"annotation": "@"},
    "task": event_body(7, rle=[1]) | {"task": "@"},
    "result": annotated(result="@"),
    "value": annotated(result=[{"type": "brush", "value": {"x": "@"}}]),
    "all of a value": annotated(result=[{"type": "brush", "value": "@"}]),
    "a field": annotated(result=[{"type": "brush", "meta": "@"}]),
    "all of a result": annotated(result=["@"]),
    "rle": annotated(result=[{"type": "brush", "value": {"rle": "@"}}]),
    "annotations": told(action="ANNOTATIONS_DELETED", annotations="@"),
    "tasks": told(tasks="@"),
    "somewhere": told(x="@"),
}


def peak(parse, body):
    """Most bytes allocated while a body was read or refused."""
    tracemalloc.start()
    try:
        with suppress(RequestError):
            parse(body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", PREDICTS)
def test_a_predict_request_takes_a_few_times_its_size(place, value):
    body = with_many(PREDICTS[place], VALUES[value])
    assert peak(parse_predict_request, body) < MOST_BYTES


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", WEBHOOKS)
def test_an_event_takes_a_few_times_its_size(place, value):
    body = with_many(WEBHOOKS[place], VALUES[value])
    assert peak(parse_events, body) < MOST_BYTES


@pytest.mark.parametrize("value", VALUES)
def test_a_setup_takes_a_few_times_its_size(value):
    body = with_many({"project": "1", "schema": REPEATER_CONFIG, "extra": "@"}, VALUES[value])
    assert peak(parse_setup_request, body) < MOST_BYTES


@pytest.mark.parametrize("parse", [parse_predict_request, parse_events, parse_setup_request])
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"[]," * (MAX_CONTAINERS + 1), "objects and lists"), (b'"",' * (MAX_STRINGS + 1), "texts")],
)
def test_too_many_values_are_refused_before_anything_is_built(parse, content, words):
    with pytest.raises(RequestError, match=words) as caught:
        parse(b'{"x":[' + content)  # not even JSON: nothing has looked
    assert caught.value.field == "body"


def test_a_batch_of_ordinary_tasks_is_within_the_limits():
    tasks = [{"id": n, "data": {"images": ["a.png", "b.png"]}, "drafts": []} for n in range(50_000)]
    asked = parse_predict_request(json.dumps(predict(tasks=tasks)).encode())
    assert len(asked.tasks) == 50_000


def test_a_large_mask_is_within_the_limits():
    (event,) = parse_events(json.dumps(event_body(7, rle=[1, 0] * 2_000_000)).encode())
    assert event.annotation_id == 7


def test_a_large_notice_of_any_kind_is_one_event_however_often_it_comes():
    body = with_many(told(x="@"), VALUES["numbers"])
    (one,), (two,) = parse_events(body), parse_events(body)
    assert one.key == two.key
    (other,) = parse_events(body.replace(b"[0,", b"[1,", 1))
    assert other.key != one.key
