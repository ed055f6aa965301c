"""Per label: how often shown, accepted, reshaped, renamed, removed and added, worst first."""

from __future__ import annotations

import json

import pytest

from backend.label_studio.event import parse_events
from backend.learning.label_quality import (
    LabelQuality,
    LabelSets,
    corrected_labels,
    lost_labels,
    measured_points,
    read_label_quality,
    worst_first,
)
from backend.learning.outlook import MeasuredPoint
from backend.storage.tables import correction, region_outcome
from calico_model.vocabulary import Vocabulary
from tests.unit.label_studio.golden_files import config
from tests.unit.learning.annotated import body, box, deletion, results
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401
from tests.unit.learning.school import PROJECT, School

LID, RIM = box(10, 10, 30, 40), box(0, 50, 5, 60)
HALF, MOST = box(10, 10, 30, 25), box(10, 10, 30, 37)


@pytest.fixture
def school(tmp_path, database_url):  # noqa: F811
    made = School(tmp_path, url=database_url)
    yield made
    made.store.close()


def answered(school, task, before, after, version="base-1"):
    """A task that was predicted by a version and corrected."""
    kept = b'{"score": 0.5, "regions": %s}' % json.dumps(results(*before)).encode()
    school.store.keep_prediction(
        f"k{task}", kept, project_id=PROJECT, task_id=task, version=version
    )
    sent = json.dumps(body(900 + task, results(*after), task=task)).encode()
    school.store.record_events(parse_events(sent))
    school.derivation.derive(PROJECT)


def test_every_way_of_correcting_a_label_is_counted(school):
    kept, drawn = ("a", LID, "lid"), ("z", RIM, "rim")
    answered(school, 1, [kept, ("b", RIM, "rim")], [kept])  # rim removed
    answered(school, 2, [("a", HALF, "lid")], [kept, drawn])  # lid reshaped by half, rim added
    answered(school, 3, [("a", LID, "rim")], [kept])  # rim renamed to lid
    answered(school, 4, [("a", LID, "lid", "unique_part")], [kept])  # another kind
    answered(school, 5, [("a", LID, "knob")], [("a", LID, "knob")])  # accepted
    found = {one.label: one for one in read_label_quality(school.store, PROJECT, None)}
    lid = found["lid"]
    assert (lid.shown, lid.accepted, lid.reshaped, lid.renamed, lid.removed, lid.added) == (
        3, 1, 1, 1, 0, 0,
    )  # fmt: skip
    assert (lid.acceptance, lid.reshaped_iou) == (1 / 3, 0.5)
    rim = found["rim"]
    assert (rim.shown, rim.renamed, rim.removed, rim.added) == (2, 1, 1, 1)
    assert (rim.acceptance, rim.reshaped_iou) == (0.0, None)
    assert found["knob"].is_untouched
    assert not lid.is_untouched
    assert list(found) == ["rim", "lid", "knob"]


def test_a_region_deleted_and_drawn_again_was_found(school):
    kept = ("a", LID, "lid")
    answered(school, 1, [kept, ("b", RIM, "rim")], [kept, ("z", RIM[:, ::-1] | RIM, "rim")])
    answered(school, 2, [kept, ("b", LID, "rim")], [kept, ("z", HALF, "rim")])
    rim = {one.label: one for one in read_label_quality(school.store, PROJECT, None)}["rim"]
    assert (rim.shown, rim.reshaped, rim.removed, rim.added) == (2, 2, 0, 0)
    assert rim.reshaped_iou == 0.5
    (point,) = measured_points(school.store, PROJECT, {})
    assert (point.tasks, point.found, point.regions) == (2, 4, 4)


def test_labels_of_the_config_are_listed_and_say_that_nobody_corrected_them(school):
    kept = ("a", LID, "wheel")
    answered(school, 1, [kept], [kept])
    known = Vocabulary(("wheel", "door"))
    wheel, door = read_label_quality(school.store, PROJECT, known)
    assert (wheel.label, wheel.is_known, wheel.is_untouched) == ("wheel", True, True)
    assert (door, door.is_known, door.acceptance) == (LabelQuality("door"), False, None)


def test_spellings_of_a_free_text_are_one_label(school):
    answered(school, 1, [("a", LID, "Lids")], [("a", LID, "Lids"), ("b", RIM, "the lid")])
    (lid,) = read_label_quality(school.store, PROJECT, None)
    assert (lid.label, lid.shown, lid.accepted, lid.added) == ("Lids", 1, 1, 1)


