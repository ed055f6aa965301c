"""`calico fleet` refuses in one sentence what cannot work, before it starts anything."""

from __future__ import annotations

import json
import socket
import sys

import pytest

from backend.cli.fleet import fleet_down, fleet_join, fleet_status, fleet_up, fleet_upgrade
from backend.errors import FleetError, SettingsError


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("CALICO_DATABASE_URL", "postgresql+psycopg://a@127.0.0.1:1/b")
    monkeypatch.delenv("CALICO_FLEET_ADDRESS", raising=False)


def test_a_fleet_needs_postgresql(tmp_path, monkeypatch):
    monkeypatch.delenv("CALICO_DATABASE_URL")
    with pytest.raises(SettingsError, match="CALICO_DATABASE_URL"):
        fleet_up(tmp_path)


def test_other_machines_cannot_reach_loopback(tmp_path):
    with pytest.raises(FleetError, match="cannot reach 127.0.0.1"):
        fleet_up(tmp_path, hosts="b,c")


def test_a_port_in_use_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(FleetError, match=f"listens on 127.0.0.1:{port} already"):
            fleet_up(tmp_path, f"127.0.0.1:{port}")
    assert not (tmp_path / "fleet").exists()


def test_one_click_replica_is_refused(tmp_path):
    with pytest.raises(FleetError, match="at least 2"):
        fleet_up(tmp_path, click=1)


@pytest.mark.parametrize("command", [fleet_up, fleet_join])
def test_more_web_servers_than_ports_are_refused(tmp_path, command):
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "token").write_text("t")
    with pytest.raises(FleetError, match="--web: expected at most 2, whose ports are 65534 to"):
        command(tmp_path, "10.0.0.1:6390", web=3, port=65_534)


def test_a_machine_without_the_token_cannot_join(tmp_path):
    with pytest.raises(FleetError, match=r"fleet/token: copy that of the head"):
        fleet_join(tmp_path, "10.0.0.1:6390")


def test_a_machine_does_not_join_itself(tmp_path):
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "token").write_text("t")
    with pytest.raises(FleetError, match="127.0.0.1 is this machine"):
        fleet_join(tmp_path, "127.0.0.1:6390")


@pytest.mark.parametrize("command", [fleet_up, fleet_join, fleet_status, fleet_upgrade, fleet_down])
def test_a_wrong_address_is_named_as_it_was_given(tmp_path, command, monkeypatch):
    with pytest.raises(SettingsError, match="^--address: expected HOST:PORT .*, got 'here'$"):
        command(tmp_path, address="here")
    monkeypatch.setenv("CALICO_FLEET_ADDRESS", "there")
    with pytest.raises(SettingsError, match="^CALICO_FLEET_ADDRESS: expected .*, got 'there'$"):
        command(tmp_path)
    with pytest.raises(SettingsError, match="^--address: expected HOST:PORT .*, got 'here'$"):
        command(tmp_path, address="here")


@pytest.mark.parametrize("command", [fleet_status, fleet_upgrade])
def test_the_head_of_this_machine_is_asked_where_no_address_is_given(
    tmp_path, command, monkeypatch
):
    (tmp_path / "fleet").mkdir()
    monkeypatch.setattr("backend.fleet.machine._is_holder", lambda _number: True)
    held = {"pid": 1, "address": "127.0.0.1:7"}
    (tmp_path / "fleet" / "fleet.json").write_text(json.dumps(held))
    with pytest.raises(FleetError, match="^--address: no fleet at 127.0.0.1:7; calico"):
        command(tmp_path)
    monkeypatch.setenv("CALICO_FLEET_ADDRESS", "127.0.0.1:2")
    with pytest.raises(FleetError, match="^CALICO_FLEET_ADDRESS: no fleet at 127.0.0.1:2"):
        command(tmp_path)


@pytest.mark.parametrize("command", [fleet_status, fleet_upgrade])
def test_a_fleet_that_is_not_there_is_named_as_it_was_given(tmp_path, command, monkeypatch):
    monkeypatch.setenv("CALICO_FLEET_ADDRESS", "127.0.0.1:2")
    with pytest.raises(FleetError, match="^CALICO_FLEET_ADDRESS: no fleet at 127.0.0.1:2"):
        command(tmp_path)
    with pytest.raises(FleetError, match="^--address: no fleet at 127.0.0.1:1"):
        command(tmp_path, address="127.0.0.1:1")


@pytest.mark.parametrize("command", [fleet_status, fleet_upgrade])
def test_without_a_fleet_it_says_how_to_start_one(tmp_path, command):
    with pytest.raises(FleetError, match=r"--address: no fleet at 127.0.0.1:1; calico fleet up"):
        command(tmp_path, "127.0.0.1:1")


def test_the_end_of_what_never_was_is_no_error(tmp_path, capsys):
    fleet_down(tmp_path, None)
    assert capsys.readouterr().out == "nothing of the fleet runs here\n"


def test_a_second_fleet_in_one_folder_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "fleet"
    folder.mkdir()
    monkeypatch.setattr("backend.fleet.machine._is_holder", lambda _number: True)
    (folder / "fleet.json").write_text(json.dumps({"pid": 1, "address": "127.0.0.1:7"}))
    with pytest.raises(FleetError, match="runs here already"):
        fleet_up(tmp_path)


def test_ray_is_not_imported_before_it_is_needed():
    assert "ray" not in sys.modules
