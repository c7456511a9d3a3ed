"""The numbers for Prometheus, in a registry of our own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .model import Action, Condition, Outcome, Status
from .status import metric_label

_PASS_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 5, 15, 60)
_CONVERGE_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

# Facts that are moments, and are shown as Unix time while they are there.
_MOMENTS = {
    "swarm-certificate-expires": (
        "swarm_certificate_expiry_timestamp_seconds",
        "Unix time at which the node's certificate in its swarm expires",
    ),
}

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Every series of the contract. Labels are condition types, verbs and fixed words only."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

        def name(text: str) -> str:
            return f"bai_nodeagent_{text}"

        registry = self._registry
        Info(name("build"), "The daemon's version", registry=registry).info({"version": version})
        self._reconcile = Counter(
            name("reconcile"), "Passes by result", ["resource", "result"], registry=registry
        )
        self._seconds = Histogram(
            name("reconcile_seconds"),
            "Duration of passes",
            ["resource"],
            buckets=_PASS_BUCKETS_S,
            registry=registry,
        )
        self._actions = Counter(
            name("actions"), "Actions applied", ["resource", "action"], registry=registry
        )
        self._drift = Counter(
            name("drift"),
            "Times a resource left its line without a new desired state",
            ["resource"],
            registry=registry,
        )
        self._stuck = Gauge(
            name("stuck_operations"), "Calls that never came back", ["resource"], registry=registry
        )
        self.desired_revision = Gauge(
            name("desired_revision"), "Revision of the documents in the store", registry=registry
        )
        self.applied_revision = Gauge(
            name("applied_revision"), "Revision last wholly in line with", registry=registry
        )
        self.converge = Histogram(
            name("converge_seconds"),
            "From seeing a new desired state to Ready",
            buckets=_CONVERGE_BUCKETS_S,
            registry=registry,
        )
        self.store_up = Gauge(name("store_up"), "1 while the store answers", registry=registry)
        self.store_last_contact = Gauge(
            name("store_last_contact_timestamp_seconds"),
            "Unix time of the store's last answer",
            registry=registry,
        )
        self.watch_restarts = Counter(
            name("watch_restarts"), "Times the store's watch broke", registry=registry
        )
        self._agent_restarts = Counter(
            name("agent_restarts"), "Starts of the agent by cause", ["cause"], registry=registry
        )
        self.agent_up = Gauge(name("agent_up"), "1 while the agent runs", registry=registry)
        self._conditions = _Conditions()
        registry.register(self._conditions)
        self._moments = _Moments()
        registry.register(self._moments)

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def passed(self, outcome: Outcome, seconds: float) -> None:
        label = metric_label(outcome.name)
        self._reconcile.labels(label, outcome.result).inc()
        self._seconds.labels(label).observe(seconds)
        self._stuck.labels(label).set(outcome.verdict.reason == "Stuck")

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
        self.agent_up.set("agent-pid" in facts)
        self._moments.facts = facts

    def forget(self, name: str) -> None:
        """Takes the gauges of a resource away that is no longer managed."""
        self._stuck.remove(metric_label(name))


class _Conditions(Collector):
    """The newest conditions, all of one moment: scrapes come from other threads."""

    def __init__(self) -> None:
        self.newest: tuple[Condition, ...] = ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "bai_nodeagent_condition", "1 for a condition's status", labels=("type", "status")
        )
        for condition in self.newest:
            for status in Status:
                family.add_metric((condition.type, str(status)), condition.status is status)
        yield family


class _Moments(Collector):
    """Gauges that are only there while their fact is: a 0 would read as "expired"."""

    def __init__(self) -> None:
        self.facts: Mapping[str, object] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for fact, (name, text) in _MOMENTS.items():
            if fact in self.facts:
                at_s = datetime.fromisoformat(str(self.facts[fact])).timestamp()
                yield GaugeMetricFamily(f"bai_nodeagent_{name}", text, value=at_s)
