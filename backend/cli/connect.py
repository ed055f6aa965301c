"""`calico connect`: registers the backend with a project, and a webhook for corrections.

Label Studio adds a webhook by itself when a backend is registered, but without credentials. It adds
none if the address already has a webhook, so ours is created first.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import command_settings
from backend.errors import InvalidLabelConfigError, LabelStudioError, SettingsError
from backend.label_studio.client import (
    ConnectedBackend,
    LabelStudioClient,
    LabelStudioProject,
    Webhook,
)
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.onboarding import BACKEND_TITLE, refused_addresses, update_ml_backend
from backend.serving.studio import connect_client
from backend.settings import Settings

EVERYWHERE = ("0.0.0.0", "::", "")
"""Addresses to listen at that are no address to call."""
UrlOption = Annotated[str | None, typer.Option(help="Address of Label Studio. [LABEL_STUDIO_URL]")]
KeyOption = Annotated[
    str | None, typer.Option(help="Token of Label Studio. [LABEL_STUDIO_API_KEY]")
]
BackendUrlOption = Annotated[
    str | None, typer.Option(help="Address at which Label Studio reaches the backend.")
]
UserOption = Annotated[
    str | None, typer.Option(help="User name of the backend. [CALICO_BASIC_AUTH_USER]")
]
PasswordOption = Annotated[
    str | None, typer.Option(help="Password of the backend. [CALICO_BASIC_AUTH_PASSWORD]")
]


@dataclass(frozen=True)
class BackendAddress:
    """The backend as its settings describe it.

    Attributes:
        url: without a slash at the end.
        credentials: user and password that it requires, or None.
        certificates: authorities trusted in addition to the usual ones, or None.
    """

    url: str
    credentials: tuple[str, str] | None
    certificates: Path | None


@dataclass(frozen=True)
class Ends:
    """The two ends to connect.

    Attributes:
        client: Label Studio.
        backend_url: the backend as Label Studio reaches it, without a slash at the end.
        credentials: user and password that the backend requires, or None.
    """

    client: LabelStudioClient
    backend_url: str
    credentials: tuple[str, str] | None

    @property
    def webhook_url(self) -> str:
        """Where corrections are sent."""
        return f"{self.backend_url}/webhook"

    @property
    def webhook_headers(self) -> dict[str, str]:
        """Returns the headers that let a webhook in."""
        if self.credentials is None:
            return {}
        token = base64.b64encode(":".join(self.credentials).encode()).decode("ascii")
        return {"Authorization": f"Basic {token}"}


def connect(
    project: Annotated[int, typer.Option(help="Id of the project: the number in its address.")],
    url: UrlOption = None,
    api_key: KeyOption = None,
    backend_url: BackendUrlOption = None,
    user: UserOption = None,
    password: PasswordOption = None,
) -> None:
    """Register the backend with a project, and a webhook that carries its credentials.

    Label Studio then asks the backend for predictions, and sends it every correction. A second run
    repairs what is missing and changes nothing else.

    Example: calico connect --project 7
    """
    ends = chosen_ends(url, api_key, user, password, backend_url)
    with closing(ends.client):
        others = connect_project(ends, project)
    typer.echo(f"project {project} is connected to {ends.backend_url}")
    if others:
        typer.secho(
            f"It also has {', '.join(others)}. Label Studio asks the first one only.", fg="yellow"
        )


def chosen_ends(
    url: str | None,
    api_key: str | None,
    user: str | None,
    password: str | None,
    backend_url: str | None,
) -> Ends:
    """Returns both ends as the options of a command choose them; settings take the others' place.

    Raises:
        SettingsError: Label Studio's address or token is not set, or a value is wrong.
    """
    settings = command_settings(
        label_studio_url=url,
        label_studio_api_key=api_key,
        basic_auth_user=user,
        basic_auth_password=password,
    )
    return ends_of(settings, backend_url)


def ends_of(settings: Settings, backend_url: str | None) -> Ends:
    """Returns both ends as the settings describe them.

    Raises:
        SettingsError: Label Studio's address or token is not set.
    """
    client = label_studio_of(settings)
    backend = backend_of(settings, backend_url)
    return Ends(client, backend.url, backend.credentials)


def label_studio_of(settings: Settings) -> LabelStudioClient:
    """Returns a client of the configured Label Studio.

    Raises:
        SettingsError: its address or token is not set.
    """
    client = connect_client(settings)
    if client is None:
        missing = "url" if settings.label_studio_url is None else "api_key"
        option = missing.replace("_", "-")
        raise SettingsError(
            f"LABEL_STUDIO_{missing.upper()}: not set in this shell; set it, or give --{option}"
        )
    return client


def backend_of(settings: Settings, backend_url: str | None) -> BackendAddress:
    """Returns where the backend is and what it requires; a given address wins."""
    user, password = settings.basic_auth_user, settings.basic_auth_password
    credentials = None if user is None or password is None else (user, password.get_secret_value())
    host = "127.0.0.1" if settings.host in EVERYWHERE else settings.host
    url = backend_url or f"http://{host}:{settings.port}"
    return BackendAddress(url.rstrip("/"), credentials, settings.ca_bundle)


def connect_project(ends: Ends, project_id: int) -> tuple[str, ...]:
    """Registers the backend and its webhook, or repairs them.

    Returns:
        Addresses of other backends of the project.

    Raises:
        LabelStudioError: with the side that has to change something.
    """
    _refuse_unusable(ends.client.project(project_id))
    _refuse_blocked(ends)
    backends = ends.client.ml_backends(project_id)
    ours = connected_backend(backends, ends.backend_url)
    webhooks = [hook for hook in ends.client.webhooks(project_id) if hook.url == ends.webhook_url]
    put = _put_webhook(ends, project_id, webhooks)
    try:
        _put_backend(ends, project_id, ours)
    except LabelStudioError as error:
        _restore_webhook(ends, project_id, webhooks, put)
        raise _in_plain_words(error, ends) from error
    for other in webhooks[1:]:
        ends.client.remove_webhook(other.id)
    if ours is not None and ours.url.rstrip("/") != ends.backend_url:
        _remove_webhooks(ends, project_id, f"{ours.url.rstrip('/')}/webhook")
    return tuple(other.url for other in backends if ours is None or other.id != ours.id)


def _refuse_unusable(project: LabelStudioProject) -> None:
    """Refuses an unusable labeling config; Label Studio's own message would not name it."""
    try:
        parse_label_config(project.label_config)
    except InvalidLabelConfigError as error:
        raise LabelStudioError(
            f"project {project.id} cannot be connected: its labeling config cannot be used "
            f"({error}); change it under Settings > Labeling Interface, see label_config/README.md"
        ) from error


