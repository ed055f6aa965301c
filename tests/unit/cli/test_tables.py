"""Every table of every command is readable, and can be copied from, at 80 and at 60 columns."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from backend.cli import calibrate, corrections, doctor, memory_tables, training_status, versions
from backend.cli.backend_checks import CheckResult, Level
from backend.cli.tables import print_fitted
from backend.storage.versions import AdapterVersion, VersionStatus
from calico_model.loading.fitting import card_bytes, choose_placement
from calico_model.presets import full
from tests.readable import WIDTHS, check_readable, rendered

ROOT = Path(__file__).parents[3]
VERSION = "calico-tiny-1f0c9a7b2d4e-p12v41-89abcdef"
at_widths = pytest.mark.parametrize("width", WIDTHS)


def table_of(heads: list[str], rows: list[list[str]]) -> Table:
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    return table


@settings(max_examples=30)
@given(
    rows=st.lists(
        st.lists(st.from_regex(r"[a-z0-9\[\]/.-]{1,30}", fullmatch=True), min_size=9, max_size=9),
        min_size=1,
        max_size=6,
    ),
    columns=st.integers(1, 9),
    width=st.integers(60, 160),
)
def test_no_cell_is_cut_at_any_width(rows: list[list[str]], columns: int, width: int) -> None:
    heads = [f"column{n}" for n in range(columns)]
    check_readable(width, table_of(heads, [row[:columns] for row in rows]))


def test_a_table_that_fits_stays_a_table() -> None:
    assert rendered(80, table_of(["a", "b"], [["1", "2"]])).splitlines()[0].startswith("┏")


def test_a_heading_of_two_lines_names_a_row_in_one() -> None:
    table = table_of(["label", "accept\nfrom", "rest"], [["lid", "0.90", "x" * 70]])
    assert "accept from  0.90" in rendered(60, table)


def test_a_wide_table_is_turned_before_it_is_taken_apart() -> None:
    heads = [f"a-long-column-{n}" for n in range(6)]
    turned = rendered(60, table_of(heads, [["1"] * 6, ["2"] * 6]))
    assert [line.split()[1] for line in turned.splitlines() if "column-3" in line] == [heads[3]]
    blocks = rendered(60, table_of(heads, [["word " * 30] * 6] * 2))
    assert "┃" not in blocks
    assert blocks.count("a-long-column-3") == 2


def corrections_of(project: int) -> dict[str, object]:
    names = (
        "project tasks skipped unseen unreadable waiting held_out predicted accepted reshaped "
        "relabelled kind_changed added removed acceptance reshaped_iou agreement recovered deleted "
        "held_back"
    )
    return dict.fromkeys(names.split(), 1810 + project)


@at_widths
@pytest.mark.parametrize("projects", [1, 3, 12])
def test_corrections(width: int, projects: int) -> None:
    text = check_readable(width, corrections._table([corrections_of(n) for n in range(projects)]))
    assert "kept for testing" in text


def version_of(number: int) -> AdapterVersion:
    return AdapterVersion(
        id=f"{VERSION}{number}",
        project_id=12,
        parent_id=None,
        uri="12/x",
        sha256="0" * 64,
        nbytes=1,
        status=VersionStatus.REJECTED,
        upto_seq=9,
        corrections=20,
        gate={"learned": {"mIoU": [10.0, 20.0], "Recall": [1.5, 2.5]}},
        reason="[SEG] found fewer of the project's own corrections, 1.8 -> 1.4 of 100",
        base="0" * 64,
        created_at=datetime(2026, 11, 30, tzinfo=UTC),
    )


@at_widths
@pytest.mark.parametrize("count", [1, 5])
def test_versions_are_whole_and_one_per_line(width: int, count: int) -> None:
    text = check_readable(width, versions._table([version_of(n) for n in range(count)]))
    for number in range(count):
        assert sum(f"{VERSION}{number}" in line for line in text.splitlines()) == 1
    assert text.count("[SEG]") == count


@at_widths
@pytest.mark.parametrize("projects", [1, 4])
def test_status(width: int, projects: int) -> None:
    run = {
        "state": "failed",
        "error": "the disk is full: /srv/calico/adapters",
        "ended_at": "2026-11-30T01:02:03+00:00",
    }
    standing = {
        "version": VERSION,
        "corrections": 181,
        "new": 3,
        "held_out": 20,
        "acceptance": 0.5,
        "acceptance_tasks": 12,
        "run": run,
    }
    listed = [{"project": number, **standing} for number in range(projects)]
    text = check_readable(width, training_status._table(listed))
    assert text.count(VERSION) == projects


@at_widths
def test_doctor_never_breaks_what_must_be_typed(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    fix = "set CALICO_BASIC_AUTH_USER and CALICO_BASIC_AUTH_PASSWORD where the backend starts"
    findings = [CheckResult(f"project {n}: webhook", level, "it is not there", fix)
                for n, level in enumerate(Level)]  # fmt: skip
    doctor._show(findings)
    text = capsys.readouterr().out
    assert text.split().count("CALICO_BASIC_AUTH_PASSWORD") == len(Level)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_memory_tables() -> None:
    config = full()
    plan = choose_placement(config, "cuda", card_bytes(24), images=8)
    tables = (
        memory_tables.parameter_rows(config),
        memory_tables.precision_rows(config, 8),
        memory_tables.card_rows(config, 8),
        memory_tables.plan_table(plan),
    )
    for width in WIDTHS:
        check_readable(width, *tables)


@at_widths
def test_calibration(width: int) -> None:
    figures = dict.fromkeys(calibrate._SHOWN, 0.181)
    check_readable(width, calibrate._table(figures, figures))


def test_piped_tables_have_no_colours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = table_of(["a"], [["1"]])
    table.add_row("2", style="bold red")
    print_fitted(table)
    assert "\x1b" not in capsys.readouterr().out


def test_every_table_goes_through_the_helper() -> None:
    """A table that is printed elsewhere would be cut at the width of the terminal."""
    makers = Counter(
        str(path.relative_to(ROOT))
        for folder in ("backend", "research")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^from rich\.table import Table", path.read_text("utf-8"), re.MULTILINE)
        and not re.search(r"print_fitted|fitted\(|RenderableType", path.read_text("utf-8"))
    )
    assert not makers
