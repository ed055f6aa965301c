"""The `calico` command: names, one line of help each, and where each command lives.

Only the module of the command that was asked for is imported, so `calico --help` needs no torch.
An error this product raises on purpose ends in one line and exit status 2, never in a traceback.

Commands of `research` measure the product. They are in the repository and not in the wheel: this
table is the only place that knows of them, and it names them by text.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from backend.errors import BackendError, SettingsError
from calico_model.errors import CalicoError

RESEARCH = "research"
PACKAGE = "calico-labeling"
START, WORK, LEARNING = "Start", "Work", "Learning"
DATA, MODEL, MEASURE = "Data", "Model", "Measure"
PANELS = (START, WORK, LEARNING, DATA, MODEL, MEASURE)
"""Headings of `calico --help`, in the order of what people do."""


@dataclass(frozen=True)
class Command:
    """One command of the tree.

    Attributes:
        path: the words behind `calico`.
        target: "module:function", a function that typer can turn into a command.
        summary: the line `calico --help` shows.
        panel: the heading above that line.
    """

    path: tuple[str, ...]
    target: str
    summary: str
    panel: str = WORK


COMMANDS = (
    Command(
        ("demo",),
        "backend.cli.demo:demo",
        "Try it: Label Studio with 12 pre-annotated groups.",
        panel=START,
    ),
    Command(("serve",), "backend.cli.serve:serve", "Run the ML backend.", panel=START),
    Command(
        ("connect",),
        "backend.cli.connect:connect",
        "Connect the backend and a project of Label Studio.",
        panel=START,
    ),
    Command(
        ("new-project",),
        "backend.cli.new_project:new_project",
        "Create a Label Studio project for groups of images.",
        panel=START,
    ),
    Command(
        ("disconnect",),
        "backend.cli.disconnect:disconnect",
        "Take the backend away from a project; data stays.",
        panel=START,
    ),
    Command(
        ("doctor",),
        "backend.cli.doctor:doctor",
        "Check a live set-up and say what to fix.",
        panel=START,
    ),
    Command(
        ("migrate",),
        "backend.cli.migrate:migrate",
        "Bring the tables of the database up to date.",
    ),
    Command(
        ("import",),
        "backend.cli.import_photographs:import_photographs",
        "Import a folder of photographs as groups.",
        panel=START,
    ),
    Command(("predict",), "backend.cli.predict:predict", "Segment the parts of a group of images."),
    Command(
        ("caption",),
        "backend.cli.caption:caption",
        "Describe a group, with a mask for every phrase.",
    ),
    Command(
        ("predict-all",),
        "backend.cli.predict_all:predict_all",
        "Predict every task of a project.",
    ),
    Command(
        ("prelabel",),
        "backend.cli.prelabel:prelabel",
        "Predict a large list of groups into files.",
    ),
    Command(
        ("review",),
        "backend.cli.review:review",
        "Put the doubtful tasks first; accept the sure ones.",
    ),
    Command(
        ("corrections",),
        "backend.cli.corrections:corrections",
        "Show and export what annotators changed.",
    ),
    Command(("export",), "backend.cli.export:export", "Export all annotations as a data set."),
    Command(
        ("lint",),
        "backend.cli.lint:lint",
        "Report labels that the model cannot tell apart.",
    ),
    Command(
        ("trainer",),
        "backend.cli.trainer:trainer",
        "Learn from corrections; `calico serve` starts one.",
        panel=LEARNING,
    ),
    Command(
        ("train-now",),
        "backend.cli.training_status:train_now",
        "Ask for a training at once.",
        panel=LEARNING,
    ),
    Command(
        ("status",),
        "backend.cli.training_status:status",
        "Show how learning stands.",
        panel=LEARNING,
    ),
    Command(
        ("versions",), "backend.cli.versions:versions", "List the learned versions.", panel=LEARNING
    ),
    Command(
        ("rollback",),
        "backend.cli.versions:rollback",
        "Serve a project with an earlier version.",
        panel=LEARNING,
    ),
    Command(
        ("fetch",),
        "backend.cli.fetch:fetch",
        "Download the released weights of a 7B model.",
        panel=MODEL,
    ),
    Command(
        ("evaluate",),
        "backend.cli.evaluate:evaluate",
        "Measure the model on labeled groups.",
        panel=MEASURE,
    ),
    Command(
        ("calibrate",),
        "backend.cli.calibrate:calibrate",
        "Fit region scores to the chance that they are right.",
        panel=MODEL,
    ),
    Command(
        ("simulate",),
        "research.simulation.command:simulate",
        "Let a simulated annotator correct groups, and measure what is learned.",
        panel=MEASURE,
    ),
    Command(("synth",), "backend.cli.synth:synth", "Draw labeled groups of images.", panel=DATA),
    Command(
        ("train",),
        "backend.cli.train:train",
        "Train the model from scratch, or fine-tune it.",
        panel=MODEL,
    ),
    Command(
        ("train-assist",),
        "backend.cli.add_ons:train_assist",
        "Teach a trained model to help while annotating.",
        panel=MODEL,
    ),
    Command(
        ("train-refiner",),
        "backend.cli.add_ons:train_refiner",
        "Teach a trained model to sharpen masks.",
        panel=MODEL,
    ),
    Command(
        ("train-spans",),
        "backend.cli.add_ons:train_spans",
        "Teach a trained model to segment words instead of [SEG] tokens.",
        panel=MODEL,
    ),
    Command(
        ("train-photo-refiner",),
        "backend.cli.photo_add_ons:train_photo_refiner",
        "Teach a trained model to answer clicks on photographs.",
        panel=MODEL,
    ),
    Command(
        ("add-photo-trunk",),
        "backend.cli.photo_add_ons:add_photo_trunk",
        "Add a network that has seen photographs to a trained model.",
        panel=MODEL,
    ),
    Command(
        ("fit-names",),
        "backend.cli.add_ons:fit_names",
        "Teach a trained model to name outlined regions.",
        panel=MODEL,
    ),
    Command(
        ("ablate",),
        "research.ablation.command:ablate",
        "Measure what each part of the network is worth.",
        panel=MEASURE,
    ),
    Command(
        ("mixedparts", "build"),
        "backend.cli.mixedparts:build_mixedparts",
        "Make records from PACO, PartImageNet and ADE20K.",
        panel=DATA,
    ),
    Command(
        ("mixedparts", "check"),
        "backend.cli.mixedparts:check_mixedparts",
        "Read a whole set and list what is broken.",
        panel=DATA,
    ),
    Command(
        ("flops",),
        "research.cost.command:flops",
        "Count what a group costs to answer.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "spans"),
        "research.bench.spans:bench_spans",
        "Compare masks of words with those of [SEG] tokens.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "codec"),
        "research.bench.codec:bench_codec",
        "Time the brush codec against label_studio_sdk.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "webhook"),
        "research.bench.webhook:bench_webhook",
        "Time webhook answers under many posters.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "training"),
        "research.bench.training:bench_training",
        "Time answers while an update trains.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "latency"),
        "research.bench.latency:bench_latency",
        "Time /health and /setup while the model works.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "click"),
        "research.bench.click:bench_click",
        "Time clicks on an opened task.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "fleet"),
        "research.bench.fleet:bench_fleet",
        "Compare several servers with one, and kill a server.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "parallel"),
        "research.bench.parallel:bench_parallel",
        "Compare the curves of one training process and several.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "gate"),
        "research.bench.gate:bench_gate",
        "Show poisoned and good corrections to the quality check.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "photos"),
        "research.bench.photos:bench_photos",
        "Learn from sets of labeled photographs.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "series"),
        "research.bench.series:bench_series",
        "Carry accepted regions through drawn series of images.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "caption"),
        "research.bench.caption:bench_caption",
        "Measure the mask recall of caption phrases.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "review"),
        "research.bench.review:bench_review",
        "Compare the scores on labeled photographs with the truth.",
    ),
    Command(
        ("bench", "import"),
        "research.bench.import_photographs:bench_import",
        "Time the import of photographs, and measure how pure groups are.",
    ),
    Command(
        ("bench", "fuzz"),
        "research.bench.fuzz:bench_fuzz",
        "Send broken requests to the backend.",
        panel=MEASURE,
    ),
    Command(
        ("bench", "hostile"),
        "research.bench.hostile:bench_hostile",
        "Time answers to others while clients misbehave.",
        panel=MEASURE,
    ),
)

BRANCHES = {
    "mixedparts": (DATA, "Build and check MixedParts data sets."),
    "bench": (MEASURE, "Measure speed, robustness and learning of this installation."),
}
"""First words of commands of two words -> heading and line of `calico --help`."""


_INTERRUPTED = 130  # what shells expect after Ctrl-C
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)  # writing to an open file names no file
_LINE_STARTS = ("- ", "calico ")
_ROOT_HELP = """Outline and name the parts that groups of images share, inside Label Studio.

