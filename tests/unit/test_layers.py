"""The rules of the house, read from the imports and words of the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
MODEL = sorted((ROOT / "calico_model").rglob("*.py"))
BACKEND = sorted((ROOT / "backend").rglob("*.py"))
PRODUCT = [*MODEL, *BACKEND]
BESIDE = [p for folder in ("research", "tests", "tools") for p in (ROOT / folder).rglob("*.py")]
LONGEST = 400  # lines of a file, see CONTRIBUTING.md
DOOR = ROOT / "backend" / "label_studio"

# calico_model has not heard of HTTP, SQL, Label Studio or the environment.
FOREIGN_TO_MODEL = {
    "backend", "flask", "gunicorn", "werkzeug", "httpx", "requests", "http", "urllib", "socket",
    "sqlalchemy", "alembic", "sqlite3", "pydantic", "pydantic_settings", "typer",
    "prometheus_client", "defusedxml", "label_studio_sdk", "label_studio_ml",
}  # fmt: skip

# Words of Label Studio's wire format that have no other meaning.
WIRE_WORDS = {
    "original_width", "original_height", "image_rotation", "brushlabels", "bitmasklabels",
    "keypointlabels", "rectanglelabels", "from_name", "to_name", "item_index", "rle",
    "parent_prediction", "was_cancelled", "label_config",
}  # fmt: skip
# The demo imports tasks and the doctor talks about configs.
MAY_SAY_WIRE_WORDS = {"demo", "demo_project", "connect", "diagnosis", "doctor"}


@cache
def tree(path):
    return ast.parse(path.read_text("utf-8"), str(path))


@cache
def imported(path):
    """Dotted names a file imports, wherever in it."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def name_of(path):
    return str(path.relative_to(ROOT))


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def offences(paths, broken):
    """`file: word` for every word that breaks a rule; `broken` finds them in a file."""
    return sorted(f"{name_of(path)}: {word}" for path in paths for word in broken(path))


def test_the_house_is_there():
    assert len(MODEL) > 10
    assert len(BACKEND) > 20


def test_a_file_holds_one_thought():
    """Tests and measurements, too."""
    lines = {path: path.read_bytes().count(b"\n") for path in (*PRODUCT, *BESIDE)}
    assert len(lines) > 800
    assert {name_of(path): n for path, n in lines.items() if n > LONGEST} == {}


def test_the_model_package_knows_nothing_of_serving():
    def foreign(path):
        return {name for name in imported(path) if name.split(".")[0] in FOREIGN_TO_MODEL}

    assert not offences(MODEL, foreign)


@pytest.mark.parametrize(
    ("wing", "other"),
    [
        ("serving", "learning"),
        ("learning", "serving"),
        ("label_studio", "serving"),
        ("label_studio", "learning"),
        ("label_studio", "cli"),
        ("serving", "cli"),
        ("learning", "cli"),
        ("serving", "ui"),
        ("learning", "ui"),
        ("label_studio", "ui"),
        ("ui", "cli"),
        ("fleet", "cli"),
        ("fleet", "ui"),
        ("serving", "fleet"),
        ("learning", "fleet"),
    ],
)
def test_wings_do_not_import_each_other(wing, other):
    paths = (ROOT / "backend" / wing).rglob("*.py")
    assert not offences(paths, lambda path: _imported_from(path, f"backend.{other}"))


def _imported_from(path, package):
    return {name for name in imported(path) if within(name, package)}


def test_the_foundation_knows_no_wing():
    wiring = ("app", "background", "_wsgi", "model", "prediction_side")
    folders = (ROOT / "backend", ROOT / "backend" / "storage")
    foundation = [p for p in BACKEND if p.parent in folders and p.stem not in wiring]
    assert len(foundation) > 5
    for wing in ("label_studio", "serving", "learning", "ui", "cli"):
        assert not offences(foundation, partial(_imported_from, package=f"backend.{wing}"))


def test_the_product_does_not_import_its_measurements():
    assert not offences(PRODUCT, lambda path: _imported_from(path, "research"))


def test_the_wheel_holds_the_product_and_not_its_measurements():
    shipped = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {name.split("/")[0] for name in shipped} == {"backend", "calico_model"}
    assert {name_of(path) for path in PRODUCT} <= shipped
    assert "backend/ui/templates/layout.html" in shipped
    assert "calico_model/weights/calico-tiny/model.safetensors" in shipped


def test_there_is_no_import_circle():
    modules = {_module_name(path): path for path in PRODUCT}
    edges = {
        name: {found for found in imported(path) if found in modules and found != name}
        for name, path in modules.items()
    }
    finished, stack = set(), []

    def visit(name):
        if name in finished:
            return
        assert name not in stack, " -> ".join([*stack[stack.index(name) :], name])
        stack.append(name)
        for target in sorted(edges[name]):
            visit(target)
        finished.add(stack.pop())

    for name in sorted(edges):
        visit(name)


def _module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_only_settings_reads_the_environment():
    settings = ROOT / "backend" / "settings.py"
    assert not offences((p for p in PRODUCT if p != settings), _environment_reads)


def _environment_reads(path):
    names = imported(path) & {"os.environ", "os.getenv", "os.environb"}
    reads = {
        node.attr
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "environb", "getenv")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    return names | reads


def test_folders_of_adapters_have_one_door():
    """Whoever reads `settings.adapters_dir` itself would not find what is on the shelf."""
    allowed = {ROOT / "backend" / "settings.py", ROOT / "backend" / "storage" / "adapter_files.py"}

    def reads(path):
        return {
            node.attr
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Attribute) and node.attr == "adapters_dir"
        }

    assert not offences((p for p in PRODUCT if p not in allowed), reads)


def test_ray_is_known_to_the_fleet_alone():
    """A plain install has no Ray."""
    fleet = ROOT / "backend" / "fleet"
    others = [path for path in PRODUCT if fleet not in path.parents]
    assert not offences(others, partial(_imported_from, package="ray"))


def test_wire_words_stay_behind_the_door():
    past = [p for p in PRODUCT if DOOR not in p.parents and p.stem not in MAY_SAY_WIRE_WORDS]
    assert len(past) > 100
    assert not offences(past, _wire_words)


def _wire_words(path):
    words = {
        node.value
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return words & WIRE_WORDS


IMPURE = {"torch", "sqlalchemy", "httpx", "socket", "time", "os", "pathlib", "threading"}
# What changed, when to train, what a click means: values in, values out.
PURE = {
    "learning/agreement.py",
    "learning/correction.py",
    "learning/doubts.py",
    "learning/explanation.py",
    "learning/gate.py",
    "learning/outlook.py",
    "learning/paired_test.py",
    "learning/supervision.py",
    "learning/schedule.py",
    "serving/prompt_selection.py",
}


def test_the_pure_middle_is_pure():
    paths = [path for path in BACKEND if str(path.relative_to(ROOT / "backend")) in PURE]
    assert paths
    assert not offences(
        paths, lambda path: {name for name in imported(path) if name.split(".")[0] in IMPURE}
    )


@pytest.mark.parametrize(
    "module",
    ["calico_model.types", "calico_model.errors", "backend.app", "backend.cli"],
)
def test_light_modules_load_without_torch(module):
    code = (
        f"import sys, {module}; "
        "print([n for n in ('torch', 'transformers', 'peft', 'torchvision') if n in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "[]"
