"""What a list of sources means, and what a folder must hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.sources.hub_folder import look_into
from calico_model.sources.known import KNOWN_SOURCES
from calico_model.sources.registry import kind_of, open_source, read_choices
from tests.unit.sources import test_sam

HOME = Path("/data/sources")


def test_a_known_name_stands_for_its_folder_below_the_data_folder():
    (choice,) = read_choices(["sam-base"], HOME)
    assert (choice.name, choice.folder) == ("sam-base", HOME / "sam-base")
    assert choice.known is KNOWN_SOURCES["sam-base"]


def test_a_folder_is_named_after_itself_and_may_be_given_a_name():
    own, named, known = read_choices(["/models/mine", "x=/models/b", "sam-huge=/m/h"], HOME)
    assert (own.name, own.folder, own.known) == ("mine", Path("/models/mine"), None)
    assert (named.name, named.folder, named.known) == ("x", Path("/models/b"), None)
    assert (known.name, known.folder) == ("sam-huge", Path("/m/h"))
    assert known.known is KNOWN_SOURCES["sam-huge"]


def test_the_home_of_the_user_is_found_where_a_shell_would_not_look(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    own, pair = read_choices(["~/mine", "cass=~/clip+~/dino"], HOME)
    assert (own.name, own.folder) == ("mine", Path("/home/ann/mine"))
    assert (pair.folder, pair.masks.folder) == (Path("/home/ann/clip"), Path("/home/ann/dino"))
    with pytest.raises(InvalidConfigError, match="'~no-such-user/x': expected a folder"):
        read_choices(["x=~no-such-user/x"], HOME)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["sam-bsae"], "'sam-bsae': expected a folder, or one of sam-base"),
        (["=x"], "expected NAME=FOLDER"),
        (["x="], "expected NAME=FOLDER"),
        (["sam-base", "/other/sam-base"], "the name 'sam-base' is taken"),
        (["calico=/m"], "the name 'calico' is taken"),
    ],
)
def test_what_no_source_can_be_is_refused(entries, message):
    with pytest.raises(InvalidConfigError, match=message):
        read_choices(entries, HOME)


def test_names_and_repositories_are_unique():
    names = [row.name for row in KNOWN_SOURCES.values()]
    assert len(set(names)) == len(names) > 5
    assert all(row.repository.count("/") == 1 for row in KNOWN_SOURCES.values())


def test_a_missing_folder_of_a_known_name_names_the_repository(tmp_path):
    (choice,) = read_choices(["sam-base"], tmp_path)
    with pytest.raises(CheckpointError, match="of facebook/sam-vit-base on the hub"):
        open_source(choice)


def hub_folder(folder, model_type="sam", weights=b"x"):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_folder_of_a_foreign_model_type_is_refused(tmp_path):
    folder = hub_folder(tmp_path / "bert", "bert")
    (choice,) = read_choices([str(folder)], tmp_path)
    with pytest.raises(CheckpointError, match="no source has the model type 'bert'"):
        kind_of(choice, look_into(folder))


def test_a_known_name_must_find_its_own_class(tmp_path):
    hub_folder(tmp_path / "sam-base", "sam_hq")
    (choice,) = read_choices(["sam-base"], tmp_path)
    with pytest.raises(CheckpointError, match=r"sam-base is sam, and its config\.json says sam_hq"):
        open_source(choice)


def test_the_licence_is_read_from_the_model_card(tmp_path):
    folder = hub_folder(tmp_path / "sam")
    assert look_into(folder).licence == ""
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- x\n---\nlicense: no\n")
    assert look_into(folder).licence == "apache-2.0"


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_needed_file_names_it(tmp_path, missing):
    folder = hub_folder(tmp_path / "sam")
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        look_into(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = hub_folder(tmp_path / "sam")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        look_into(folder)
    (folder / "b.safetensors").write_bytes(b"y")
    assert len(look_into(folder).weights) == 2


def test_the_registry_loads_without_torch_or_transformers():
    code = (
        "import sys, calico_model.sources.registry; "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_a_damaged_index_of_shards_is_named(tmp_path, index):
    folder = hub_folder(tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json: expected weight_map"):
        look_into(folder)


def test_a_configuration_that_its_class_cannot_read_is_an_error_of_the_folder(tmp_path):
    folder = hub_folder(tmp_path / "mine")
    broken = {"model_type": "edgetam", "vision_config": None}
    (folder / "config.json").write_text(json.dumps(broken))
    (choice,) = read_choices([str(folder)], tmp_path)
    with pytest.raises(CheckpointError, match="mine: cannot be read: AttributeError"):
        open_source(choice)


def test_model_and_sources_are_loaded_at_the_same_time(tmp_path):
    """In a process of its own: what is imported once is never imported again."""
    test_sam.save(tmp_path / "sam", is_hq=False)
    script = f"""
import sys, threading
from pathlib import Path
from backend import prediction_side
from backend.settings import load_settings
from calico_model.sources.registry import open_source, read_choices

sys.setswitchinterval(1e-5)
choices = read_choices(["a={tmp_path}/sam", "b={tmp_path}/sam"], Path("."))
settings = load_settings(data_dir=Path({str(tmp_path)!r}))
calls = [lambda: prediction_side._load_model(settings)]
calls += [lambda choice=choice: open_source(choice) for choice in choices]
together, done = threading.Barrier(len(calls)), []

def run(call):
    together.wait()
    done.append(call())

threads = [threading.Thread(target=run, args=(call,)) for call in calls]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(done))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=600
    )
    assert ran.stdout == "3\n", ran.stderr
