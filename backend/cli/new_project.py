"""`calico new-project`: a Label Studio project that is ready for groups of images.

It has the labeling config, the labeling instructions, the Data Manager's columns, the backend and
the webhook. Nobody writes XML.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from backend.cli.connect import (
    BackendUrlOption,
    Ends,
    KeyOption,
    PasswordOption,
    UrlOption,
    UserOption,
    chosen_ends,
    connect_project,
)
from backend.cli.progress import progress_bar
from backend.decoding import read_json
from backend.errors import LabelStudioError, SettingsError
from backend.label_schema import LabelValue
from backend.label_studio.client import LabelStudioClient, LabelStudioProject
from backend.label_studio.group_config import labels_config, open_config, text_config
from backend.label_studio.group_project import add_group_view, create_group_project
from calico_model.data.coco_parts import WHOLE


class _Category(msgspec.Struct):
    name: str
    supercategory: str = ""

    @property
    def label(self) -> str:
        """The label that `calico import --labels` gives to its masks."""
        name = self.supercategory if self.name == WHOLE else self.name
        return " ".join(name.replace(",", " ").split())


class _Categories(msgspec.Struct):
    categories: list[_Category]


def new_project(
    title: Annotated[str, typer.Option(help="Title of the project.")],
    labels: Annotated[
        str | None,
        typer.Option(help='Names of parts and objects: "seat,leg=foot|paw"; other words after =.'),
    ] = None,
    labels_from: Annotated[
        Path | None, typer.Option(help="Take the names from the categories of a COCO file.")
    ] = None,
    is_open: Annotated[
        bool, typer.Option("--open", help="No fixed names: annotators write the names of parts.")
    ] = False,
    has_text: Annotated[
        bool,
        typer.Option("--text", help="A text above the images: highlighted words are outlined."),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Create it although a project has this title.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Complete the project that has this title.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the labeling config and create nothing.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    backend_url: BackendUrlOption = None,
    user: UserOption = None,
    password: PasswordOption = None,
) -> None:
    """Create a Label Studio project for groups of images and connect it to the backend.

    The names of parts are given by --labels or --labels-from; with --open, annotators write them.
    With --text the task's "text" stands above its images, and a phrase that is highlighted in it is
    outlined on every image that shows it.

    Examples:
    calico new-project --title Chairs --labels "seat,leg=foot|paw,backrest"
    calico new-project --title Chairs --labels-from coco.json
    calico new-project --title Chairs --open --text

    The last line of the output is JSON: project, url, title, labels, connected.
    """
    names = _names(labels, labels_from, is_open)
    if is_open:
        config = text_config() if has_text else open_config()
    else:
        config = _config(names, "--labels" if labels_from is None else "--labels-from", has_text)
    if not title.strip():
        raise SettingsError("--title: expected a title, got an empty one")
    if dry_run:
        typer.echo(config)
        _report(title=title, labels=len(names), dry_run=True)
        return
    ends = chosen_ends(url, api_key, user, password, backend_url)
    with closing(ends.client):
        if finish:
            project = _only(ends.client, title)
        else:
            if not again:
                _refuse_second(ends.client, title)
            project = create_group_project(ends.client, title, config, is_open=is_open)
        address = f"{ends.client.url}/projects/{project.id}/data"
        problem = _complete(ends, project)
    if problem is None:
        typer.echo(f"project {project.id} is ready: {address}")
        typer.echo(f"It is connected to {ends.backend_url}.")
        typer.echo(f"Next, photographs: calico import FOLDER --project {project.id}")
    else:
        typer.secho(
            f"calico: project {project.id} exists, with its labels and instructions, but is not "
            f"complete: {problem}. Then run the same command again with --finish.",
            fg=typer.colors.RED,
            err=True,
        )
    _report(
        project=project.id,
        url=address,
        title=title,
        labels=len(names),
        backend=ends.backend_url,
        connected=problem is None,
    )
    if problem is not None:
        raise typer.Exit(2)


def _names(labels: str | None, labels_from: Path | None, is_open: bool) -> tuple[LabelValue, ...]:
    """Returns the labels that the options name; () for an open project.

    Raises:
        SettingsError: not exactly one of the three options, or the file is not COCO.
    """
    given = (labels is not None) + (labels_from is not None) + is_open
    if given != 1:
        raise SettingsError(
            f"--labels, --labels-from, --open: expected one of the three, got {given}"
        )
    if labels is not None:
        return parse_labels(labels)
    return () if labels_from is None else read_categories(labels_from)


def _config(names: Sequence[LabelValue], option: str, has_text: bool) -> str:
    """Returns the labeling config for names that an option gave.

    Raises:
        SettingsError: names that Label Studio cannot hold; the message names the option.
    """
    try:
        return labels_config(names, has_text=has_text)
    except SettingsError as error:
        raise SettingsError(f"{option}: {str(error).removeprefix('labels: ')}") from error


def parse_labels(text: str) -> tuple[LabelValue, ...]:
    """Reads "seat,leg=foot|paw": names, and after = other words for the same.

    Raises:
        SettingsError: a name in quotation marks, as if a comma could stand in it, or a semicolon,
            as if it divided names.
    """
    for name in map(str.strip, text.split(",")):
        if name.startswith(('"', "'")) or ";" in name:
            raise SettingsError(
                "--labels: expected names divided by commas, without quotation marks around them "
                f"and without semicolons, got {name!r}; a name cannot hold a comma"
            )
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    return tuple(
        LabelValue(name.strip(), tuple(word.strip() for word in words.split("|") if word.strip()))
        for name, _, words in pairs
    )


def read_categories(path: Path) -> tuple[LabelValue, ...]:
    """Reads the names of a COCO file's categories, each once, in the order of the file.

    `(whole object)` is the object itself, which its supercategory names.

    Raises:
        SettingsError: the file cannot be read or has no categories with names.
    """
    try:
        found = read_json(path.read_bytes(), _Categories).categories
    except OSError as error:
        raise SettingsError(f"--labels-from: {path} cannot be read ({error.strerror})") from error
    except msgspec.MsgspecError as error:
        raise SettingsError(
            f'--labels-from: {path} is not COCO, which has "categories" with a "name" each '
            f"({error})"
        ) from error
    names = dict.fromkeys(category.label for category in found if category.label)
    return tuple(LabelValue(name) for name in names)


def _refuse_second(client: LabelStudioClient, title: str) -> None:
    same = _titled(client, title)
    if same:
        raise SettingsError(
            f"--title: project {same[0].id} has this title already; --again creates a second "
            "one, --finish completes it where an earlier run stopped"
        )


def _only(client: LabelStudioClient, title: str) -> LabelStudioProject:
    same = _titled(client, title)
    if len(same) != 1:
        raise SettingsError(f"--finish: expected one project with this title, found {len(same)}")
    return same[0]


def _titled(client: LabelStudioClient, title: str) -> Sequence[LabelStudioProject]:
    return [project for project in client.projects() if project.title == title]


def _complete(ends: Ends, project: LabelStudioProject) -> str | None:
    """Adds what is missing; returns what went wrong, or None."""
    try:
        with progress_bar("Setting up the project", None):
            add_group_view(ends.client, project.id)
            connect_project(ends, project.id)
    except LabelStudioError as error:
        return str(error)
    return None


def _report(**values: object) -> None:
    typer.echo(msgspec.json.encode(values).decode())
