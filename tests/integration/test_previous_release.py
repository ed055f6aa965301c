"""What release 0.1 left on the disk opens, derives and serves with today's code."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backend.app import close_app, create_app
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.settings import load_settings
from backend.storage.store import open_store
from backend.storage.versions import Versions, VersionStatus
from calico_model.loading.checkpoints import fingerprint
from calico_model.modeling.adapter import read_adapter
from calico_model.predictor import load_predictor
from research.label_studio.sample import PROJECT_ID, local_file_url, predict_body
from tests.integration.conftest import DrawnImages

ARCHIVE = Path(__file__).parents[1] / "golden" / "release_0_1" / "files.tar.xz"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of that release: the database, the adapters, and the base weights beside."""
    shutil.unpack_archive(ARCHIVE, tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def settings(data: Path):
    return load_settings(data_dir=data, weights=data / "weights", commit_timeout_ms=30_000)


@pytest.fixture
def store(settings):
    opened = open_store(settings.store_url, commit_timeout_s=30)
    yield opened
    opened.close()


def test_its_published_version_is_whole_and_current(store, settings):
    versions = Versions(store, settings.adapters_dir)
    (version,) = versions.all(PROJECT_ID)
    assert version.status is VersionStatus.CURRENT
    assert version.corrections == 5
    assert version.id == f"{load_predictor(settings.weights).version}-p14v1-{version.sha256[:8]}"
    assert versions.verify(version) == settings.adapters_dir / version.uri


def test_its_adapter_fits_its_weights(store, settings):
    predictor = load_predictor(settings.weights)
    versions = Versions(store, settings.adapters_dir)
    version = versions.current(PROJECT_ID)
    assert version.base == fingerprint(settings.weights)
    model = predictor.adapters.model
    adapter = read_adapter(model, versions.verify(version), base=version.base)
    predictor.adapters.check(adapter)
    assert adapter.labels == ("edge", "thing")
    assert adapter.dense.parts == ("edge", "knob", "lid", "rim", "thing")
    parts = {name.split(".")[0] for name in adapter.tensors}
    assert parts > {"language", "cams", "cem", "mask_decoder", "dense_head", "label_rows"}


def test_its_corrections_are_derived_again_alike(store):
    repository = CorrectionRepository(store)
    tasks, regions = repository.tasks(PROJECT_ID), repository.outcomes(PROJECT_ID)
    assert [row.standing for row in tasks] == [Standing.CORRECTED] * 5
    assert len(regions) == 19
    # Regions that were drawn again are judged otherwise since: everything is judged once more.
    assert Derivation(repository).derive(PROJECT_ID).changed == 5
    judged = repository.tasks(PROJECT_ID)
    assert [replace(row, state="") for row in judged] == [replace(row, state="") for row in tasks]
    assert repository.outcomes(PROJECT_ID) == regions
    assert Derivation(repository).derive(PROJECT_ID).changed == 0

    assert Derivation(repository).rebuild(PROJECT_ID).changed == 5
    assert repository.tasks(PROJECT_ID) == judged
    assert repository.outcomes(PROJECT_ID) == regions


def test_a_task_is_answered_by_its_published_version(settings):
    app = create_app(settings, images=DrawnImages())
    try:
        parts = app.extensions["calico"]
        parts.host.wait(60)
        body = predict_body([[local_file_url(f"new-{letter}.png") for letter in "ab"]])
        response = app.test_client().post("/predict", json=body)
        assert response.status_code == 200, response.get_data(as_text=True)
        version = Versions(parts.store, settings.adapters_dir).current(PROJECT_ID)
        assert response.get_json()["results"][0]["model_version"] == version.id
    finally:
        close_app(app)
