"""Submitted annotations teach what labels look like: once each, and anew when they change."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import select

from backend.errors import MediaUnavailableError
from backend.label_studio.brush import encode_mask
from backend.label_studio.event import parse_events
from backend.learning import prototype_store
from backend.learning.prototype_indexer import PrototypeIndexer
from backend.learning.prototype_store import described_by
from backend.storage.store import open_store
from backend.storage.tables import accepted_look
from calico_model.types import ImageGroup
from tests.doubles import ModelDouble
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

PROJECT = 7
START = datetime(2026, 3, 1, tzinfo=UTC)
CLOSED = """<View><Image name="a" value="$a"/><BrushLabels name="b" toName="a">
<Label value="Lid"/><Label value="Rim"/></BrushLabels></View>"""
OPEN = """<View><Image name="a" value="$a"/><Brush name="m" toName="a"/>
<Labels name="k" toName="a"><Label value="common_part"/></Labels>
<TextArea name="p" toName="a" perRegion="true"/></View>"""


def region(id_, label, left):
    mask = np.zeros((40, 60), bool)
    mask[5:20, left : left + 10] = True
    value = {"format": "rle", "rle": encode_mask(mask), "brushlabels": [label]}
    size = {"original_width": 60, "original_height": 40}
    return {
        "id": id_,
        "from_name": "b",
        "to_name": "a",
        "type": "brushlabels",
        "value": value,
    } | size


def event(annotation, drawn, *, second=0, config=CLOSED, skipped=False):
    moment = (START + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")
    body = {
        "action": "ANNOTATION_UPDATED",
        "annotation": {
            "id": annotation,
            "task": annotation,
            "project": PROJECT,
            "completed_by": 1,
            "updated_at": moment,
            "was_cancelled": skipped,
            "result": drawn,
        },
        "task": {"id": annotation, "data": {"a": "/data/a.png"}},
        "project": {"id": PROJECT, "label_config": config},
    }
    return parse_events(json.dumps(body).encode())[0]


def deletion(annotation):
    body = {
        "action": "ANNOTATIONS_DELETED",
        "annotations": [{"id": annotation}],
        "project": {"id": PROJECT, "label_config": CLOSED},
    }
    return parse_events(json.dumps(body).encode())[0]


class Images:
    """One grey image; `fails` fetches are refused first."""

    def __init__(self):
        self.fails, self.fetched, self.size = 0, 0, (40, 60, 3)

    def fetch_group(self, task):
        self.fetched += 1
        if self.fails:
            self.fails -= 1
            raise MediaUnavailableError("away", field="a")
        return ImageGroup((np.zeros(self.size, np.uint8),), ("a",))


class Model(ModelDouble):
    """Describes a region by its left edge."""

    def __init__(self, version="v1"):
        self.version = version

    def predict(self, group):
        raise AssertionError("nobody asked for a prediction")

    def describe_regions(self, group, outlines):
        edges = [np.flatnonzero(one.mask.any(0))[0] for one in outlines]
        return [np.array([np.cos(x / 20), np.sin(x / 20), 1.0], np.float32) for x in edges]


@pytest.fixture
def store(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path / 'calico.sqlite3'}")
    yield opened
    opened.close()


@pytest.fixture
def images():
    return Images()


def prototype_indexer(store, images, model=None, **options):
    held = model or Model()
    return PrototypeIndexer(store, images, lambda: held, **options)


def test_an_annotation_teaches_its_labels_once(store, images):
    store.record_events([event(1, [region("x", "Lid", 2), region("y", "Rim", 40)])])
    thread = prototype_indexer(store, images)
    assert thread.prototypes(PROJECT).regions == 0
    assert (thread.round(), thread.round()) == (1, 0)
    accepted = thread.prototypes(PROJECT)
    assert sorted(accepted.looks) == ["Lid", "Rim"]
    assert images.fetched == 1
    probe = np.array([[np.cos(2.0), np.sin(2.0), 1.0]], np.float32)
    assert accepted.log_chances(probe, ("Lid", "Rim"))[0].argmax() == 1
    assert thread.prototypes(PROJECT + 1).regions == 0


def test_a_restart_knows_what_was_learned_without_looking_again(store, images):
    store.record_events([event(1, [region("x", "Lid", 2)])])
    prototype_indexer(store, images).round()
    again = prototype_indexer(store, images)
    assert again.round() == 0
    assert again.prototypes(PROJECT).regions == 1
    assert images.fetched == 1


def test_a_changed_annotation_replaces_what_it_taught(store, images):
    thread = prototype_indexer(store, images)
    store.record_events([event(1, [region("x", "Lid", 2)])])
    thread.round()
    store.record_events([event(1, [region("x", "Rim", 2)], second=5)])
    thread.round()
    assert list(thread.prototypes(PROJECT).looks) == ["Rim"]


@pytest.mark.parametrize("gone", [deletion(1), event(1, [], second=5, skipped=True)])
def test_deleted_and_skipped_annotations_are_unlearned(store, images, gone):
    thread = prototype_indexer(store, images)
    store.record_events([event(1, [region("x", "Lid", 2)])])
    thread.round()
    store.record_events([gone])
    thread.round()
    assert thread.prototypes(PROJECT).regions == 0


def test_other_weights_look_anew(store, images):
    store.record_events([event(1, [region("x", "Lid", 2)])])
    prototype_indexer(store, images).round()
    other = prototype_indexer(store, images, Model("v2"))
    assert other.round() == 1
    assert other.prototypes(PROJECT).regions == 1


def test_images_that_are_away_are_looked_at_later(store, images):
    now = [100.0]
    images.fails = 1
    store.record_events([event(1, [region("x", "Lid", 2)])])
    thread = prototype_indexer(store, images, clock=lambda: now[0])
    assert thread.round() == 0
    assert thread.round() == 0
    assert images.fetched == 1
    now[0] += 61
    assert thread.round() == 1


def test_what_cannot_be_used_teaches_nothing_and_is_not_asked_again(store, images):
    images.size = (41, 60, 3)
    store.record_events([event(1, [region("x", "Lid", 2)])])
    thread = prototype_indexer(store, images)
    assert (thread.round(), thread.round()) == (1, 0)
    assert thread.prototypes(PROJECT).regions == 0


def test_a_project_with_free_names_is_not_looked_at(store, images):
    shape = region("x", "Lid", 2) | {"from_name": "m", "type": "brush"}
    shape["value"] = {name: shape["value"][name] for name in ("format", "rle")}
    name = shape | {"from_name": "p", "type": "textarea", "value": {"text": ["lid"]}}
    store.record_events([event(1, [shape, name], config=OPEN)])
    assert prototype_indexer(store, images).round() == 1
    assert images.fetched == 0


def test_nothing_happens_while_the_weights_load(store, images):
    store.record_events([event(1, [region("x", "Lid", 2)])])
    assert PrototypeIndexer(store, images, lambda: None).round() == 0


def test_two_weights_describe_an_annotation_once_each(store, images):
    store.record_events([event(1, [region("x", "Lid", 2)])])
    old, new = (prototype_indexer(store, images, Model(version)) for version in ("v1", "v2"))
    assert [thread.round() for _ in range(3) for thread in (old, new)] == [1, 1, 0, 0, 0, 0]
    assert old.prototypes(PROJECT).regions == new.prototypes(PROJECT).regions == 1


def test_who_does_not_lead_reads_what_the_leader_keeps(database_url, images):  # noqa: F811
    shared = open_store(database_url, commit_timeout_s=30)
    if not shared.is_shared:
        shared.close()
        pytest.skip("the only server of a SQLite file leads")
    follower = prototype_indexer(shared, images, leads=lambda _base: False)
    leader = prototype_indexer(shared, images)
    shared.record_events([event(1, [region("x", "Lid", 2)])])
    assert follower.round() == 0
    assert follower.prototypes(PROJECT).regions == 0
    for annotation in (1, 2):
        shared.record_events([event(annotation, [region("x", "Lid", 2)])])
        assert (leader.round(), follower.round()) == (1, 0)
        assert follower.prototypes(PROJECT).regions == annotation
    shared.record_events([deletion(1)])
    leader.round()
    follower.round()
    assert follower.prototypes(PROJECT).regions == 1
    shared.close()


def test_rows_of_weights_that_nobody_has_go_after_a_day(store, images):
    store.record_events([event(1, [region("x", "Lid", 2)])])
    hours = [0.0]
    old = prototype_indexer(store, images, Model("v1"))
    new = prototype_indexer(store, images, Model("v2"), clock=lambda: hours[0] * 3600)
    old.round()
    new.round()
    hours[0] = 2
    new.round()
    assert bases(store) == [described_by("v1"), described_by("v2")]
    aged = accepted_look.update().values(kept_at_us=accepted_look.c.kept_at_us - 90_000_000_000)
    store.write(lambda connection: connection.execute(aged).close(), timeout_s=30)
    hours[0] = 4
    new.round()
    assert bases(store) == [described_by("v2")]


def test_regions_that_were_described_in_another_way_are_described_anew(store, images, monkeypatch):
    store.record_events([event(1, [region("x", "Lid", 2)])])
    monkeypatch.setattr(prototype_store, "_DESCRIPTION", "regions-1")
    prototype_indexer(store, images).round()
    monkeypatch.undo()
    thread = prototype_indexer(store, images)
    assert thread.round() == 1
    assert thread.prototypes(PROJECT).regions == 1
    assert thread.round() == 0


def bases(store):
    with store.read() as connection:
        return sorted(connection.execute(select(accepted_look.c.base)).scalars())
