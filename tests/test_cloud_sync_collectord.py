"""The collector daemon on the real embedded broker: receipts, outages, kill -9, what is not acknowledged."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cloudkit import TENANT, Kit, make_kit, write_config
from mqtt_lab import broker, end, ready, start
from paho.mqtt.enums import CallbackAPIVersion

from cloud_sync.collector import Message
from cloud_sync.errors import StoreBusy
from cloud_sync.runtime import collectord, queries
from cloud_sync.runtime.collectord import Collector
from cloud_sync.runtime.intake import Outcome, Outgoing
from cloud_sync.runtime.store import Store
from edge.receipt import verify_receipt
from edge.runtime.mqtt_tls import client_context
from edge.segment import Sealed
from edge.topics import receipt_topic

WAIT_S = 30.0


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "lab")


def wait(condition: Callable[[], bool], what: str) -> None:
    """Until `condition` holds; a bound, not a measurement."""
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, f"never came: {what}"
        time.sleep(0.02)


class Node:
    """A device's MQTT side: publishes, gathers receipts, publishes again what has none."""

    def __init__(self, kit: Kit, name: str, port: int) -> None:
        self.trust = kit.trust
        self.name = name
        self.receipted: dict[bytes, int] = {}
        self.listening = threading.Event()
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"{TENANT}.{name}", protocol=mqtt.MQTTv311
        )
        self.client.tls_set_context(client_context(kit.lab.nodes[name] / "keys", "localhost"))
        self.client.on_connect = lambda c, *_: c.subscribe(receipt_topic(TENANT, name), qos=1)
        self.client.on_subscribe = lambda *_: self.listening.set()
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.listening.wait(WAIT_S)

    def _on_message(self, client: Any, data: Any, message: mqtt.MQTTMessage) -> None:
        receipt = verify_receipt(bytes(message.payload), self.trust, tenant=TENANT, device=self.name)
        self.receipted |= {item.hash: item.index for item in receipt.items}

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.client.publish(message.topic, message.payload, qos=1)

    def send_until_receipted(self, sealed: Sequence[Sealed], topic: str) -> None:
        until = time.monotonic() + 2 * WAIT_S
        while left := [s for s in sealed if s.hash not in self.receipted]:
            assert time.monotonic() < until, f"{len(left)} segments never got a receipt"
            self.send([Message(topic, s.data) for s in left])
            time.sleep(0.5)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def node(kit: Kit, name: str, port: int) -> Iterator[Node]:
    made = Node(kit, name, port)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def collector(kit: Kit, port: int) -> Iterator[subprocess.Popen[str]]:
    process = start("cloud_sync.runtime.collectord", write_config(kit.lab, port))
    try:
        ready(process)
        yield process
    finally:
        end(process)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def logged(kit: Kit) -> list[bytes]:
    with Store(kit.config.store, read_only=True) as store:
        return [bytes(row[0]) for row in store.db.execute("SELECT hash FROM entries ORDER BY log_index")]


def test_segments_become_log_entries_and_receipts(kit: Kit) -> None:
    car = kit.device("car-1")
    with broker(kit.lab) as port, collector(kit, port) as process, node(kit, "car-1", port) as car_node:
        car_node.send_until_receipted([car.seal(5) for _ in range(60)], car.topic)
        car_node.send([Message(car.topic, b"garbage")])
        wait(lambda: bool(queries.quarantine(kit.config.store, TENANT)), "the quarantined message")
        assert end(process) == 0
    assert logged(kit) == [sealed.hash for sealed in car.sealed]
    assert car_node.receipted == {sealed.hash: n for n, sealed in enumerate(car.sealed)}
    assert queries.log_status(kit.config_path)["verified"]


def test_a_broker_that_is_down_at_the_start_and_goes_away_later(kit: Kit) -> None:
    car, port = kit.device("car-1"), free_port()
    with collector(kit, port) as process:
        for _ in range(2):
            with broker(kit.lab, port), node(kit, "car-1", port) as car_node:
                car_node.send_until_receipted([car.seal() for _ in range(5)], car.topic)
        assert process.poll() is None
    # Each once. Not in the order of the chain: what was published before the collector had subscribed again
    # is sent a second time, after the others.
    assert sorted(logged(kit)) == sorted(sealed.hash for sealed in car.sealed)


@pytest.mark.crash
def test_kill_9_in_mid_stream_loses_nothing_and_invents_nothing(kit: Kit) -> None:
    car = kit.device("car-1")
    sealed = [car.seal(20) for _ in range(400)]
    with broker(kit.lab) as port, node(kit, "car-1", port) as car_node:
        for kill in range(4):
            process = start("cloud_sync.runtime.collectord", write_config(kit.lab, port))
            ready(process)
            part = sealed[kill * 100 : kill * 100 + 100]
            already = len(car_node.receipted)
            sender = threading.Thread(target=car_node.send_until_receipted, args=(part, car.topic))
            sender.start()
            try:
                wait(lambda seen=already: len(car_node.receipted) > seen, "the first receipt")  # type: ignore[misc]
                assert sender.is_alive() or len(car_node.receipted) >= already + 100
            finally:
                end(process, signal.SIGKILL)
            with collector(kit, port):
                sender.join(2 * WAIT_S)
                assert not sender.is_alive()
        with collector(kit, port):
            car_node.send_until_receipted(sealed, car.topic)
    entries = logged(kit)
    assert len(entries) == len(set(entries)) == 400
    assert set(entries) == {one.hash for one in sealed}
    assert all(entries[index] == digest for digest, index in car_node.receipted.items())
    assert queries.log_status(kit.config_path)["verified"]
    with Store(kit.config.store, read_only=True) as store:
        bodies = dict(store.db.execute("SELECT hash, data FROM bodies").fetchall())
    assert bodies == {one.hash: one.data for one in sealed}


