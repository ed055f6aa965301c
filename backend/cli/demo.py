"""`calico demo`: starts Label Studio, the backend and a pre-annotated sample project.

Both processes run in the background until `calico demo --stop`. Their data is kept, so the next
start takes seconds. `--check` does the same in a temporary folder, verifies the predictions and
removes everything.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import httpx
import msgspec
import typer
from rich.console import Console

from backend.cli.connect import Ends, connect_project
from backend.cli.daemon import Daemon
from backend.cli.demo_photos import copy_photos, photo_groups
from backend.cli.demo_project import (
    POLL_S,
    PredictionCheck,
    check_predictions,
    create_project,
    draw_groups,
    preannotate,
    show_scores,
)
from backend.cli.label_studio_process import (
    HOST,
    Account,
    free_port,
    installed_label_studio,
    new_account,
    start_label_studio,
)
from backend.cli.progress import progress_bar
from backend.cli.tables import tell_list
from backend.decoding import read_json
from backend.errors import BackendError, SettingsError
from backend.label_studio.client import LabelStudioClient
from calico_model.errors import CalicoError

DEFAULT_FOLDER = Path(".calico/demo")
BACKEND_TIMEOUT_S = 60.0
BACKEND_USER = "label-studio"
LABEL_STUDIO_PORT = 8080
BACKEND_PORT = 9090


class State(msgspec.Struct, frozen=True):
    """What the next start needs; stored in a file that only its owner can read."""

    account: Account
    backend_password: str
    project_id: int | None = None
    photo_projects: dict[str, int] = {}
    """Project of each folder of photographs."""


class Demo:
    """The two processes and the sample project of one folder.

    Args:
        folder: holds all files of the demo.
        groups: number of sample groups.
        weights: folder of the model weights, or None for the shipped ones.
        photos: folder of the user's photographs, or None for drawn groups.

    Raises:
        SettingsError: no photographs in that folder.
    """

    def __init__(
        self, folder: Path, groups: int, weights: Path | None, photos: Path | None = None
    ) -> None:
        self.folder = folder.absolute()
        self.files = self.folder / "files"
        self.groups = groups
        self._weights = weights
        self._photos = None if photos is None else photos.absolute()
        self._photo_groups: list[list[Path]] = []
        if photos is not None:
            self._photo_groups, skipped = photo_groups(photos, groups)
            tell_list("files are skipped", [f"{one.name}: {one.reason}" for one in skipped])
            self.groups = len(self._photo_groups)
        self._label_studio = Daemon("label-studio", self.folder)
        self._backend = Daemon("backend", self.folder)
        self.state = self._load()

    def start(self) -> Ends:
        """Starts what does not run yet and pre-annotates the project; returns the two ends."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._save(self.state)
        url = self._start_label_studio()
        client = LabelStudioClient(url, self.state.account.api_key)
        ends = Ends(client, self._start_backend(url), (BACKEND_USER, self.state.backend_password))
        if self._known_project is None:
            self._create_project(client)
        project_id = self.project_id
        connect_project(ends, project_id)
        if self._photos is None:
            # On photographs the model proposes nothing before it has learned from corrections.
            with progress_bar("Pre-annotating through Label Studio", self.groups) as tell:
                preannotate(ends, project_id, tell)
            show_scores(ends, project_id)
        return ends

    def stop(self) -> bool:
        """Ends both processes; returns whether one of them ran."""
        return self._backend.stop() | self._label_studio.stop()

    @property
    def project_id(self) -> int:
        """The sample project.

        Raises:
            BackendError: it has not been created yet.
        """
        if self._known_project is None:
            raise BackendError(f"{self.folder}: there is no sample project yet")
        return self._known_project

    @property
    def has_photos(self) -> bool:
        """Whether the project shows the user's photographs."""
        return self._photos is not None

    @property
    def _known_project(self) -> int | None:
        if self._photos is None:
            return self.state.project_id
        return self.state.photo_projects.get(str(self._photos))

    def _create_project(self, client: LabelStudioClient) -> None:
        if self._photos is None:
            with progress_bar("Drawing sample groups", self.groups) as tell:
                groups = draw_groups(self.files, self.groups, tell)
            project_id = create_project(client, self.files, groups)
            self._save(msgspec.structs.replace(self.state, project_id=project_id))
            return
        name = f"photos-{len(self.state.photo_projects) + 1}"
        with progress_bar("Copying photographs", self.groups) as tell:
            groups = copy_photos(self.files, name, self._photo_groups, tell)
        count = sum(map(len, groups))
        typer.echo(f"{count} photographs in {self.groups} groups; --groups sets the most", err=True)
        title = f"CALICO: {self._photos.name}"
        project_id = create_project(client, self.files, groups, title=title, folder=name)
        known = self.state.photo_projects | {str(self._photos): project_id}
        self._save(msgspec.structs.replace(self.state, photo_projects=known))

    @property
    def _state_file(self) -> Path:
        return self.folder / "demo.json"

    def _load(self) -> State:
        try:
            return read_json(self._state_file.read_bytes(), State)
        except FileNotFoundError:
            return State(new_account(), secrets.token_urlsafe(12))
        except msgspec.MsgspecError as error:
            raise BackendError(f"{self._state_file}: {error}; delete {self.folder}") from error

    def _save(self, state: State) -> None:
        self.state = state
        self._state_file.touch(mode=0o600)
        self._state_file.write_bytes(msgspec.json.encode(state))

    def _start_label_studio(self) -> str:
        port_file = self.folder / "label-studio.port"
        if self._label_studio.is_running():
            return f"http://{HOST}:{port_file.read_text()}"
        port = free_port(LABEL_STUDIO_PORT)
        port_file.write_text(str(port))
        self.files.mkdir(exist_ok=True)
        with progress_bar("Starting Label Studio", None):
            return start_label_studio(
                self._label_studio,
                self.folder / "label-studio",
                port,
                self.state.account,
                files=self.files,
                installed=installed_label_studio(),
            )

    def _start_backend(self, label_studio_url: str) -> str:
        port_file = self.folder / "backend.port"
        if self._backend.is_running():
            return f"http://{HOST}:{port_file.read_text()}"
        port = free_port(BACKEND_PORT)
        port_file.write_text(str(port))
        url = f"http://{HOST}:{port}"
        environment = {
            "PATH": str(Path(sys.executable).parent),
            "HOME": str(self.folder),
            "LABEL_STUDIO_URL": label_studio_url,
            "LABEL_STUDIO_API_KEY": self.state.account.api_key,
            "CALICO_HOST": HOST,
            "CALICO_PORT": str(port),
            "CALICO_DATA_DIR": str(self.folder / "backend"),
            "CALICO_BASIC_AUTH_USER": BACKEND_USER,
            "CALICO_BASIC_AUTH_PASSWORD": self.state.backend_password,
            **({} if self._weights is None else {"CALICO_WEIGHTS": str(self._weights.absolute())}),
        }
        with progress_bar("Starting the backend", None):
            self._backend.start([sys.executable, "-m", "backend.cli", "serve"], environment)
            self._backend.wait_until_up(f"{url}/health", BACKEND_TIMEOUT_S)
            self._wait_for_model(url)
        return url

    def _wait_for_model(self, url: str) -> None:
        while (model := httpx.get(f"{url}/health", trust_env=False).json()["model"]) != "ready":
            if model == "failed":
                raise BackendError(f"the weights cannot be used; see {self._backend.log_file}")
            time.sleep(POLL_S)


