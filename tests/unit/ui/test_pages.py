"""The pages: what they show, to whom, and that nothing in them can be made to act for somebody."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

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
from backend.types import FailedTask
from backend.ui.batches import PredictionBatch
from backend.ui.pages import Live, Refreshed, build_pages
from backend.ui.pictures import GroupPictures, _parts, _small
from backend.ui.status_routes import build_status_routes
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey
from calico_model.types import ImageGroup
from tests.doubles import ModelDouble
from tests.unit.learning.annotated import body, box, event, region, results
from tests.unit.learning.school import PROJECT, REGIONS, TRAINED, School

URL = f"/ui/projects/{PROJECT}"
TITLES: dict[int, str] = {}
AUTH = {"Authorization": "Basic " + base64.b64encode(b"user:word").decode()}


class Drawn:
    """Images as large as the masks of `annotated`."""

    def fetch_group(self, task):
        images = tuple(np.full((40, 60, 3), 90, np.uint8) for _ in task.image_urls)
        return ImageGroup(images, tuple(task.image_urls))


class NoModel(ModelDouble):
    version = "fake-00000001"

    def predict(self, group):
        raise AssertionError("a page must not ask the model")


@pytest.fixture
def school(tmp_path):
    made = School(tmp_path)
    yield made
    made.store.close()


@pytest.fixture(autouse=True)
def _no_titles():
    yield
    TITLES.clear()


@pytest.fixture
def app(tmp_path, school):
    """A server with credentials and the pages over the school's database."""
    made = build_server(tmp_path, school)
    yield made
    close_app(made)


def build_server(tmp_path, school):
    settings = load_settings(data_dir=tmp_path, basic_auth_user="user", basic_auth_password="word")
    made = create_app(settings, load=NoModel, images=Drawn())
    made.register_blueprint(
        build_pages(
            Overview(school.store, school.versions),
            GroupPictures(school.derivation, Drawn()),
            live=lambda: Live("ready", tasks_waiting=3, changes_waiting=0, trainers=1),
            refreshed=lambda project: Refreshed("v9", 4, 10, True) if project == PROJECT else None,
            title=TITLES.get,
            batch=lambda _: PredictionBatch(
                12, 5, 6, (FailedTask(3, "UnreadableMediaError", "broken <"),)
            ),
        )
    )
    return made


@pytest.fixture
def client(app):
    return app.test_client()


def page(client, url=URL, status=200):
    answer = client.get(url, headers=AUTH)
    assert answer.status_code == status, answer.text
    return answer.text


def test_a_page_says_how_far_predictions_are_and_why_some_failed(client, school):
    school.correct(1)
    words = " ".join(page(client).split())
    assert "5 of 12 tasks are ready, 6 wait, 1 failed." in words
    assert "Task 3: broken &lt;" in words


def learn(school, *tasks):
    """Corrections and a training, so that one more version serves."""
    school.correct(*tasks)
    assert school.train() == 1
    return school.current.id


def answered(school, task, version, predicted, left, annotation_id=900):
    """A task that was predicted and corrected."""
    body = b'{"score": 0.5, "regions": %s}' % json.dumps(predicted).encode()
    school.store.keep_prediction(
        f"k{task}", body, project_id=PROJECT, task_id=task, version=version
    )
    school.store.record_events([event(annotation_id, left, task=task)])
    school.derivation.derive(PROJECT)


def token_of(text):
    return re.search(r'name="token" value="(\w+)"', text)[1]


def test_nothing_is_shown_without_credentials(client):
    for url in ("/ui/", URL, f"{URL}/groups/1.png"):
        answer = client.get(url)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert client.post(f"{URL}/rollback").status_code == 401


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


