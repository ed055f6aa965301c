"""The chart of several servers on Kubernetes: what can be checked without a cluster.

`make test` installs helm, which renders it; the templates are also compared with the values and the
product.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.cli.train_nodes import Launch
from backend.fleet.connection import BATCH, CLICK
from backend.fleet.deployments import FleetSize, serve_application
from backend.setting_fields.values import check_shelf_url
from backend.settings import Settings, variable_name
from calico_model.training.supervised.recipe import FULL_SIZE
from tests.unit.test_documented_commands import options_of

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "calico"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
HELM = shutil.which("helm") or shutil.which("helm", path=ROOT / ".venv" / "helm")
ALL_ON = (
    "adapters.claim=shared,adapters.secret=keys,weights.claim=weights,podMonitor.enabled=true,"
    "settings.CALICO_DEVICE=cuda,imagePullSecrets[0].name=registry"
)


def leaves(values: dict[str, Any], before: str = "") -> set[str]:
    """Dotted names of all values; a map that users fill is one."""
    found = set()
    for name, value in values.items():
        nested = isinstance(value, dict) and value and name != "resources"
        found |= leaves(value, f"{before}{name}.") if nested else {before + name}
    return found


def test_templates_use_the_values_that_there_are_and_all_of_them() -> None:
    used = set(re.findall(r"\.Values\.([\w.]+)", "".join(TEMPLATES.values())))
    known = leaves(VALUES)
    assert {name for name in used if not any(one.startswith(name) for one in known)} == set()
    assert {one for one in known if not any(one.startswith(name) for name in used)} == set()


def test_every_value_is_explained_in_the_documentation() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert [name for name in VALUES if f"`{name}" not in page] == []


def test_containers_run_commands_and_settings_that_there_are() -> None:
    text = "".join(TEMPLATES.values())
    commands = [words.split(", ") for words in re.findall(r"^ +args: \[(.+)\]$", text, re.M)]
    assert sorted(words[0] for words in commands) == ["fleet", "migrate", "serve", "trainer"]
    for words in commands:
        path = tuple(word for word in words[:2] if not word.startswith("-"))
        options = {word for word in words if word.startswith("--")}
        assert options <= options_of(path)
    known = {variable_name(field) for field in Settings.model_fields}
    named = set(re.findall(r"^- name: ((?:CALICO|LABEL)_\w+)$", text, re.M))
    assert {"CALICO_DATABASE_URL", "CALICO_ADAPTERS_URL", "LABEL_STUDIO_API_KEY"} <= named <= known


def test_the_fleet_asks_for_the_release_of_ray_and_the_pools_that_there_are() -> None:
    text = TEMPLATES["fleet.yaml"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (ray,) = (one for one in project["project"]["optional-dependencies"]["fleet"] if "ray" in one)
    (version,) = re.findall(r'rayVersion: "(.+)"', text)
    assert ray == f"ray[serve]=={version}"
    assert f'list "{CLICK}" "{BATCH}"' in text
    ((module, name),) = re.findall(r"import_path: (\S+):(\S+)", text)
    assert getattr(importlib.import_module(module), name) is serve_application
    arguments = text.split("args:\n")[1].split("{{- end }}")[0]
    names = set(re.findall(r"^ +(\w+):", arguments, re.M))
    assert names == {"pool", "release", *(field.name for field in fields(FleetSize))}


def lines_of_haproxy(text: str) -> set[str]:
    lines = (line.split(" #")[0].split("#")[0].strip() for line in text.splitlines())
    own = ("bind", "server ", "server-template", "default-server")
    return {line for line in lines if line and not line.startswith(own)}


def test_the_balancer_of_the_chart_balances_as_the_tested_configuration() -> None:
    tested = lines_of_haproxy((CHART.parents[1] / "haproxy.cfg").read_text())
    assert len(tested) > 15
    assert tested <= lines_of_haproxy(TEMPLATES["balancer.yaml"])


def check_pod(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    volumes = [volume["name"] for volume in pod["volumes"]]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert sorted(mount["name"] for mount in container["volumeMounts"]) == sorted(volumes)
    names = [entry["name"] for entry in container.get("env", ())]
    assert len(set(names)) == len(names)


def rendered(chosen: str) -> list[dict[str, Any]]:
    assert HELM is not None
    subprocess.run([HELM, "lint", "--strict", CHART], check=True, capture_output=True)
    words = ["--set", chosen] if chosen else []
    done = subprocess.run(
        [HELM, "template", "demo", CHART, *words], check=True, capture_output=True, text=True
    )
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@pytest.mark.skipif(HELM is None, reason="no helm is installed")
@pytest.mark.parametrize("chosen", ["", ALL_ON])
def test_the_chart_renders(chosen: str) -> None:
    documents = rendered(chosen)
    kinds = sorted(one["kind"] for one in documents)
    assert kinds.count("Deployment") == 3
    assert ("PodMonitor" in kinds) == bool(chosen)
    for one in documents:
        if one["kind"] not in ("Deployment", "Job"):
            continue
        check_pod(one["spec"]["template"]["spec"])


@pytest.mark.skipif(HELM is None, reason="no helm is installed")
def test_a_fleet_renders_replicas_that_servers_without_a_model_ask() -> None:
    documents = rendered(f"fleet.enabled=true,fleet.mostClick=3,{ALL_ON}")
    of_kind = {one["kind"]: one for one in documents if one["kind"] != "Deployment"}
    cluster = of_kind["RayService"]["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "calico-fleet"}
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == 3 + 1, "a pod for each replica that there can be"
    config = yaml.safe_load(of_kind["RayService"]["spec"]["serveConfigV2"])
    assert config["proxy_location"] == "Disabled"
    assert [one["name"] for one in config["applications"]] == [CLICK, BATCH]
    for one in config["applications"]:
        sizes = {name: one["args"][name] for name in (field.name for field in fields(FleetSize))}
        assert FleetSize(**sizes).most_click == 3
    for pod in (cluster["headGroupSpec"]["template"], group["template"]):
        check_pod(pod["spec"])

    deployments = [one for one in documents if one["kind"] == "Deployment"]
    (server,) = (one for one in deployments if one["metadata"]["name"] == "demo-server")
    pod = server["spec"]["template"]["spec"]
    check_pod(pod)
    (container,) = pod["containers"]
    assert container["args"][:2] == ["fleet", "join"]
    assert container["args"][-2:] == ["--slots", "0"], "no replica beside a web server"
    entries = {entry["name"]: entry.get("value") for entry in container["env"]}
    token = Path(str(entries["CALICO_FLEET_TOKEN_FILE"]))
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (volume,) = (one for one in pod["volumes"] if one["name"] == "fleet")
    assert Path(places["fleet"]) / volume["secret"]["items"][0]["path"] == token
    assert volume["secret"]["secretName"] == cluster["authOptions"]["secretName"]

    policy = of_kind["NetworkPolicy"]["spec"]
    among_us, operator = policy["ingress"]
    assert "ports" not in among_us
    assert operator["ports"] == [{"port": 8265}], "the operator alone reaches the dashboard"
    (guarded,) = policy["podSelector"]["matchExpressions"]
    labels = [pod["metadata"]["labels"] for pod in (cluster["headGroupSpec"]["template"],)]
    labels.append(group["template"]["metadata"]["labels"])
    assert [one["app.kubernetes.io/component"] for one in labels] == guarded["values"]


def test_the_job_that_trains_on_several_machines_fits_together() -> None:
    text = (CHART.parents[1] / "train-job.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    check_pod(pod)
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["publishNotReadyAddresses"] is True, "pods meet before they are ready"
    (container,) = pod["containers"]
    command, *words = container["args"]
    given = dict(word.split("=") for word in words)
    assert set(given) <= options_of((command,))
    assert spec["completionMode"] == "Indexed"
    assert int(given["--nodes"]) == spec["completions"] == spec["parallelism"]
    host, _ = given["--rendezvous"].split(":")
    assert host == f"{name}-0.{pod['subdomain']}"
    assert int(given["--processes"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    Launch(int(given["--processes"]), int(given["--nodes"]), given["--rendezvous"]).check()
    FULL_SIZE.check_processes(int(given["--processes"]) * int(given["--nodes"]))
    places = {mount["mountPath"] for mount in container["volumeMounts"]}
    for option in ("--weights", "--data", "--out", "--cache"):
        assert "/" + given[option].split("/")[1] in places
    assert check_shelf_url(given["--state-url"])
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert "deploy/train-job.yaml" in page