Each command explains itself: `calico COMMAND --help`."""


def main() -> None:
    """Runs `calico` with the arguments of this process."""
    arguments = sys.argv[1:]
    try:
        command_tree(arguments)(arguments, prog_name="calico")
    except (BackendError, CalicoError) as error:
        typer.secho(f"calico: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None and error.errno not in _DISK_ERRORS:
            raise  # not of a file, so a fault of ours
        place = "" if error.filename is None else f"{error.filename}: "
        typer.secho(f"calico: {place}{error.strerror}", fg=typer.colors.RED, err=True)
        sys.exit(2)
    except KeyboardInterrupt:  # typer sees to it once a command runs; this is while it is loaded
        sys.exit(_INTERRUPTED)


def command_tree(arguments: Sequence[str]) -> typer.Typer:
    """Builds the command line; of its commands, only the one in `arguments` is loaded."""
    root = typer.Typer(
        cls=_InReadingOrder,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    root.callback(help=_ROOT_HELP)(_root)
    branches = {
        name: typer.Typer(no_args_is_help=True, help=summary)
        for name, (_, summary) in BRANCHES.items()
    }
    for command in COMMANDS:
        parent = branches.get(command.path[0], root)
        is_wanted = tuple(arguments[: len(command.path)]) == command.path
        function = load(command.target) if is_wanted else _not_loaded
        # Without escape, typer takes the extra in calico-labeling[servers] for a style.
        help_text = escape(flowing(function.__doc__ or "")) if is_wanted else command.summary
        panel = command.panel if parent is root else None
        parent.command(command.path[-1], help=help_text, rich_help_panel=panel)(function)
    for name, branch in branches.items():
        root.add_typer(branch, name=name, rich_help_panel=BRANCHES[name][0])
    return root


class _InReadingOrder(TyperGroup):
    """Lists the headings of `calico --help` in the order of `PANELS`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Returns the first words of all commands."""
        panels = {command.path[0]: command.panel for command in COMMANDS}
        panels |= {name: panel for name, (panel, _) in BRANCHES.items()}
        return sorted(panels, key=lambda name: PANELS.index(panels[name]))


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"calico {installed_version()}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version and end.",
        ),
    ] = False,
) -> None:
    """Takes the options of `calico` itself."""


def installed_version() -> str:
    """Version of the installed package; "unknown" where it runs without being installed."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"


def flowing(docstring: str) -> str:
    """Joins the lines of every paragraph, so that a terminal of any width can break them.

    Items of lists and command lines keep lines of their own.
    """
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join("\n".join(_joined(part.split("\n"))) for part in paragraphs)


def _joined(lines: Sequence[str]) -> list[str]:
    joined: list[str] = []
    for line in lines:
        begins = line.startswith(_LINE_STARTS)
        follows_command = bool(joined) and joined[-1].startswith("calico ")
        if joined and not begins and not (follows_command and not line.startswith("--")):
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line)
    return joined


def load(target: str) -> Callable[..., Any]:
    """Imports a function by "module:function".

    Raises:
        SettingsError: it belongs to `research`, which only a checkout of the repository has.
    """
    module, _, name = target.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not module.startswith(f"{RESEARCH}.") or not module.startswith(error.name or " "):
            raise
        raise SettingsError(
            "this command measures the product and is not part of the installed package; "
            "clone the repository, run `make install`, and call .venv/bin/calico there"
        ) from error
    return function


def _not_loaded() -> None:
    raise AssertionError("only the requested command is ever run")
