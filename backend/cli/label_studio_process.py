"""Starts a real Label Studio on this machine: own environment, own data folder, loopback only.

Knows Label Studio's command line and environment variables.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from backend.cli.daemon import Daemon
from backend.errors import SettingsError

START_TIMEOUT_S = 180.0
DATABASE = "label_studio.sqlite3"
HOST = "127.0.0.1"
PRIVATE_CALLS = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}
"""The first lets Label Studio ask for predictions, the second lets it send corrections."""


@dataclass(frozen=True)
class Account:
    """The only user of a new Label Studio.

    Attributes:
        user: e-mail address to sign in with.
        password: password to sign in with.
        api_key: legacy token, 40 hex digits.
    """

    user: str
    password: str
    api_key: str


def new_account() -> Account:
    """Returns an account with a random password and token."""
    return Account("demo@example.com", secrets.token_urlsafe(9), secrets.token_hex(20))


def installed_label_studio() -> Path:
    """Returns the environment `make install` put Label Studio in.

    Raises:
        SettingsError: it is not installed.
    """
    environment = Path(sys.prefix) / "label-studio"
    if not (environment / "bin" / "label-studio").is_file():
        raise SettingsError(f"Label Studio is not installed at {environment}; run `make install`")
    return environment


def start_label_studio(
    daemon: Daemon,
    data: Path,
    port: int,
    account: Account,
    *,
    files: Path,
    installed: Path,
    may_call_private: bool = True,
) -> str:
    """Starts Label Studio and waits until it answers.

    Args:
        daemon: the background process.
        data: folder of its database; filled from the migrated template when empty.
        port: free port on the loopback interface.
        account: created at the first start, ignored later.
        files: folder whose subfolders may become local storages.
        installed: the environment it is installed in.
        may_call_private: whether it calls a backend on loopback or a private network, which
            Label Studio by itself does not.

    Returns:
        Its URL.

    Raises:
        DaemonError: it ended, or did not answer in three minutes.
    """
    data.mkdir(parents=True, exist_ok=True)
    if not (data / DATABASE).exists():
        shutil.copyfile(installed / "template.sqlite3", data / DATABASE)
    url = f"http://{HOST}:{port}"
    command = [
        *(str(installed / "bin" / "label-studio"), "start", "--no-browser"),
        *("--internal-host", HOST, "--port", str(port), "--data-dir", str(data)),
    ]
    environment = _environment(url, data, files, account)
    daemon.start(command, environment | (PRIVATE_CALLS if may_call_private else {}))
    daemon.wait_until_up(f"{url}/health", START_TIMEOUT_S)
    return url


def free_port(preferred: int = 0) -> int:
    """Returns the preferred loopback port if nobody listens there, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SettingsError(f"port: no free port on {HOST}")


def _environment(url: str, data: Path, files: Path, account: Account) -> dict[str, str]:
    # The whole environment: nothing of the caller's environment can change this instance.
    return {
        "PATH": os.defpath,
        "HOME": str(data),
        "LABEL_STUDIO_HOST": url,
        "LABEL_STUDIO_USERNAME": account.user,
        "LABEL_STUDIO_PASSWORD": account.password,
        "LABEL_STUDIO_USER_TOKEN": account.api_key,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(files),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "DEBUG": "false",
    }
