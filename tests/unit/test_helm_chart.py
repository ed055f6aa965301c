"""The chart of several servers on Kubernetes: what can be checked without a cluster.

Rendering needs helm; without it, the templates are compared with the values and the product.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.settings import Settings, variable_name
from tests.unit.test_documented_commands import options_of

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "calico"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
HELM = shutil.which("helm")
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
    page = (CHART.parents[2] / "docs" / "kubernetes.md").read_text()
    assert [name for name in VALUES if f"`{name}" not in page] == []


def test_containers_run_commands_and_settings_that_there_are() -> None:
    text = "".join(TEMPLATES.values())
    commands = [words.split(", ") for words in re.findall(r"^ +args: \[(.+)\]$", text, re.M)]
    assert sorted(words[0] for words in commands) == ["migrate", "serve", "trainer"]
    for command, *options in commands:
        assert set(options) <= options_of((command,))
    known = {variable_name(field) for field in Settings.model_fields}
    named = set(re.findall(r"^- name: ((?:CALICO|LABEL)_\w+)$", text, re.M))
    assert {"CALICO_DATABASE_URL", "CALICO_ADAPTERS_URL", "LABEL_STUDIO_API_KEY"} <= named <= known


def lines_of_haproxy(text: str) -> set[str]:
    lines = (line.split(" #")[0].split("#")[0].strip() for line in text.splitlines())
    own = ("bind", "server ", "server-template", "default-server")
    return {line for line in lines if line and not line.startswith(own)}


def test_the_balancer_of_the_chart_balances_as_the_tested_configuration() -> None:
    tested = lines_of_haproxy((CHART.parents[1] / "haproxy.cfg").read_text())
    assert len(tested) > 15
    assert tested <= lines_of_haproxy(TEMPLATES["balancer.yaml"])


@pytest.mark.skipif(HELM is None, reason="no helm is installed")
@pytest.mark.parametrize("chosen", ["", ALL_ON])
def test_the_chart_renders(chosen: str) -> None:
    assert HELM is not None
    subprocess.run([HELM, "lint", "--strict", CHART], check=True, capture_output=True)
    words = ["--set", chosen] if chosen else []
    rendered = subprocess.run(
        [HELM, "template", "demo", CHART, *words], check=True, capture_output=True, text=True
    ).stdout
    documents = [one for one in yaml.safe_load_all(rendered) if one]
    kinds = sorted(one["kind"] for one in documents)
    assert kinds.count("Deployment") == 3
    assert ("PodMonitor" in kinds) == bool(chosen)
    for one in documents:
        if one["kind"] not in ("Deployment", "Job"):
            continue
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        names = [entry["name"] for entry in container.get("env", ())]
        assert len(set(names)) == len(names)
