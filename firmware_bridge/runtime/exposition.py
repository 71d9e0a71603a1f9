"""Metrics on their way out: OpenMetrics text over HTTP on loopback, in a file, or once on stdout.

The official `prometheus_client` does the text and the HTTP; it is imported here and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector

from firmware_bridge.metric import Metric, Sample

Kind = Counter | Gauge | Histogram

DEFAULT_HOST: Final = "127.0.0.1"


class ListenError(Exception):
    """The address cannot be listened on; says what to do. `code` is the process's exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def address_of(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:9464", "[::1]:9464" or ":9464". Raises ValueError that says the form."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or DEFAULT_HOST
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(
            f"{text!r:.80} is no address to listen on: write HOST:PORT, like {DEFAULT_HOST}:9464"
        )
    return host, int(port)


class Gathered(Collector):
    """Families made of samples at each scrape. A sample that is not of the table is a mistake: KeyError."""

    def __init__(self, metrics: Mapping[str, Metric], gather: Callable[[], Iterable[Sample]]) -> None:
        self._metrics = metrics
        self._gather = gather

    def describe(self) -> Iterable[Family]:
        """Nothing: registering must not gather."""
        return []

    def collect(self) -> Iterator[Family]:
        """The families that have samples now."""
        families: dict[str, Any] = {}
        for sample in self._gather():
            metric = self._metrics[sample.name]
            family = families.get(sample.name)
            if family is None:
                family = families[sample.name] = _family(metric)
            if metric.type == "info":
                family.add_metric([], dict(zip(metric.labels, sample.labels, strict=True)))
            else:
                family.add_metric(list(sample.labels), sample.value)
        yield from families.values()


def _family(metric: Metric) -> Any:
    if metric.type == "info":
        return InfoMetricFamily(metric.name, metric.meaning)
    made = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    return made(metric.name, metric.meaning, labels=list(metric.labels), unit=metric.unit)


class Meters:
    """Counters, gauges and histograms that a daemon moves itself. Safe for threads."""

    def __init__(
        self, metrics: Mapping[str, Metric], registry: CollectorRegistry, own: Iterable[str]
    ) -> None:
        """`own` are the names of the table that are moved here; the others are gathered."""
        self._made: dict[str, Any] = {name: _meter(metrics[name], registry) for name in own}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        self._of(name, labels).inc(by)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """One more value of a histogram."""
        self._of(name, labels).observe(value)

    def set(self, name: str, value: float, *labels: str) -> None:
        """The value of a gauge."""
        self._of(name, labels).set(value)

    def _of(self, name: str, labels: tuple[str, ...]) -> Any:
        made = self._made[name]
        return made.labels(*labels) if labels else made


def _meter(metric: Metric, registry: CollectorRegistry) -> Kind:
    given: dict[str, Any] = {"labelnames": metric.labels, "registry": registry}
    if metric.type == "histogram":
        return Histogram(metric.name, metric.meaning, buckets=metric.buckets, **given)
    return (Counter if metric.type == "counter" else Gauge)(metric.name, metric.meaning, **given)


def installed_version() -> str:
    """Holdfast's own version."""
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


def new_registry(*collectors: Collector) -> CollectorRegistry:
    """A registry of these alone: nothing of the library's own is in it."""
    registry = CollectorRegistry(auto_describe=False)
    for one in collectors:
        registry.register(one)
    return registry


def text_of(registry: CollectorRegistry, *, openmetrics: bool = True) -> str:
    """All metrics: OpenMetrics, or Prometheus' older text, which node_exporter's textfiles must have."""
    return (openmetrics_text if openmetrics else prometheus_text)(registry).decode("utf-8")


def listen(address: tuple[str, int], registry: CollectorRegistry) -> tuple[int, Callable[[], None]]:
    """Serve `registry` at http://HOST:PORT/metrics in threads of its own; the port, and what ends it.

    Raises ListenError.
    """
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        where, taken = f"{host}:{port}", error.errno == errno.EADDRINUSE
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ListenError(f"no permission to listen on {where}: choose a port above 1023", 13) from error
        if taken:
            raise ListenError(
                f"{where} is taken: end what listens there, or choose another port", 12
            ) from error
        raise ListenError(f"cannot listen on {where}: {error.strerror or error}", 2) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return int(server.server_port), end


@contextlib.contextmanager
def exposed(where: str | None, registry: CollectorRegistry) -> Iterator[None]:
    """Serve `registry` at HOST:PORT while the block runs; nothing where none is named. Raises ListenError."""
    if where is None:
        yield
        return
    try:
        _, end = listen(address_of(where), registry)
    except ValueError as error:
        raise ListenError(str(error), 2) from error
    try:
        yield
    finally:
        end()


def write_file(path: Path, registry: CollectorRegistry) -> None:
    """Replace `path` with all metrics at once; node_exporter, another user, may read it. Raises OSError."""
    text = text_of(registry, openmetrics=False)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
