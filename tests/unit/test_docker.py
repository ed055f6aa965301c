"""Static checks of the container set-up: what would break or weaken it without a Docker at hand."""

from __future__ import annotations

import re
import shlex
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.settings import Settings, load_settings, variable_name
from tests.unit.test_documented_commands import options_of

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
BACKENDS = ("backend", "backend-gpu")


def services_of(profile: str) -> tuple[str, ...]:
    return tuple(name for name in SERVICES if profile in SERVICES[name].get("profiles", ()))


SEVERAL, FLEET = services_of("servers"), services_of("fleet")
OF_SEVERAL = tuple(name for name in SEVERAL if SERVICES[name]["image"].startswith("calico"))
OF_FLEET = tuple(name for name in FLEET if SERVICES[name]["image"] == "calico-fleet:0.1.0")
DOCKERFILE = (ROOT / "backend" / "Dockerfile").read_text()
INSTRUCTIONS = [
    line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and line[0] != "#"
]


def dockerfile_environment() -> dict[str, str]:
    final_stage = INSTRUCTIONS[max(i for i, x in enumerate(INSTRUCTIONS) if x.startswith("FROM")) :]
    words = [shlex.split(line)[1:] for line in final_stage if line.startswith("ENV")]
    return dict(word.split("=", 1) for line in words for word in line)


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    assert re.search(r":\d+\.\d+(\.\d+)?$", SERVICES[name]["image"])


@pytest.mark.parametrize("line", [line for line in INSTRUCTIONS if line.startswith("FROM")])
def test_every_base_image_is_pinned_to_a_version(line: str) -> None:
    assert re.search(r":\d+\.\d+\.\d+", line)


@pytest.mark.parametrize("name", SERVICES)
def test_services_run_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert int(service["user"].split(":")[0]) > 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_take_all_memory(name: str) -> None:
    limit = re.fullmatch(r"\$\{(\w+_MEMORY_LIMIT):-(\d+)g\}", SERVICES[name]["mem_limit"])
    assert limit is not None
    assert int(limit[2]) > 0
    assert f"# {limit[1]}=" in (ROOT / ".env.example").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_keeps_is_in_a_declared_volume(name: str) -> None:
    volumes = SERVICES[name]["volumes"]
    files = [volume for volume in volumes if volume.startswith("./")]
    assert volumes
    assert all(file.endswith(":ro") and (ROOT / file.split(":")[0]).is_file() for file in files)
    assert {v.split(":")[0] for v in volumes if v not in files} <= set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", BACKENDS)
def test_backend_writes_to_its_volume_and_tmp_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["volumes"] == [f"backend-data:{dockerfile_environment()['CALICO_DATA_DIR']}"]


def test_label_studio_may_call_a_backend_on_the_private_network() -> None:
    environment = SERVICES["label-studio"]["environment"]
    assert environment["ML_BLOCK_LOCAL_IP"] == "false"
    assert environment["SSRF_PROTECTION_ENABLED"] == "false"


def test_label_studio_reports_to_nobody() -> None:
    environment = SERVICES["label-studio"]["environment"]
    assert environment["COLLECT_ANALYTICS"] == environment["LATEST_VERSION_CHECK"] == "false"
    assert environment["SENTRY_DSN"] == environment["FRONTEND_SENTRY_DSN"] == ""


