"""Measures the house: how much code there is, how it hangs together, and what one request passes.

    .venv/bin/python tools/house.py            # from the sources alone, a second
    .venv/bin/python tools/house.py --traces   # also of three requests, a minute

The last line is JSON.

Static figures come from the syntax trees of `backend`, `calico_model` and `research`. Traced
figures come from an app in this process with the shipped weights: every function of the product
that a prediction, a correction or a click calls is counted, in all threads.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
PRODUCT = ("backend", "calico_model")
SERVED = ("backend.cli.serve", "backend.cli.trainer", "backend.cli", "backend._wsgi")
"""What `calico serve` and its trainer import, directly or not, is what every installation runs."""
SMALL = 70
REQUEST_THREADS = ("MainThread", "predict-", "model")
"""Beginnings of the names of threads that answer a request; others work beside it."""

LAYERS = (
    ("calico_model.errors", "calico_model.types", "calico_model.config"),
    ("calico_model.modeling",),
    ("calico_model.loading",),
    ("calico_model.inference",),
    ("calico_model.interactive",),
    ("calico_model.predictor", "calico_model.assistant"),
    ("calico_model.training",),
    (
        "backend.errors",
        "backend.types",
        "backend.label_schema",
        "backend.setting_fields",
        "backend.settings",
    ),
    ("backend.label_studio", "backend.storage"),
    ("backend.serving", "backend.learning"),
    ("backend.ui",),
    ("backend.prediction_side",),
    ("backend.fleet",),
    ("backend.app",),
    ("backend.cli",),
    ("research",),
)
"""Packages from the ground up: an import from one row to a later one is an upward arrow."""


def module_name(path: Path) -> str:
    """Dotted name of a file of the repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def files(*packages: str) -> dict[str, Path]:
    """Module name -> file of every Python file of some packages."""
    found = (path for package in packages for path in sorted((ROOT / package).rglob("*.py")))
    return {module_name(path): path for path in found}


@cache
def tree(path: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(path.read_text("utf-8"), str(path))


def lines(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text("utf-8").splitlines())


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of `known` that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return (found & known.keys()) - {module_name(path)}


def closure(roots: tuple[str, ...], graph: dict[str, set[str]]) -> set[str]:
    """Everything that some modules import, directly or not."""
    found: set[str] = set()
    waiting = [root for root in roots if root in graph]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph[name])
    return found


