"""`calico connect` and `calico doctor` against a real Label Studio."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli import label_studio_process as studio
from backend.cli.backend_checks import CheckResult, Level
from backend.cli.connect import Ends, connect_project
from backend.cli.daemon import Daemon
from backend.cli.demo import Demo
from backend.cli.diagnosis import examine
from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudioClient, LabelStudioProject
from backend.label_studio.group_config import open_config
from backend.settings import Settings, load_settings
from tests.e2e.studio_api import delete_project

pytestmark = pytest.mark.e2e

CONFIG = open_config()
PLAIN_CONFIG = '<View><Image name="image" value="$image"/></View>'


@pytest.fixture
def project(ends: Ends) -> Iterator[LabelStudioProject]:
    """A project of its own, not connected yet."""
    project = ends.client.create_project("connect", CONFIG)
    yield project
    delete_project(ends.client, project.id)


def settings_of(demo: Demo, ends: Ends, **overrides: object) -> Settings:
    assert ends.credentials is not None
    user, password = ends.credentials
    given = {
        "label_studio_url": ends.client.url,
        "label_studio_api_key": demo.state.account.api_key,
        "basic_auth_user": user,
        "basic_auth_password": password,
    }
    return load_settings(**(given | overrides))


def findings(settings: Settings, ends: Ends, project_id: int | None) -> dict[str, CheckResult]:
    found = examine(settings, ends.backend_url, project_id)
    return {finding.check.split(": ")[-1]: finding for finding in found}


def test_one_webhook_with_credentials_however_often(
    ends: Ends, project: LabelStudioProject
) -> None:
    for _ in range(2):
        connect_project(ends, project.id)

    (hook,) = ends.client.webhooks(project.id)
    (backend,) = ends.client.ml_backends(project.id)
    assert (hook.url, dict(hook.headers)) == (ends.webhook_url, ends.webhook_headers)
    assert hook.headers["Authorization"].startswith("Basic ")
    assert (backend.url, backend.state, backend.is_interactive) == (ends.backend_url, "CO", True)


def test_the_webhook_label_studio_made_by_itself_gets_credentials(
    ends: Ends, project: LabelStudioProject
) -> None:
    ends.client.add_ml_backend(
        project.id, ends.backend_url, title="by hand", credentials=ends.credentials
    )
    (bare,) = ends.client.webhooks(project.id)
    assert dict(bare.headers) == {}

    connect_project(ends, project.id)

    (hook,) = ends.client.webhooks(project.id)
    assert (hook.id, dict(hook.headers)) == (bare.id, ends.webhook_headers)


def test_a_backend_that_moved_keeps_its_entry(ends: Ends, project: LabelStudioProject) -> None:
    connect_project(ends, project.id)
    (before,) = ends.client.ml_backends(project.id)
    moved = replace(ends, backend_url=ends.backend_url.replace("127.0.0.1", "localhost"))

    connect_project(moved, project.id)

    (after,) = ends.client.ml_backends(project.id)
    (hook,) = ends.client.webhooks(project.id)
    assert (after.id, after.url, hook.url) == (before.id, moved.backend_url, moved.webhook_url)


def test_wrong_credentials_leave_nothing_behind(ends: Ends, project: LabelStudioProject) -> None:
    wrong = replace(ends, credentials=("label-studio", "wrong"))

    with pytest.raises(LabelStudioError, match="refuses these credentials"):
        connect_project(wrong, project.id)

    assert ends.client.webhooks(project.id) == ()


def test_the_command_connects(demo: Demo, ends: Ends, project: LabelStudioProject) -> None:
    assert ends.credentials is not None
    arguments = [
        "connect",
        *("--project", str(project.id), "--backend-url", ends.backend_url),
        *("--url", ends.client.url, "--api-key", demo.state.account.api_key),
        *("--user", ends.credentials[0], "--password", ends.credentials[1]),
    ]
    result = CliRunner().invoke(command_tree(arguments), arguments)

    assert result.exit_code == 0, result.output
    assert len(ends.client.webhooks(project.id)) == 1


def test_doctor_finds_nothing_wrong_with_the_demo(demo: Demo, ends: Ends) -> None:
    found = findings(settings_of(demo, ends), ends, None)

    assert {finding.level for finding in found.values()} == {Level.OK}, found
    assert {"token", "ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED", "webhook", "images"} <= set(
        found
    )


def test_doctor_misses_the_webhook(demo: Demo, ends: Ends, project: LabelStudioProject) -> None:
    connect_project(ends, project.id)
    for hook in ends.client.webhooks(project.id):
        ends.client.remove_webhook(hook.id)

    found = findings(settings_of(demo, ends), ends, project.id)

    assert found["backend"].level is Level.OK
    assert found["webhook"].level is Level.FAIL
    assert found["webhook"].fix == f"calico connect --project {project.id}"


def test_doctor_sees_a_webhook_without_credentials(
    demo: Demo, ends: Ends, project: LabelStudioProject
) -> None:
    ends.client.add_webhook(project.id, ends.webhook_url)

    found = findings(settings_of(demo, ends), ends, project.id)

    assert "without credentials" in found["webhook"].found


def test_doctor_names_a_labeling_config_it_cannot_use(demo: Demo, ends: Ends) -> None:
    project = ends.client.create_project("plain", PLAIN_CONFIG)
    found = findings(settings_of(demo, ends), ends, project.id)
    delete_project(ends.client, project.id)

    assert found["backend"].found.endswith("is not registered")
    assert found["labeling"].level is Level.FAIL
    assert "<BrushLabels>" in found["labeling"].found


def test_doctor_names_an_image_the_backend_may_not_fetch(
    demo: Demo, ends: Ends, project: LabelStudioProject
) -> None:
    ends.client.import_tasks(project.id, [{"data": {"images": ["http://10.0.0.1/cat.png"]}}])

    there = findings(settings_of(demo, ends, image_hosts=("images.example",)), ends, project.id)
    elsewhere = findings(settings_of(demo, ends), ends, project.id)

    assert there["images"].level is Level.FAIL
    assert "10.0.0.1" in there["images"].found
    assert elsewhere["images"].level is Level.WARN  # the backend may have CALICO_IMAGE_HOSTS
    assert "CALICO_IMAGE_HOSTS" in elsewhere["images"].fix


@pytest.mark.parametrize(
    ("key", "kind"), [("0" * 40, "legacy token"), ("a.b.c", "personal access token")]
)
def test_doctor_names_the_kind_of_a_refused_token(
    demo: Demo, ends: Ends, key: str, kind: str
) -> None:
    found = findings(settings_of(demo, ends, label_studio_api_key=key), ends, None)

    assert found["token"].level is Level.FAIL
    assert kind in found["token"].found


def test_doctor_names_refused_credentials(demo: Demo, ends: Ends) -> None:
    settings = settings_of(demo, ends, basic_auth_password="wrong")

    assert findings(settings, ends, demo.project_id)["credentials"].level is Level.FAIL


def test_doctor_names_a_project_that_is_not_there(demo: Demo, ends: Ends) -> None:
    found = findings(settings_of(demo, ends), ends, 999_999)

    assert found["projects"].level is Level.FAIL
    assert "has no project 999999" in found["projects"].found


def test_a_personal_access_token_works_as_well(demo: Demo, ends: Ends) -> None:
    answer = httpx.post(
        f"{ends.client.url}/api/token/",
        headers={"Authorization": ends.client.authorization.header()},
        trust_env=False,
    )
    settings = settings_of(demo, ends, label_studio_api_key=answer.json()["token"])

    found = findings(settings, ends, demo.project_id)

    assert found["token"].found.startswith("personal access token")
    assert {finding.level for finding in found.values()} == {Level.OK}, found


def test_doctor_reports_both_ends_when_they_are_down(demo: Demo, ends: Ends) -> None:
    nowhere = "http://127.0.0.1:9"
    settings = settings_of(demo, ends, label_studio_url=nowhere)

    found = findings(settings, replace(ends, backend_url=nowhere), None)

    assert found["backend"].fix.startswith("start it with `calico serve`")
    assert found["Label Studio"].level is Level.FAIL
    assert set(found) == {"clicks", "backend", "Label Studio"}


def doctor(*more: str) -> Result:
    """Runs the command against a Label Studio that is not there."""
    arguments = ["doctor", "--url", "http://127.0.0.1:9", "--api-key", "x", *more]
    return CliRunner().invoke(command_tree(arguments), arguments)


def test_doctor_ends_with_status_1_if_something_fails(ends: Ends) -> None:
    result = doctor("--backend-url", ends.backend_url)

    assert result.exit_code == 1
    assert "fail" in result.output
    assert "LABEL_STUDIO_URL" in result.output


def test_doctor_can_be_read_by_machines(ends: Ends) -> None:
    result = doctor("--backend-url", ends.backend_url, "--json")

    report = json.loads(result.output)
    assert report["ok"] is False
    assert {finding["level"] for finding in report["findings"]} >= {"ok", "fail"}


@pytest.fixture(scope="module")
def guarded(scratch: Path) -> Iterator[LabelStudioClient]:
    """A Label Studio as it comes, which calls no private address."""
    daemon = Daemon("label-studio", scratch / "guarded")
    account = studio.new_account()
    files = scratch / "guarded" / "files"
    files.mkdir(parents=True)
    try:
        url = studio.start_label_studio(
            daemon,
            scratch / "guarded" / "data",
            studio.free_port(),
            account,
            files=files,
            installed=studio.installed_label_studio(),
            may_call_private=False,
        )
        client = LabelStudioClient(url, account.api_key)
        yield client
        client.close()
    finally:
        daemon.stop()


def test_connect_says_which_settings_stop_it(ends: Ends, guarded: LabelStudioClient) -> None:
    project = guarded.create_project("guarded", CONFIG)

    with pytest.raises(
        LabelStudioError, match="ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false"
    ):
        connect_project(replace(ends, client=guarded), project.id)

    assert guarded.webhooks(project.id) == ()
    assert guarded.ml_backends(project.id) == ()


def test_doctor_says_which_settings_stop_it(
    demo: Demo, ends: Ends, guarded: LabelStudioClient
) -> None:
    key = guarded.authorization.header().removeprefix("Token ")
    settings = settings_of(demo, ends, label_studio_url=guarded.url, label_studio_api_key=key)

    found = findings(settings, ends, None)

    for name in ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED"):
        assert found[name].level is Level.FAIL
        assert found[name].fix == f"start Label Studio with {name}=false"
    assert found["projects"].fix == "calico connect --project ID"
