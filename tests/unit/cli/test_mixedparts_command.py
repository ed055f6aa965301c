"""`calico mixedparts`: a set from the sources to the metrics, or a sentence that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli import evaluate as evaluate_module
from calico_model.data.opening import open_groups
from calico_model.errors import CalicoError, InvalidConfigError, InvalidRecordError
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, RegionKind
from tests.unit.mixedparts_sources import write_sources

SMALL = ["--train", 0, "--val", 0, "--test", 18, "--min-part-share", 0]


def run(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(command_tree(words), words)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    root = tmp_path_factory.mktemp("sources")
    write_sources(root)
    base = root / "Part_Segm"
    return [
        *("--paco", base / "paco_lvis", "--coco", root / "coco_2017"),
        *("--partimagenet", base / "PartImageNet", "--ade", base / "ADE20KPart234"),
    ]


@pytest.fixture(scope="module")
def built(given: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "set"
    result = run("mixedparts", "build", *given, *SMALL, "--out", out, "--allow-short")
    assert result.exit_code == 0, result.output
    return out


class Knowing:
    """Answers with the truth of groups it was shown, by their names."""

    version = "knowing-1"

    def __init__(self, groups: list[LabeledGroup]) -> None:
        self._truth = {(group.group.ids, group.known): group.parts for group in groups}

    def predict(self, group: ImageGroup) -> GroupPrediction:
        parts = tuple(
            part for (ids, _), own in self._truth.items() if ids == group.ids for part in own
        )
        return GroupPrediction(parts, self.version)


def test_building_ends_with_a_table_and_json(given: list[object], tmp_path: Path) -> None:
    result = run(
        *("mixedparts", "build", *given, *SMALL, "--test", 99, "--group-size", "2-3"),
        *("--seed", 4, "--out", tmp_path / "set", "--allow-short"),
    )
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    groups = open_groups(tmp_path / "set")
    assert line["records"] == {"test": len(groups)}
    assert (line["seed"], line["skipped"]) == (4, 0)
    assert line["questions"]["test"] == {
        kind: sum(any(part.kind == kind for part in group.parts) for group in groups)
        for kind in RegionKind
    }
    assert line["images"]["test"] == 9
    assert {len(group.group) for group in groups} == {2, 3}
    for word in ("common object", "unique part", "paco_lvis", "part_image_net", "ade20k"):
        assert word in result.stdout


def test_fewer_questions_than_asked_for_are_said(given: list[object], tmp_path: Path) -> None:
    result = run("mixedparts", "build", *given, *SMALL, "--test", 99, "--out", tmp_path / "set")
    assert result.exit_code == 1
    made = sum(json.loads(result.stdout.splitlines()[-1])["questions"]["test"].values())
    assert made < 99
    assert f"test: {made} of 99 questions" in result.stderr
    assert len(open_groups(tmp_path / "set")) > 0


def test_a_built_set_can_be_evaluated(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Knowing(list(open_groups(built)))
    monkeypatch.setattr(evaluate_module, "load_weights", lambda folder, device: predictor)
    result = run("evaluate", "--dataset", built)
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    hundred = dict.fromkeys(("mIoU", "AP50", "Recall", "SS", "S-IoU"), 100.0)
    assert line == {"compat": hundred, "strict": hundred, "groups": len(open_groups(built))}


def test_a_sound_set_passes_the_check(built: Path) -> None:
    result = run("mixedparts", "check", built)
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["groups"] == len(open_groups(built))
    assert line["skipped"] == 0
    assert set(line["questions"]) == {"common_object", "common_part", "unique_part"}


def test_a_broken_set_is_named_or_counted(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = built / "Part_Segm" / "mixed_parts_test_broken.json"
    records = json.loads((path.parent / "mixed_parts_test.json").read_text())
    records[0]["img_ids"] = records[0]["img_ids"][:1]
    path.write_text(json.dumps(records))
    result = run("mixedparts", "check", path)
    assert isinstance(result.exception, InvalidRecordError)
    assert "mixed_parts_test_broken.json: [0].img_ids: expected 2 to 8" in str(result.exception)
    result = run("mixedparts", "check", path, "--skip-broken")
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["skipped"] == 1
    assert "[0].img_ids: expected 2 to 8" in result.stdout
    predictor = Knowing(list(open_groups(path, skip_broken=True)))
    monkeypatch.setattr(evaluate_module, "load_weights", lambda folder, device: predictor)
    result = run("evaluate", "--data", path, "--skip-broken")
    assert result.exit_code == 0, result.output
    assert "skipped mixed_parts_test_broken.json: [0].img_ids" in result.stderr
    path.unlink()


def test_broken_sources_stop_the_build_or_are_listed(tmp_path: Path) -> None:
    root = tmp_path / "sources"
    write_sources(root)
    ade = root / "Part_Segm" / "ADE20KPart234"
    (ade / "images" / "validation" / "ADE_val_00000001.jpg").unlink()
    build = ["mixedparts", "build", "--ade", ade, *SMALL, "--out", tmp_path / "set"]
    result = run(*build)
    assert isinstance(result.exception, InvalidRecordError)
    assert "image 1: file_name: no file 'ADE_val_00000001.jpg'" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]
    result = run(*build, "--skip-broken", "--allow-short")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["skipped"] == 1
    assert "no file 'ADE_val_00000001.jpg'" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected at least one of --paco, --partimagenet and --ade"),
        (["--paco", "paco"], "--coco: expected train2017 or val2017 in one of"),
        (["--ade", "ade", "--group-size", "1"], "group_sizes: expected rising numbers in 2 to 8"),
        (["--ade", "ade", "--test", 0, "--val", 0, "--train", 0], "expected 0 or more, and any"),
        (["--ade", "ade", "--classes", "none.toml"], "--classes: expected a readable file"),
        (["--ade", "ade"], "ade20k_part234: expected a folder ade"),
    ],
)
def test_wrong_arguments_are_said_in_a_sentence(
    words: list[object], message: str, tmp_path: Path
) -> None:
    result = run("mixedparts", "build", "--out", tmp_path / "set", *words)
    assert isinstance(result.exception, CalicoError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_full_folders_are_left_alone(given: list[object], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run("mixedparts", "build", *given, *SMALL, "--out", tmp_path)
    assert isinstance(result.exception, InvalidConfigError)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_checking_something_else_is_said(tmp_path: Path) -> None:
    result = run("mixedparts", "check", tmp_path)
    assert isinstance(result.exception, InvalidRecordError)
    assert "expected a file mixed_parts_{train,val,test}.json" in str(result.exception)
