"""The metrics of a node: one table, and how each figure is read.

Read from the outside, so that a scrape cannot disturb the edge: `status` over facts.sock, the outbox
read-only, the certificates, the file system, and what the uplink says of itself in uplink.json. What cannot
be read is missing in the answer, and `holdfast_node_up` or `holdfast_node_uplink_up` says so.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from platform import python_version
from typing import Any, Final

from cryptography import x509

from edge.config import Config
from edge.facts import FactsError
from edge.runtime import facts_client
from edge.runtime.uplink_state import UplinkState
from firmware_bridge.metric import Metric, Sample, bounded, table
from firmware_bridge.runtime.exposition import installed_version
from provisioning.ca import Purpose
from provisioning.runtime.keystore import public

FACTS_TIMEOUT_S: Final = 5.0
"""Prometheus gives a scrape ten seconds."""
MAX_REASONS: Final = 32
"""Reasons of refusal that have a series of their own: a broken sensor must not make series without end."""
MAX_PORTS: Final = 16

NODE_METRICS: Final = table(
    Metric(
        "holdfast_node_build", "info", "Version of Holdfast and Python, and who the node is.", "-",
        ("version", "python", "tenant", "device", "kind"),
    ),
    Metric(
        "holdfast_node_up", "gauge", "1 while the edge answers on facts.sock.",
        "`systemctl status holdfast-edge`, then `holdfast doctor`.",
    ),
    Metric(
        "holdfast_node_readings", "counter", "Readings since the start of the edge, by kind.",
        "A kind that stopped: look at its port.", ("kind",),
    ),
    Metric(
        "holdfast_node_port_bytes", "counter", "Bytes received from a port.",
        "Standing still: check power and receive line of the device.", ("port",), "bytes",
    ),
    Metric(
        "holdfast_node_port_readings", "counter", "Readings of a port since it was begun.",
        "Standing still: `holdfast status` says why.", ("port",),
    ),
    Metric(
        "holdfast_node_refused", "counter",
        "Sentences and frames that were refused, by port and reason (32 reasons a port, then `other`).",
        "Rising: wrong speed, bad cable, or a receiver that talks another dialect.", ("port", "reason"),
    ),
    Metric(
        "holdfast_node_port_up", "gauge", "1 while a port gives valid data.",
        "`holdfast status` says what is wrong with it and what to check.", ("port",),
    ),
    Metric(
        "holdfast_node_port_age_seconds", "gauge", "Seconds since the last reading of a port.",
        "Over 30: the device is silent; check power and cable.", ("port",), "seconds",
    ),
    Metric(
        "holdfast_node_fix_age_seconds", "gauge", "Seconds since the last real position.",
        "Parked under a roof it grows; on the road look at antenna and jamming incidents.", unit="seconds",
    ),
    Metric("holdfast_node_events", "counter", "Events accepted (durable in the outbox) since start.", "-"),
    Metric("holdfast_node_segments_sealed", "counter", "Segments sealed and signed since the start.", "-"),
    Metric(
        "holdfast_node_events_unsealed", "gauge", "Events that are not in a segment yet.",
        "Growing for minutes: the store does not take them; see `holdfast_node_store_ok`.",
    ),
    Metric(
        "holdfast_node_receipts", "counter", "Receipts of the collector that were verified since the start.",
        "Standing still while the outbox grows: look at the uplink, then at the collector.",
    ),
    Metric(
        "holdfast_node_receipt_age_seconds", "gauge", "Seconds since the last verified receipt.",
        "Hours: nothing reaches the collector, or its receipts do not come back.", unit="seconds",
    ),
    Metric(
        "holdfast_node_outbox_segments", "gauge", "Segments that wait for a receipt.",
        "Growing: no network, broker away, or no receipts; `holdfast status`.",
    ),
    Metric(
        "holdfast_node_outbox_bytes", "gauge", "Live bytes of the outbox.",
        "Near the limit thinning begins: bring the node where it has a network.", unit="bytes",
    ),
    Metric(
        "holdfast_node_outbox_limit_bytes", "gauge", "[outbox] max_bytes of the configuration.", "-",
        unit="bytes",
    ),
    Metric(
        "holdfast_node_outbox_oldest_seconds", "gauge",
        "Age of the oldest segment whose time of sealing is known.",
        "Days: see `holdfast_node_outbox_segments`.", unit="seconds",
    ),
    Metric(
        "holdfast_node_thinned_events", "counter", "Events in segments that were dropped to keep the bounds.",
        "Any: the node had no network for too long; evidence is thinner, and the chain says where.",
    ),
    Metric(
        "holdfast_node_refused_full", "counter", "Readings refused because neither disk nor memory had room.",
        "Any: free space now.",
    ),
    Metric(
        "holdfast_node_store_ok", "gauge", "1 while the outbox takes writes.",
        "`holdfast status` says what is the matter with it.",
    ),
    Metric(
        "holdfast_node_quarantined_stores", "gauge",
        "Damaged outboxes that were set aside and still lie there.",
        "`holdfast outbox fsck FILE` and `export`, then take the file away.",
    ),
    Metric(
        "holdfast_node_faults", "counter", "Faults that were survived, by part of the daemon.",
        "Report them: the journal has a line of kind `fault` for each.", ("task",),
    ),
    Metric(
        "holdfast_node_incidents_open", "gauge", "Open incidents, by cause.",
        "That is what the node is for: see the fleet page.", ("cause",),
    ),
    Metric(
        "holdfast_node_time_seconds", "gauge", "The node's clock, seconds since 1970.",
        "Differs from Prometheus' own by over a minute: set the clock.", unit="seconds",
    ),
    Metric(
        "holdfast_node_time_source", "gauge",
        "1 for where the node's time comes from: none, floor, host, host_synced, gnss.",
        "none or floor: no date is known; give it NTP or a fix.", ("source",),
    ),
    Metric(
        "holdfast_node_time_uncertainty_seconds", "gauge", "The true time is within so many seconds.",
        "Over a second: no NTP and no fix.", unit="seconds",
    ),
    Metric(
        "holdfast_node_clock_live", "gauge", "1 while the clock kind is live; 0 for replay or simulated.",
        "0 on a real vehicle: [clock] of node.toml is a test's.",
    ),
    Metric(
        "holdfast_node_resident_memory_bytes", "gauge", "Resident memory of the edge.",
        "Growing for days: report it.", unit="bytes",
    ),
    Metric(
        "holdfast_node_disk_free_bytes", "gauge", "Bytes free for the edge where the state folder lies.",
        "Below 64 MiB: free space.", unit="bytes",
    ),
    Metric(
        "holdfast_node_disk_size_bytes", "gauge", "Size of the file system of the state folder.", "-",
        unit="bytes",
    ),
    Metric(
        "holdfast_node_certificate_days", "gauge", "Days left of a certificate: tls, event, ca.",
        "Below 14: `holdfast provision renew`, then see why the timer did not do it.", ("purpose",), "days",
    ),
    Metric(
        "holdfast_node_uplink_up", "gauge", "1 while the uplink runs: it said so within three minutes.",
        "`systemctl status holdfast-uplink`.",
    ),
    Metric(
        "holdfast_node_uplink_connected", "gauge", "1 while the uplink is connected to the broker.",
        "0 for long: `holdfast doctor` says whether name, port, TLS or certificate are in the way.",
    ),
    Metric(
        "holdfast_node_uplink_connects", "counter", "Connections to the broker since the uplink's start.",
        "Many an hour: bad reception, or another client with this identity.",
    ),
    Metric("holdfast_node_uplink_sent", "counter", "Segments the broker acknowledged since the start.", "-"),
    Metric(
        "holdfast_node_uplink_troubles", "gauge", "Troubles the uplink tells of now.",
        "Any: `holdfast status` has the sentence.",
    ),
)  # fmt: skip


class Node:
    """Reads a node whose configuration is `config`."""

    def __init__(self, config: Config, wall_s: Callable[[], float] = time.time) -> None:
        self._config = config
        self._folder = Path(config.state_dir)
        self._wall_s = wall_s

    def gather(self) -> Iterator[Sample]:
        """Everything that can be read now."""
        node = self._config.node
        yield _one("build", 1, installed_version(), python_version(), node.tenant, node.device, node.kind)
        yield _one("time_seconds", self._wall_s())
        yield _one("outbox_limit_bytes", self._config.outbox.max_bytes)
        yield from self._edge()
        yield from self._outbox()
        yield from self._disk()
        yield from self._certificates()
        yield from self._uplink()

    def _edge(self) -> Iterable[Sample]:
        try:
            answer = facts_client.call(self._config.path("facts.sock"), "status", timeout_s=FACTS_TIMEOUT_S)
            return [_one("up", 1), *from_status(json.loads(str(answer[1])))]
        except (FactsError, ValueError, KeyError, TypeError):  # away, or an edge of another version
            return [_one("up", 0)]

    def _outbox(self) -> Iterator[Sample]:
        path = self._folder / "outbox.db"
        aside = [p for p in self._folder.glob("outbox.db.damaged-*") if p.name.rpartition("-")[2].isdigit()]
        yield _one("quarantined_stores", len(aside))
        try:
            db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
            try:
                (oldest,) = db.execute("SELECT min(created_ns) FROM segments WHERE created_ns > 0").fetchone()
            finally:
                db.close()
        except sqlite3.Error:
            return  # not there yet, or being replaced
        if oldest is not None:
            yield _one("outbox_oldest_seconds", max(self._wall_s() - oldest / 1e9, 0.0))

    def _disk(self) -> Iterator[Sample]:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return
        yield _one("disk_free_bytes", disk.f_bavail * disk.f_frsize)
        yield _one("disk_size_bytes", disk.f_blocks * disk.f_frsize)

    def _certificates(self) -> Iterator[Sample]:
        state = Path(self._config.path("keys")).parent
        now = datetime.fromtimestamp(self._wall_s(), UTC)
        for purpose in (*(one.value for one in Purpose), "ca"):
            try:
                found = x509.load_pem_x509_certificate(public(f"{purpose}.crt", state))
            except (OSError, ValueError):
                continue
            yield _one(
                "certificate_days", (found.not_valid_after_utc - now).total_seconds() / 86_400, purpose
            )

    def _uplink(self) -> Iterator[Sample]:
        state = UplinkState.read(self._folder, self._wall_s())
        yield _one("uplink_up", int(state is not None))
        if state is not None:
            yield _one("uplink_connected", int(state.connected))
            yield _one("uplink_connects", state.connects)
            yield _one("uplink_sent", state.sent)
            yield _one("uplink_troubles", state.troubles)


def from_status(status: dict[str, Any]) -> Iterator[Sample]:
    """The samples in the edge's answer to `status`."""
    for kind, count in status["readings"].items():
        yield _one("readings", count, kind)
    for port in list(status["ports"])[:MAX_PORTS]:
        yield _one("port_bytes", status["port_bytes"][port], port)
        yield _one("port_up", int(status["ports"][port] == "ok"), port)
        figures = status["port_figures"][port]
        yield _one("port_readings", figures["readings"], port)
        if figures["last_reading_age_s"] is not None:
            yield _one("port_age_seconds", figures["last_reading_age_s"], port)
        for reason, count in bounded(figures["refused"], MAX_REASONS).items():
            yield _one("refused", count, port, reason)
    plain = {
        "fix_age_seconds": status["last_fix_age_s"], "receipt_age_seconds": status["last_receipt_age_s"],
        "events": status["events"], "segments_sealed": status["segments"], "receipts": status["receipts"],
        "events_unsealed": status["outbox"]["events_unsealed"],
        "outbox_segments": status["outbox"]["segments"], "outbox_bytes": status["outbox"]["bytes"],
        "thinned_events": status["thinned"], "refused_full": status["refused_full"],
        "store_ok": int(status["store"] == "ok"), "clock_live": int(status["clock"] == "live"),
        "resident_memory_bytes": status["rss_mb"] * 1e6,
    }  # fmt: skip
    for name, value in plain.items():
        if value is not None:
            yield _one(name, value)
    for task, count in bounded(status["faults"], MAX_REASONS).items():
        yield _one("faults", count, task)
    causes: dict[str, int] = {}
    for incident in status["open_incidents"]:
        causes[incident["cause"]] = causes.get(incident["cause"], 0) + 1
    for cause, count in causes.items():
        yield _one("incidents_open", count, cause)
    now = status.get("time")
    if now is not None:
        yield _one("time_source", 1, now["source"])
        yield _one("time_uncertainty_seconds", now["uncertainty_ms"] / 1000)


def _one(name: str, value: float, *labels: str) -> Sample:
    return Sample(f"holdfast_node_{name}", value, labels)
