"""Whatever stands in a path or a query, the answer is not an error of ours."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backend.app import build_ui
from backend.learning.overview import Overview
from backend.storage.versions import Versions
from backend.ui.status_routes import build_status_routes

PATHS = (
    "/status/{}",
    "/ui/projects/{}",
    "/ui/projects/{}/rollback",
    "/ui/projects/{}/groups/1.png",
    "/ui/projects/1/groups/{}.png",
    "/ui/static/{}",
    "/ui/?page={}",
    "/versions/{}",
    "/{}",
)
WORDS = [
    "0", "-1", "+1", "1_0", "1.5", "1e3", "0x1", "nan", "1;2",
    "2147483648", "9223372036854775807", "9223372036854775808", "18446744073709551616",
    "9" * 30, "9" * 5000, "0" * 4000 + "1",
    "%D9%A3", "%EF%BC%91", "%C2%B2", "%E0%BB%91" * 30,
    "%00", "1%00", "%0A", "%FF", "%ED%A0%80", "%F0%9F%98%80", "..", "%2e%2e%2f", "a" * 4000,
]  # fmt: skip


@pytest.fixture
def pages(app):
    """A client of all routes there are."""
    parts = app.extensions["calico"]
    overview = Overview(parts.store, Versions(parts.store, parts.settings.adapters_dir))
    app.register_blueprint(build_status_routes(parts.store, overview))
    app.register_blueprint(build_ui(parts, overview, None))
    return app.test_client()


def refused(pages, path, word):
    # With the host before it, the client does not take what follows two slashes for the host.
    address = f"http://localhost{path.format(word)}"
    for method in ("GET", "POST"):
        status = pages.open(address, method=method).status_code
        assert status < 500, (method, path)


@pytest.mark.parametrize("path", PATHS)
def test_no_number_or_word_in_a_path_breaks_anything(pages, path):
    for word in WORDS:
        refused(pages, path, word)


@example("/{}", quote("/0:\x80\x80\x80\x80\U00010000\U00010000\U00010000"))
@given(st.sampled_from(PATHS), st.one_of(st.integers().map(str), st.text().map(quote)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_nothing_in_a_path_breaks_anything(pages, path, word):
    refused(pages, path, word)


def test_ids_that_no_database_holds_are_not_found(pages):
    assert pages.get("/status/9223372036854775807").status_code == 200
    for path in ("/status/{}", "/ui/projects/{}", "/ui/projects/1/groups/{}.png"):
        for word in ("9223372036854775808", "9" * 30):
            answer = pages.get(path.format(word))
            assert answer.status_code == 404
            assert answer.get_json()["field"] == "path"