def test_a_second_collector_on_the_same_store_ends_the_first(kit: Kit) -> None:
    car = kit.device("car-1")
    with broker(kit.lab) as port, collector(kit, port) as first, kit.collector() as (_, _, intake):
        intake.process(car.messages(1))
        with node(kit, "car-1", port) as car_node:
            deadline = time.monotonic() + WAIT_S
            while first.poll() is None and time.monotonic() < deadline:
                car_node.send(car.messages(1))
                time.sleep(0.1)
        assert first.wait(WAIT_S) == 1
        intake.process([])
    assert queries.log_status(kit.config_path)["verified"]


def test_what_it_cannot_use_is_said_with_an_exit_code(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    assert collectord.run(kit.lab.collector / "nowhere.toml") == 2
    assert "nowhere.toml" in capsys.readouterr().err
    key = kit.config.keys / "tls.key"
    text = key.read_bytes()
    key.write_bytes(b"not a key")
    assert collectord.run(kit.config_path) == 2
    assert "TLS keys" in capsys.readouterr().err
    key.write_bytes(text)
    with kit.collector() as (_, _, intake):
        intake.process(kit.device("car-1").messages(1))
    kit.config.store.unlink()
    for rest in kit.config.store.parent.glob("store.db-*"):
        rest.unlink()
    assert collectord.run(kit.config_path) == 1
    assert "restored from an old copy" in capsys.readouterr().err


class FakeClient:
    """A broker's connection that notes what is acknowledged and sent."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.sent: list[str] = []

    def ack(self, mid: int, qos: int) -> None:
        self.acked.append(mid)

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        self.sent.append(topic)


class FakeIntake:
    """An intake that can fail before it stored anything, or after."""

    def __init__(self) -> None:
        self.busy_commits = 0
        self.busy_finishes = 0
        self.stored: list[bytes] = []

    def commit(self, messages: Sequence[Message]) -> Outcome:
        if self.busy_commits:
            self.busy_commits -= 1
            raise StoreBusy("disk full")
        self.stored += [message.payload for message in messages]
        return Outcome(accepted=len(messages))

    def finish(self, outcome: Outcome) -> list[Outgoing]:
        if self.busy_finishes:
            self.busy_finishes -= 1
            raise StoreBusy("disk full")
        return [Outgoing("hf/1/fund/car-1/rcpt", b"receipt")]


def looped(kit: Kit, intake: FakeIntake) -> tuple[Collector, FakeClient]:
    made = Collector(kit.config, intake, None)  # type: ignore[arg-type]
    client = FakeClient()
    made._client, made._connection, made._up = client, 1, True  # type: ignore[assignment]
    message = mqtt.MQTTMessage(mid=7, topic=b"hf/1/fund/car-1/seg")
    message.payload, message.qos = b"segment", 1
    made._on_message(client, None, message)  # type: ignore[arg-type]
    return made, client


def test_nothing_is_acknowledged_before_it_is_committed(kit: Kit) -> None:
    intake = FakeIntake()
    intake.busy_commits = 1
    made, client = looped(kit, intake)
    made._work()
    assert (client.acked, client.sent, intake.stored) == ([], [], [])
    made._work()
    assert (client.acked, intake.stored) == ([7], [b"segment"])
    assert client.sent == ["hf/1/fund/car-1/rcpt"]


def test_a_failure_after_the_commit_acknowledges_and_sends_no_receipt(kit: Kit) -> None:
    intake = FakeIntake()
    intake.busy_finishes = 1
    made, client = looped(kit, intake)
    made._work()
    assert (client.acked, client.sent, intake.stored) == ([7], [], [b"segment"])


def test_a_message_of_an_ended_connection_is_stored_but_not_acknowledged(kit: Kit) -> None:
    intake = FakeIntake()
    made, client = looped(kit, intake)
    made._connection = 2
    made._work()
    assert (client.acked, intake.stored) == ([], [b"segment"])


def test_a_topic_that_is_no_text_does_not_end_the_loop(kit: Kit) -> None:
    made, client = looped(kit, FakeIntake())
    made._on_message(client, None, mqtt.MQTTMessage(mid=8, topic=b"\xff\xfe"))  # type: ignore[arg-type]
    assert [received.message.topic for received in made._inbox] == ["hf/1/fund/car-1/seg", ""]
