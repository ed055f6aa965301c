"""Where a simulated annotator works: a backend of its own with a trainer, or a running one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from backend.errors import SettingsError
from backend.settings import load_settings
from calico_model.data.synthetic import SceneSplit, write_groups
from research.bench.server import BenchServer, running_server

PROJECT_ID = 4
_TIMEOUT_S = 300.0
_NEVER = 10**9  # it is the button that starts every training


@dataclass(frozen=True)
class BackendAccess:
    """A backend to work at.

    Attributes:
        backend: address of a running one; None starts one.
        files: folder a running one reads local files from.
        user, password: what a running one asks for; from the settings if None.
    """

    backend: str | None = None
    files: Path | None = None
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class BaseData:
    """What the trainer of a backend of its own rehearses.

    Attributes:
        folder: data set; None draws `groups` groups where weights are given, and leaves the
            trainer what it draws by itself where they are not.
        groups, seed: of what is drawn.
    """

    folder: Path | None
    groups: int
    seed: int


@contextmanager
def served(
    place: BackendAccess, weights: Path | None, device: str, seconds: float, base: BaseData
) -> Iterator[tuple[httpx.Client, Path]]:
    """Yields a client of the backend, and the folder it reads local files from.

    Raises:
        SettingsError: a running backend without the folder of its files.
        BenchError: the backend does not come up.
    """
    if place.backend is not None:
        with open_client(place.backend, _credentials(place)) as client:
            yield client, _files_of(place)
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
    """Starts a backend with a trainer that begins only when the button is pressed.

    Args:
        weights: model folder; the shipped one if None.
        device: cpu, cuda or cuda:N.
        seconds: budget of one update.
        base: what the trainer rehearses.
        nice: of the trainer; 0 where nobody else waits while it trains.

    Raises:
        BenchError: the backend does not come up.
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
    """A client that opens a connection for every request, as Label Studio does."""
    # An idle connection may be closed just when the next request is sent on it.
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(
        base_url=address, auth=credentials, timeout=_TIMEOUT_S, limits=limits, trust_env=False
    )


def _credentials(place: BackendAccess) -> tuple[str, str] | None:
    settings = load_settings(basic_auth_user=place.user, basic_auth_password=place.password)
    user, password = settings.basic_auth_user, settings.basic_auth_password
    return None if user is None or password is None else (user, password.get_secret_value())


def _files_of(place: BackendAccess) -> Path:
    if place.files is None or not place.files.is_dir():
        raise SettingsError(
            "--files: expected, with --backend, the folder it reads local files from "
            "(its CALICO_LOCAL_FILES_ROOT), so that it sees the images"
        )
    return place.files
