"""A node's metrics, read from a running edge, an outbox, certificates and a disk; and with each missing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edge_live import Live
from mqtt_lab import broker, end, new_lab, node_toml, ready, start, until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from edge.runtime import metrics_tool, node_metrics
from edge.runtime.load import load_config
from edge.runtime.node_metrics import NODE_METRICS, Node
from edge.runtime.uplink_state import STALE_S, UplinkState
from firmware_bridge.metric import Sample, bounded

STATE = UplinkState(connected=True, connects=3, sent=40, receipts=7, troubles=1)


@pytest.fixture
def node() -> Iterator[Live]:
    made = Live()
    yield made
    made.close()


def read(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values) -> value, as Prometheus itself reads OpenMetrics."""
    found = {}
    for family in openmetrics(text):
        assert family.documentation and family.type != "unknown"
        for sample in family.samples:
            found[(sample.name, *sample.labels.values())] = sample.value
    return found


def ask(node: Live, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from edge.__main__ import metrics; metrics()", "node", *args],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_running_node_tells_its_figures(node: Live) -> None:
    node.start()
    node.drive(120)
    node.until(lambda status: status["readings"].get("position", 0) >= 119)
    node.call("seal")
    STATE.write(node.folder)
    done = ask(node, "--config", str(node.config), "--once")
    assert done.returncode == 0, done.stderr
    found = read(done.stdout)
    assert found["holdfast_node_up",] == 1
    assert found["holdfast_node_port_up", "gnss"] == 1
    assert found["holdfast_node_port_bytes_total", "gnss"] > 1000
    assert found["holdfast_node_readings_total", "position"] >= 119
    assert found["holdfast_node_port_age_seconds", "gnss"] <= 1
    assert found["holdfast_node_port_readings_total", "gnss"] >= 119
    assert found["holdfast_node_segments_sealed_total",] == found["holdfast_node_outbox_segments",] >= 1
    assert found["holdfast_node_outbox_bytes",] > 0
    assert found["holdfast_node_store_ok",] == 1 and found["holdfast_node_clock_live",] == 0
    assert 0 < found["holdfast_node_disk_free_bytes",] < found["holdfast_node_disk_size_bytes",]
    assert {key[1] for key in found if key[0] == "holdfast_node_certificate_days"} == {"tls", "event", "ca"}
    assert (found["holdfast_node_uplink_connected",], found["holdfast_node_uplink_connects_total",]) == (1, 3)
    assert [key[1] for key in found if key[0] == "holdfast_node_time_source"] == ["gnss"]
    [info] = [key for key in found if key[0] == "holdfast_node_build_info"]
    assert {"tenant-a", "car-1", "vehicle"} <= set(info)


def test_a_node_that_is_down_still_tells_what_can_be_read(node: Live) -> None:
    node.start()
    node.drive(70)
    assert node.stop() == 0
    found = {
        (sample.name, *sample.labels): sample.value for sample in Node(load_config(node.config)).gather()
    }
    assert found["holdfast_node_up",] == 0 and found["holdfast_node_uplink_up",] == 0
    assert ("holdfast_node_outbox_oldest_seconds",) in found and ("holdfast_node_disk_free_bytes",) in found
    assert ("holdfast_node_events",) not in found


def test_an_empty_state_folder_tells_that_nothing_is_there(node: Live, tmp_path: Path) -> None:
    config = replace(load_config(node.config), state_dir=str(tmp_path))
    names = {sample.name for sample in Node(config).gather()}
    assert (
        "holdfast_node_certificate_days" not in names and "holdfast_node_outbox_oldest_seconds" not in names
    )
    (tmp_path / "outbox.db").write_bytes(b"no database" * 100)
    (tmp_path / "outbox.db.damaged-1").touch()
    (tmp_path / "outbox.db.damaged-1-wal").touch()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "tls.crt").write_text("no certificate")
    found = {sample.name: sample.value for sample in Node(config).gather()}
    assert found["holdfast_node_quarantined_stores"] == 1
    assert "holdfast_node_certificate_days" not in found


def test_certificates_are_counted_in_days(node: Live) -> None:
    config = load_config(node.config)
    now = Node(config)._wall_s()

    def left(at_s: float) -> dict[str, float]:
        samples = Node(config, lambda: at_s).gather()
        return {one.labels[0]: one.value for one in samples if one.name == "holdfast_node_certificate_days"}

    days = [left(now), left(now + 10 * 86_400)]
    assert days[0].keys() == {"tls", "event", "ca"}
    assert all(days[0][name] - days[1][name] == pytest.approx(10, abs=0.01) for name in days[0])


