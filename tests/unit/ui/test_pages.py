"""What the pages show of a project: sentences, labels, versions, curve, trust."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from markupsafe import escape

from backend.app import build_ui, close_app, create_app
from backend.label_schema import LabelValue
from backend.label_studio.event import parse_events
from backend.label_studio.group_config import labels_config
from backend.learning.overview import Overview
from backend.learning.publisher import roll_back
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Doubt
from backend.learning.schedule import Cause, RunState
from backend.settings import load_settings
from backend.storage.source_trust import SourceAnswerStore
from backend.storage.tables import correction
from backend.ui.status_routes import build_status_routes
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey
from tests.unit.learning.annotated import body, box, event, results
from tests.unit.learning.school import PROJECT, REGIONS, TRAINED, School
from tests.unit.ui.school_pages import (
    AUTH,
    TITLES,
    URL,
    Drawn,
    NoModel,
    answered,
    learn,
    page,
    plain,
)


def test_a_page_says_how_far_predictions_are_and_why_some_failed(client, school):
    school.correct(1)
    words = " ".join(page(client).split())
    assert "5 of 12 tasks are ready, 6 wait, 1 failed." in words
    assert "Task 3: broken &lt;" in words


def test_a_backend_that_was_never_used_says_what_to_do(client):
    text = page(client, "/ui/")
    assert "calico connect" in text
    assert "ready" in text
    assert "calico connect" in page(client, URL, status=404)


def test_a_project_that_nothing_has_come_from_leads_to_the_others(client, school):
    school.press_button()
    text = page(client, "/ui/projects/99", status=404)
    assert "Nothing has come from project 99 yet" in plain(text)
    assert f'href="{URL}"' in text
    assert "Nothing has come" not in page(client, "/ui/")


def test_a_project_without_corrections_has_no_curve(client, school):
    school.press_button()
    text = page(client)
    for words in (
        "Never trained",
        "Nothing was learned yet",
        "Nobody has corrected a prediction yet",
        "No label was predicted or corrected yet",
        "Annotators see predictions of the shipped model.",
        "It is not yet known how many more groups it takes until predictions are useful: to tell,",
    ):
        assert words in text
    assert "<svg" not in text
    assert "4 of 10" in " ".join(text.split())


def test_one_version_is_a_sentence_and_no_chart(client, school):
    lid, rim = ("a", box(10, 10, 30, 40), "lid"), ("b", box(0, 50, 5, 60), "rim")
    answered(school, 11, "base-1", results(("a", box(10, 10, 30, 25), "lid"), rim), results(lid))
    text = page(client)
    assert "<svg" not in text
    assert "So far they corrected 1 group of base-1" in plain(text)
    assert "overlapped the corrected ones by 25%, and 0% of its regions were accepted" in plain(
        text
    )


def test_a_refusal_says_what_annotators_see_why_and_what_to_do(client, school):
    first = learn(school, *TRAINED[:3])
    text = plain(page(client))
    assert f"Annotators see predictions of the new version {first}." in text
    assert "After training it found more of your own corrections: 40.0 → 55.0 of 100" in text
    school.updater.gain = -9
    school.correct(*TRAINED[3:6])
    school.train()
    text = page(client)
    assert f"Annotators see what they saw before: predictions of version {first}." in plain(text)
    assert "After training it found fewer of your new corrections: 13.0 → 0.0 of 100" in plain(text)
    assert "Correct a few more groups that show the same things." in plain(text)
    roll_back(school.versions, PROJECT, to="base", reason="it was worse")
    text = plain(page(client))
    assert "Annotators see predictions of the shipped model." in text
    assert "Somebody took it back: it was worse." in text


def test_a_training_that_failed_says_what_to_run(client, school):
    school.updater.broken = True
    school.correct(*TRAINED[:3])
    school.train()
    text = page(client)
    assert "Annotators see what they saw before: predictions of the shipped model." in plain(text)
    assert "<code>calico train-now --project 7</code>" in text


def test_a_refinement_that_brought_nothing_hides_no_publication(client, school):
    school.policy = replace(school.policy, refinements=1)
    school.trainer = school.new_trainer()
    first = learn(school, *TRAINED[:3])
    school.train()
    assert (school.last.cause, school.last.state) == (Cause.REFINE, RunState.REJECTED)
    assert f"Annotators see predictions of the new version {first}." in plain(page(client))
    assert "It went on learning from the same corrections" in plain(page(client))  # the table


def test_labels_stand_worst_first_with_what_annotators_did(client, school):
    lid, rim = ("a", box(10, 10, 30, 40), "lid"), ("b", box(0, 50, 5, 60), "<i>rim</i>")
    answered(school, 11, "base-1", results(lid), results(lid, rim))
    text = page(client)
    assert text.index("&lt;i&gt;rim") < text.index(">lid")
    assert "never corrected" in text
    assert "<i>rim" not in text
    row = plain(text[text.index("&lt;i&gt;rim") :].split("</tr>")[0])
    assert row == "<i>rim</i> 0 0 – 0 – 0 0 1"


def test_labels_that_the_project_has_no_more_are_named(app, client, school):
    app.register_blueprint(
        build_status_routes(school.store, Overview(school.store, school.versions))
    )
    answered(school, 11, "base-1", results(), REGIONS)
    assert "labeling config has no" not in page(client)
    sent = body(31, [], task=5, second=9)
    sent["project"]["label_config"] = labels_config([LabelValue("lid")])
    school.store.record_events(parse_events(json.dumps(sent).encode()))
    text = plain(page(client))
    assert "The labeling config has no rim any more." in text
    assert text.count("no label of the project any more") == 1
    (one,) = client.get(f"/status/{PROJECT}", headers=AUTH).get_json()["projects"]
    assert one["corrected_labels"] == {"lid": 1, "rim": 1}


def test_more_labels_than_a_page_holds_are_counted(client, school):
    drawn = [(f"r{n}", box(0, 0, 5, 5 + n % 50), f"part {n}") for n in range(130)]
    answered(school, 11, "base-1", results(drawn[0]), results(*drawn))
    text = page(client)
    assert text.count('<th scope="row"') == 100
    assert "30 more labels are not listed" in text


def test_how_many_groups_are_missing_is_said(client, school):
    lid, rim, half = (
        ("a", box(10, 10, 30, 40), "lid"),
        ("b", box(0, 50, 5, 60), "rim"),
        ("a", box(10, 10, 30, 20), "lid"),
    )
    for n in range(20):
        answered(school, 11 + n, "base-1", results(half), results(lid, rim), 500 + n)
    assert "corrections show only what the shipped model found, 0 of 100 regions." in plain(
        page(client)
    )
    version = learn(school, *TRAINED[:1])
    for n in range(20):
        # Four of five groups have their lid: 40 of 100 regions.
        shown = lid if n % 5 < 4 else half
        answered(school, 111 + n, version, results(shown), results(lid, rim), 600 + n)
    outlook = plain(page(client)).partition("Progress")[2][:200]
    assert re.match(
        r" A first guess: about \d+ more corrected groups until predictions are useful \(likely",
        outlook,
    )
    assert "So far it finds 40 of 100 regions; useful is 50." in outlook


@pytest.mark.parametrize("title", ["Cars", "<b>Cars</b>", "x" * 200])
def test_the_title_of_the_project_is_shown_where_it_is_known(client, school, title):
    school.press_button()
    assert "<h1>Project 7</h1>" in page(client)
    TITLES[PROJECT] = title
    for text in (page(client), page(client, "/ui/")):
        assert str(escape(title)) in text
        assert "<b>Cars" not in text
        assert "project 7" in text


def test_the_words_are_those_of_people(client, school):
    learn(school, *TRAINED[:3])
    school.updater.gain = -9
    school.correct(*TRAINED[3:6])
    school.train()
    for text in (plain(page(client)), plain(page(client, "/ui/"))):
        for word in (r"the base\b", r"\bgate\b", "held.out", "base mIoU", "candidate"):
            assert not re.search(word, text, re.IGNORECASE), word
    assert "kept for testing" in plain(page(client))
    assert "on old drawings" in plain(page(client))


def test_versions_stand_with_what_the_gate_saw(client, school):
    first = learn(school, *TRAINED[:3])
    second = learn(school, *TRAINED[3:6])
    school.updater.gain = -9
    school.correct(*TRAINED[6:9])
    school.train()
    text = page(client)
    for version in (first, second):
        assert version in text
    assert "rejected" in text
    assert re.search(r"\d+\.\d → \d+\.\d\*", text)  # only learned corrections to judge by
    assert f'value="{first}"' in text  # may be served again
    assert f'value="{second}"' not in text  # is served
    assert "project 7" in page(client, "/ui/")


def test_the_curve_tells_each_version_before_correction(client, school):
    lid, rim = ("a", box(10, 10, 30, 40), "lid"), ("b", box(0, 50, 5, 60), "rim")
    half = ("a", box(10, 10, 30, 25), "lid")
    answered(school, 11, "base-1", results(half, rim), results(lid))  # IoU 0.5 and 0 of 2
    answered(school, 12, "later-2", results(lid, rim), results(lid, rim), annotation_id=901)
    curve = Overview(school.store, school.versions).learning_curve(PROJECT)
    assert [(one.version, one.tasks, one.iou, one.acceptance, one.edits) for one in curve] == [
        ("base-1", 1, 0.25, 0.0, 2.0),
        ("later-2", 1, 1.0, 1.0, 0.0),
    ]
    text = page(client)
    assert 'role="img"' in text
    assert "went from 25% to 100%" in " ".join(text.split())
    assert text.index("groups/11.png") < text.index("groups/12.png")  # worst first


def test_a_project_of_many_tasks_has_a_page_of_one_size(client, school):
    lid = ("a", box(10, 10, 30, 40), "lid")
    answered(school, 11, "v-0", results(lid), results(lid))
    small = len(page(client))
    with school.store.read() as connection:
        row = dict(connection.execute(correction.select()).mappings().one())
    rows = [
        row | {"task_id": 1000 + n, "seq": 1000 + n, "version": f"v-{n % 300}", "removed": n % 2}
        for n in range(20_000)
    ]
    school.store.write(lambda c: c.execute(correction.insert(), rows), timeout_s=60)
    overview = Overview(school.store, school.versions)
    assert overview.standing(PROJECT).corrections == 20_001
    assert len(overview.learning_curve(PROJECT)) == 100
    assert len(overview.worst(PROJECT)) == 6
    text = page(client)
    assert text.count("<img") == 6
    assert len(text) < small + 60_000


def test_many_projects_are_listed_in_pages(client, school):
    for project in range(1, 121):
        school.press_button(project=project)
    first, last = page(client, "/ui/"), page(client, "/ui/?page=3")
    assert (first.count("/ui/projects/"), last.count("/ui/projects/")) == (50, 20)
    assert "page 3 of 3" in last
    assert page(client, "/ui/?page=99").count("/ui/projects/") == 20
    assert page(client, "/ui/?page=x").count("/ui/projects/") == 50


def test_a_server_of_its_own_has_the_pages(tmp_path, monkeypatch):
    """The wiring of `calico serve`."""
    from backend.learning.overview import Overview

    made = create_app(load_settings(data_dir=tmp_path / "own"), load=NoModel, images=Drawn())
    parts = made.extensions["calico"]
    other = School(tmp_path)
    try:
        made.register_blueprint(build_ui(parts, Overview(parts.store, other.versions), None))
        assert "No project has sent anything yet" in made.test_client().get("/ui/").text
    finally:
        other.store.close()
        close_app(made)


def test_what_is_held_back_is_shown(client, school):
    school.store.record_events([event(1, results(("a", box(1, 1, 9, 9), "lid")), project=PROJECT)])
    assert "Held back" not in page(client)
    repository = CorrectionRepository(school.store)
    (head,) = [one for one in repository.heads(PROJECT) if one.annotation_id == 1]
    missing = Doubt(1, head.task_id, head.key, "", first_seen_us=1)
    repository.replace_doubts(PROJECT, [], [missing])
    shown = page(client)
    assert "Held back: 1 annotations" in shown
    assert "--accept-deletions" in shown  # nothing else is there
    standing = Overview(school.store, school.versions).standing(PROJECT)
    assert (standing.held_back, standing.needs_word) == (1, True)


def test_a_stamp_in_the_future_is_shown(client, school):
    drawn = results(("a", box(1, 1, 9, 9), "lid"))
    school.store.record_events([event(1, drawn, project=PROJECT, second=10**10)])
    assert "1 annotations are stamped in the future" in page(client)


def test_the_json_of_one_project_says_what_its_page_says(app, school):
    app.register_blueprint(
        build_status_routes(school.store, Overview(school.store, school.versions))
    )
    learn(school, *TRAINED[:3])
    client = app.test_client()
    (one,) = client.get(f"/status/{PROJECT}", headers=AUTH).get_json()["projects"]
    text = plain(page(client))
    for sentence in (*one["explanation"].values(), one["outlook"]["words"]):
        assert sentence.replace(" -> ", " → ") in text
    (listed,) = client.get("/status", headers=AUTH).get_json()["projects"]
    assert "explanation" not in listed  # a list of many projects asks no more of the database
    assert listed.items() <= one.items()


def test_trust_in_sources_stands_on_the_page_and_in_the_json(app, client, school):
    status = build_status_routes(school.store, Overview(school.store, school.versions))
    app.register_blueprint(status)
    school.correct(1)
    assert "<h2>Sources</h2>" not in page(client)
    good, bad = TrustCounts(9, 9, 8.0, 9), TrustCounts(9, 0, 0.0, 9)
    counts = {
        TrustKey("sam<", Ability.CLICK, "lid"): good,
        TrustKey("guess", Ability.CLICK, "lid"): bad,
    }
    SourceAnswerStore(school.store).judge(PROJECT, 1, "state", counts)
    words = " ".join(re.sub(r"<[^>]+>", " ", page(client)).split())
    assert "lid click sam&lt; 87% 9 of 9 9 believed lid click guess 3% 0 of 9 9 silent" in words
    (one,) = client.get(f"/status/{PROJECT}", headers=AUTH).get_json()["projects"]
    assert [(row["source"], row["is_silent"]) for row in one["source_trust"]] == [
        ("sam<", False),
        ("guess", True),
    ]
