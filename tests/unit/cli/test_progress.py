"""Progress in a log: plain lines with the rate and what remains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from backend.cli import progress
from backend.errors import LabelStudioError


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
    assert capsys.readouterr().err == "Stopped. Run the same command again to continue.\n"
