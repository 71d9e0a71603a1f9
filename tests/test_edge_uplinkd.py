"""The uplink against a real broker process, a real outbox, and a collector and an edge that can fail."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from mqtt_lab import (
    DEVICE,
    TENANT,
    Collector,
    Edge,
    Outbox,
    broker,
    client,
    end,
    find_mosquitto,
    free_port,
    new_lab,
    node_toml,
    ready,
    start,
    start_mosquitto,
    until,
    write_broker_toml,
)  # fmt: skip

from edge import topics
from edge.runtime import uplinkd
from edge.runtime.load import load_config
from edge.runtime.mqtt_tls import client_context
from edge.runtime.uplinkd import Uplink, load_trust
from edge.uplink import Window, WindowLimits, packet_bytes
from provisioning.runtime.lab import Lab

FAST = WindowLimits(receipt_s=0.5, probe_max_s=0.5)
"""Receipt timers of a test: everything else is as in the field."""


PATIENT = WindowLimits(receipt_s=60.0)
"""For tests that count repeats: a loaded machine must not make one."""


class Bench:
    """One node with its uplink in this process, its edge and its collector."""

    def __init__(self, lab: Lab, port: int, limits: WindowLimits = FAST, extra: str = "") -> None:
        config = load_config(node_toml(lab, port, extra))
        self.outbox = Outbox(Path(config.path("outbox.db")))
        self.edge = Edge(Path(config.path("facts.sock")), self.outbox, load_trust(config))
        self.collector = Collector(lab, port)
        self.uplink = Uplink(config, load_trust(config), window=Window(limits), rng=random.Random(1))

    @asynccontextmanager
    async def running(self, *, uplink: bool = True) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.edge.serve()), asyncio.create_task(self.collector.run())]
        await self.collector.listening.wait()
        if uplink:
            tasks.append(asyncio.create_task(self.uplink.run()))
        try:
            yield
        finally:
            self.uplink.stop.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asyncio.gather(*tasks[2:])), 10)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.outbox.db.close()


def bench(tmp_path: Path, story: Callable[[Bench], Awaitable[None]], limits: WindowLimits = FAST) -> None:
    lab = new_lab(tmp_path)

    async def main(port: int) -> None:
        await story(Bench(lab, port, limits))

    with broker(lab) as port:
        asyncio.run(main(port))


def test_everything_arrives_once_and_is_forgotten_on_receipt(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        bodies = b.outbox.add(count=300)
        async with b.running():
            await until(lambda: b.outbox.left() == 0)
            assert b.collector.arrived == bodies
            more = b.outbox.add(count=3)
            await until(lambda: b.outbox.left() == 0)
            assert b.collector.arrived == bodies + more

    bench(tmp_path, story, PATIENT)


def test_a_puback_deletes_nothing_and_the_receipt_timer_sends_again(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        (body,) = b.outbox.add()
        b.collector.answer = lambda _: b.collector.count(body) >= 3
        async with b.running():
            await until(lambda: b.outbox.left() == 0)
            assert b.collector.count(body) == 3
            assert b.edge.receipts == 1

    bench(tmp_path, story)


def test_the_receipt_of_a_duplicate_settles_too(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        (body,) = b.outbox.add()
        b.collector.logged[hashlib.sha256(body).digest()] = 0
        async with b.running():
            await until(lambda: b.outbox.left() == 0)
            assert b.edge.receipts == 1

    bench(tmp_path, story)


def test_an_alarm_overtakes_two_thousand_segments(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.outbox.add(count=2000, size=1500)
        async with b.running():
            await until(lambda: len(b.collector.arrived) > 100)
            before = len(b.collector.arrived)
            (alarm,) = b.outbox.add(lane=0)
            await until(lambda: alarm in b.collector.arrived)
            place = b.collector.arrived.index(alarm)
            assert before <= place < 1200, f"{place} of 2001"
            assert b.outbox.left() > 500, "overtaken"

    bench(tmp_path, story)


def test_what_is_receipted_is_never_sent_again_though_its_row_cannot_be_deleted(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.edge.deletes = False
        bodies = b.outbox.add(count=50)
        async with b.running():
            await until(lambda: b.edge.receipts == 50)
            await asyncio.sleep(1)
            (late,) = b.outbox.add()
            await until(lambda: b.collector.count(late) == 1)
            assert b.collector.arrived == [*bodies, late]
            assert b.outbox.left() == 51

    bench(tmp_path, story, PATIENT)


def test_receipts_wait_for_an_edge_that_is_away_or_refuses(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.edge.refuses = True
        b.outbox.add(count=5)
        async with b.running():
            await until(lambda: len(b.uplink.receipts) == 5)
            await asyncio.sleep(1)
            assert b.outbox.left() == 5
            b.edge.refuses = False
            await until(lambda: b.outbox.left() == 0)
            assert len(b.collector.arrived) == 5

    bench(tmp_path, story, PATIENT)


def test_alarms_go_on_while_receipts_wait_for_the_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplinkd, "MAX_RECEIPTS", 5)

    async def story(b: Bench) -> None:
        b.edge.refuses = True
        b.outbox.add(count=5)
        async with b.running():
            await until(lambda: len(b.uplink.receipts) == 5)
            (late,) = b.outbox.add()
            alarms = b.outbox.add(lane=0, count=3)
            await until(lambda: len(b.uplink.receipts) == 8)
            assert b.collector.arrived[5:] == alarms, "no telemetry"
            b.edge.refuses = False
            await until(lambda: b.outbox.left() == 0)
            assert b.collector.arrived[8:] == [late]

    bench(tmp_path, story, PATIENT)


def test_forged_receipts_are_ignored(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        (body,) = b.outbox.add()
        b.collector.answer = lambda _: False
        async with b.running():
            await until(lambda: b.collector.count(body) == 1)
            assert b.collector.client is not None
            topic = topics.receipt_topic(TENANT, DEVICE)
            good = bytearray(b.collector.receipt([body]))
            good[-1] ^= 1
            for forged in (b"", b"\xd2\x80", bytes(good), b"\x00" * 70_000):
                with suppress(Exception):
                    await b.collector.client.publish(topic, forged, qos=1)
            await until(lambda: b.collector.count(body) >= 2)
            assert b.outbox.left() == 1
            assert b.edge.receipts == 0

    bench(tmp_path, story)


def test_a_collector_that_comes_back_gets_everything(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        bodies = b.outbox.add(count=200)
        alive = False
        b.collector.answer = lambda _: alive
        async with b.running():
            await until(lambda: len(b.collector.arrived) >= 66)
            await asyncio.sleep(1)
            assert len(b.collector.arrived) < 80, "a silent collector is probed, not flooded"
            alive = True
            await until(lambda: b.outbox.left() == 0)
            assert set(b.collector.arrived) == set(bodies)

    bench(tmp_path, story)


def test_one_segment_over_the_limit_ends_only_its_own_way(tmp_path: Path) -> None:
    """F17, closing broker: the rest and the alarm pass, the large one pauses and is named."""
    lab = new_lab(tmp_path)

    async def main(port: int) -> None:
        b = Bench(lab, port)
        (big,) = b.outbox.add(size=4000)
        b.outbox.add(count=20)
        (alarm,) = b.outbox.add(lane=0)
        async with b.running():
            await until(lambda: b.outbox.left() == 1)
            assert b.collector.arrived[0] == alarm
            await until(lambda: bool(b.uplink.troubles()), 60)
            assert b.collector.count(big) == 0
            assert "4000 bytes" in b.uplink.troubles() and "suspected from" in b.uplink.troubles()
            (late,) = b.outbox.add()
            await until(lambda: b.collector.count(late) == 1)
            assert b.outbox.left() >= 1
            await until(lambda: bool(b.edge.facts))
            assert "max_packet_size" in b.edge.facts[0]

    with broker(lab, extra="max_packet_bytes = 2048\n") as port:
        asyncio.run(main(port))


def test_the_broker_is_killed_and_everything_arrives(tmp_path: Path) -> None:
    lab = new_lab(tmp_path)
    port = free_port()
    config = write_broker_toml(lab, port)

    async def main(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
        b = Bench(lab, port)
        bodies = b.outbox.add(count=600, size=1000)
        async with b.running():
            for at in (100, 300):
                await until(lambda at=at: len(set(b.collector.arrived)) > at)  # type: ignore[misc]
                assert b.outbox.left() > 0, "killed with work in flight"
                await asyncio.to_thread(end, process, signal.SIGKILL)
                process = await asyncio.to_thread(start, "cloud_sync.runtime.broker", config)
                await asyncio.to_thread(ready, process)
            await until(lambda: b.outbox.left() == 0, 60)
            assert set(b.collector.arrived) == set(bodies)
        return process

    process = start("cloud_sync.runtime.broker", config)
    ready(process)
    end(asyncio.run(main(process)))


def test_a_connection_that_ends_leaves_no_exception_behind(tmp_path: Path) -> None:
    lab = new_lab(tmp_path)
    left: list[object] = []

    async def main(port: int) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
        b = Bench(lab, port)
        stopped = asyncio.create_task(b.uplink.run())
        await until(lambda: b.uplink.connected)
        async with b.uplink._client() as second:
            await until(lambda: not b.uplink.connected)
            async with b.uplink._client():
                await until(lambda: second.ended_by_peer)
        b.uplink.stop.set()
        await stopped
        b.outbox.db.close()

    with broker(lab) as port:
        asyncio.run(main(port))
    gc.collect()
    assert left == []


@contextmanager
def mute(lab: Lab, kind: str) -> Iterator[tuple[int, threading.Event]]:
    """A server that takes connections and says nothing: no TLS, or no CONNACK. The event: one has come."""
    keys, came = lab.broker / "keys", threading.Event()
    kept: list[socket.socket] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "tls.crt", keys / "tls.key")

    def serve() -> None:
        with suppress(OSError):
            while True:
                one: socket.socket = listening.accept()[0]
                if kind == "tls":
                    one = context.wrap_socket(one, server_side=True)
                    one.recv(1)
                kept.append(one)
                came.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], came
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for one in kept:
                one.close()


PATIENTLY = """
import pathlib, sys
from edge.runtime import mqtt_client, uplinkd
connect = mqtt_client.Client._client_connect
def patiently(self):
    self._client.connect_timeout = 100.0
    connect(self)