def test_it_serves_until_sigterm_on_loopback(node: Live) -> None:
    process = subprocess.Popen(
        [
            sys.executable, "-c", "from edge.__main__ import metrics; metrics()", "node",
            "--config", str(node.config), "--listen", "127.0.0.1:0",
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/metrics",
            headers={"Accept": "application/openmetrics-text; version=1.0.0"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert read(answer.read().decode())["holdfast_node_up",] == 0
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            names = {family.name for family in prometheus(answer.read().decode())}
        assert "holdfast_node_up" in names and not {
            name for name in names if not name.startswith("holdfast_node_")
        }
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]


def test_a_taken_port_and_a_bad_address_are_said(node: Live, capsys: pytest.CaptureFixture[str]) -> None:
    def code(listen: str) -> int:
        return metrics_tool.node(node.config, listen=listen, textfile=None, once=False)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert code(f"127.0.0.1:{taken.getsockname()[1]}") == 12
    assert "is taken" in capsys.readouterr().err
    for bad in ("", "9463", "127.0.0.1:x", "127.0.0.1:70000"):
        assert code(bad or "x") == 2
        assert "HOST:PORT" in capsys.readouterr().err
    assert code("192.0.2.1:9463") == 2
    assert "cannot listen" in capsys.readouterr().err


def test_the_textfile_is_replaced_whole_and_readable(node: Live, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.prom"
    file.write_text("old")
    assert ask(node, "--config", str(node.config), "--textfile", str(file)).returncode == 0
    assert "holdfast_node_up 0.0" in file.read_text()
    assert list(prometheus(file.read_text()))
    assert file.stat().st_mode & 0o777 == 0o644 and os.listdir(tmp_path) == ["holdfast.prom"]
    gone = ask(node, "--config", str(node.config), "--textfile", str(tmp_path / "no" / "x.prom"))
    assert gone.returncode == 1 and "cannot write" in gone.stderr
    both = ask(node, "--config", str(node.config), "--textfile", str(file), "--once")
    assert both.returncode == 2
    missing = ask(node, "--config", str(tmp_path / "none.toml"), "--once")
    assert missing.returncode == 2 and "none.toml" in missing.stderr


def test_reasons_and_ports_without_end_make_no_series_without_end() -> None:
    figures = {"readings": 1, "last_reading_age_s": None, "refused": {f"r{n}": n for n in range(1000)}}
    status: dict[str, Any] = {
        "readings": {}, "last_fix_age_s": None, "events": 0,
        "last_receipt_age_s": None, "segments": 0, "receipts": 0, "thinned": 0, "refused_full": 0,
        "outbox": {"events_unsealed": 0, "segments": 0, "bytes": 0}, "store": "ok", "clock": "live",
        "rss_mb": 1,
        "ports": {f"p{n}": "ok" for n in range(100)}, "port_bytes": {f"p{n}": 0 for n in range(100)},
        "port_figures": {f"p{n}": figures for n in range(100)},
        "faults": {f"t{n}": 1 for n in range(100)}, "open_incidents": [{"cause": "towing"}] * 2,
    }  # fmt: skip
    samples = list(node_metrics.from_status(status))
    refused = [sample for sample in samples if sample.name == "holdfast_node_refused"]
    assert len(refused) == node_metrics.MAX_REASONS * node_metrics.MAX_PORTS
    first = [sample for sample in refused if sample.labels[0] == "p0"]
    assert sum(sample.value for sample in first) == sum(range(1000)) and first[-1].labels == ("p0", "other")
    assert len([s for s in samples if s.name == "holdfast_node_port_up"]) == node_metrics.MAX_PORTS
    assert Sample("holdfast_node_incidents_open", 2, ("towing",)) in samples
    assert {sample.name for sample in samples} <= NODE_METRICS.keys()


def test_bounded() -> None:
    assert bounded({"a": 1, "b": 2}, 2) == {"a": 1, "b": 2}
    assert bounded({"a": 1, "b": 2, "c": 3}, 2) == {"c": 3, "other": 3}
    assert bounded({"other": 9, "b": 2, "c": 3}, 2) == {"other": 14}


# --- uplink.json ------------------------------------------------------------------------------------------


def test_what_the_uplink_says_is_read_back_and_grows_old(tmp_path: Path) -> None:
    STATE.write(tmp_path)
    file = tmp_path / "uplink.json"
    now = file.stat().st_mtime
    assert UplinkState.read(tmp_path, now + STALE_S - 1) == STATE
    assert UplinkState.read(tmp_path, now + STALE_S + 1) is None
    assert file.stat().st_mode & 0o777 == 0o600
    replace(STATE, ended=True).write(tmp_path)
    assert UplinkState.read(tmp_path, file.stat().st_mtime) is None
    for bad in ("", "{}", "[]", '{"connected": 1}', file.read_text().replace("40", "-1"), '"x"'):
        file.write_text(bad.replace("true}", "false}"))
        assert UplinkState.read(tmp_path, file.stat().st_mtime) is None
    STATE.write(tmp_path / "no such folder")


def test_a_real_uplink_says_how_it_is(tmp_path: Path) -> None:
    lab = new_lab(tmp_path)
    with broker(lab) as port:
        config = node_toml(lab, port)
        folder = Path(load_config(config).state_dir)
        process = start("edge.runtime.uplinkd", config)
        ready(process)
        try:
            asyncio.run(until(lambda: _connected(folder)))
        finally:
            code = end(process)
    assert code == 0
    assert UplinkState.read(folder, time.time()) is None, "it ended"
    assert json.loads((folder / "uplink.json").read_text("utf-8"))["connects"] == 1


def _connected(folder: Path) -> bool:
    state = UplinkState.read(folder, time.time())
    return state is not None and state.connected
