"""The numbers for Prometheus, in a registry of our own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..model import Action, Condition, Outcome, Status
from .status import metric_label

_NAMESPACE = "bai_nodeagent"
_PASS_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 5, 15, 60)
_CONVERGE_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

RESULTS = ("in_sync", "changed", "failed", "blocked")
RESTART_CAUSES = ("first", "died", "changed")

# Facts that are moments, and are shown as Unix time while they are there.
_MOMENTS = {
    "swarm-certificate-expires": (
        "swarm_certificate_expiry_timestamp_seconds",
        "Unix time at which the node's certificate in its swarm expires",
    ),
}

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Every series of the contract. Labels are condition types, verbs and fixed words only.

    A counter's series is there at 0 before it first counts, or `increase()` would not see that;
    a gauge's only while its value is known.
    """

    def __init__(self, version: str, node: str, cluster: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter = partial(Counter, namespace=_NAMESPACE, registry=registry)
        histogram = partial(Histogram, namespace=_NAMESPACE, registry=registry)
        known = partial(_Known, registry)
        build = {"version": version, "node": node, "cluster": cluster}
        about = "The daemon's version, and whose it is"
        Info("build", about, namespace=_NAMESPACE, registry=registry).info(build)
        self._reconcile = counter("reconcile", "Passes by result", ["resource", "result"])
        self._seconds = histogram(
            "reconcile_seconds", "Duration of passes", ["resource"], buckets=_PASS_BUCKETS_S
        )
        self._actions = counter("actions", "Actions applied", ["resource", "action"])
        self._drift = counter(
            "drift", "Times somebody else changed what was as desired", ["resource"]
        )
        self.desired_revision = known("desired_revision", "Revision of the documents in the store")
        self.applied_revision = known("applied_revision", "Revision last wholly in line with")
        self.converge = histogram(
            "converge_seconds",
            "From seeing a new desired state to Ready",
            buckets=_CONVERGE_BUCKETS_S,
        )
        self.store_up = known("store_up", "1 while the store answers")
        self.store_last_contact = known(
            "store_last_contact_timestamp_seconds", "Unix time of the store's last answer"
        )
        self.watch_restarts = counter("watch_restarts", "Times the store's watch broke")
        self._agent_restarts = counter("agent_restarts", "Starts of the agent by cause", ["cause"])
        for cause in RESTART_CAUSES:
            self._agent_restarts.labels(cause)
        self.agent_up = known("agent_up", "1 while the agent runs")
        self._conditions = _Conditions()
        registry.register(self._conditions)
        self._moments = _Moments()
        registry.register(self._moments)

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def expect(self, name: str, verbs: Iterable[str]) -> None:
        """A resource is managed from now on, by actions of these verbs."""
        label = metric_label(name)
        self._drift.labels(label)
        self._seconds.labels(label)
        for result in RESULTS:
            self._reconcile.labels(label, result)
        for verb in verbs:
            self._actions.labels(label, verb)

    def passed(self, outcome: Outcome, seconds: float) -> None:
        label = metric_label(outcome.name)
        self._reconcile.labels(label, outcome.result).inc()
        self._seconds.labels(label).observe(seconds)

    def acted(self, name: str, action: Action, *, is_drift: bool) -> None:
        label = metric_label(name)
        self._actions.labels(label, action.verb).inc()
        if is_drift:
            self._drift.labels(label).inc()
        if action.restart_cause:
            self._agent_restarts.labels(action.restart_cause).inc()

    def conditions(self, conditions: Iterable[Condition], facts: Mapping[str, object]) -> None:
        """Shows just these conditions; one that is no longer there is taken away."""
        self._conditions.newest = tuple(conditions)
        self._moments.facts = facts


class _Known(Collector):
    """A gauge that is there only while somebody knows its value: a 0 would say something."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str) -> None:
        self._name, self._text = f"{_NAMESPACE}_{name}", text
        self._value: float | None = None
        registry.register(self)

    def set(self, value: float | None) -> None:
        self._value = value

    def collect(self) -> Iterator[GaugeMetricFamily]:
        value = self._value
        if value is not None:
            yield GaugeMetricFamily(self._name, self._text, value=value)


class _Conditions(Collector):
    """The newest conditions, all of one moment: scrapes come from other threads."""

    def __init__(self) -> None:
        self.newest: tuple[Condition, ...] = ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        held = GaugeMetricFamily(
            f"{_NAMESPACE}_condition", "1 for a condition's status", labels=("resource", "status")
        )
        stuck = GaugeMetricFamily(
            f"{_NAMESPACE}_stuck_operations", "Calls that never came back", labels=("resource",)
        )
        for condition in self.newest:
            label = metric_label(condition.type)
            stuck.add_metric((label,), condition.reason == "Stuck")
            for status in Status:
                held.add_metric((label, str(status)), condition.status is status)
        yield held
        yield stuck


class _Moments(Collector):
    """Gauges that are only there while their fact is: a 0 would read as "expired"."""

    def __init__(self) -> None:
        self.facts: Mapping[str, object] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for fact, (name, text) in _MOMENTS.items():
            if fact in self.facts:
                at_s = datetime.fromisoformat(str(self.facts[fact])).timestamp()
                yield GaugeMetricFamily(f"{_NAMESPACE}_{name}", text, value=at_s)
