"""The table of all commands: their words, where each lives, and its line of `calico --help`.

Commands of `research` measure the product. They are in the repository and not in the wheel: this
table is the only place that knows of them, and it names them by text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

START, WORK, LEARNING = "Start", "Work", "Learning"
DATA, MODEL, MEASURE = "Data", "Model", "Measure"
PANELS = (START, WORK, LEARNING, DATA, MODEL, MEASURE)
"""Headings of `calico --help`, in the order of what people do."""

BRANCHES = {
    "mixedparts": (DATA, "Build and check MixedParts data sets."),
    "fleet": (START, "Run web servers and model replicas on one machine or several."),
    "bench": (MEASURE, "Measure speed, robustness and learning of this installation."),
}
"""First words of commands of two words -> heading and line of `calico --help`."""


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


def _under(panel: str, *rows: tuple[str, str, str]) -> Iterator[Command]:
    """Yields the commands of one heading from (words, target, summary)."""
    for words, target, summary in rows:
        yield Command(tuple(words.split()), target, summary, panel)


COMMANDS = (
    *_under(
        START,
        ("demo", "backend.cli.demo:demo", "Try it: Label Studio with 12 pre-annotated groups."),
        ("serve", "backend.cli.serve:serve", "Run the ML backend."),
        ("fleet up", "backend.cli.fleet:fleet_up", "Run a fleet from this machine."),
        ("fleet join", "backend.cli.fleet:fleet_join", "Add this machine to a fleet."),
        ("fleet status", "backend.cli.fleet:fleet_status", "Show what runs and what is missing."),
        (
            "fleet upgrade",
            "backend.cli.fleet:fleet_upgrade",
            "Replace all processes one after another, without a pause.",
        ),
        ("fleet down", "backend.cli.fleet:fleet_down", "End a fleet on this machine."),
        (
            "connect",
            "backend.cli.connect:connect",
            "Connect the backend and a project of Label Studio.",
        ),
        (
            "new-project",
            "backend.cli.new_project:new_project",
            "Create a Label Studio project for groups of images.",
        ),
        (
            "disconnect",
            "backend.cli.disconnect:disconnect",
            "Take the backend away from a project; data stays.",
        ),
        ("doctor", "backend.cli.doctor:doctor", "Check a live set-up and say what to fix."),
        (
            "import",
            "backend.cli.import_photographs:import_photographs",
            "Import a folder of photographs as groups.",
        ),
    ),
    *_under(
        WORK,
        ("migrate", "backend.cli.migrate:migrate", "Bring the tables of the database up to date."),
        ("predict", "backend.cli.predict:predict", "Segment the parts of a group of images."),
        (
            "caption",
            "backend.cli.caption:caption",
            "Describe a group, with a mask for every phrase.",
        ),
        ("predict-all", "backend.cli.predict_all:predict_all", "Predict every task of a project."),
        (
            "prelabel",
            "backend.cli.prelabel:prelabel",
            "Predict a large list of groups, or a whole project.",
        ),
        (
            "review",
            "backend.cli.review:review",
            "Put the doubtful tasks first; accept the sure ones.",
        ),
        (
            "corrections",
            "backend.cli.corrections:corrections",
            "Show and export what annotators changed.",
        ),
        ("export", "backend.cli.export:export", "Export all annotations as a data set."),
        (
            "rename-label",
            "backend.cli.rename_label:rename_label",
            "Rename a label everywhere, and in what was learned.",
        ),
        ("lint", "backend.cli.lint:lint", "Report labels that the model cannot tell apart."),
    ),
    *_under(
        LEARNING,
        (
            "trainer",
            "backend.cli.trainer:trainer",
            "Learn from corrections; `calico serve` starts one.",
        ),
        ("train-now", "backend.cli.training_status:train_now", "Ask for a training at once."),
        ("status", "backend.cli.training_status:status", "Show how learning stands."),
        ("versions", "backend.cli.versions:versions", "List the learned versions."),
        ("rollback", "backend.cli.versions:rollback", "Serve a project with an earlier version."),
    ),
    *_under(
        DATA,
        ("synth", "backend.cli.synth:synth", "Draw labeled groups of images."),
        (
            "mixedparts build",
            "backend.cli.mixedparts:build_mixedparts",
            "Make records from PACO, PartImageNet and ADE20K.",
        ),
        (
            "mixedparts check",
            "backend.cli.mixedparts:check_mixedparts",
            "Read a whole set and list what is broken.",
        ),
    ),
    *_under(
        MODEL,
        ("fetch", "backend.cli.fetch:fetch", "Download the released weights of a 7B model."),
        (
            "calibrate",
            "backend.cli.calibrate:calibrate",
            "Fit region scores to the chance that they are right.",
        ),
        ("train", "backend.cli.train:train", "Train the model from scratch, or fine-tune it."),
        (
            "train-assist",
            "backend.cli.add_ons:train_assist",
            "Teach a trained model to help while annotating.",
        ),
        (
            "train-refiner",
            "backend.cli.add_ons:train_refiner",
            "Teach a trained model to sharpen masks.",
        ),
        (
            "train-spans",
            "backend.cli.add_ons:train_spans",
            "Teach a trained model to segment words instead of [SEG] tokens.",
        ),
        (
            "train-photo-refiner",
            "backend.cli.photo_add_ons:train_photo_refiner",
            "Teach a trained model to answer clicks on photographs.",
        ),
        (
            "add-photo-trunk",
            "backend.cli.photo_add_ons:add_photo_trunk",
            "Add a network that has seen photographs to a trained model.",
        ),
        (
            "fit-names",
            "backend.cli.add_ons:fit_names",
            "Teach a trained model to name outlined regions.",
        ),
    ),
    *_under(
        MEASURE,
        ("evaluate", "backend.cli.evaluate:evaluate", "Measure the model on labeled groups."),
        (
            "simulate",
            "research.simulation.command:simulate",
            "Let a simulated annotator correct groups, and measure what is learned.",
        ),
        (
            "ablate",
            "research.ablation.command:ablate",
            "Measure what each part of the network is worth.",
        ),
        ("flops", "research.cost.command:flops", "Count what a group costs to answer."),
        (
            "bench spans",
            "research.bench.spans:bench_spans",
            "Compare masks of words with those of [SEG] tokens.",
        ),
        (
            "bench codec",
            "research.bench.codec:bench_codec",
            "Time the brush codec against label_studio_sdk.",
        ),
        (
            "bench webhook",
            "research.bench.webhook:bench_webhook",
            "Time webhook answers under many posters.",
        ),
        (
            "bench training",
            "research.bench.training:bench_training",
            "Time answers while an update trains.",
        ),
        (
            "bench latency",
            "research.bench.latency:bench_latency",
            "Time /health and /setup while the model works.",
        ),
        ("bench click", "research.bench.click:bench_click", "Time clicks on an opened task."),
        (
            "bench start",
            "research.bench.start:bench_start",
            "Time starts and clicks beside those of another release.",
        ),
        (
            "bench fleet",
            "research.bench.fleet:bench_fleet",
            "Compare several servers with one, and kill a server.",
        ),
        (
            "bench prelabel",
            "research.bench.prelabel_kills:bench_prelabel",
            "Kill a large job, and count what was done twice.",
        ),
        (
            "bench parallel",
            "research.bench.parallel:bench_parallel",
            "Compare the curves of one training process and several.",
        ),
        (
            "bench gate",
            "research.bench.gate:bench_gate",
            "Show poisoned and good corrections to the quality check.",
        ),
        (
            "bench older",
            "research.bench.older:bench_older",
            "Measure what learning one object class costs another.",
        ),
        (
            "bench photos",
            "research.bench.photos:bench_photos",
            "Learn from sets of labeled photographs.",
        ),
        (
            "bench series",
            "research.bench.series:bench_series",
            "Carry accepted regions through drawn series of images.",
        ),
        (
            "bench caption",
            "research.bench.caption:bench_caption",
            "Measure the mask recall of caption phrases.",
        ),
        (
            "bench review",
            "research.bench.review:bench_review",
            "Compare the scores on labeled photographs with the truth.",
        ),
        (
            "bench odds",
            "research.bench.odds:bench_odds",
            "Fit how likely a detection on photographs is right.",
        ),
        (
            "bench tool-clicks",
            "research.bench.tool_clicks:bench_tool_clicks",
            "Annotate photographs with the click tool, with and without predictions.",
        ),
        (
            "bench import",
            "research.bench.import_photographs:bench_import",
            "Time the import of photographs, and measure how pure groups are.",
        ),
        ("bench fuzz", "research.bench.fuzz:bench_fuzz", "Send broken requests to the backend."),
        (
            "bench hostile",
            "research.bench.hostile:bench_hostile",
            "Time answers to others while clients misbehave.",
        ),
    ),
)
