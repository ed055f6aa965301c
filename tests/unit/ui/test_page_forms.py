"""Nothing in a page can be made to act for somebody: credentials, foreign words, forms."""

from __future__ import annotations

import re

import pytest

from backend.app import close_app
from backend.learning.publisher import roll_back
from backend.learning.schedule import Cause
from tests.unit.learning.annotated import box, results
from tests.unit.learning.school import PROJECT, TRAINED
from tests.unit.ui.school_pages import AUTH, URL, answered, build_server, learn, page, token_of


def test_nothing_is_shown_without_credentials(client):
    for url in ("/ui/", URL, f"{URL}/groups/1.png"):
        answer = client.get(url)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert client.post(f"{URL}/rollback").status_code == 401


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


def test_reasons_that_people_type_stay_words(client, school):
    learn(school, *TRAINED[:3])
    roll_back(school.versions, PROJECT, to="base", reason="<script>alert(1)</script> calico doctor")
    text = page(client)
    assert "Somebody took it back: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert "<code>calico doctor</code>" in text
