"""`calico evaluate`, with predictors that know the truth or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli import evaluate as evaluate_module
from calico_model.data.groups import read_groups
from calico_model.data.opening import DrawnGroups
from calico_model.data.synthetic import SceneSplit, write_groups
from calico_model.errors import CalicoError, InvalidConfigError
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup
from tests.unit.sources import test_sam

SMALL = ["--groups", "3", "--seed", "5"]


class Knowing:
    """Answers with the truth of the drawn groups, recognised by their pixels."""

    version = "knowing-1"

    def __init__(self, groups: list[LabeledGroup], keep: int) -> None:
        self.truth = {g.group.images[0].tobytes(): g.parts[:keep] for g in groups}

    def predict(self, group: ImageGroup) -> GroupPrediction:
        return GroupPrediction(self.truth[group.images[0].tobytes()], self.version)


@pytest.fixture
def know(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Knowing(list(DrawnGroups(SceneSplit.SEEN, 3, 5, (2, 2))), keep=99)
    monkeypatch.setattr(evaluate_module, "load_weights", lambda folder, device: predictor)


@pytest.fixture
def know_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Knowing(list(DrawnGroups(SceneSplit.SEEN, 3, 5, (2, 2))), keep=0)
    monkeypatch.setattr(evaluate_module, "load_weights", lambda folder, device: predictor)


def run(*arguments: object) -> Result:
    words = ["evaluate", *map(str, arguments)]
    return CliRunner().invoke(command_tree(words), words)


@pytest.mark.usefixtures("know")
def test_last_line_is_the_verdict_machines_read() -> None:
    result = run(*SMALL)
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    hundred = dict.fromkeys(("mIoU", "AP50", "Recall", "SS", "S-IoU"), 100.0)
    assert line == {"compat": hundred, "strict": hundred, "groups": 3}


@pytest.mark.usefixtures("know")
def test_met_requirements_exit_with_zero() -> None:
    result = run(*SMALL, "--require", "compat.mIoU>=99", "--require", "common_part.Recall>=99")
    assert result.exit_code == 0, result.output


@pytest.mark.usefixtures("know_nothing")
def test_every_unmet_requirement_is_said_and_exits_with_one() -> None:
    result = run(
        *SMALL, "--require", "compat.mIoU>=52", "--require", "Recall>=45", "--require", "SS<=1"
    )
    assert result.exit_code == 1
    assert "compat.mIoU>=52 not met: measured 0.00" in result.stderr
    assert "Recall>=45 not met" in result.stderr
    assert "SS<=1" not in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["groups"] == 3


def test_unknown_requirement_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for text in ("compat.miou>=1", "mIoU"):
        result = run(*SMALL, "--weights", tmp_path / "none", "--require", text)
        assert isinstance(result.exception, InvalidConfigError)
        assert "--require" in str(result.exception)


@pytest.mark.usefixtures("know_nothing")
def test_compat_comes_first_on_request_and_names_the_default_mode() -> None:
    page = run(*SMALL).stdout
    assert page.index("strict: missing") < page.index("compat: as the released")
    page = run(*SMALL, "--compat", "glamm").stdout
    assert page.index("compat: as the released") < page.index("strict: missing")


@pytest.mark.usefixtures("know")
def test_report_says_how_it_was_made(tmp_path: Path) -> None:
    run(*SMALL, "--out", tmp_path / "report")
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    run_of = document["run"]
    assert (run_of["split"], run_of["seed"], run_of["group_size"]) == ("seen", 5, "2")
    assert run_of["model_version"] == "knowing-1"
    assert document["efficiency"].keys() == {
        "load_s",
        "predict_p50_s",
        "predict_p95_s",
        "predict_total_s",
        "peak_rss_mib",
    }
    assert (tmp_path / "report" / "metrics.png").is_file()


@pytest.mark.usefixtures("know")
def test_drawn_and_written_groups_are_the_same(tmp_path: Path) -> None:
    write_groups(tmp_path / "set", groups=3, seed=5, split=SceneSplit.SEEN)
    drawn, written = DrawnGroups(SceneSplit.SEEN, 3, 5, (2, 2)), read_groups(tmp_path / "set")
    assert len(drawn) == len(written) == 3
    for ours, theirs in zip(drawn, written, strict=True):
        assert all(map(np.array_equal, ours.group.images, theirs.group.images))
        assert _regions(ours) == _regions(theirs)
    result = run("--data", tmp_path / "set")
    assert json.loads(result.stdout.splitlines()[-1])["strict"]["mIoU"] == 100.0


def test_groups_can_be_sliced_and_end() -> None:
    groups = DrawnGroups(SceneSplit.UNSEEN_STYLE, 4, 0, (1, 3))
    assert len(groups[1:3]) == 2
    assert np.array_equal(groups[1:3][0].group.images[0], groups[1].group.images[0])
    with pytest.raises(IndexError):
        groups[4]


def _regions(labeled: LabeledGroup) -> set[tuple[int, str, str, bytes]]:
    return {(p.image_index, p.kind, p.label, p.mask.tobytes()) for p in labeled.parts}


@pytest.mark.usefixtures("know_nothing")
def test_kept_predictions_are_scored_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Knowing(list(DrawnGroups(SceneSplit.SEEN, 3, 5, (2, 2))), keep=99)
    monkeypatch.setattr(evaluate_module, "load_weights", lambda folder, device: known)
    first = run(*SMALL, "--save-predictions", tmp_path / "kept.jsonl")
    monkeypatch.delattr(evaluate_module, "load_weights")
    again = run(*SMALL, "--predictions", tmp_path / "kept.jsonl")
    assert again.exit_code == 0, again.output
    assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.jsonl"]


@pytest.mark.parametrize("option", ["--out", "--save-predictions"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_predicted(
    tmp_path: Path, option: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    taken = tmp_path / ("file" if option == "--out" else "folder")
    for place in (taken, tmp_path / "file" / "below"):
        result = run(*SMALL, "--weights", tmp_path / "none", option, place)
        assert isinstance(result.exception, InvalidConfigError)
        assert str(result.exception).startswith(f"{option}: expected")


@pytest.mark.usefixtures("know")
def test_kept_predictions_nobody_asked_for_are_counted(tmp_path: Path) -> None:
    run(*SMALL, "--save-predictions", tmp_path / "kept.jsonl")
    result = run("--groups", 1, "--seed", 5, "--predictions", tmp_path / "kept.jsonl")
    assert result.exit_code == 0, result.output
    assert "2 predictions are of other groups" in result.stderr


@pytest.mark.usefixtures("know")
@pytest.mark.parametrize(
    ("wish", "what"),
    [
        (["--forced"], "draw given answers"),
        (["--compat", "partonomy"], "draw given answers"),
        (["--choices"], "how likely"),
        (["--consistency", "2"], "in other words"),
    ],
)
def test_what_a_predictor_cannot_do_is_said_at_once(wish: list[str], what: str) -> None:
    result = run(*SMALL, *wish)
    assert isinstance(result.exception, InvalidConfigError)
    assert what in str(result.exception)


@pytest.mark.usefixtures("know")
def test_a_vocabulary_says_what_is_out_of_it(tmp_path: Path) -> None:
    words = tmp_path / "labels.txt"
    words.write_text("unheard of\n\nnever seen\n")
    run(*SMALL, "--vocabulary", words, "--out", tmp_path / "report")
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert document["vocabulary"]["out_of_vocabulary"]["value"] == 100


@pytest.mark.parametrize(
    ("text", "what"),
    [(None, "cannot read"), ("\n \n", "one label a line"), ("leg\n leg\n", "are the same")],
)
def test_broken_vocabularies_are_refused(tmp_path: Path, text: str | None, what: str) -> None:
    words = tmp_path / "labels.txt"
    if text is not None:
        words.write_text(text)
    result = run(*SMALL, "--vocabulary", words)
    assert isinstance(result.exception, InvalidConfigError)
    assert "--vocabulary" in str(result.exception)
    assert what in str(result.exception)


@pytest.mark.usefixtures("know")
def test_group_sizes_get_a_table_and_a_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Knowing(list(DrawnGroups(SceneSplit.SEEN, 3, 5, (2, 5))), keep=99)
    monkeypatch.setattr(evaluate_module, "load_weights", lambda folder, device: known)
    result = run(*SMALL, "--group-size", "2-5", "--out", tmp_path / "report")
    assert "by number of images" in result.stdout
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert sum(own["groups"] for own in document["group_sizes"].values()) == 3
    assert (tmp_path / "report" / "group_sizes.png").is_file()


def test_sources_are_measured_alone_and_together() -> None:
    result = run("--sources", "stand-ins", "--groups", "6", "--corrected", "4", "--seed", "5")
    assert result.exit_code == 0, result.output
    assert "Sources on 2 groups, after 4 corrected groups" in result.stdout
    line = json.loads(result.stdout.splitlines()[-1])
    assert list(line["sources"]) == ["exact", "shifted", "renames", "random", "together"]
    assert line["sources"]["exact"]["names_pq"] == 100
    assert line["sources"]["random"]["names_pq"] < 20
    assert line["lost"] <= 1
    assert 0 < line["ordered"] <= line["labels"]


def test_some_sources_are_measured_without_an_order() -> None:
    result = run("--sources", "shifted,random", "--groups", "3", "--corrected", "2")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert list(line["sources"]) == ["shifted", "random", "together"]
    assert "ordered" not in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sources", "sam99"], "or of stand-ins, calico, exact"),
        (["--sources", "exact,exact=x"], "x: expected a folder"),
        (["--sources", "exact", "--groups", "3"], "expected more than 10 groups"),
        (["--sources", "exact", "--choices"], "--choices: is not for --sources"),
        (["--corrected", "3"], "--corrected: is for --sources"),
    ],
)
def test_sources_that_cannot_be_measured_are_refused(words: list[str], message: str) -> None:
    result = run(*words)
    assert isinstance(result.exception, CalicoError)
    assert message in str(result.exception)


def test_calicos_own_decoder_is_one_of_the_sources() -> None:
    result = run("--sources", "calico,random", "--groups", "3", "--corrected", "2")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert list(line["sources"]) == ["calico", "random", "together"]
    assert line["sources"]["calico"]["names_pq"] is None
    assert line["sources"]["together"]["clicks_iou"] > line["sources"]["random"]["clicks_iou"]


def test_a_folder_of_weights_is_measured_as_a_source(tmp_path: Path) -> None:
    test_sam.save(tmp_path / "sam", is_hq=False)
    sources = f"mine={tmp_path / 'sam'},exact"
    result = run("--sources", sources, "--groups", "3", "--corrected", "2")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert list(line["sources"]) == ["mine", "exact", "together"]
    assert line["sources"]["mine"]["clicks_iou"] < line["sources"]["exact"]["clicks_iou"]
    assert line["lost"] <= 1
