"""The `calico` command: names, one line of help each, and where each command lives.

Only the module of the command that was asked for is imported, so `calico --help` needs no torch.
An error this product raises on purpose ends in one line and exit status 2, never in a traceback.

Commands of `research` measure the product. They are in the repository and not in the wheel: this
table is the only place that knows of them, and it names them by text.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from backend.errors import BackendError, SettingsError
from calico_model.errors import CalicoError

RESEARCH = "research"


@dataclass(frozen=True)
class Command:
    """One command of the tree.

    Attributes:
        path: the words behind `calico`.
        target: "module:function", a function that typer can turn into a command.
        summary: the line `calico --help` shows.
    """

    path: tuple[str, ...]
    target: str
    summary: str


COMMANDS = (
    Command(("demo",), "backend.cli.demo:demo", "Label Studio with 12 pre-annotated groups."),
    Command(("serve",), "backend.cli.serve:serve", "Run the ML backend."),
    Command(("connect",), "backend.cli.connect:connect", "Register the backend with a project."),
    Command(
        ("import",),
        "backend.cli.import_photographs:import_photographs",
        "Import a folder of photographs as groups.",
    ),
    Command(("doctor",), "backend.cli.doctor:doctor", "Check a live set-up and say what to fix."),
    Command(("predict",), "backend.cli.predict:predict", "Segment the parts of a group of images."),
    Command(
        ("corrections",),
        "backend.cli.corrections:corrections",
        "Show and export what annotators changed.",
    ),
    Command(("trainer",), "backend.cli.trainer:trainer", "Learn from corrections."),
    Command(
        ("train-now",), "backend.cli.training_status:train_now", "Have a project trained at once."
    ),
    Command(("status",), "backend.cli.training_status:status", "Show how learning stands."),
    Command(("versions",), "backend.cli.versions:versions", "List what was learned."),
    Command(
        ("rollback",), "backend.cli.versions:rollback", "Serve a project with an earlier version."
    ),
    Command(("fetch",), "backend.cli.fetch:fetch", "Bring the released weights of a 7B."),
    Command(("evaluate",), "backend.cli.evaluate:evaluate", "Measure the model on labeled groups."),
    Command(
        ("calibrate",),
        "backend.cli.calibrate:calibrate",
        "Fit region scores to the chance that they are right.",
    ),
    Command(
        ("simulate",),
        "research.simulation.command:simulate",
        "Let an oracle correct groups, and measure what is learned.",
    ),
    Command(("synth",), "backend.cli.synth:synth", "Draw labeled groups of images."),
    Command(("train",), "backend.cli.train:train", "Train the model."),
    Command(
        ("train-assist",),
        "backend.cli.add_ons:train_assist",
        "Teach a trained model to help while annotating.",
    ),
    Command(
        ("train-refiner",),
        "backend.cli.add_ons:train_refiner",
        "Teach a trained model to sharpen masks.",
    ),
    Command(
        ("train-photo-refiner",),
        "backend.cli.photo_add_ons:train_photo_refiner",
        "Teach a trained model to outline what is pointed at in photographs.",
    ),
    Command(
        ("add-photo-trunk",),
        "backend.cli.photo_add_ons:add_photo_trunk",
        "Put a frozen network of photographs under a trained model.",
    ),
    Command(
        ("fit-names",),
        "backend.cli.add_ons:fit_names",
        "Teach a trained model to name outlined regions.",
    ),
    Command(
        ("ablate",), "research.ablation.command:ablate", "Measure what each part of it is worth."
    ),
    Command(
        ("mixedparts", "build"),
        "backend.cli.mixedparts:build_mixedparts",
        "Make records from PACO, PartImageNet and ADE20K.",
    ),
    Command(
        ("mixedparts", "check"),
        "backend.cli.mixedparts:check_mixedparts",
        "Read all of a set and list what is broken.",
    ),
    Command(("flops",), "research.cost.command:flops", "Count what a group costs to answer."),
    Command(
        ("bench", "codec"),
        "research.bench.codec:bench_codec",
        "Time the brush codec against label_studio_sdk.",
    ),
    Command(
        ("bench", "webhook"),
        "research.bench.webhook:bench_webhook",
        "Time webhook answers under many posters.",
    ),
    Command(
        ("bench", "training"),
        "research.bench.training:bench_training",
        "Time answers while an update trains.",
    ),
    Command(
        ("bench", "latency"),
        "research.bench.latency:bench_latency",
        "Time /health and /setup while the model works.",
    ),
    Command(
        ("bench", "click"),
        "research.bench.click:bench_click",
        "Time clicks on an opened task.",
    ),
    Command(
        ("bench", "parallel"),
        "research.bench.parallel:bench_parallel",
        "Compare the curves of one training process and several.",
    ),
    Command(
        ("bench", "gate"),
        "research.bench.gate:bench_gate",
        "Show poisoned and good corrections to the gate.",
    ),
    Command(
        ("bench", "photos"),
        "research.bench.photos:bench_photos",
        "Learn from sets of labeled photographs.",
    ),
    Command(
        ("bench", "import"),
        "research.bench.import_photographs:bench_import",
        "Time the import of photographs, and measure how pure groups are.",
    ),
    Command(
        ("bench", "fuzz"),
        "research.bench.fuzz:bench_fuzz",
        "Throw broken requests at the backend.",
    ),
    Command(
        ("bench", "hostile"),
        "research.bench.hostile:bench_hostile",
        "Time answers to others while clients misbehave.",
    ),
)

BRANCHES = {
    "mixedparts": "Build and check MixedParts data sets.",
    "bench": "Measure this installation.",
}
"""First words of commands of two, and the line `calico --help` shows for them."""


def main() -> None:
    """Runs `calico` with the arguments of this process."""
    arguments = sys.argv[1:]
    try:
        command_tree(arguments)(arguments, prog_name="calico")
    except (BackendError, CalicoError) as error:
        typer.secho(f"calico: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)


def command_tree(arguments: Sequence[str]) -> typer.Typer:
    """Builds the command line; of its commands, only the one in `arguments` is loaded."""
    root = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Segment common and unique parts over groups of images, inside Label Studio.",
    )
    branches = {
        name: typer.Typer(no_args_is_help=True, help=summary) for name, summary in BRANCHES.items()
    }
    for command in COMMANDS:
        parent = branches.get(command.path[0], root)
        is_wanted = tuple(arguments[: len(command.path)]) == command.path
        function = load(command.target) if is_wanted else _not_loaded
        parent.command(command.path[-1], help=None if is_wanted else command.summary)(function)
    for name, branch in branches.items():
        root.add_typer(branch, name=name)
    return root


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