mqtt_client.Client._client_connect = patiently
sys.exit(uplinkd.run(pathlib.Path(sys.argv[1])))
"""
"""The daemon, whose thread waits longer in a handshake than `end` waits for the process."""


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_sigterm_ends_an_attempt_to_connect_at_once(tmp_path: Path, kind: str) -> None:
    lab = new_lab(tmp_path)
    with mute(lab, kind) as (port, came):
        argv = [sys.executable, "-c", PATIENTLY, str(node_toml(lab, port))]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        ready(process)
        assert came.wait(20)
        code = end(process)
        assert process.stderr is not None
        said = process.stderr.read()
        process.stderr.close()
    assert code == 0
    assert "no connection" not in said, "it did not wait for the attempt's own end"
    assert "stopped: 0 segments" in said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("foreign", ["ca.crt", "tls"])
def test_foreign_keys_at_mosquitto_are_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    foreign: str,
    version: ssl.TLSVersion,
) -> None:
    def context(keys: Path, name: str | None) -> ssl.SSLContext:
        made = client_context(keys, name)
        made.maximum_version = version
        return made

    monkeypatch.setattr(uplinkd, "client_context", context)
    lab, strange = new_lab(tmp_path / "lab"), new_lab(tmp_path / "strange")
    for name in ["ca.crt"] if foreign == "ca.crt" else ["tls.crt", "tls.key"]:
        shutil.copy(strange.nodes[DEVICE] / "keys" / name, lab.nodes[DEVICE] / "keys" / name)

    async def main(port: int) -> None:
        b = Bench(lab, port)

        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        await until(listens)
        running = asyncio.create_task(b.uplink.run())
        await until(lambda: "no connection" in caplog.text)
        b.uplink.stop.set()
        await running
        b.outbox.db.close()

    with mosquitto(lab, "allow_anonymous true") as port:
        asyncio.run(main(port))
    assert ("keys/ca.crt" if foreign == "ca.crt" else "keys/tls.crt") in caplog.text
    assert "enrol" in caplog.text and "timed out" not in caplog.text


def test_the_daemon_without_a_broker_is_ready_calm_and_stops_orderly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = new_lab(tmp_path)
    config = node_toml(lab, free_port())
    outbox = Outbox(lab.nodes[DEVICE] / "outbox.db")
    outbox.add(count=10)
    monkeypatch.setenv("HOLDFAST_LOG_FORMAT", "json")
    process = start("edge.runtime.uplinkd", config, stderr=subprocess.PIPE)
    ready(process)
    assert process.stderr is not None
    line = json.loads(process.stderr.readline())
    assert "no connection to 127.0.0.1" in line["text"]
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    code = end(process)
    rest = process.stderr.read()
    process.stderr.close()
    assert code == 0
    assert rest.count("no connection") == 0, "one line a minute"
    assert outbox.left() == 10
    outbox.db.close()


def test_the_daemon_drains_and_stops_on_sigterm(tmp_path: Path) -> None:
    lab = new_lab(tmp_path)
    with broker(lab) as port:
        process = start("edge.runtime.uplinkd", node_toml(lab, port))

        async def main() -> int:
            b = Bench(lab, port)
            b.outbox.add(count=20)
            async with b.running(uplink=False):
                await until(lambda: b.outbox.left() == 0)
                return await asyncio.to_thread(end, process)

        ready(process)
        assert asyncio.run(main()) == 0


@pytest.mark.parametrize("missing", ["trust.json", "keys/tls.key", "node.toml"])
def test_the_daemon_says_what_is_missing(tmp_path: Path, missing: str) -> None:
    lab = new_lab(tmp_path)
    config = node_toml(lab, 1)
    (lab.nodes[DEVICE] / missing).unlink()
    process = start("edge.runtime.uplinkd", config, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert out == ""
    assert "keys" in err if missing.startswith("keys") else missing in err


def test_two_clients_of_one_identity_slow_down(tmp_path: Path) -> None:
    """F19: the broker throws one out at each connect of the other; ours notices and says so."""

    async def story(b: Bench) -> None:
        keys = Path(b.uplink.config.path("keys"))
        async with b.running():
            for _ in range(3):
                await until(lambda: b.uplink.connected)
                async with client(keys, b.uplink.server.port, b.uplink.identity.client_id):
                    await until(lambda: not b.uplink.connected)
            await until(lambda: b.uplink.reconnects.conflict)
            assert "another client uses this identity" in b.uplink.troubles()
            (waiting,) = b.outbox.add()
            await asyncio.sleep(3)
            assert b.collector.count(waiting) == 0, "connects once a minute now"

    bench(tmp_path, story)


def mosquitto_conf(lab: Lab, port: int, text: str) -> Path:
    """A Mosquitto with the limits of `text`, our certificates and mutual TLS."""
    limits = [line for line in text.splitlines() if not line.startswith("listener")]
    keys = lab.broker / "keys"
    lines = [
        f"listener {port} 127.0.0.1", "require_certificate true", f"cafile {keys / 'ca.crt'}",
        f"certfile {keys / 'tls.crt'}", f"keyfile {keys / 'tls.key'}", "user root", *limits,
    ]  # fmt: skip
    path = lab.broker / "mosquitto.conf"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@contextmanager
def mosquitto(lab: Lab, text: str) -> Iterator[int]:
    port = free_port()
    process = start_mosquitto(find_mosquitto(), mosquitto_conf(lab, port, text))
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("kind", ["disconnects", "swallows"])
def test_a_segment_over_mosquittos_limit_f17(
    tmp_path: Path, shared_data: Callable[[str], Path], kind: str
) -> None:
    """A real broker that closes, and one that acknowledges and drops."""
    text = shared_data(f"field/F17.{kind}.conf").read_text("utf-8")
    lab = new_lab(tmp_path)

    async def main(port: int) -> None:
        b = Bench(lab, port, WindowLimits(receipt_s=0.2))
        (big,) = b.outbox.add(size=3000)
        b.outbox.add(count=20)
        (alarm,) = b.outbox.add(lane=0)
        async with b.running():
            await until(lambda: b.outbox.left() == 1)
            assert b.collector.arrived[0] == alarm
            assert b.collector.count(big) == 0, "still in the outbox: a PUBACK is no receipt"
            serial = 0
            while not b.uplink.troubles():
                b.outbox.add()  # the rest goes on
                serial += 1
                await until(lambda: b.outbox.left() == 1)
                await asyncio.sleep(0.1)
                assert serial < 300
            assert "3000 bytes" in b.uplink.troubles()

    with mosquitto(lab, text) as port:
        asyncio.run(main(port))


def test_a_segment_over_mosquittos_limit_with_mqtt_5_f17(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """The broker says its limit, so that what is above it never ends a connection."""
    text = shared_data("field/F17.disconnects.conf").read_text("utf-8")
    lab = new_lab(tmp_path)

    async def main(port: int) -> None:
        b = Bench(lab, port, PATIENT, extra='mqtt = "5"\n')
        room = 2048 - packet_bytes(len(topics.seg_topic(TENANT, DEVICE)), 0) - 1  # one more byte of length
        (big,) = b.outbox.add(size=room + 1)
        (largest,) = b.outbox.add(size=room)
        small = b.outbox.add(count=60)
        (alarm,) = b.outbox.add(lane=0)
        async with b.running():
            await until(lambda: b.outbox.left() == 1)
            assert b.collector.arrived == [alarm, largest, *small]
            assert b.collector.count(big) == 0
            assert f"{room + 1} bytes" in b.uplink.troubles()
            assert "known limit is 2048 bytes" in b.uplink.troubles()
            await until(lambda: bool(b.edge.facts))
            assert "known limit is 2048 bytes" in b.edge.facts[0]
            assert b.uplink.connected and b.uplink.sent == 62, "on the first connection"

    with mosquitto(lab, text) as port:
        asyncio.run(main(port))


def test_two_clients_of_one_identity_at_mosquitto_f19(tmp_path: Path) -> None:
    lab = new_lab(tmp_path)

    async def main(port: int) -> None:
        b = Bench(lab, port)
        twin = Uplink(b.uplink.config, b.uplink.trust, rng=random.Random(2))
        async with b.running():
            other = asyncio.create_task(twin.run())
            await until(lambda: b.uplink.reconnects.conflict or twin.reconnects.conflict)
            yielding = b.uplink if b.uplink.reconnects.conflict else twin
            assert "another client uses this identity" in yielding.troubles()
            await until(lambda: b.uplink.connected != twin.connected)
            await asyncio.sleep(5)
            assert yielding.connected is False, "one of the two has its peace for a minute"
            twin.stop.set()
            await other

    with mosquitto(lab, "allow_anonymous true") as port:
        asyncio.run(main(port))