def demo(
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop everything that the demo started.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Run the demo unattended, check it, and remove it.")
    ] = False,
    folder: Annotated[
        Path, typer.Option(help="Folder of everything that the demo keeps.")
    ] = DEFAULT_FOLDER,
    groups: Annotated[int, typer.Option(min=1, max=500, help="Number of sample groups.")] = 12,
    weights: Annotated[
        Path | None, typer.Option(help="Model folder; the shipped calico-tiny if not given.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Show your own photographs instead of drawn ones.")
    ] = None,
) -> None:
    """Start Label Studio and the backend with a project of pre-annotated sample groups.

    It prints the addresses, users and passwords.

    --photos shows your own photographs. They are copied, and two to four photographs of one folder
    become a group, in the order of their names. On photographs the backend proposes nothing before
    your first corrections.

    Examples:
    calico demo
    calico demo --photos my-photographs
    calico demo --stop

    --check runs the demo unattended and ends with one line of JSON. Its exit status is 0 only if
    every task has a prediction, and all masks have the size of their images.
    """
    if check:
        if photos is not None:
            raise SettingsError("--photos: expected without --check, which verifies drawn groups")
        raise typer.Exit(_check(groups, weights))
    running = Demo(folder, groups, weights, None if stop else photos)
    if stop:
        typer.echo("stopped" if running.stop() else "nothing was running")
        return
    started = time.monotonic()
    ends = running.start()
    ends.client.close()
    _show(running, ends, time.monotonic() - started)


