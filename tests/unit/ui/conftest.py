"""The pages over the database of a `School`."""

from __future__ import annotations

import pytest

from backend.app import close_app
from tests.unit.learning.school import School
from tests.unit.ui.school_pages import TITLES, build_server


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


@pytest.fixture
def client(app):
    return app.test_client()
