"""The dashboard asks for metrics that there are, in a way that is right for several servers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend.app import close_app, create_app
from backend.background import start_trainer
from backend.settings import load_settings
from tests.doubles import ModelDouble

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "calico.json").read_text())
EXPRESSIONS = [t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"]]
EXPRESSIONS += [
    one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"
]
SAME_EVERYWHERE = {"calico_servers", "calico_reconciled_timestamp_seconds"}
"""Read from the database, or set by the server that leads: a sum would count it several times."""
METRIC = re.compile(r"\b(?:calico|process|python)_\w+")


class Loaded(ModelDouble):
    version = "v"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The kind of every metric that a server exports, by the name of its samples."""
    folder = tmp_path_factory.mktemp("data")
    app = create_app(load_settings(data_dir=folder), load=Loaded)
    components = app.extensions["calico"]
    metrics = components.metrics
    found = {"calico_servers": "gauge"}  # on PostgreSQL alone
    watch = start_trainer(load_settings(data_dir=folder), metrics)
    watch.close()
    # Without a value there is no sample, and so no name of it.
    metrics.requests.labels("predict", 200).inc()
    metrics.request_seconds.labels("predict").observe(1)
    metrics.stage_seconds.labels("model").observe(1)
    metrics.tasks.labels("predicted").inc()
    metrics.events.labels("a", "new").inc()
    metrics.reconciled.labels("change").inc()
    metrics.source_requests.labels("s", "late").inc()
    metrics.source_seconds.labels("s", "call").observe(1)
    for family in text_string_to_metric_families(metrics.text().decode()):
        found |= {sample.name: family.type for sample in family.samples}
    close_app(app)
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_of_the_dashboard_is_exported(kinds, expression):
    names = METRIC.findall(expression)
    assert names
    assert set(names) <= kinds.keys()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_figures_are_added_up_over_the_servers_where_that_is_right(kinds, expression):
    for name in METRIC.findall(expression):
        before = expression[: expression.index(name)]
        if name in SAME_EVERYWHERE:
            assert re.search(r"\bmax (by \([^)]*\) )?\($", before), expression
        elif kinds[name] in ("counter", "histogram"):
            assert re.search(r"sum (by \([^)]*\) )?\((rate|increase)\($", before), expression
        elif "label_values" not in expression:
            assert re.search(r"\bsum (by \([^)]*\) )?\($", before), expression


def test_every_panel_has_its_place():
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places) >= 15
    assert all(x + w <= 24 for x, _, w, _ in places)
