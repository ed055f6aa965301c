"""What a RayService of Kubernetes deploys, as Ray Serve itself reads it; no cluster is started."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from backend.errors import FleetError
from backend.fleet.deployments import serve_application
from tests.unit.test_helm_chart import CHART, HELM

pytestmark = [pytest.mark.fleet, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_a_pool_is_deployed_with_the_settings_of_the_cluster(monkeypatch):
    monkeypatch.setenv("CALICO_PREDICT_WORKERS", "7")
    sizes = {"click": 2, "most_click": "3", "batch": 0, "most_batch": 1, "cpus": 1, "gpus": "0.5"}
    built = serve_application({"pool": "click", "release": "r1", **sizes})
    deployment = built._bound_deployment
    assert deployment.name == "click"
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 3)
    assert deployment.ray_actor_options["num_gpus"] == 0.5
    variables, release = deployment.init_args
    assert variables["CALICO_PREDICT_WORKERS"] == "7"
    assert release == "r1"


@pytest.mark.parametrize(("pool", "groups"), [("click", None), ("batch", "8")])
def test_only_batch_replicas_ask_about_several_groups_at_once(monkeypatch, pool, groups):
    monkeypatch.setenv("CALICO_GROUPS_AT_ONCE", "8")
    variables, _ = serve_application({"pool": pool})._bound_deployment.init_args
    assert variables.get("CALICO_GROUPS_AT_ONCE") == groups


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"pool": "clicks"}, "args.pool: expected one of click, batch; got 'clicks'"),
        ({"pool": "click", "clicks": 2}, "args: .*clicks"),
        ({"pool": "click", "click": "two"}, "args: .*two"),
        ({"pool": "click", "click": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_deployed_is_named(args, message):
    with pytest.raises(FleetError, match=message):
        serve_application(args)


@pytest.mark.skipif(HELM is None, reason="no helm is installed")
def test_ray_reads_the_configuration_of_the_chart():
    from ray.serve.schema import ServeDeploySchema

    words = [HELM, "template", "demo", CHART, "--set", "fleet.enabled=true"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    (service,) = (
        one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "RayService"
    )
    config = ServeDeploySchema.parse_obj(yaml.safe_load(service["spec"]["serveConfigV2"]))
    for application in config.applications:
        assert application.import_path == "backend.fleet.deployments:serve_application"
        assert serve_application(application.args)._bound_deployment.name == application.name