def _show(demo: Demo, ends: Ends, seconds: float) -> None:
    account = demo.state.account
    called = Path(sys.argv[0])
    command = called if called.name == "calico" else Path("calico")
    data = demo.folder / "backend"
    opening = "Open a task: its masks are there."
    if demo.has_photos:
        opening = "Open a task. On photographs nothing is proposed before your first corrections."
    lines = (
        f"Label Studio     [bold]{ends.client.url}/projects/{demo.project_id}[/]",
        f"user             [bold]{account.user}[/]",
        f"password         [bold]{account.password}[/]",
        "",
        f"what it learned  [bold]{ends.backend_url}/ui[/]",
        f"user             [bold]{BACKEND_USER}[/]",
        f"password         [bold]{demo.state.backend_password}[/]",
        "",
        opening,
        "To point at parts, switch on Auto-Annotation below the image, choose a label,",
        "then choose the smart tool beside the image. The tick accepts the suggestions.",
        "Give every region a name, and submit.",
        "The backend learns after five submitted tasks, or at once with",
        f"  {_short(command)} train-now --project {demo.project_id} --data-dir {_short(data)}",
        "",
        f"Logs and data are in {_short(demo.folder)}; `make stop` ends the demo.",
    )
    what = "groups of your photographs" if demo.has_photos else "pre-annotated groups"
    title = f"{demo.groups} {what}, ready in {seconds:.0f} s"
    console = Console(highlight=False)
    # No frame: what is copied from a frame that is too narrow holds pieces of the frame.
    for line in (f"[bold]{title}[/]", "", *lines):
        console.print(line, soft_wrap=True)


def _short(path: Path) -> str:
    """A path from here where it is below, so that it can be copied from one line."""
    full = path.absolute()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def _check(groups: int, weights: Path | None) -> int:
    """Runs the whole demo in a folder that is removed at the end; returns the exit status."""
    started = time.monotonic()
    tally, problem = PredictionCheck(0, 0, ()), None
    with _temporary_demo(groups, weights) as demo:
        try:
            with closing(demo.start().client) as client:
                tally = check_predictions(client, demo.project_id, demo.files)
        except (BackendError, CalicoError) as error:
            problem = str(error)
    for line in (*tally.problems, *([problem] if problem else [])):
        typer.echo(line, err=True)
    is_fine = problem is None and tally.tasks == groups and not tally.problems
    report = {
        "ok": is_fine,
        "tasks": tally.tasks,
        "regions": tally.regions,
        "seconds": round(time.monotonic() - started, 1),
    }
    typer.echo(msgspec.json.encode(report).decode())
    return 0 if is_fine else 1


@contextmanager
def _temporary_demo(groups: int, weights: Path | None) -> Iterator[Demo]:
    """Yields a demo in a temporary folder; ends and removes it also after SIGTERM."""
    previous = signal.signal(signal.SIGTERM, _exit)
    folder = Path(tempfile.mkdtemp(prefix="calico-demo-"))
    try:
        demo = Demo(folder, groups, weights)
        try:
            yield demo
        finally:
            demo.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, previous)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
