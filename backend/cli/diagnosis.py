"""What `calico doctor` checks, from the settings to the pixels of the first task.

Every check yields findings and changes nothing; a check that needs an earlier one to have
succeeded is left out when it did not. Knows both ends; prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import httpx

from backend.cli.connect import Ends, ends_of, is_complete
from backend.cli.finding import Finding, Level
from backend.cli.learning_diagnosis import learning_findings
from backend.errors import (
    BackendError,
    InvalidLabelConfigError,
    LabelStudioAuthError,
    LabelStudioError,
    SettingsError,
)
from backend.label_studio.client import LabelStudioProject
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.media import MediaFetcher
from backend.label_studio.onboarding import refused_addresses
from backend.label_studio.web import certificate_advice, open_client
from backend.serving.studio import image_source
from backend.settings import Settings
from backend.types import LabelSchema

_TIMEOUT = httpx.Timeout(5.0, connect=3.0)
_TASKS_LOOKED_AT = 3


def examine(
    settings: Settings, backend_url: str | None, project_id: int | None
) -> Iterator[Finding]:
    """Yields findings about the whole set-up, the most basic first.

    Args:
        settings: the backend's own.
        backend_url: where Label Studio reaches the backend; from the settings if None.
        project_id: the project to look at, or None for every connected one.
    """
    try:
        ends = ends_of(settings, backend_url)
    except SettingsError as error:
        yield Finding("settings", Level.FAIL, str(error), "set it where the backend starts")
        return
    with closing(ends.client):
        yield from _backend(ends)
        yield from learning_findings(ends)
        yield from _from_label_studio(ends, settings, project_id)


def _from_label_studio(ends: Ends, settings: Settings, project_id: int | None) -> Iterator[Finding]:
    """What Label Studio knows, if it can be asked."""
    studio = list(_label_studio(ends))
    yield from studio
    if any(finding.level is Level.FAIL for finding in studio):
        return
    try:
        yield from _private_addresses(ends)
        projects = _projects(ends, project_id)
        if not projects:
            found = f"no project is connected to {ends.backend_url}"
            yield Finding("projects", Level.FAIL, found, "calico connect --project ID")
        with closing(image_source(settings, ends.client)) as fetcher:
            for project in projects:
                yield from _project(ends, fetcher, project)
    except LabelStudioError as error:
        fix = "the token's user must be able to see and change the project"
        yield Finding("projects", Level.FAIL, str(error), fix)


def _backend(ends: Ends) -> Iterator[Finding]:
    """The backend as seen from here."""
    try:
        with open_client(timeout=_TIMEOUT, certificates=ends.client.certificates) as http:
            health = http.get(f"{ends.backend_url}/health")
        model = str(health.json().get("model")) if health.status_code == 200 else ""
        credentials = _credentials(ends)
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        yield Finding(
            "backend",
            Level.FAIL,
            f"{ends.backend_url} does not answer "
            f"({certificate_advice(error) or type(error).__name__})",
            "start it with `calico serve`, or give its address with --backend-url",
        )
        return
    states = {
        "ready": Finding("backend", Level.OK, f"{ends.backend_url}, model ready"),
        "loading": Finding("backend", Level.WARN, "the model is loading", "wait some seconds"),
        "failed": Finding(
            "backend",
            Level.FAIL,
            "the weights cannot be used",
            "its log says why; check CALICO_WEIGHTS",
        ),
    }
    unknown = f"{ends.backend_url}/health answered {health.status_code}, which is not ours"
    yield states.get(
        model,
        Finding("backend", Level.FAIL, unknown, "give the backend's address with --backend-url"),
    )
    yield credentials


def _credentials(ends: Ends) -> Finding:
    check = "credentials"
    with open_client(timeout=_TIMEOUT, certificates=ends.client.certificates) as http:
        answer = http.get(f"{ends.backend_url}/versions", auth=ends.credentials)
    if answer.status_code == 401:
        return Finding(
            check,
            Level.FAIL,
            "the backend refuses the user and password",
            "use the same CALICO_BASIC_AUTH_USER and _PASSWORD here and where it starts",
        )
    if ends.credentials is None:
        return Finding(
            check,
            Level.WARN,
            "the backend lets everybody in who reaches it",
            "set CALICO_BASIC_AUTH_USER and _PASSWORD unless only this machine reaches it",
        )
    return Finding(check, Level.OK, f"accepted for {ends.credentials[0]}")


def _label_studio(ends: Ends) -> Iterator[Finding]:
    """Label Studio and our token, as the backend sees them."""
    client = ends.client
    try:
        yield Finding("Label Studio", Level.OK, f"{client.url}, version {client.version()}")
    except LabelStudioError as error:
        yield Finding(
            "Label Studio", Level.FAIL, str(error), "start it, or correct LABEL_STUDIO_URL"
        )
        return
    kind = "personal access token" if client.authorization.is_personal else "legacy token"
    try:
        yield Finding("token", Level.OK, f"{kind} of {client.whoami()}")
    except LabelStudioAuthError:
        fix = (
            "create a new one in Label Studio under Account & Settings"
            if client.authorization.is_personal
            else "Label Studio switches legacy tokens off by default: create a personal access "
            "token under Account & Settings, or allow legacy tokens under Organization"
        )
        yield Finding("token", Level.FAIL, f"Label Studio refuses this {kind}", fix)
    except LabelStudioError as error:
        yield Finding("token", Level.FAIL, str(error), "correct LABEL_STUDIO_URL")


def _private_addresses(ends: Ends) -> Iterator[Finding]:
    """The two settings that stop Label Studio from calling a private network."""
    refused = refused_addresses(ends.client, ends.backend_url)
    for setting, is_refused, effect in (
        ("ML_BLOCK_LOCAL_IP", refused.predictions, "asks for no predictions"),
        ("SSRF_PROTECTION_ENABLED", refused.corrections, "sends no corrections"),
    ):
        if is_refused:
            found = f"Label Studio {effect}: {ends.backend_url} is a private address to it"
            yield Finding(setting, Level.FAIL, found, f"start Label Studio with {setting}=false")
        else:
            yield Finding(setting, Level.OK, f"does not stop {ends.backend_url}")


def _projects(ends: Ends, project_id: int | None) -> tuple[LabelStudioProject, ...]:
    if project_id is not None:
        return (ends.client.project(project_id),)
    return tuple(
        project
        for project in ends.client.projects()
        if any(
            backend.url.rstrip("/") == ends.backend_url
            for backend in ends.client.ml_backends(project.id)
        )
    )


def _project(ends: Ends, fetcher: MediaFetcher, project: LabelStudioProject) -> Iterator[Finding]:
    name = f"project {project.id}"
    yield _registration(ends, project.id, name)
    yield _webhook(ends, project.id, name)
    try:
        schema = parse_label_config(project.label_config)
    except InvalidLabelConfigError as error:
        yield Finding(
            f"{name}: labeling",
            Level.FAIL,
            str(error),
            "change it under Settings > Labeling Interface, see label_config/README.md",
        )
        return
    yield Finding(f"{name}: labeling", Level.OK, f"{schema.layout.value}, {_names(schema)}")
    yield _images(ends, fetcher, project.id, schema)


def _registration(ends: Ends, project_id: int, name: str) -> Finding:
    check, connect = f"{name}: backend", f"calico connect --project {project_id}"
    backends = ends.client.ml_backends(project_id)
    ours = next((b for b in backends if b.url.rstrip("/") == ends.backend_url), None)
    if ours is None:
        return Finding(check, Level.FAIL, f"{ends.backend_url} is not registered", connect)
    if ours.state == "DI":
        found = f"Label Studio gets no answer from {ends.backend_url}/health within a second"
        return Finding(check, Level.FAIL, found, "give an address Label Studio reaches; " + connect)
    if ours.state == "ER":
        found = "Label Studio got an error from /setup"
        return Finding(check, Level.FAIL, found, f"the backend's log says why; {connect}")
    if backends[0].id != ours.id:
        found = f"Label Studio asks {backends[0].url} first"
        return Finding(check, Level.WARN, found, "remove it under Settings > Model")
    if not ours.is_interactive:
        return Finding(check, Level.WARN, "clicks get no answer: not interactive", connect)
    return Finding(check, Level.OK, "Label Studio reaches it")


def _webhook(ends: Ends, project_id: int, name: str) -> Finding:
    check, connect = f"{name}: webhook", f"calico connect --project {project_id}"
    hooks = [hook for hook in ends.client.webhooks(project_id) if hook.url == ends.webhook_url]
    if not hooks:
        return Finding(check, Level.FAIL, "corrections are not sent: there is none", connect)
    if not any(is_complete(hook, ends) for hook in hooks):
        found = "corrections do not arrive: switched off, incomplete or without credentials"
        return Finding(check, Level.FAIL, found, connect)
    if len(hooks) > 1:
        return Finding(check, Level.WARN, f"{len(hooks)} at the same address", connect)
    return Finding(check, Level.OK, "corrections are sent, with what lets them in")


def _images(ends: Ends, fetcher: MediaFetcher, project_id: int, schema: LabelSchema) -> Finding:
    check = f"project {project_id}: images"
    tasks = list(islice(ends.client.tasks(project_id, schema), _TASKS_LOOKED_AT))
    if not tasks:
        return Finding(check, Level.WARN, "no tasks yet", "import some")
    for task in tasks:
        try:
            fetcher.fetch_group(task)
        except BackendError as error:
            return Finding(
                check,
                Level.FAIL,
                str(error),
                "the backend must be able to fetch it: CALICO_IMAGE_HOSTS lists hosts besides "
                "Label Studio, local files need a storage of the project",
            )
    return Finding(check, Level.OK, f"those of the first {len(tasks)} tasks can be fetched")


def _names(schema: LabelSchema) -> str:
    if schema.name is None:
        return "part names are not stored"
    if schema.name.is_open:
        return "any part name"
    return f"{len(schema.name.values)} part names" if schema.name.values else "names from the task"
