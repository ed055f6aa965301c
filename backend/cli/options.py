"""Options of several commands, and what they open: a checkpoint, or the database of a backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from backend.errors import SettingsError
from backend.serving.logs import LogFormat
from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.evaluation.protocol import GroupPredictor
from calico_model.loading.precision import Precision

if TYPE_CHECKING:
    from backend.settings import Settings
    from backend.storage.store import Store

WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="Model folder; the shipped calico-tiny if not given.", metavar="DIR"
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Device of the model: cpu, cuda or cuda:N.")
]
ServerDeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="Device of the model: cpu, cuda or cuda:N. [CALICO_DEVICE, cpu]"),
]
StudioUrlOption = Annotated[
    str | None,
    typer.Option(
        "--label-studio-url", metavar="URL", help="Address of Label Studio. [LABEL_STUDIO_URL]"
    ),
]
LogLevelOption = Annotated[
    str | None,
    typer.Option("--log-level", help="Lowest logged level: DEBUG, INFO, WARNING or ERROR."),
]
LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format",
        help="How log lines look; auto: text on a terminal, else json. [CALICO_LOG_FORMAT]",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Folder of the backend's data. [CALICO_DATA_DIR, .calico]"
    ),
]
ProjectOption = Annotated[
    int | None, typer.Option("--project", help="Only this project; default: every one.")
]

_OPTIONS = {
    "basic_auth_password": "--password",
    "basic_auth_user": "--user",
    "fleet_address": "--address",
    "groups_at_once": "--batch",
    "label_studio_api_key": "--api-key",
    "label_studio_url": "--url",
    "model_threads": "--threads",
}
"""Field -> the option that sets it in most commands, unless it has the same name."""


def load_weights(
    folder: Path | None, device: str, precision: Precision | None = None
) -> GroupPredictor:
    """Loads a predictor, by default the one that ships with the package.

    The memory plan of a large model is printed before it is loaded.

    Raises:
        CheckpointError: the folder holds no usable checkpoint.
        InsufficientMemoryError: the model does not fit the device.
    """
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from backend.cli.memory_tables import show_plan
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor

    try:
        return load_predictor(
            folder or DEFAULT_WEIGHTS, device=device, precision=precision, on_plan=show_plan
        )
    except CheckpointError as error:
        if folder is None:
            raise
        raise CheckpointError(f"--weights: {error}") from error


def command_settings(
    options: Mapping[str, str] = MappingProxyType({}), /, **chosen: object
) -> Settings:
    """Reads the settings of a command; messages call a wrong option what the user typed.

    Args:
        options: field -> its option, where this command calls it otherwise than most.
        chosen: field -> what the option says; None leaves it to the environment.

    Raises:
        SettingsError: names the option or the variable, and what was expected.
    """
    from backend.settings import load_settings

    names = {field: f"--{field.replace('_', '-')}" for field in chosen}
    return load_settings({**names, **_OPTIONS, **options}, **chosen)


@contextmanager
def guest_store(settings: Settings) -> Iterator[Store]:
    """Opens the database of a backend, which may be running at the same time.

    Raises:
        SettingsError: no backend was ever started with this data folder.
        StoreError: the database cannot be opened.
    """
    from backend.storage.store import open_store

    database = settings.data_dir / "calico.sqlite3"
    if settings.database_url is None and not database.is_file():
        raise SettingsError(
            f"--data-dir: no database {database}; give the folder that `calico serve` uses"
        )
    store = open_store(settings.store_url, is_guest=True, commit_timeout_s=30)
    try:
        yield store
    finally:
        store.close()


def check_is_known(project: int, known: Sequence[int]) -> None:
    """Refuses a project that the backend has never heard of, as a mistyped number is.

    Raises:
        SettingsError: the project is none of the known ones.
    """
    if project not in known:
        others = ", ".join(map(str, known)) if known else "none"
        raise SettingsError(
            f"--project: nothing has come from project {project} yet, neither a question for "
            f"predictions nor a correction; projects of this data folder: {others}"
        )


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user wrote an option on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_options(names: set[str], reason: str) -> None:
    """Refuses options that do not go with the others.

    Args:
        names: as the function has them; empty for no complaint.
        reason: what is wrong, behind the option's name.

    Raises:
        InvalidConfigError: there is such an option; names the first one.
    """
    for name in sorted(names):
        raise InvalidConfigError(f"--{name.replace('_', '-')}: {reason}")
