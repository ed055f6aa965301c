"""What `calico demo` prints at its end: where to go, and with which password."""

from __future__ import annotations

import msgspec
import pytest

from backend.cli import demo as command
from backend.cli.connect import Ends
from backend.cli.demo import BACKEND_USER, Demo, _show
from backend.label_studio.client import LabelStudioClient
from tests.unit.cli.photo_files import draw


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    demo = Demo(tmp_path / ".calico" / "demo", 12, None)
    demo.state = msgspec.structs.replace(demo.state, project_id=3)
    client = LabelStudioClient("http://127.0.0.1:8080", "token")
    credentials = (BACKEND_USER, demo.state.backend_password)
    _show(demo, Ends(client, "http://127.0.0.1:9090", credentials), seconds=41.2)
    client.close()
    return demo, capsys.readouterr().out


def test_both_addresses_stand_above_their_user_and_password(shown):
    demo, text = shown
    words = [line.strip("\u2502 ").split() for line in text.splitlines()]
    assert ["Label", "Studio", "http://127.0.0.1:8080/projects/3"] in words
    assert ["what", "it", "learned", "http://127.0.0.1:9090/ui"] in words
    assert [line[1] for line in words if line[:1] == ["user"]] == [
        demo.state.account.user,
        BACKEND_USER,
    ]
    assert [line[1] for line in words if line[:1] == ["password"]] == [
        demo.state.account.password,
        demo.state.backend_password,
    ]


def test_no_line_is_broken_at_eighty_columns(shown):
    _, text = shown
    assert "train-now --project 3 --data-dir .calico/demo/backend" in text
    assert "ready in 41 s" in text
    assert "then choose the smart tool beside the image. The tick accepts the suggestions." in text


def test_a_demo_of_photographs_says_what_is_shown_and_what_is_not(tmp_path, capsys, monkeypatch):
    for number in range(7):
        draw(tmp_path / "photos" / f"{number}.jpg", number)
    (tmp_path / "photos" / "0.png").touch()
    demo = Demo(tmp_path / "demo", 1, None, tmp_path / "photos")
    assert "files are skipped: 1\n  0.png: " in capsys.readouterr().err
    monkeypatch.setattr(command, "create_project", lambda *_, **how: 3)
    demo.folder.mkdir()
    client = LabelStudioClient("http://127.0.0.1:8080", "token")
    demo._create_project(client)
    assert "4 photographs in 1 groups; --groups sets the most" in capsys.readouterr().err
    _show(demo, Ends(client, "http://127.0.0.1:9090", None), seconds=1.0)
    client.close()
    assert "nothing is proposed before your first corrections" in capsys.readouterr().out