def test_worst_first():
    never, missed = LabelQuality("never"), LabelQuality("missed", added=2)
    often, seldom = LabelQuality("often", 10, 5, 5), LabelQuality("seldom", 2, 1, 1)
    fine = LabelQuality("fine", 4, 4)
    assert worst_first([fine, never, seldom, often, missed]) == (missed, often, seldom, fine, never)


def test_the_labels_are_those_of_the_newest_config(school):
    sets = LabelSets(school.store)
    assert sets.of(PROJECT) is None
    answered(school, 1, [], [("a", LID, "lid")])
    assert sets.of(PROJECT) is None  # any text may be written
    sent = body(31, [], task=5, second=9)
    sent["project"]["label_config"] = config("cosegment_labels")
    school.store.record_events(parse_events(json.dumps(sent).encode()))
    school.store.record_events([deletion(999)])
    labels = sets.of(PROJECT).labels
    assert labels[:2] == ("chair", "stool")
    assert sets.of(PROJECT) is sets.of(PROJECT)  # the event is read once
    sent = body(32, [], task=6, second=10)
    sent["project"]["label_config"] = "<View/>"
    school.store.record_events(parse_events(json.dumps(sent).encode()))
    assert sets.of(PROJECT) is None


def test_labels_that_a_project_has_no_more_are_found(school):
    lid, rim = ("a", LID, "lid"), ("b", RIM, "rim")
    answered(school, 1, [], [lid, rim])
    answered(school, 2, [("z", RIM, "handle")], [lid])  # the handle was removed
    found = corrected_labels(school.store, PROJECT)
    assert found == {"lid": 2, "rim": 1}
    assert lost_labels(found, Vocabulary(("Lid", "knob"))) == {"rim": 1}
    assert lost_labels(found, Vocabulary(("lid", "edge"), {"rim": "edge"})) == {}
    assert lost_labels(found, None) == {}


def test_what_each_version_found_is_measured_by_later_corrections(school):
    lid, rim = ("a", LID, "lid"), ("z", RIM, "rim")
    answered(school, 1, [lid], [lid, rim], version="v-1")  # found 1 of 2
    answered(school, 2, [("a", MOST, "lid")], [lid, rim], version="v-1")  # overlaps enough
    answered(school, 3, [("a", LID, "rim")], [lid, rim], version="v-1")  # wrong name
    answered(school, 4, [lid, ("b", RIM, "knob")], [lid], version="v-2")  # one too much
    answered(school, 5, [("a", box(10, 10, 30, 24), "lid")], [lid], version="shipped")  # too little
    found = sorted(
        measured_points(school.store, PROJECT, {"v-1": 5, "v-2": 9}), key=lambda one: one.groups
    )
    assert found == [
        MeasuredPoint(0, 1, 0, 1),
        MeasuredPoint(5, 3, 2, 6),
        MeasuredPoint(9, 1, 1, 1),
    ]


def test_only_the_newest_tasks_are_summed(school):
    lid = ("a", LID, "lid")
    answered(school, 1, [("a", HALF, "lid")], [lid])
    answered(school, 2, [lid], [lid])
    (newest,) = read_label_quality(school.store, PROJECT, None, tasks=1)
    assert (newest.shown, newest.accepted) == (1, 1)
    (point,) = measured_points(school.store, PROJECT, {}, tasks=1)
    assert (point.tasks, point.found) == (1, 1)


def test_a_project_of_ten_thousand_tasks_reads_as_many_rows_as_one_of_five_hundred(school):
    lid = ("a", LID, "lid")
    answered(school, 1, [lid], [lid])
    with school.store.read() as connection:
        task = dict(connection.execute(correction.select()).mappings().one())
        region = dict(connection.execute(region_outcome.select()).mappings().one())
    numbers = range(1000, 11_000)
    tasks = [task | {"task_id": n, "seq": n} for n in numbers]
    regions = [region | {"task_id": n} for n in numbers]
    for table, rows in ((correction, tasks), (region_outcome, regions)):
        school.store.write(lambda c, t=table, r=rows: c.execute(t.insert(), r), timeout_s=60)
    (newest,) = read_label_quality(school.store, PROJECT, None)
    assert newest.shown == 500
    (point,) = measured_points(school.store, PROJECT, {})
    assert point.tasks == 500