def _refuse_blocked(ends: Ends) -> None:
    refused = refused_addresses(ends.client, ends.backend_url)
    names = [
        *(["ML_BLOCK_LOCAL_IP=false"] if refused.predictions else []),
        *(["SSRF_PROTECTION_ENABLED=false"] if refused.corrections else []),
    ]
    if names:
        raise LabelStudioError(
            f"Label Studio refuses to call {ends.backend_url}, an address of a private network; "
            f"start Label Studio with {' and '.join(names)}"
        )


def _in_plain_words(error: LabelStudioError, ends: Ends) -> LabelStudioError:
    """Replaces Label Studio's misleading message for refused credentials or no answer."""
    if "health check failed" in str(error) and "401" not in str(error):
        return LabelStudioError(
            f"Label Studio cannot reach the backend at {ends.backend_url}; start it with "
            "`calico serve`, or give --backend-url as Label Studio reaches it"
        )
    if "401" not in str(error):
        return error
    return LabelStudioError(
        f"{ends.backend_url} refuses these credentials; give the values of the backend with --user "
        "and --password, or in CALICO_BASIC_AUTH_USER and CALICO_BASIC_AUTH_PASSWORD"
    )


def connected_backend(backends: tuple[ConnectedBackend, ...], url: str) -> ConnectedBackend | None:
    """Returns the entry at this address, or ours from before the backend moved; None without."""
    same_url = [backend for backend in backends if backend.url.rstrip("/") == url]
    same_title = [backend for backend in backends if backend.title == BACKEND_TITLE]
    return next(iter([*same_url, *same_title]), None)


def _put_backend(ends: Ends, project_id: int, ours: ConnectedBackend | None) -> None:
    if ours is None:
        ends.client.add_ml_backend(
            project_id, ends.backend_url, title=BACKEND_TITLE, credentials=ends.credentials
        )
        return
    update_ml_backend(
        ends.client,
        ours.id,
        project_id,
        ends.backend_url,
        title=BACKEND_TITLE,
        credentials=ends.credentials,
    )


def _put_webhook(ends: Ends, project_id: int, present: Sequence[Webhook]) -> Webhook | None:
    """Makes sure of a webhook with credentials at our address; returns it if it was changed."""
    if not present:
        return ends.client.add_webhook(project_id, ends.webhook_url, headers=ends.webhook_headers)
    if is_complete(present[0], ends):
        return None
    return ends.client.update_webhook(present[0], project_id, headers=ends.webhook_headers)


def _restore_webhook(
    ends: Ends, project_id: int, present: Sequence[Webhook], put: Webhook | None
) -> None:
    """Leaves the webhook as it was: the credentials that were there may be the right ones."""
    if put is None:
        return
    if present:
        ends.client.update_webhook(present[0], project_id, headers=present[0].headers)
    else:
        ends.client.remove_webhook(put.id)


def is_complete(hook: Webhook, ends: Ends) -> bool:
    """Whether a webhook at our address sends every correction, with credentials."""
    return (
        hook.is_active
        and hook.send_payload
        and hook.send_for_all_actions
        and dict(hook.headers) == ends.webhook_headers
    )


def _remove_webhooks(ends: Ends, project_id: int, url: str) -> None:
    for hook in ends.client.webhooks(project_id):
        if hook.url == url:
            ends.client.remove_webhook(hook.id)
