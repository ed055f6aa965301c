"""Progress in a log: plain lines with the rate and what remains."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.cli import progress
from backend.errors import LabelStudioError, SettingsError

STOPPED = "Stopped. Run the same command again to continue.\n"


def test_lines_say_the_rate_of_this_run_and_the_time_that_remains(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with progress.progress_bar("reading photographs", 500, unit="photographs") as tell:
        tell(100)  # known before
        now[0] += 10
        tell(300)
    assert capsys.readouterr().err == (
        "[    10 s] reading photographs 300/500, 20.0 photographs per second, 10 s left\n"
    )


def test_short_work_needs_no_line(capsys):
    with progress.progress_bar("working", 2, unit="steps") as tell:
        tell(1)
        tell(2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), LabelStudioError("it is away"), OSError(28, "No space left on device")],
)
def test_what_was_stopped_says_how_it_goes_on(error, capsys):
    with pytest.raises(type(error)), progress.told_how_to_go_on():
        raise error
    assert capsys.readouterr().err == STOPPED


def test_a_full_disk_is_named_by_the_option_that_writes_there(tmp_path):
    expected = f"--to: {tmp_path} cannot be written .No space left on device"
    with pytest.raises(SettingsError, match=expected), progress.writing_to("--to", tmp_path):
        Path("/dev/full").write_bytes(b"x")
    with pytest.raises(FileNotFoundError), progress.writing_to("--to", tmp_path):
        (tmp_path / "nothing").read_bytes()


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("is_stored", [True, False, None])
def test_the_last_line_of_a_training_says_what_is_left_to_do(
    is_finished, is_stored, monkeypatch, capsys
):
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 107.26))
    progress.print_outcome(
        {"model": Path("run/model")}, is_finished=is_finished, began=100.0, is_stored=is_stored
    )
    printed = capsys.readouterr()
    stored = {} if is_stored is None else {"stored": is_stored}
    expected = {"model": "run/model", "finished": is_finished, "seconds": 7.3, **stored}
    assert json.loads(printed.out) == expected
    assert printed.err == ("" if is_finished else STOPPED)