def layer(name: str) -> int | None:
    """Row of LAYERS a module belongs to, None for those outside all."""
    for row, packages in enumerate(LAYERS):
        if any(name == package or name.startswith(f"{package}.") for package in packages):
            return row
    return None


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports that go from a lower layer to a higher one."""
    return sorted(
        f"{name} -> {target}"
        for name, targets in graph.items()
        for target in targets
        if (here := layer(name)) is not None
        and (there := layer(target)) is not None
        and there > here
    )


def circles(graph: dict[str, set[str]]) -> int:
    """Groups of modules that import each other in a circle (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = 0

    def visit(name: str) -> None:
        nonlocal found
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in graph[name]:
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            place = stack.index(name)
            found += len(stack) - place > 1
            del stack[place:]

    for name in graph:
        if name not in order:
            visit(name)
    return found


def same_named_classes(known: dict[str, Path]) -> dict[str, int]:
    """Names of public classes that stand for more than one class, with their number."""
    counted = Counter(
        node.name
        for path in known.values()
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return {name: count for name, count in counted.most_common() if count > 1}


def static_figures() -> dict[str, Any]:
    """Everything the sources alone tell."""
    known = files(*PRODUCT)
    whole = files(*PRODUCT, "research")
    graph = {name: imports(path, whole) for name, path in whole.items()}
    product = {name: targets & known.keys() for name, targets in graph.items() if name in known}
    served = closure(SERVED, product)
    importers = Counter(target for targets in product.values() for target in targets)
    size = {name: lines(path) for name, path in whole.items()}
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    return {
        "product_files": len(known),
        "product_lines": sum(size[name] for name in known),
        "research_files": len(whole) - len(known),
        "research_lines": sum(size[name] for name in whole if name not in known),
        "lines_outside_serving_and_training": sum(
            size[name] for name in known if name not in served
        ),
        "small_files": sum(size[name] < SMALL for name in known if name not in packages),
        "modules_with_one_importer": sum(
            importers[name] == 1 for name in known if name not in packages
        ),
        "same_named_classes": same_named_classes(whole),
        "import_circles": circles(graph),
        "upward_arrows": upward(graph),
    }


class Trace:
    """What the product's code did while a request was answered.

    Attributes:
        passed: (file, function) of the product -> times it was called.
        path: calls around the first tensor operation: of the thread that asks, of the worker of the
            queue, and of the thread that runs the model; empty before there was one.
    """

    def __init__(self) -> None:
        self.passed: Counter[tuple[str, str]] = Counter()
        self.path: list[str] = []
        self._stacks: dict[str, list[str]] = {}
        self._idle: dict[str, int] = {}
        self._roots = tuple(f"{ROOT / package}/" for package in PRODUCT)

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Notes one event of `sys.setprofile`."""
        stack = self._stacks.setdefault(threading.current_thread().name, [])
        if event in ("call", "return") and frame.f_code.co_filename.startswith(self._roots):
            name = str(Path(frame.f_code.co_filename).relative_to(ROOT))
            function = frame.f_code.co_name
            if event == "call":
                self.passed[name, function] += 1
            if function.startswith("<"):  # comprehensions and lambdas
                return
            if event == "call":
                stack.append(f"{name}::{function}")
            elif stack:
                stack.pop()
        elif event == "c_call" and not self.path:
            owner = type(getattr(argument, "__self__", None)).__module__
            if owner.startswith("torch"):
                self.path = [
                    call
                    for begin in REQUEST_THREADS
                    for thread, calls in self._stacks.items()
                    if thread.startswith(begin) and thread != "model-loader"
                    for call in calls[self._idle.get(thread, 0) :]
                ]

    def figures(self) -> dict[str, Any]:
        """Counts since the last call of `begin`."""
        return {
            "files": len({name for name, _ in self.passed}),
            "functions": len(self.passed),
            "nested_calls_before_tensors": len(self.path) or None,
            "path": self.path,
        }

    def begin(self) -> None:
        """Forgets what was counted; calls that are under way keep their place."""
        self.passed.clear()
        self.path = []
        self._idle = {thread: len(calls) for thread, calls in self._stacks.items()}


@contextmanager
def traced() -> Iterator[Trace]:
    """Counts product calls of this thread and of every thread that is started from now on."""
    trace = Trace()
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        yield trace
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def request_figures() -> dict[str, Any]:
    """A prediction, a correction and a click, traced in an app of this process."""
    from research.label_studio import sample

    urls = [sample.local_file_url(name) for name in ("a.png", "b.png")]
    bodies = {
        "prediction": ("/predict", sample.predict_body([urls])),
        "click": ("/predict", sample.click_body(urls, x=50, y=50)),
        "correction": ("/webhook", sample.event_body(1, rle=sample_mask())),
    }
    figures = {}
    # Threads are seen only if they begin after the profile function is set: so does the app.
    with tempfile.TemporaryDirectory() as folder, traced() as trace:
        app = OpenedApp(Path(folder))
        for name, (path, body) in bodies.items():
            trace.begin()
            response = app.post(path, json=body)
            if response.status_code >= 300:
                raise SystemExit(
                    f"{path}: {response.status_code} {response.get_data(as_text=True)}"
                )
            if name == "correction":
                app.derive(sample.PROJECT_ID)
            figures[name] = trace.figures()
        app.close()
    return figures


def sample_mask() -> list[int]:
    """A square of a 256 x 256 image as Label Studio's run-length code."""
    import numpy as np

    from backend.label_studio import brush

    mask = np.zeros((256, 256), np.bool_)
    mask[60:160, 80:180] = True
    return list(brush.encode_mask(mask))


class OpenedApp:
    """An app with the shipped weights and drawn images, asked through Flask's own client."""

    def __init__(self, folder: Path) -> None:
        from backend.app import create_app
        from backend.learning.derivation import Derivation
        from backend.learning.repository import CorrectionRepository
        from backend.settings import load_settings
        from calico_model.data import synthetic
        from calico_model.types import ImageGroup

        rng = synthetic.group_rng(synthetic.Stream.EVALUATION, 1, 0)
        scenes = synthetic.draw_group(rng, split=synthetic.SceneSplit.SEEN, group_size=2)
        images = synthetic.labeled_group(scenes, ["a", "b"]).group.images

        class Drawn:
            def fetch_group(self, task: object) -> ImageGroup:
                return ImageGroup(images, ("a", "b"))

        settings = load_settings(data_dir=folder, commit_timeout_ms=30_000)
        self._app = create_app(settings, images=Drawn())
        self.post = self._app.test_client().post
        parts = self._app.extensions["calico"]
        while parts.host.state.value == "loading":
            threading.Event().wait(0.1)
        self.derive = Derivation(CorrectionRepository(parts.store), None).derive

    def close(self) -> None:
        """Stops its threads."""
        from backend.app import close_app

        close_app(self._app)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", action="store_true", help="also trace three requests")
    figures = static_figures()
    if parser.parse_args().traces:
        sys.path.insert(0, str(ROOT))
        figures["traces"] = request_figures()
    for name, value in figures.items():
        if name != "traces":
            print(f"{name:36} {value}")
    for request, trace in figures.get("traces", {}).items():
        path = trace.pop("path")
        print(f"\n{request}: {trace}", *path, sep="\n    ")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
