"""A real Label Studio whose events never arrived: everything is found in its database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from backend.cli import label_studio_process as process
from backend.cli.daemon import Daemon
from backend.label_studio.brush import encode_mask
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.group_config import open_config
from backend.learning import reconcile
from backend.learning.correction import ACCEPTED, RegionChange
from backend.learning.derivation import Derivation, Derived, StudioPredictions
from backend.learning.reconcile import Reconciler, Repair
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.storage.store import open_store

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioClient]:
    """A Label Studio of its own, which knows no backend."""
    folder = tmp_path_factory.mktemp("studio")
    daemon = Daemon("label-studio", folder)
    account = process.new_account()
    url = process.start_label_studio(
        daemon,
        folder / "data",
        process.free_port(),
        account,
        files=folder,
        installed=process.installed_label_studio(),
    )
    client = LabelStudioClient(url, account.api_key)
    yield client
    client.close()
    daemon.stop()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[CorrectionRepository]:
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    yield CorrectionRepository(store)
    store.close()


def region(id_: str, *, rows: int = 20) -> dict[str, Any]:
    mask = np.zeros((40, 60), bool)
    mask[5:rows, 5:30] = True
    return {
        "id": id_,
        "from_name": "mask_0",
        "to_name": "image_0",
        "type": "brush",
        "original_width": 60,
        "original_height": 40,
        "image_rotation": 0,
        "origin": "prediction",
        "value": {"format": "rle", "rle": encode_mask(mask)},
    }


def call(client: LabelStudioClient, method: str, path: str, **body: Any) -> Any:
    """Does what the editor does when somebody submits, skips, updates or deletes."""
    headers = {"Authorization": client.authorization.header()}
    answer = httpx.request(
        method, client.url + path, json=body, headers=headers, timeout=60, trust_env=False
    )
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def test_everything_that_was_lost_is_found(
    client: LabelStudioClient, repository: CorrectionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = client.create_project("lost", open_config()).id
    data: dict[str, object] = {"data": {"images": ["/data/a.png", "s3://bucket/b.png"]}}
    corrected, skipped, drafted, plain, doomed = client.import_tasks(project, [data] * 5)
    both = Reconciler(repository, client, confirm_after_s=0)
    derivation = Derivation(repository, StudioPredictions(client))

    shown = msgspec.json.encode([region("a"), region("b"), region("c")])
    start = client.create_prediction(corrected, shown, score=0.5, version="v1")
    result = [region("a"), region("b", rows=15)]
    submitted = call(
        client,
        "POST",
        f"/api/tasks/{corrected}/annotations/",
        result=result,
        parent_prediction=start,
    )
    skip = call(client, "POST", f"/api/tasks/{skipped}/annotations/", was_cancelled=True, result=[])
    call(client, "POST", f"/api/tasks/{drafted}/drafts", result=result, lead_time=1)
    call(client, "POST", f"/api/tasks/{doomed}/annotations/", result=result)

    assert both.reconcile(project, is_full=False) == Repair(recovered=3)
    assert both.reconcile(project, is_full=True) == Repair()
    assert derivation.derive(project) == Derived(changed=3)
    rows = {row.task_id: row for row in repository.tasks(project)}
    assert rows.keys() == {corrected, skipped, doomed}
    assert (rows[corrected].standing, rows[corrected].version) == (Standing.CORRECTED, "v1")
    assert rows[skipped].standing is Standing.SKIPPED
    changes = {row.region_id: row.change for row in repository.outcomes(project, corrected)}
    assert changes == {"a": ACCEPTED, "b": RegionChange.RESHAPED, "c": RegionChange.REMOVED}
    found = derivation.load(project, corrected)
    assert found is not None
    assert found.task.image_urls == ("/data/a.png", "s3://bucket/b.png")

    call(client, "PATCH", f"/api/annotations/{submitted['id']}/", result=[region("a")])
    assert both.reconcile(project, is_full=False) == Repair(recovered=1)
    assert derivation.derive(project) == Derived(changed=1)

    monkeypatch.setattr(reconcile, "_GRACE_US", -1)
    call(client, "DELETE", f"/api/annotations/{skip['id']}/")
    assert both.reconcile(project, is_full=False) == Repair(held_back=1)
    assert both.reconcile(project, is_full=False) == Repair(deleted=1)
    call(client, "DELETE", f"/api/tasks/{doomed}/")
    assert both.reconcile(project, is_full=False) == Repair()
    assert both.reconcile(project, is_full=True) == Repair(held_back=1)
    assert both.reconcile(project, is_full=True) == Repair(deleted=1)
    assert derivation.derive(project) == Derived(dropped=2)
    assert [row.task_id for row in repository.tasks(project)] == [corrected]
    assert plain not in rows
