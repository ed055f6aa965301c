"""Whatever comes through the wire door ends in a value or in an error of ours."""

from __future__ import annotations

import json
import random

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BackendError, MediaError, RequestError
from backend.label_studio.event import parse_events, read_annotation
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.media import MediaFetcher
from backend.label_studio.request import parse_predict_request, parse_setup_request
from backend.types import EventAction
from tests.unit.label_studio.golden_files import names, payload

ODD = [None, True, -1, 0, 2**70, 1.5, "", "x", "\u0000", "9" * 400, [], {}, [[]], {"id": {}}]


def mutated(value, rng, chance):
    """The same JSON with some values replaced, dropped or doubled."""
    if rng.random() < chance:
        return rng.choice(ODD)
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if rng.random() > chance / 2}
        return {k: mutated(v, rng, chance) for k, v in kept.items()}
    if isinstance(value, list):
        if len(value) > 50:  # a mask's bytes
            return value[: rng.randrange(len(value))] if rng.random() < chance * 4 else value
        return [mutated(v, rng, chance) for v in value]
    return value


def near_valid(prefix, count):
    for seed in range(count):
        rng = random.Random(seed)
        name = rng.choice([n for n in names(prefix) if "_ui_b" not in n and "_ui_c" not in n])
        yield json.dumps(mutated(payload(name)["body"], rng, rng.choice([0.002, 0.01, 0.05])))


def test_broken_webhooks_become_events_or_request_errors():
    accepted = 0
    for sent in near_valid("webhook_", 250):
        try:
            events = parse_events(sent.encode())
        except RequestError:
            continue
        accepted += 1
        for event in events:
            if event.action in (EventAction.ANNOTATION_CREATED, EventAction.ANNOTATION_UPDATED):
                look_at(event)
    assert accepted > 50


def look_at(event):
    try:
        for region in read_annotation(event).regions:
            assert region.mask.shape == region.size_hw
    except BackendError:
        return


def test_broken_predict_requests_become_requests_or_request_errors():
    accepted = 0
    for sent in near_valid("predict_", 250):
        try:
            parsed = parse_predict_request(sent.encode())
        except RequestError:
            continue
        accepted += 1
        assert all(task.image_urls or task.problem for task in parsed.tasks)
    assert accepted > 50


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
@pytest.mark.parametrize("parse", [parse_events, parse_predict_request, parse_setup_request])
def test_any_bytes_are_refused_with_a_field(parse, data):
    with pytest.raises(RequestError) as caught:
        parse(b"[" + data)
    assert caught.value.field


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=120))
def test_any_text_is_a_config_or_names_the_config(text):
    with pytest.raises(RequestError, match="^label_config: "):
        parse_label_config(f"<View>{text}</View>")


MEDIA = MediaFetcher(
    label_studio_url="http://studio",
    hosts=("*",),
    resolve=lambda host, port: ["8.8.8.8"],
    transport=httpx.MockTransport(lambda request: httpx.Response(404)),
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["", "/data/", "/data/local-files/?d=", "http://", "https://h", "s3://", "//"]),
    st.text(max_size=60),
)
def test_any_url_is_refused_as_media(prefix, text):
    with pytest.raises(MediaError, match="^url: "):
        MEDIA.fetch(prefix + text, task_id=1)
