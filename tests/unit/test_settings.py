"""Settings: the environment is read once, and a wrong value is named with its key."""

from __future__ import annotations

import pytest

from backend.errors import SettingsError
from backend.settings import (
    Settings,
    as_variables,
    describe_settings,
    is_loopback,
    load_settings,
)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for row in describe_settings():
        monkeypatch.delenv(row.variable, raising=False)


def test_defaults_serve_this_machine_only():
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.store_url.startswith("sqlite:////")


def test_environment_and_command_line_are_read_in_that_order(monkeypatch):
    monkeypatch.setenv("CALICO_PORT", "9191")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://studio:8080/")
    assert load_settings().port == 9191
    assert load_settings(port=9292).port == 9292
    assert load_settings(port=None).port == 9191
    assert load_settings().label_studio_url == "http://studio:8080"


def test_hosts_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("CALICO_IMAGE_HOSTS", "a.example, B.example,")
    assert load_settings().image_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CALICO_PORT", "http"),
        ("CALICO_PORT", "70000"),
        ("CALICO_PREDICT_BUDGET_S", "0"),
        ("CALICO_THREADS", "2"),
        ("LABEL_STUDIO_URL", "studio:8080"),
        ("LABEL_STUDIO_URL", "http://studio:port"),
        ("LABEL_STUDIO_URL", "http://studio:99999"),
        ("LABEL_STUDIO_URL", "http://studio/?next=/"),
        ("CALICO_MAX_IMAGE_PIXELS", "40000001"),
        ("CALICO_LOG_LEVEL", "LOUD"),
        ("CALICO_REFRESH_HOURS", "20"),
        ("CALICO_REFRESH_HOURS", "20-25"),
        ("CALICO_REFRESH_HOURS", "6-6"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert variable in str(caught.value)
    assert repr(value) in str(caught.value)


def test_a_wrong_option_is_named_as_the_user_typed_it(monkeypatch):
    options = {"port": "--port", "fleet_address": "--address", "host": "--host"}
    monkeypatch.setenv("CALICO_FLEET_ADDRESS", "x")
    with pytest.raises(SettingsError) as caught:
        load_settings(options, port=70_000, fleet_address=None)
    assert {text.partition(":")[0] for text in str(caught.value).split("; ")} == {
        "--port",
        "CALICO_FLEET_ADDRESS",
    }
    monkeypatch.delenv("CALICO_FLEET_ADDRESS")
    with pytest.raises(SettingsError, match="^--host: '0.0.0.0' is reachable"):
        load_settings(options, host="0.0.0.0")


@pytest.mark.parametrize("host", ["https://a.example", "a.example/x", "*a.example"])
def test_a_host_that_could_never_match_is_refused(monkeypatch, host):
    monkeypatch.setenv("CALICO_IMAGE_HOSTS", f"b.example,{host}")
    with pytest.raises(SettingsError, match="CALICO_IMAGE_HOSTS") as caught:
        load_settings()
    assert host in str(caught.value)


def test_a_password_in_an_address_is_refused_without_repeating_it(monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://admin:hunter2@studio:8080")
    with pytest.raises(SettingsError, match="LABEL_STUDIO_URL.*without user") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_secrets_appear_in_no_message_and_no_text():
    with pytest.raises(SettingsError) as caught:
        load_settings(basic_auth_password="hunter2-hunter2")
    assert "hunter2" not in str(caught.value)
    assert "CALICO_BASIC_AUTH_USER" in str(caught.value)
    settings = load_settings(
        basic_auth_user="studio", basic_auth_password="hunter2-hunter2", label_studio_api_key="tok"
    )
    assert "hunter2" not in repr(settings)
    assert "tok" not in repr(settings.label_studio_api_key)


def test_refuses_to_listen_beyond_this_machine_without_credentials():
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0.*CALICO_BASIC_AUTH_USER"):
        load_settings(host="0.0.0.0")
    assert load_settings(host="0.0.0.0", allow_open_bind=True).allow_open_bind
    open_host = load_settings(
        host="0.0.0.0", basic_auth_user="studio", basic_auth_password="secret"
    )
    assert open_host.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example.com", False),
        ("192.168.1.2", False),
    ],
)
def test_loopback_is_recognised(host, expected):
    assert is_loopback(host) is expected


def test_unknown_settings_are_refused():
    with pytest.raises(SettingsError, match="prot"):
        load_settings(prot=1)


def test_settings_cannot_change_after_start():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_every_setting_is_documented():
    rows = describe_settings()
    assert len(rows) == len(Settings.model_fields)
    assert all(len(row.meaning) > 10 for row in rows)
    assert {"CALICO_PORT", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"} <= {r.variable for r in rows}


def test_sources_are_names_folders_or_both(monkeypatch):
    monkeypatch.setenv("CALICO_SOURCES", "sam-base, /models/mine ,x=/models/b")
    settings = load_settings()
    assert settings.sources == ("sam-base", "/models/mine", "x=/models/b")
    assert settings.sources_dir == settings.data_dir / "sources"


def test_an_unknown_source_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("CALICO_SOURCES", "sam-bse")
    with pytest.raises(SettingsError, match="CALICO_SOURCES.*'sam-bse': expected a folder, or one"):
        load_settings()


def test_settings_reach_another_process_as_variables(monkeypatch):
    chosen = load_settings(
        port=9191,
        relations=True,
        image_hosts="a.example,b.example",
        basic_auth_user="me",
        basic_auth_password="hunter2-hunter2",
        ca_bundle="/etc/own.pem",
        label_studio_url="http://studio:8080",
        precision="bf16",
        refresh=False,
    )
    variables = as_variables(chosen)
    assert variables["CALICO_BASIC_AUTH_PASSWORD"] == "hunter2-hunter2"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == chosen
    assert as_variables(load_settings()) == variables


@pytest.mark.parametrize(
    "value", ["host", "host:", "http://host:1", "a@b:1", "host:x", ":1", "host:65536"]
)
def test_the_address_of_a_fleet_is_a_host_and_a_port(value):
    with pytest.raises(SettingsError, match="CALICO_FLEET_ADDRESS: expected HOST:PORT"):
        load_settings(fleet_address=value, database_url="postgresql+psycopg://a@b/c")


def test_a_fleet_needs_a_database_for_all():
    with pytest.raises(SettingsError, match=r"^CALICO_DATABASE_URL: expected postgresql\+psycopg"):
        load_settings(fleet_address="127.0.0.1:6390")