def plain(text):
    """What a page says, without tags and line breaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


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


def test_a_corrected_group_is_a_picture(client, school):
    drawn = results(("a", box(10, 10, 30, 40), "lid"))
    answered(school, 11, "base-1", drawn, results(("a", box(5, 10, 30, 40), "<b>lid</b>")))
    answer = client.get(f"{URL}/groups/11.png", headers=AUTH)
    assert answer.mimetype == "image/png"
    picture = Image.open(io.BytesIO(answer.data))
    assert picture.width > picture.height > 400
    again = client.get(f"{URL}/groups/11.png", headers=AUTH)
    assert again.data == answer.data
    assert client.get(f"{URL}/groups/12.png", headers=AUTH).status_code == 404


@pytest.mark.parametrize("letter", ["x", "\u0915\u093e", "\u4e2d\n"])
def test_a_name_as_long_as_a_request_is_drawn_like_a_long_one(client, school, letter):
    """Of two names that differ far behind what is shown, the pictures are the same."""
    mask = box(10, 10, 30, 40)
    for task, count in ((11, 1000), (12, 100_000)):
        left = results(("a", mask, letter * count))
        answered(school, task, "base-1", results(("a", mask, "lid")), left, 890 + task)
    long, longest = (client.get(f"{URL}/groups/{task}.png", headers=AUTH) for task in (11, 12))
    assert long.status_code == longest.status_code == 200
    assert long.data == longest.data


def test_a_picture_is_drawn_small_whatever_it_shows():
    """Masks are not painted in the size of their image, and of very many some are left out."""
    looked_at = []

    def refuse():
        raise AssertionError("a mask was painted in full")

    def runs():
        looked_at.append(1)
        return np.array([[0, 5_000_000]])

    size_hw = (4000, 5000)
    one = replace(region("a", box(1, 1, 2, 2), load=refuse), size_hw=size_hw, load_runs=runs)
    parts = _parts([replace(one) for _ in range(3000)], [size_hw], [(512, 640)])
    assert len(looked_at) == len(parts) == 400
    assert parts[0].mask.shape == (512, 640)
    assert parts[0].mask[:128].all()
    assert not parts[0].mask[128:].any()
    ragged = replace(one, encoding=bytes(3_000_000))
    assert len(_parts([ragged] * 9, [size_hw], [(512, 640)])) == 2
    assert _small(np.zeros((*size_hw, 3), np.uint8)).shape == (512, 640, 3)
    assert _small(np.zeros((3, 16_000, 3), np.uint8)).shape == (1, 640, 3)


def test_words_of_others_stay_words(client, school):
    evil = '<script>alert(1)</script>" onload="x'
    version = learn(school, *TRAINED[:3])
    lid = ("a", box(10, 10, 30, 40), "lid")
    answered(school, 11, evil, results(lid), results(lid))
    run_id = school.runs.claim(PROJECT, Cause.COUNT)
    school.runs.report(run_id, stage=evil[:40], progress=0.5, eta_s=20)
    assert version in page(client)
    for text in (page(client), page(client, "/ui/")):
        assert "alert(1)" not in text.replace("&lt;script&gt;alert(1)", "")
        assert 'onload="x' not in text


def test_a_page_lets_no_foreign_script_or_frame_in(client, school):
    school.press_button()
    answer = client.get(URL, headers=AUTH)
    policy = answer.headers["Content-Security-Policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    inside = re.findall(r"<(?:style|script)(?![^>]*src=)", answer.text)
    assert inside == []  # style and script are files of their own
    for name in ("style.css", "live.js"):
        assert f"/ui/static/{name}" in answer.text
        with client.get(f"/ui/static/{name}", headers=AUTH) as file:  # it is open until then
            assert file.status_code == 200
        assert client.get(f"/ui/static/{name}").status_code == 401
    assert answer.headers["Cache-Control"] == "no-store"


def test_rolling_back_with_the_button(client, school):
    first = learn(school, *TRAINED[:3])
    learn(school, *TRAINED[3:6])
    form = {"token": token_of(page(client)), "to": first}
    answer = client.post(f"{URL}/rollback", data=form, headers=AUTH)
    assert (answer.status_code, answer.headers["Location"]) == (303, URL)
    assert school.current.id == first
    assert "Somebody took it back on the page" in page(client)
    form = {"token": token_of(page(client)), "to": "base"}
    assert client.post(f"{URL}/rollback", data=form, headers=AUTH).status_code == 303
    assert school.current is None


def test_a_form_of_one_server_is_taken_by_another(client, school, tmp_path):
    learn(school, *TRAINED[:3])
    other = build_server(tmp_path / "other", school)
    form = {"token": token_of(page(client)), "to": "base"}
    answer = other.test_client().post(f"{URL}/rollback", headers=AUTH, data=form)
    assert answer.status_code == 303
    close_app(other)


@pytest.mark.parametrize("token", ["", "0" * 64, "ü"])
def test_a_form_without_the_pages_token_changes_nothing(client, school, token):
    first = learn(school, *TRAINED[:3])
    second = learn(school, *TRAINED[3:6])
    form = {"token": token, "to": first}
    answer = client.post(f"{URL}/rollback", data=form, headers=AUTH)
    assert (answer.status_code, school.current.id) == (409, second)
    assert "nothing was changed" in answer.text


def test_the_form_of_another_site_is_refused_even_with_a_token(client, school):
    learn(school, *TRAINED[:3])
    form = {"token": token_of(page(client)), "to": "base"}
    headers = AUTH | {"Sec-Fetch-Site": "cross-site"}
    answer = client.post(f"{URL}/rollback", data=form, headers=headers)
    assert answer.status_code == 400
    assert school.current is not None


def test_a_page_somebody_looked_at_too_long_decides_nothing(client, school):
    learn(school, *TRAINED[:3])
    form = {"token": token_of(page(client)), "to": "base"}
    current = learn(school, *TRAINED[3:6])
    assert client.post(f"{URL}/rollback", data=form, headers=AUTH).status_code == 409
    assert school.current.id == current


def test_a_version_that_cannot_be_served_is_refused_in_words(client, school):
    current = learn(school, *TRAINED[:3])
    form = {"token": token_of(page(client)), "to": "somebody-elses"}
    answer = client.post(f"{URL}/rollback", data=form, headers=AUTH)
    assert answer.status_code == 409
    assert "somebody-elses: expected a published version" in answer.text
    assert school.current.id == current


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


def test_reasons_that_people_type_stay_words(client, school):
    learn(school, *TRAINED[:3])
    roll_back(school.versions, PROJECT, to="base", reason="<script>alert(1)</script> calico doctor")
    text = page(client)
    assert "Somebody took it back: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert "<code>calico doctor</code>" in text


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
