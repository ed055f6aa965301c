"""Metrics of one running app for Prometheus, in a registry of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """All counters of one app. Thread-safe, as prometheus_client's are."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "calico_requests", "Answered requests.", ["endpoint", "code"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "calico_request_seconds",
            "Time to answer a request.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "calico_predict_stage_seconds",
            "Time of one stage of one task: fetch, model, ask or render.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tasks = Counter(
            "calico_tasks",
            "Tasks by outcome: predicted, cached, problem, failed, not_yet, pushed, push_failed.",
            ["outcome"],
            registry=self.registry,
        )
        self.events = Counter(
            "calico_events",
            "Webhook events by action and outcome: new or duplicate.",
            ["action", "outcome"],
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "calico_commit_seconds",
            "Time from a webhook's parsed events to their commit.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.reconciled = Counter(
            "calico_reconcile_recovered",
            "What Label Studio had and no event reported: change, deletion or unreadable.",
            ["what"],
            registry=self.registry,
        )
        self.reconcile_failures = Counter(
            "calico_reconcile_failures",
            "Projects that could not be compared with Label Studio.",
            registry=self.registry,
        )
        self.reconciled_at = Gauge(
            "calico_reconciled_timestamp_seconds",
            "When a project was last compared with Label Studio, as Unix time.",
            registry=self.registry,
        )
        self.unusable_versions = Counter(
            "calico_unusable_versions",
            "Published versions that could not be loaded; an ancestor answers instead.",
            registry=self.registry,
        )
        self.trainer_deaths = Counter(
            "calico_trainer_deaths",
            "Trainer processes that ended by themselves and were started again.",
            registry=self.registry,
        )
        self.source_requests = Counter(
            "calico_source_requests",
            "Times a source of masks was asked, by outcome: answered, failed, late or loading.",
            ["source", "outcome"],
            registry=self.registry,
        )
        self.source_seconds = Histogram(
            "calico_source_seconds",
            "Time of a source of masks: encode, for one image, or call, with encodings it needed.",
            ["source", "step"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        Info("calico_build", "What is running.", registry=self.registry).info(
            {"version": package_version()}
        )

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read whenever Prometheus asks."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def watch_group(
        self,
        name: str,
        meaning: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        """Adds gauges with labels that are read whenever Prometheus asks.

        Args:
            name: of the gauges.
            meaning: their help text.
            labels: names of the labels.
            read: returns the value by the labels' values.
        """
        self.registry.register(_GroupCollector(name, meaning, labels, read))

    def counter(self, name: str, meaning: str, labels: Sequence[str]) -> Counter:
        """Adds a counter with labels."""
        return Counter(name, meaning, labels, registry=self.registry)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times one stage of one task."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.stage_seconds.labels(name).observe(time.monotonic() - began)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _GroupCollector(Collector):
    def __init__(
        self,
        name: str,
        meaning: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        self._name, self._meaning, self._labels, self._read = name, meaning, labels, read

    def describe(self) -> Iterable[Metric]:
        """Names the gauges without reading them."""
        return [GaugeMetricFamily(self._name, self._meaning, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """Reads the gauges."""
        family = GaugeMetricFamily(self._name, self._meaning, labels=self._labels)
        for values, value in self._read().items():
            family.add_metric(values, value)
        return [family]


def package_version() -> str:
    """Returns the version of the installed package, or "uninstalled"."""
    try:
        return version("calico-labeling")
    except PackageNotFoundError:
        return "uninstalled"