def test_both_services_wait_for_health() -> None:
    assert SERVICES["label-studio"]["healthcheck"]["test"]
    assert any(line.startswith("HEALTHCHECK") and "/health" in line for line in INSTRUCTIONS)
    assert SERVICES["backend"]["depends_on"]["label-studio"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", [*BACKENDS, *OF_SEVERAL, *OF_FLEET])
def test_container_settings_are_known_and_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dockerfile_environment() | SERVICES[name]["environment"]
    known = {variable_name(field) for field in Settings.model_fields}
    ours = {key: value for key, value in given.items() if key.startswith(("CALICO_", "LABEL_"))}
    for key, value in ours.items():
        monkeypatch.setenv(key, re.sub(r"\$\{.*?\}", "given", value))

    settings = load_settings()

    assert set(ours) <= known
    assert settings.host == "0.0.0.0"
    assert settings.basic_auth_password is not None
    assert settings.label_studio_url == "http://label-studio:8080"


def test_several_servers_share_a_database_and_versions_behind_one_balancer() -> None:
    assert set(SEVERAL) == {
        *("postgres", "migrate", "server-1", "server-2", "trainer", "balancer"),
    }
    served = [SERVICES[name] for name in ("server-1", "server-2", "trainer")]
    assert len({service["environment"]["CALICO_DATABASE_URL"] for service in served}) == 1
    url = served[0]["environment"]["CALICO_ADAPTERS_URL"]
    assert all(f"adapters:{url.removeprefix('file://')}" in one["volumes"] for one in served)
    assert len({one["volumes"][0] for one in served}) == 3, "each has a data folder of its own"
    assert url.removeprefix("file://") in DOCKERFILE, "the image has it, for its own user"
    assert [name for name in SEVERAL if SERVICES[name].get("ports")] == ["balancer"]

    balancer = SERVICES["balancer"]
    config = (ROOT / "deploy" / "haproxy.cfg").read_text()
    wanted = set(re.findall(r"\$\{(CALICO_\w+)\}", config))
    assert wanted == set(balancer["environment"])
    places = {balancer["environment"][f"CALICO_SERVER_{number}"] for number in (1, 2)}
    assert places == {"server-1:9090", "server-2:9090"}


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_several_servers_run_commands_that_there_are(name: str) -> None:
    command, *options = SERVICES[name]["command"]
    assert set(options) <= options_of((command,))
    assert ("server" in name) == (command == "serve")
    assert command == "serve" or SERVICES[name]["healthcheck"] == {"disable": True}


def test_a_fleet_shares_a_database_versions_and_a_token_on_a_network_of_its_own() -> None:
    assert set(FLEET) == {"postgres", "migrate", *OF_FLEET}
    assert set(OF_FLEET) == {"fleet-head", "fleet-worker", "web"}
    services = [SERVICES[name] for name in OF_FLEET]
    assert all(one["build"]["args"] == {"EXTRA": "fleet"} for one in services)
    assert len({one["volumes"][0] for one in services}) == 3, "each has a data folder of its own"
    for name in OF_FLEET:
        token = Path(SERVICES[name]["environment"]["CALICO_FLEET_TOKEN_FILE"])
        assert token.name == "token", "fleet join reads no other name"
        place = "" if name == "fleet-head" else ":ro"
        assert f"fleet-token:{token.parent}{place}" in SERVICES[name]["volumes"]
        assert f" {token.parent}" in DOCKERFILE, "the image has it, for its own user"
        assert "fleet" in SERVICES[name]["networks"]
    assert COMPOSE["networks"]["fleet"]["internal"] is True
    assert [name for name in FLEET if SERVICES[name].get("ports")] == ["web"]
    assert SERVICES["web"]["networks"]["default"]["aliases"] == ["backend"]


def test_a_fleet_runs_commands_that_there_are_and_meets_at_the_head() -> None:
    (subnet,) = COMPOSE["networks"]["fleet"]["ipam"]["config"]
    head = SERVICES["fleet-head"]["networks"]["fleet"]["ipv4_address"]
    assert ip_address(head) in ip_network(subnet["subnet"])
    for name in OF_FLEET:
        branch, command, *options = SERVICES[name]["command"]
        assert (branch, command) == ("fleet", "up" if name == "fleet-head" else "join")
        chosen = dict(zip(options[::2], options[1::2], strict=True))
        assert set(chosen) <= options_of((branch, command))
        assert chosen["--address"] == f"{head}:6390"
        waits = SERVICES[name]["depends_on"]
        assert (name == "fleet-head") or waits == {"fleet-head": {"condition": "service_healthy"}}
    assert head in SERVICES["fleet-head"]["healthcheck"]["test"][-1]
    slots = [int(SERVICES[name]["command"][-1]) for name in OF_FLEET]
    assert slots == [1, 3, 0], "a trainer, 2 click and 1 batch replicas; none beside the web server"


def test_gpu_is_asked_for_only_under_its_profile() -> None:
    assert "profiles" not in SERVICES["backend"]
    assert "deploy" not in SERVICES["backend"]
    assert SERVICES["backend"]["environment"]["CALICO_DEVICE"] == "cpu"
    assert SERVICES["backend-gpu"]["profiles"] == ["gpu"]
    assert SERVICES["backend-gpu"]["environment"]["CALICO_DEVICE"] == "cuda"
    (device,) = SERVICES["backend-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_every_secret_comes_from_the_env_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    offered = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert {"LABEL_STUDIO_PASSWORD", "LABEL_STUDIO_API_KEY", "CALICO_BASIC_AUTH_PASSWORD"} <= wanted
    assert wanted <= set(offered)
    assert not any(value for key, value in offered.items() if "PASSWORD" in key or "KEY" in key)


def test_image_runs_the_command_as_a_user_without_rights() -> None:
    user = next(line.split()[1] for line in INSTRUCTIONS if line.startswith("USER"))
    assert user == SERVICES["backend"]["user"] == "10001:10001"
    assert INSTRUCTIONS[-2:] == ['ENTRYPOINT ["calico"]', 'CMD ["serve"]']


def test_image_has_everything_the_build_reads() -> None:
    copied = {
        source
        for line in INSTRUCTIONS
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
