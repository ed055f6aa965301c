"""Corrections in an empty database, on SQLite and PostgreSQL, and Label Studio's side of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.learning.repository import CorrectionRepository
from backend.storage.store import open_store
from tests.unit.learning.databases import database_url, postgres_server
from tests.unit.learning.fake_studio import FakeStudio

__all__ = ["database_url", "postgres_server"]


@pytest.fixture
def repository(database_url: str) -> Iterator[CorrectionRepository]:
    store = open_store(database_url, commit_timeout_s=30)
    yield CorrectionRepository(store)
    store.close()


@pytest.fixture
def studio() -> FakeStudio:
    return FakeStudio()
