"""The metrics as OpenMetrics text, by the standard client library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from swanroam.daemon.counts import BUCKETS, Histogram
from swanroam.daemon.metrics import METRICS, Definition, Kind, Reading


class _Daemon(Collector):
    def __init__(self, read: Callable[[], list[Metric]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Their names, which the registry asks for when there is nothing to be read yet."""
        return [_family(definition) for definition in METRICS]

    def collect(self) -> Iterable[Metric]:
        return self._read()


class Exposition:
    """`read` gives the daemon's metrics; it is called for each page, on the caller's thread."""

    def __init__(self, read: Callable[[], list[Metric]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Daemon(read))
        ProcessCollector(registry=self._registry)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, for what the client accepts. Raises what `read` raises."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


def families(reading: Reading) -> list[Metric]:
    """All metrics of the daemon's own. To be called where the daemon's state does not change meanwhile."""
    return [_filled(definition, reading) for definition in METRICS]


def _family(definition: Definition) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    match definition.kind:
        case Kind.COUNTER:
            name = definition.name.removesuffix("_total")
            return CounterMetricFamily(name, definition.help, labels=definition.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(definition.name, definition.help, labels=definition.labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)


def _filled(definition: Definition, reading: Reading) -> Metric:
    family = _family(definition)
    for labels, value in definition.read(reading):
        if isinstance(family, HistogramMetricFamily):
            assert isinstance(value, Histogram)
            limits = [*(str(limit) for limit in BUCKETS), "+Inf"]
            family.add_metric(labels, list(zip(limits, accumulate(value.counts), strict=True)), value.total)
        else:
            assert isinstance(value, float)
            family.add_metric(labels, value)
    return family
