"""The cloud's metrics as Prometheus reads them: collector, server and enrolment server, by what they did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from ca_kit import Device, World, serving
from cloudkit import START_MS, Kit, make_kit, write_config
from mqtt_lab import broker
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from serve_kit import ServeKit, kit  # noqa: F401 - a fixture

from cloud_sync.collector import Message
from cloud_sync.runtime.collect_metrics import CollectMetrics
from cloud_sync.runtime.collectord import Collector
from cloud_sync.runtime.intake import Alarm, Outcome
from cloud_sync.runtime.metric_tables import COLLECT_METRICS, HEARD, SERVE_METRICS
from cloud_sync.runtime.serve import metrics as serve_metrics
from cloud_sync.runtime.serve import outbound
from firmware_bridge.runtime.exposition import ListenError, exposed, listen, text_of
from provisioning.runtime.ca_metrics import CA_METRICS


def read(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values by label) -> value, as Prometheus itself reads OpenMetrics."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in openmetrics(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def scraped(port: int) -> dict[tuple[str, ...], float]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return read(answer.read().decode())


# --- the collector --------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "lab")


def at_start(lab: Kit) -> CollectMetrics:
    return CollectMetrics(lab.config.store, lab.config.keys / "tls.crt", lambda: START_MS / 1000)


def test_a_batch_is_counted_and_its_store_read(lab: Kit) -> None:
    made, device = at_start(lab), lab.device("car-1")
    messages = device.messages(4)
    with lab.collector() as (_, _, intake):
        outcome = intake.commit([*messages[:2], messages[0], messages[3], Message(device.topic, b"bad")])
        made.committed(outcome, 0.004)
        made.logged(len(intake.finish(outcome)), 0.02)
        made.connected(True)
        made.waited()
    found = read(text_of(made.registry))
    assert found["holdfast_collect_segments_total", "accepted"] == 3
    assert found["holdfast_collect_segments_total", "duplicate"] == 1
    assert found["holdfast_collect_quarantined_total", "malformed"] == 1
    assert found["holdfast_collect_receipts_total",] == 1
    assert found["holdfast_collect_connected",] == found["holdfast_collect_store_waits_total",] == 1
    assert found["holdfast_collect_commit_seconds_bucket", "0.005"] == 1
    assert found["holdfast_collect_commit_seconds_bucket", "0.0025"] == 0
    assert found["holdfast_collect_log_seconds_sum",] == pytest.approx(0.02)
    assert found["holdfast_collect_log_entries",] >= 3 and found["holdfast_collect_pending",] == 0
    assert found["holdfast_collect_gaps",] == 1 and found["holdfast_collect_forks",] == 0
    assert found["holdfast_collect_quarantine_rows",] == 1
    assert found["holdfast_collect_checkpoint_age_seconds",] == 0
    assert found["holdfast_collect_devices", "5m"] == 1
    assert found["holdfast_collect_store_bytes", "db"] > 0
    assert found["holdfast_collect_disk_free_bytes",] > 0 and ("holdfast_collect_certificate_days",) in found


def test_devices_are_counted_once_by_when_they_were_heard(lab: Kit) -> None:
    with lab.collector() as (store, _, intake):
        intake.process(lab.device("car-1").messages(1) + lab.device("car-2").messages(1))
        with store.transaction() as db:
            db.execute("INSERT INTO vehicles(tenant, device) VALUES('fund', 'new')")
    expected = [(0, "5m"), (301, "1h"), (3601, "1d"), (86_401, "7d"), (8 * 86_400, "longer")]
    for later_s, name in expected:
        certificate = lab.config.keys / "tls.crt"
        made = CollectMetrics(lab.config.store, certificate, partial(float, START_MS / 1000 + later_s))
        counts = {s.labels[0]: s.value for s in made.gather() if s.name == "holdfast_collect_devices"}
        assert counts.pop(name) == 2 and counts.pop("never") == 1 and not any(counts.values())
    assert [name for _, name in expected[:-1]] == [name for name, _ in HEARD]


def test_a_store_that_is_not_there_is_no_error(lab: Kit) -> None:
    found = {sample.name for sample in at_start(lab).gather()}
    assert "holdfast_collect_build" in found and "holdfast_collect_pending" not in found


def test_the_loop_counts_what_it_does(lab: Kit) -> None:
    with lab.collector() as (_, sequencer, intake):
        made = Collector(lab.config, intake, sequencer)
        message = lab.device("car-1").messages(1)[0]
        arrived = mqtt.MQTTMessage(1, message.topic.encode())
        arrived.payload, arrived.qos = message.payload, 1
        made._on_message(mqtt.Client(CallbackAPIVersion.VERSION2), None, arrived)
        made._work()
        found = read(text_of(made.metrics.registry))
    assert found["holdfast_collect_segments_total", "accepted"] == 1
    assert (
        found["holdfast_collect_commit_seconds_count",] == found["holdfast_collect_log_seconds_count",] == 1
    )
    assert found["holdfast_collect_connected",] == 0


def test_alarms_are_counted_by_kind(lab: Kit) -> None:
    made = at_start(lab)
    made.committed(Outcome(alarms=[Alarm("fund", "car-1", "chain_fork", "x")] * 2), 0.1)
    assert read(text_of(made.registry))["holdfast_collect_alarms_total", "chain_fork"] == 2


def test_a_real_collector_serves_its_metrics_and_ends(lab: Kit) -> None:
    with broker(lab.lab) as port:
        write_config(lab.lab, port)
        code = (
            "import pathlib, sys\n"
            "from firmware_bridge.runtime import exposition\n"
            "real = exposition.listen\n"
            "def told(address, registry):\n"
            "    port, end = real(address, registry)\n"
            "    print('{\"metrics\": %d}' % port, flush=True)\n"
            "    return port, end\n"
            "exposition.listen = told\n"
            "from cloud_sync.runtime import collectord\n"
            "sys.exit(collectord.run(pathlib.Path(sys.argv[1]), '127.0.0.1:0'))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(lab.config_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            metrics = json.loads(process.stdout.readline())["metrics"]
            assert json.loads(process.stdout.readline())["ready"]
            for _ in range(100):
                found = scraped(metrics)
                if found["holdfast_collect_connected",]:
                    break
                threading.Event().wait(0.1)
            assert found["holdfast_collect_connected",] == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.stdout.close()  # type: ignore[union-attr]


def test_a_taken_port_of_metrics_ends_the_start(lab: Kit) -> None:
    registry = at_start(lab).registry
    port, end = listen(("127.0.0.1", 0), registry)
    done = subprocess.run(
        [sys.executable, "-m", "firmware_bridge", "collect", "--config", str(lab.config_path)],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "HOLDFAST_METRICS": f"127.0.0.1:{port}"},
    )  # fmt: skip
    end()
    assert done.returncode == 12 and "is taken" in done.stderr and done.stdout == ""
    with pytest.raises(ListenError, match="HOST:PORT") as bad, exposed("nowhere", registry):
        pass
    assert bad.value.code == 2


# --- the server -------------------------------------------------------------------------------------------


def test_answers_are_counted_by_class_and_status_and_timed(kit: ServeKit) -> None:  # noqa: F811
    client = kit.client()
    client.get("/api/v1/vehicles")
    client.get("/api/v1/vehicles/nobody")
    for n in range(50):
        kit.anonymous().get(f"/no/such/{n}")
    kit.anonymous().post("/api/v1/session", json={"name": "nobody", "password": "wrong"})
    kit.context.extras["live"] = None
    found = read(text_of(serve_metrics.install(kit.context).registry))
    assert found["holdfast_serve_requests_total", "fleet", "200"] == 1
    assert found["holdfast_serve_requests_total", "fleet", "404"] == 1
    assert found["holdfast_serve_login_failures_total",] == 1
    assert found["holdfast_serve_request_seconds_count", "fleet"] == 2
    assert found["holdfast_serve_sessions",] >= 1 and found["holdfast_serve_live_streams",] == 0
    routes = {key[1] for key in found if key[0] == "holdfast_serve_requests_total"}
    assert routes <= serve_metrics.CLASSES
    missed = [v for key, v in found.items() if key[0] == "holdfast_serve_requests_total" and key[2] == "404"]
    assert sum(missed) == 51


def test_every_route_of_the_api_has_a_class(kit: ServeKit) -> None:  # noqa: F811
    tags = {
        tag for path in kit.app.openapi()["paths"].values() for way in path.values() for tag in way["tags"]
    }
    assert tags == serve_metrics.CLASSES - {"page", "none"}
    assert serve_metrics.class_of({"type": "http"}) == "none"


def test_deliveries_are_counted_by_state(kit: ServeKit) -> None:  # noqa: F811
    now_ms = kit.context.real_ms()
    with kit.context.db.transaction() as db:
        outbound.migrate(db)
        for n, state in enumerate(("waiting", "dead", "dead")):
            parcel = outbound.Parcel("fund", outbound.EMAIL, "a@example.org", f"m{n}", "s", "b")
            number = outbound.enqueue(db, parcel, now_ms - 60_000)
            db.execute("UPDATE deliveries SET state = ? WHERE id = ?", (state, number))
    found = read(text_of(serve_metrics.install(kit.context).registry))
    counts = [found["holdfast_serve_deliveries", state] for state in ("waiting", "delivered", "dead")]
    assert counts == [1, 0, 2]
    assert 60 <= found["holdfast_serve_delivery_oldest_seconds",] < 600


# --- the enrolment server -----------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.register.close()


def test_enrolments_are_counted_and_the_register_read(world: World) -> None:
    with serving(world) as server:
        device = Device(world.home, server.port, world.opened.root, chain=(world.opened.tls.certificate,))
        code = world.code()
        assert device.enrol_tls(code).status == 200
        assert device.enrol_tls(code).status == 200
        other = Device(world.home, server.port, world.opened.root, chain=(world.opened.tls.certificate,))
        assert other.enrol_tls(code).status != 200
        found = read(text_of(server.metrics.registry))
        assert found["holdfast_ca_enrolments_total", "tls", "enrolled"] == 1
        assert found["holdfast_ca_enrolments_total", "tls", "repeated"] == 1
        assert sum(value for key, value in found.items() if key[0] == "holdfast_ca_refused_total") == 1
        assert found["holdfast_ca_claims_open",] == 0 and found["holdfast_ca_revoked",] == 0
        assert found["holdfast_ca_certificates", "longer", "tls"] == 1
        world.clock.forward(80)
        later = read(text_of(server.metrics.registry))
        assert later["holdfast_ca_certificates", "under_14d", "tls"] == 1
        assert later["holdfast_ca_certificates", "longer", "tls"] == 0
        lost = found["holdfast_ca_authority_days", "tls"] - later["holdfast_ca_authority_days", "tls"]
        assert lost == pytest.approx(80, abs=0.01)


# --- no device in a label -----------------------------------------------------------------------------------


def test_no_metric_of_the_cloud_names_a_device() -> None:
    for metric in (*COLLECT_METRICS.values(), *SERVE_METRICS.values(), *CA_METRICS.values()):
        assert not {"device", "tenant", "vehicle", "path"} & set(metric.labels), metric.name
