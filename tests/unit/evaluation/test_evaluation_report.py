"""What an evaluation leaves behind: one line, a page, a JSON file, pictures, a yes or no."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.evaluation import charts, gate, page, report
from calico_model.evaluation.outcome import BLOCKS, HEADLINE, MODES, EvaluationReport
from calico_model.evaluation.protocol import evaluate
from calico_model.types import LabeledGroup
from tests.readable import WIDTHS, check_readable
from tests.unit.evaluation.labeled_chairs import COMMON_OBJECT, Oracle


@pytest.fixture
def outcome(chairs: list[LabeledGroup]) -> EvaluationReport:
    """Objects and the first parts are found; the rest is not."""
    return evaluate(Oracle(chairs, lambda parts: parts[:4]), chairs, resamples=30, keep_worst=2)


def test_headline_holds_both_modes_in_percent(outcome: EvaluationReport) -> None:
    line = json.loads(json.dumps(report.headline(outcome)))
    assert list(line) == ["compat", "strict", "groups"]
    assert list(line["compat"]) == list(line["strict"]) == list(HEADLINE)
    assert line["groups"] == 6
    assert line["strict"]["mIoU"] == round(outcome.mean["strict"]["mIoU"].value, 2)
    assert 0 < line["strict"]["mIoU"] < 100


def test_report_file_follows_the_protocol(outcome: EvaluationReport, tmp_path: Path) -> None:
    report.write_report(
        outcome, tmp_path, run={"data": "chairs"}, efficiency={"predict_p50_s": 0.5}
    )
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["run"]["model_version"] == "oracle-1"
    assert document["run"]["data"] == "chairs"
    assert document["run"]["backends"] == {"ss_backend": "ngram"}
    metric = document["tasks"]["common_part"]["strict"]["Recall"]
    assert metric.keys() == {"value", "lo", "hi", "n"}
    assert metric["lo"] <= metric["value"] <= metric["hi"]
    assert document["efficiency"] == {"predict_p50_s": 0.5}
    assert len(document["worst"]) == 2
    assert document["warnings"]
    assert set(BLOCKS) < document.keys()
    own = document["partonomy"]["intersection"]["end2end"]["macro_gIoU"]
    assert own["value"] == round(
        outcome.blocks["partonomy", "intersection", "end2end", "macro_gIoU"].value, 2
    )
    assert document["partonomy"]["intersection"]["teacher"]["macro_gIoU"]["value"] is None
    assert document["group_sizes"]["2"]["groups"] == 6
    assert document["group_sizes"]["2"]["mean"]["strict"]["mIoU"] == {
        name: document["mean"]["strict"]["mIoU"][name] for name in ("value", "lo", "hi", "n")
    }
    assert len(document["reliability"]) == 10


def test_keys_that_others_read_stay(outcome: EvaluationReport) -> None:
    document = report.as_json(outcome)
    assert list(document)[:4] == ["run", "tasks", "mean", "parts"]
    assert {"labels", "oracle", "answers", "worst", "warnings"} < document.keys()
    for mode in ("strict", "compat"):
        assert set(HEADLINE) < document["mean"][mode].keys()
        assert set(HEADLINE) < document["tasks"]["unique_part"][mode].keys()
    assert document["run"]["compat"] == "glamm"


def test_a_report_is_replaced_whole(
    outcome: EvaluationReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write_report(outcome, tmp_path)
    before = (tmp_path / "report.json").read_bytes()

    def full(self: Path, data: str, *_: object, **__: object) -> int:
        with self.open("w") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match=r"report\.json"):
        report.write_report(replace(outcome, seed=1), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_pictures_can_be_opened(outcome: EvaluationReport, tmp_path: Path) -> None:
    report.write_report(outcome, tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == [
        *sorted(charts.CHARTS),
        "worst_01_group_0.png",
        "worst_02_group_1.png",
    ]
    assert list(charts.CHARTS) == [
        "metrics.png",
        "labels.png",
        "reliability.png",
        "group_sizes.png",
    ]
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_pictures_of_an_earlier_report_are_gone(outcome: EvaluationReport, tmp_path: Path) -> None:
    report.write_report(outcome, tmp_path)
    (tmp_path / "mine.png").write_bytes(b"kept")
    report.write_report(replace(outcome, worst=outcome.worst[1:]), tmp_path)
    assert [path.name for path in tmp_path.glob("worst_*")] == ["worst_01_group_1.png"]
    assert (tmp_path / "mine.png").exists()


def test_page_shows_values_intervals_and_warnings(outcome: EvaluationReport) -> None:
    console = Console(file=io.StringIO(), width=140)
    console.print(page.page(outcome, first="compat"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("compat: as the released") < text.index("strict: missing")
    assert f"{outcome.mean['strict']['mIoU'].value:.1f} [" in text
    assert "CALICO-7B" in text
    assert "ss_backend=ngram" in text
    for heading in ("part questions", "vocabulary, structure", "labels (the 8", "objects named"):
        assert heading in text
    # Not asked, not shown.
    for heading in ("five choices", "asked differently", "by number of images", "teacher  "):
        assert heading not in text


def test_partonomy_comes_first_on_request(outcome: EvaluationReport) -> None:
    console = Console(file=io.StringIO(), width=140)
    console.print(page.page(outcome, first="partonomy"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("part questions") < text.index("strict: missing")


def test_page_fits_a_terminal(outcome: EvaluationReport) -> None:
    for width in WIDTHS:
        text = check_readable(width, page.page(outcome))
        assert f"{outcome.mean['strict']['mIoU'].value:.1f} [" in text


def test_what_was_not_measured_is_null_not_zero(chairs: list[LabeledGroup]) -> None:
    truth = [
        replace(labeled, parts=tuple(p for p in labeled.parts if p.kind is COMMON_OBJECT))
        for labeled in chairs
    ]
    outcome = evaluate(Oracle(truth), truth, resamples=10)
    document = report.as_json(outcome)
    assert document["tasks"]["unique_part"]["strict"]["mIoU"]["value"] is None
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("compat.mIoU>=0.1", True),
        ("mIoU <= 99", True),
        ("common_object.strict.mIoU>=100", True),
        ("common_object.mIoU>100", False),
        ("unique_part.compat.Recall>=1", False),
        ("compat.S-IoU>=101", False),
        ("parts.status_accuracy>=100%", True),
        ("common_part.pair_recall50<50.5", True),
        ("partonomy.intersection.end2end.macro_gIoU>=40", True),
        ("partonomy.intersection.teacher.macro_gIoU>=0", False),
        ("annotator.NoC@90<=0.1", False),
        ("vocabulary.out_of_vocabulary<=0", True),
        ("size2.mIoU>=1", True),
        ("size2.compat.SS>=101", False),
        ("size7.mIoU>=0", False),
    ],
)
def test_requirements_are_checked(outcome: EvaluationReport, text: str, holds: bool) -> None:
    assert (gate.failures(outcome, (gate.parse_requirement(text),)) == ()) is holds


def test_failed_requirement_says_what_was_measured(outcome: EvaluationReport) -> None:
    (message,) = gate.failures(outcome, (gate.parse_requirement("unique_part.Recall>=5"),))
    assert message == "unique_part.Recall>=5 not met: measured 0.00"


def test_default_mode_can_be_chosen(outcome: EvaluationReport) -> None:
    strict = gate.find_metric(outcome, "common_part.SS")
    compat = gate.find_metric(outcome, "common_part.SS", mode="compat")
    assert strict == outcome.tasks["common_part"]["strict"]["SS"]
    assert compat.value > strict.value


@pytest.mark.parametrize("text", ["mIoU", "mIoU=>3", ">=3", "mIoU>=high", "a>=1>=2", ""])
def test_malformed_requirement_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfigError, match=r"expected NAME>=NUMBER"):
        gate.parse_requirement(text)


@pytest.mark.parametrize(
    "name",
    [
        "miou",
        "compat.mAP",
        "tables.mIoU",
        "common_part.lenient.mIoU",
        "parts.mIoU",
        "a.b.c",
        "size9.mIoU",
        "size2.PQ",
        "annotator.mIoU",
    ],
)
def test_unknown_metric_is_named(outcome: EvaluationReport, name: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"no metric '{name}'; expected"):
        gate.find_metric(outcome, name)


def test_requirement_on_nothing_measured_fails(chairs: list[LabeledGroup]) -> None:
    truth = [replace(labeled, parts=labeled.parts[:1]) for labeled in chairs]
    outcome = evaluate(Oracle(truth), truth, resamples=10)
    (message,) = gate.failures(outcome, (gate.parse_requirement("unique_part.mIoU<=100"),))
    assert message.endswith("there was nothing to measure")


def test_every_metric_of_a_report_can_be_required_and_no_other(outcome: EvaluationReport) -> None:
    held = {("parts", name) for name in outcome.parts} | outcome.blocks.keys()
    held |= {(size, mode, name) for size in gate._SIZES for mode in MODES for name in HEADLINE}
    for task, modes in {**outcome.tasks, "mean": outcome.mean}.items():
        held |= {(task, mode, name) for mode, table in modes.items() for name in table}
    assert held == gate._PATHS
