"""The backend at which a simulated annotator works: its own with a trainer, or a running one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from backend.cli.options import command_settings
from backend.errors import SettingsError
from calico_model.data.synthetic import SceneSplit, write_groups
from research.bench.server import BenchServer, running_server

PROJECT_ID = 4
_TIMEOUT_S = 300.0
_NEVER = 10**9  # only the training button starts a training


@dataclass(frozen=True)
class BackendAccess:
    """Which backend to work at, and how to reach it.

    Attributes:
        backend: address of a running backend; None starts one.
        files: folder from which a running backend reads local files.
        user, password: credentials of a running backend; from the settings if None.
    """

    backend: str | None = None
    files: Path | None = None
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class BaseData:
    """Base data that the trainer of a started backend rehearses.

    Attributes:
        folder: data set; None draws `groups` groups where weights are given, and otherwise leaves
            the choice to the trainer.
        groups, seed: number and seed of drawn groups.
    """

    folder: Path | None
    groups: int
    seed: int


@contextmanager
def served(
    access: BackendAccess, weights: Path | None, device: str, seconds: float, base: BaseData
) -> Iterator[tuple[httpx.Client, Path]]:
    """Yields a client of the backend, and the folder from which the backend reads local files.

    Raises:
        SettingsError: the folder of a running backend is missing.
        BenchError: the backend does not start.
    """
    if access.backend is not None:
        with open_client(access.backend, _credentials(access)) as client:
            yield client, _files_of(access)
        return
    with (
        learning_server(weights, device, seconds, base) as server,
        open_client(server.url) as client,
    ):
        yield client, server.files


@contextmanager
def learning_server(
    weights: Path | None, device: str, seconds: float, base: BaseData, *, nice: int = 0
) -> Iterator[BenchServer]:
    """Starts a backend with a trainer that trains only when the training button is pressed.

    Args:
        weights: model folder; the shipped weights if None.
        device: cpu, cuda or cuda:N.
        seconds: budget of one update.
        base: base data to rehearse.
        nice: niceness of the trainer; 0 where nothing else needs the processor meanwhile.

    Raises:
        BenchError: the backend does not start.
    """
    with tempfile.TemporaryDirectory(prefix="calico-simulate-") as scratch:
        variables = {
            "CALICO_DEVICE": device,
            "CALICO_TRAINER": "true",
            "CALICO_TRAINER_NICE": str(nice),
            "CALICO_TRAIN_EVERY": str(_NEVER),
            "CALICO_TRAIN_AGE_S": str(_NEVER),
            "CALICO_TRAIN_SECONDS": str(seconds),
        }
        folder = base.folder
        if folder is None and weights is not None and base.groups:
            folder = Path(scratch) / "base"
            write_groups(folder, groups=base.groups, seed=base.seed, split=SceneSplit.SEEN)
        if folder is not None:
            variables["CALICO_BASE_DATA"] = str(folder)
        with running_server(weights, **variables) as server:
            server.wait_for_model()
            yield server


def open_client(address: str, credentials: tuple[str, str] | None = None) -> httpx.Client:
    """Returns a client that opens a connection for every request, as Label Studio does."""
    # The server may close an idle connection just when the next request is sent on it.
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(
        base_url=address, auth=credentials, timeout=_TIMEOUT_S, limits=limits, trust_env=False
    )


def _credentials(access: BackendAccess) -> tuple[str, str] | None:
    settings = command_settings(basic_auth_user=access.user, basic_auth_password=access.password)
    user, password = settings.basic_auth_user, settings.basic_auth_password
    return None if user is None or password is None else (user, password.get_secret_value())


def _files_of(access: BackendAccess) -> Path:
    if access.files is None or not access.files.is_dir():
        raise SettingsError(
            "--files: expected, with --backend, the folder it reads local files from "
            "(its CALICO_LOCAL_FILES_ROOT), so that it sees the images"
        )
    return access.files
