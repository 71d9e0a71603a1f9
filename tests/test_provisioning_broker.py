"""`holdfast provision broker` with a real Mosquitto: who may come, what each may do, bounds, revocation."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from cloudkit import Device as Sealer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from mqtt_lab import Edge, Outbox, client, end, find_mosquitto, free_port, ready, rss_kib, start, until
from typer.testing import CliRunner

from edge import topics
from edge.runtime.load import load_config
from edge.runtime.mqtt_tls import client_context
from edge.runtime.uplinkd import Uplink, load_trust
from edge.segment import MAX_SEGMENT_BYTES
from edge.uplink import Window, WindowLimits
from provisioning import ca, mosquitto
from provisioning.__main__ import provision as command
from provisioning.ca import Revoked, Validity
from provisioning.errors import BrokerError, IdentityError
from provisioning.identity import COLLECTOR, Identity
from provisioning.mosquitto import Apply, BrokerLimits, BrokerPlan
from provisioning.runtime import broker_tool, ca_admin
from provisioning.runtime.broker_material import BrokerAsk
from provisioning.runtime.ca_keys import key_pem, pem
from tests.ca_kit import CAR, World, serving
from tests.enrol_kit import Node

USER = "root" if os.geteuid() == 0 else ""
"""Mosquitto becomes nobody else: a test's folder is its owner's."""
SMALL = BrokerLimits(max_queued_bytes=1 << 20, max_inflight_messages=20, memory_bytes=64 << 20)


def connects(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@dataclass
class Mosquitto:
    """One running broker, as its configuration has it."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")


@contextmanager
def mosquitto_of(config: Path, port: int) -> Iterator[Mosquitto]:
    """`mosquitto -c config`, ready."""
    log = config.with_name("stderr.txt")
    with log.open("wb") as file:
        process = subprocess.Popen([find_mosquitto(), "-c", str(config)], stderr=file, stdout=file)
    limit = time.monotonic() + 30
    try:
        while not connects(port):
            assert process.poll() is None and time.monotonic() < limit, log.read_text()
            time.sleep(0.02)
        yield Mosquitto(process, port, log)
    finally:
        process.terminate()
        process.wait(20)


def ask(world: World, out: Path, port: int = 8883, **changes: Any) -> BrokerAsk:
    plain = BrokerAsk(out, ca=world.folder, hosts=("localhost",), listen="127.0.0.1", port=port, user=USER)
    return replace(plain, **changes)


def party(world: World, home: Path, identity: Identity, *, event: bool = False) -> Path:
    """A keys folder with a TLS certificate for `identity`, issued by the world's authority."""
    keys = home / f"{identity.tenant}.{identity.device}{'.event' if event else ''}"
    keys.mkdir(parents=True, mode=0o700)
    key, opened = ca.new_key(), world.opened
    validity = Validity(world.clock() - timedelta(minutes=5), world.clock() + timedelta(days=30))
    if event:
        chain = pem(
            ca.issue_event(opened.event, key.public_key(), identity, validity), opened.event.certificate
        )
    else:
        made = ca.issue_tls_client(opened.tls, key.public_key(), identity, validity)
        chain = pem(made, opened.tls.certificate)
    for name, data in (("tls.key", key_pem(key)), ("tls.crt", chain), ("ca.crt", pem(opened.root))):
        (keys / name).write_bytes(data)
        (keys / name).chmod(0o600)
    return keys


PARTIES = (
    CAR, Identity("fund", "car-2"), Identity("fund", COLLECTOR), Identity("bank", "car-1"),
    Identity("bank", COLLECTOR), Identity("cloud", COLLECTOR),
)  # fmt: skip


@dataclass
class Street:
    """An authority, a broker for two tenants, and everybody's keys."""

    world: World
    broker: Mosquitto
    keys: dict[Identity, Path]

    def client(self, who: Identity, **options: object) -> aiomqtt.Client:
        return client(self.keys[who], self.broker.port, who.client_id, **options)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    home = tmp_path_factory.mktemp("street")
    world, port = World(home), free_port()
    broker_tool.write_broker(ask(world, home / "broker", port, tenants=("fund", "bank")), world.clock())
    keys = {who: party(world, home / "parties", who) for who in PARTIES}
    with mosquitto_of(home / "broker" / "mosquitto.conf", port) as broker:
        yield Street(world, broker, keys)


async def heard(listener: aiomqtt.Client, last: str) -> list[str]:
    """The topics of what arrives, up to a payload `last`."""
    found = []
    async for message in listener.messages:
        if message.payload == last.encode():
            return found
        found.append(str(message.topic))
    raise AssertionError("the listener's connection ended")


# --- who may do what ----------------------------------------------------------------------------------


def all_topics() -> list[str]:
    names = ("fund", "bank", "cloud"), ("car-1", "car-2")
    known = [f"hf/1/{t}/{d}/{last}" for t in names[0] for d in names[1] for last in ("seg", "rcpt")]
    return [
        *known,
        "hf/1/fund/car-1/cmd",
        "hf/2/fund/car-1/seg",
        "hf/1/fund/car-1",
        "hf/1/fund/car-1/seg/x",
        "x",
    ]


@pytest.mark.parametrize("who", PARTIES, ids=lambda who: who.client_id)
def test_the_broker_lets_each_party_publish_exactly_what_the_rules_say(street: Street, who: Identity) -> None:
    """A refused QoS 1 PUBLISH is acknowledged and goes nowhere: only the delivery tells."""
    witness = Identity("fund", COLLECTOR)
    hear = {identity: identity for identity in PARTIES}

    async def main() -> dict[str, set[str]]:
        got: dict[str, set[str]] = {}
        for listener in hear:
            if listener == who:
                continue
            async with street.client(listener) as ear, street.client(who) as mouth:
                await ear.subscribe("#", qos=1)
                for topic in all_topics():
                    await mouth.publish(topic, topic.encode(), qos=1)
                await ends(street, listener)
                got[listener.client_id] = set(await heard(ear, "last"))
        return got

    assert witness in hear
    found = asyncio.run(main())
    for listener in (one for one in PARTIES if one != who):
        expected = {t for t in all_topics() if topics.may_publish(who, t) and topics.may_receive(listener, t)}
        assert found[listener.client_id] == expected, listener


async def ends(street: Street, listener: Identity) -> None:
    """Have something delivered to `listener` behind everything that was sent before."""
    if listener.is_collector:
        tenant = listener.tenant if listener.tenant != "cloud" else "fund"
        sender = Identity(tenant, "sentinel")
        topic = topics.seg_topic(tenant, "sentinel")
    else:
        sender, topic = (
            Identity(listener.tenant, COLLECTOR),
            topics.receipt_topic(listener.tenant, listener.device),
        )
        sender = Identity("cloud", "collector-x") if sender not in street.keys else sender
    if sender not in street.keys:
        street.keys[sender] = party(street.world, street.world.home / "parties", sender)
    async with client(street.keys[sender], street.broker.port, sender.client_id) as mouth:
        await mouth.publish(topic, b"last", qos=1)


def test_what_edge_topics_says_is_what_is_written() -> None:
    text = mosquitto.render_acl(["fund"])
    assert topics.seg_topic("fund", "car-1") == f"{mosquitto.PREFIX}{CAR.broker_name}/seg"
    assert topics.receipt_topic("fund", "car-1") == f"{mosquitto.PREFIX}{CAR.broker_name}/rcpt"
    assert "pattern write hf/1/%u/seg\n" in text and "user fund/collector\n" in text


def test_nobody_without_a_certificate_of_ours(street: Street, tmp_path: Path) -> None:
    stranger = World(tmp_path / "stranger")
    foreign = party(stranger, tmp_path / "foreign", CAR)
    (foreign / "ca.crt").write_bytes((street.keys[CAR] / "ca.crt").read_bytes())
    cases = {
        "none": ssl.create_default_context(cafile=str(street.keys[CAR] / "ca.crt")),
        "foreign": client_context(foreign, "localhost"),
        "event": client_context(party(street.world, tmp_path / "event", CAR, event=True), "localhost"),
    }
    for what, context in cases.items():
        assert not admitted(street.broker.port, context), what
    assert admitted(street.broker.port, client_context(street.keys[CAR], "localhost"))


def test_a_user_name_and_another_client_id_change_nothing(street: Street) -> None:
    other = Identity("fund", "car-2")

    async def main() -> list[str]:
        async with street.client(Identity("fund", COLLECTOR)) as ear:
            await ear.subscribe(topics.COLLECT_FILTER, qos=1)
            liar = client(
                street.keys[CAR],
                street.broker.port,
                other.client_id,
                username=other.broker_name,
                password="x",
            )
            async with liar:
                await liar.publish(topics.seg_topic("fund", "car-2"), b"forged", qos=1)
                await liar.publish(topics.seg_topic("fund", "car-1"), b"last", qos=1)
                return await heard(ear, "last")

    assert asyncio.run(main()) == []


def test_a_client_id_is_not_taken_over_and_no_queue_is_stolen(street: Street) -> None:
    """car-2 asks for car-1's id, with a lasting session: car-1 stays, and hears its receipts alone."""
    receipts = topics.receipt_topic("fund", "car-1")

    async def main() -> tuple[list[str], list[str]]:
        async with street.client(CAR) as owner:
            await owner.subscribe(receipts, qos=1)
            thief = client(
                street.keys[Identity("fund", "car-2")],
                street.broker.port,
                CAR.broker_name,
                clean_session=False,
            )
            async with thief, street.client(Identity("fund", COLLECTOR)) as mouth:
                await thief.subscribe(receipts, qos=1)
                await mouth.publish(receipts, b"for car-1", qos=1)
                await mouth.publish(receipts, b"last", qos=1)
                await mouth.publish(topics.receipt_topic("fund", "car-2"), b"nothing", qos=1)
                await thief.subscribe(topics.receipt_topic("fund", "car-2"), qos=1)
                await mouth.publish(topics.receipt_topic("fund", "car-2"), b"last", qos=1)
                return await heard(owner, "last"), await heard(thief, "last")

    assert asyncio.run(main()) == ([receipts], [])


def test_nothing_is_retained(street: Street) -> None:
    async def main() -> None:
        try:
            async with street.client(CAR) as mouth:
                await mouth.publish(topics.seg_topic("fund", "car-1"), b"kept?", qos=1, retain=True)
        except aiomqtt.MqttError:
            pass  # Mosquitto ends the connection
        async with street.client(Identity("fund", COLLECTOR)) as ear:
            await ear.subscribe(topics.COLLECT_FILTER, qos=1)
            async with street.client(CAR) as mouth:
                await mouth.publish(topics.seg_topic("fund", "car-1"), b"last", qos=1)
            assert await heard(ear, "last") == []

    asyncio.run(main())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_from_1_2_on(street: Street, version: ssl.TLSVersion) -> None:
    context = client_context(street.keys[CAR], "localhost")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python, about TLS 1.1
        context.minimum_version = context.maximum_version = version
    assert admitted(street.broker.port, context) == (version >= ssl.TLSVersion.TLSv1_2)


def admitted(port: int, context: ssl.SSLContext) -> bool:
    """Whether a CONNECT is answered with success."""
    connect = bytes([0x10, 17, 0, 4, *b"MQTT", 4, 2, 0, 60, 0, 5, *b"car-1"])
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(connect)
        return secure.recv(4) == b"\x20\x02\x00\x00"
    return False


def test_a_name_too_long_for_a_certificate_gets_none(tmp_path: Path) -> None:
    """Cut off at 64 characters it would be another device's."""
    long = Identity("t" * 40, "d" * 40)
    with pytest.raises(IdentityError, match="together, at most 63"):
        _ = long.broker_name
    world = World(tmp_path)
    validity = Validity(world.clock(), world.clock() + timedelta(days=1))
    with pytest.raises(IdentityError, match="shorter"):
        ca.issue_tls_client(world.opened.tls, ca.new_key().public_key(), long, validity)
    with pytest.raises(IdentityError, match="shorter"):
        world.code(Identity("fund", "d" * 63))


# --- reporting through it -----------------------------------------------------------------------------


def test_a_node_reports_to_a_collector_through_it(tmp_path: Path) -> None:
    """Enrolled over EST; the uplink and the collector are those of the field. Also an oversized segment."""
    world, port = World(tmp_path), free_port()
    with serving(world) as server:
        node = Node(tmp_path / "node", world, server.port)
        node.enrol()
    broker_tool.write_broker(ask(world, tmp_path / "broker", port), world.clock())
    toml = world.collector / "collector.toml"
    toml.write_text(
        '[collector]\norigin = "log.example"\ntenant = "fund"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nserver_name = "localhost"\n'
    )
    node.config.write_text(
        f'[node]\ntenant = "fund"\ndevice = "car-1"\nkind = "vehicle"\n[state]\ndir = "{node.state}"\n'
        f'[uplink]\nhost = "127.0.0.1"\nport = {port}\nserver_name = "localhost"\n'
    )
    key = load_pem_private_key((node.keys / "event.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    car = Sealer("fund", "car-1", key, wall_ms=int(world.clock().timestamp() * 1000))
    config = load_config(node.config)
    outbox = Outbox(Path(config.path("outbox.db")))
    for sealed in (car.seal(3) for _ in range(20)):
        put(outbox, sealed.segment.run, sealed.segment.number, sealed.data)
    put(outbox, b"z" * 16, 0, b"z" * (MAX_SEGMENT_BYTES + 4096))
    with mosquitto_of(tmp_path / "broker" / "mosquitto.conf", port):
        collector = start("cloud_sync.runtime.collectord", toml)
        try:
            ready(collector)
            asyncio.run(uplink(config, outbox))
        finally:
            end(collector)
    assert outbox.left() == 1, "what is too large stays, and held nothing up"
    outbox.db.close()


def put(outbox: Outbox, run: bytes, number: int, body: bytes) -> None:
    outbox.db.execute(
        "INSERT INTO segments(lane, run, number, created_ns, hash, body) VALUES (1, ?, ?, 0, ?, ?)",
        (run, number, hashlib.sha256(body).digest(), body),
    )


async def uplink(config: Any, outbox: Outbox) -> None:
    trust = load_trust(config)
    edge = Edge(Path(config.path("facts.sock")), outbox, trust)
    one = Uplink(config, trust, window=Window(WindowLimits(receipt_s=0.5)), rng=random.Random(1))
    serve, run = asyncio.create_task(edge.serve()), asyncio.create_task(one.run())
    try:
        await until(lambda: outbox.left() == 1)
        assert edge.receipts > 0
    finally:
        one.stop.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(run), 10)
        for task in (serve, run):
            task.cancel()
        await asyncio.gather(serve, run, return_exceptions=True)


# --- bounds -------------------------------------------------------------------------------------------


def small(world: World, out: Path, port: int) -> Path:
    """A broker with small bounds: the files of the command, its configuration with other limits."""
    broker_tool.write_broker(ask(world, out, port), world.clock())
    plan = BrokerPlan(str(out), ("fund",), "127.0.0.1", port, user=USER, limits=SMALL)
    (out / "mosquitto.conf").write_text(mosquitto.render_config(plan))
    return out / "mosquitto.conf"


def test_an_oversized_packet_ends_the_connection_and_is_not_delivered(street: Street) -> None:
    async def main() -> list[str]:
        async with street.client(Identity("fund", COLLECTOR)) as ear:
            await ear.subscribe(topics.COLLECT_FILTER, qos=1)
            with pytest.raises(aiomqtt.MqttError):
                async with street.client(CAR) as mouth:
                    await mouth.publish(topics.seg_topic("fund", "car-1"), b"x" * 70_000, qos=1)
            async with street.client(CAR) as mouth:
                await mouth.publish(topics.seg_topic("fund", "car-1"), b"y" * MAX_SEGMENT_BYTES, qos=1)
                await mouth.publish(topics.seg_topic("fund", "car-1"), b"last", qos=1)
            return await heard(ear, "last")

    assert asyncio.run(main()) == [topics.seg_topic("fund", "car-1")]


def test_the_queue_of_a_collector_that_reads_nothing_is_bounded_in_bytes(tmp_path: Path) -> None:
    """40 MB for a collector with a lasting session that is away: 1 MB is kept, and the broker stays small."""
    world, port = World(tmp_path), free_port()
    config = small(world, tmp_path / "broker", port)
    keys = {who: party(world, tmp_path / "parties", who) for who in PARTIES[:3]}
    collector, body = PARTIES[2], b"s" * 40_000

    async def main(process: int) -> tuple[int, int]:
        def lasting() -> aiomqtt.Client:
            return client(keys[collector], port, collector.client_id, clean_session=False)

        async with lasting() as ear:
            await ear.subscribe(topics.COLLECT_FILTER, qos=1)
        async with client(keys[CAR], port, CAR.client_id) as mouth:
            topic = topics.seg_topic("fund", "car-1")
            for _ in range(10):
                await asyncio.gather(*(mouth.publish(topic, body, qos=1) for _ in range(100)))
            rss = rss_kib(process)
        kept = 0
        async with lasting() as ear, client(keys[PARTIES[1]], port, "car-2") as mouth:
            arriving = asyncio.ensure_future(heard(ear, "last"))
            while not arriving.done():  # the sentinel, too, is dropped while the queue is full
                await mouth.publish(topics.seg_topic("fund", "car-2"), b"last", qos=1)
                await asyncio.sleep(0.05)
            kept = len(await arriving)
        return kept, rss

    with mosquitto_of(config, port) as broker:
        kept, rss = asyncio.run(main(broker.process.pid))
    assert 20 <= kept <= 30, "1 MB of 40 kB each"
    assert rss < 32 * 1024, rss


# --- revocation ---------------------------------------------------------------------------------------


def test_a_revoked_device_is_refused_after_the_list_was_read_anew(tmp_path: Path) -> None:
    world, port = World(tmp_path), free_port()
    with serving(world) as server:
        nodes = [Node(tmp_path / name, world, server.port, name) for name in ("car-1", "car-2")]
        for node in nodes:
            node.enrol()
    out = tmp_path / "broker"
    broker_tool.write_broker(ask(world, out, port), world.clock())

    def comes(node: Node) -> bool:
        return admitted(port, client_context(node.keys, "localhost"))

    with mosquitto_of(out / "mosquitto.conf", port) as broker:
        assert comes(nodes[0]) and comes(nodes[1])
        world.clock.forward(1 / 86400)
        ca_admin.revoke(world.opened, world.register, CAR, x509.ReasonFlags.key_compromise, world.clock())
        assert comes(nodes[0]), "the broker knows nothing of it yet"
        said = broker_tool.write_broker(ask(world, out, port), world.clock())
        assert said["changed"] == ["keys/crl.pem"] and said["apply"] == "restart"
        broker.process.send_signal(signal.SIGHUP)
        limit = time.monotonic() + 30
        while comes(nodes[0]):
            assert time.monotonic() < limit, "the list was not read"
        assert comes(nodes[1])


def test_a_list_that_ended_refuses_everybody_so_none_is_written(tmp_path: Path) -> None:
    """The trap, shown at the real broker; then what the command does about it."""
    world, port, out = World(tmp_path), free_port(), tmp_path / "broker"
    broker_tool.write_broker(ask(world, out, port), world.clock())
    keys = party(world, tmp_path / "parties", CAR)
    good = (out / "keys" / "crl.pem").read_bytes()
    ended = Validity(world.clock() - timedelta(days=8), world.clock() - timedelta(days=1))
    old = ca.make_crl(world.opened.tls, (), 99, ended).public_bytes(Encoding.PEM)
    (out / "keys" / "crl.pem").write_bytes(old)
    with mosquitto_of(out / "mosquitto.conf", port):
        assert not admitted(port, client_context(keys, "localhost"))
    (out / "keys" / "crl.pem").write_bytes(good)
    files = tmp_path / "list.pem"
    files.write_bytes(old)
    with pytest.raises(BrokerError, match=r"refuses everybody.*holdfast ca crl"):
        broker_tool.write_broker(of_files(out, crl=files, port=port), world.clock())
    assert (out / "keys" / "crl.pem").read_bytes() == good


def of_files(out: Path, **changes: Any) -> BrokerAsk:
    return replace(BrokerAsk(out, tls=out, tenants=("fund",), listen="127.0.0.1", user=USER), **changes)


def test_lists_of_others_older_ones_and_rubbish_are_refused(tmp_path: Path) -> None:
    world, out = World(tmp_path), tmp_path / "broker"
    broker_tool.write_broker(ask(world, out), world.clock())
    valid = Validity(world.clock(), world.clock() + timedelta(days=7))
    cases = {
        "not of the authority": ca.make_crl(world.opened.event, (), 99, valid).public_bytes(Encoding.PEM),
        "older than": ca.make_crl(world.opened.tls, (), 0, valid).public_bytes(Encoding.DER),
        "no revocation list": b"rubbish",
        "not now": ca.make_crl(
            world.opened.tls,
            (),
            99,
            Validity(world.clock() + timedelta(days=1), world.clock() + timedelta(days=2)),
        ).public_bytes(Encoding.PEM),
    }
    before = snapshot(out)
    for why, data in cases.items():
        path = tmp_path / "given.crl"
        path.write_bytes(data)
        with pytest.raises(BrokerError, match=why):
            broker_tool.write_broker(of_files(out, crl=path), world.clock())
    assert snapshot(out) == before
    soon = ca.make_crl(
        world.opened.tls, [Revoked(7, world.clock(), x509.ReasonFlags.unspecified)], 99,
        Validity(world.clock(), world.clock() + timedelta(hours=40)),
    )  # fmt: skip
    path.write_bytes(soon.public_bytes(Encoding.DER))
    said = broker_tool.write_broker(of_files(out, crl=path), world.clock())
    assert said["apply"] == "restart" and any("refuses everybody" in text for text in said["warnings"])


# --- the command --------------------------------------------------------------------------------------


def snapshot(out: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(out)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(out.rglob("*"))
        if p.is_file()
    }


def run(*args: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(command, ["broker", *args, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_run_again_it_changes_nothing_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    world, out = World(tmp_path), tmp_path / "broker"
    args = ["--ca", str(world.folder), "--out", str(out), "--host", "localhost"]
    code, said = run(*args, "--dry-run")
    assert (
        code == 0 and len(said["changed"]) == 5 and not out.exists() and not (world.folder / "crl").exists()
    )
    code, said = run(*args)
    assert (code, said["apply"], said["warnings"]) == (0, "restart", []) and len(said["changed"]) == 6
    before = snapshot(out)
    code, said = run(*args)
    assert (code, said["apply"], said["changed"]) == (0, "nothing", [])
    assert snapshot(out) == before
    assert stat.S_IMODE((out / "keys" / "tls.key").stat().st_mode) == 0o600
    code, said = run(*args, "--port", "8884", "--dry-run")
    assert (code, said["changed"], said["apply"]) == (0, ["mosquitto.conf"], "restart")
    assert snapshot(out) == before


def test_the_certificates_are_renewed_in_place_with_their_keys(tmp_path: Path) -> None:
    """Two thirds of its life over, the same command gives a new certificate; the key stays."""
    world, out = World(tmp_path), tmp_path / "broker"
    broker_tool.write_broker(ask(world, out), world.clock())
    before = snapshot(out)
    world.clock.forward(59)
    said = broker_tool.write_broker(ask(world, out), world.clock())
    assert said["changed"] == ["keys/crl.pem"] and said["apply"] == "reload"
    world.clock.forward(3)
    said = broker_tool.write_broker(ask(world, out), world.clock())
    assert said["changed"] == ["keys/tls.crt"] and said["apply"] == "reload"
    after = snapshot(out)
    assert after["keys/tls.key"] == before["keys/tls.key"]
    assert after["mosquitto.conf"] == before["mosquitto.conf"]


@pytest.mark.parametrize("name", ["mosquitto.conf", "holdfast.acl"])
def test_files_that_are_not_ours_or_were_edited_stay(tmp_path: Path, name: str) -> None:
    world, out = World(tmp_path), tmp_path / "broker"
    out.mkdir()
    (out / name).write_text("listener 1883\n")
    args = ["--ca", str(world.folder), "--out", str(out), "--host", "localhost"]
    code, said = run(*args)
    assert code == 2 and "is not ours" in said["error"] and (out / name).read_text() == "listener 1883\n"
    assert [p.name for p in out.iterdir()] == [name]
    (out / name).unlink()
    assert run(*args)[0] == 0
    (out / name).write_text((out / name).read_text() + "allow_anonymous true\n")
    code, said = run(*args)
    assert code == 2 and "changed by hand" in said["error"]


def test_keys_that_are_not_ours_stay(tmp_path: Path) -> None:
    world, out = World(tmp_path), tmp_path / "broker"
    (out / "keys").mkdir(parents=True)
    (out / "keys" / "tls.key").write_text("somebody's")
    code, said = run("--ca", str(world.folder), "--out", str(out), "--host", "localhost")
    assert code == 2 and "choose another folder" in said["error"]
    assert (out / "keys" / "tls.key").read_text() == "somebody's"


def test_another_authority_s_folder_is_refused(tmp_path: Path) -> None:
    world, other, out = World(tmp_path / "a"), World(tmp_path / "b"), tmp_path / "broker"
    broker_tool.write_broker(ask(world, out), world.clock())
    with pytest.raises(BrokerError, match="another authority"):
        broker_tool.write_broker(ask(other, out), world.clock())


class Killed(BaseException):
    """The process ends here."""


def killed_after(writes: int) -> Callable[..., bool]:
    """`write_file` that writes so many files."""
    left, real = [writes], broker_tool.write_file

    def write(path: Path, data: bytes, **options: Any) -> bool:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return real(path, data, **options)

    return write


def test_a_run_that_was_killed_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    for allowed in range(6):
        monkeypatch.setattr(broker_tool, "write_file", killed_after(allowed))
        with pytest.raises(Killed):
            broker_tool.write_broker(ask(world, tmp_path / f"out{allowed}"), world.clock())
        monkeypatch.undo()
        broker_tool.write_broker(ask(world, tmp_path / f"out{allowed}"), world.clock())
        assert len(snapshot(tmp_path / f"out{allowed}")) == 6


def test_what_is_due_is_told_by_the_next_run_where_one_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --apply: a newly revoked device needs a restart, whichever write the run was killed after."""
    world = World(tmp_path)
    for allowed in range(1, 4):
        out = tmp_path / f"out{allowed}"
        broker_tool.write_broker(ask(world, out), world.clock())
        revoked = ca.new_key()
        client = ca.issue_tls_client(
            world.opened.tls, revoked.public_key(), CAR,
            Validity(world.clock(), world.clock() + timedelta(days=30)),
        )  # fmt: skip
        gone = Revoked(client.serial_number, world.clock(), x509.ReasonFlags.key_compromise)
        valid = Validity(world.clock(), world.clock() + timedelta(days=7))
        newer = tmp_path / f"newer{allowed}.pem"
        newer.write_bytes(ca.make_crl(world.opened.tls, [gone], 99, valid).public_bytes(Encoding.PEM))

        def killed(_: dict[str, Any]) -> None:
            raise Killed

        monkeypatch.setattr(broker_tool, "write_file", killed_after(allowed))
        with pytest.raises(Killed):
            broker_tool.write_broker(of_files(out, crl=newer), world.clock(), killed)
        monkeypatch.undo()
        assert broker_tool.write_broker(of_files(out, crl=newer), world.clock())["apply"] == "restart"
        assert broker_tool.write_broker(of_files(out, crl=newer), world.clock())["apply"] == "nothing"


def test_the_list_in_force_stays_where_none_is_given(tmp_path: Path) -> None:
    world, made, out = World(tmp_path), tmp_path / "made", tmp_path / "broker"
    broker_tool.write_broker(ask(world, made), world.clock())
    given = tmp_path / "tls.pem"
    (made / "keys" / "crl.pem").rename(given)
    wish = BrokerAsk(out, tls=made, tenants=("fund",), user=USER)
    broker_tool.write_broker(replace(wish, crl=given), world.clock())
    before = snapshot(out)
    said = broker_tool.write_broker(wish, world.clock())
    assert (said["changed"], said["apply"]) == ([], "nothing") and said["crl_ends"] is not None
    assert any("stays in force" in text for text in said["warnings"])
    assert "crlfile" in (out / "mosquitto.conf").read_text() and snapshot(out) == before
    with pytest.raises(BrokerError, match=r"not now.*--crl FILE"):
        broker_tool.write_broker(wish, world.clock() + timedelta(days=8))
    assert snapshot(out) == before


def test_the_unit_is_told_and_told_again_until_it_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process named systemctl that fails once."""
    world, out, tools = World(tmp_path), tmp_path / "broker", tmp_path / "bin"
    tools.mkdir()
    told = tmp_path / "told"
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{told}\n[ -e {tmp_path}/up ]\n')
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    wish = ask(world, out, apply="mosquitto.service")
    with pytest.raises(BrokerError, match="next run tries again"):
        broker_tool.write_broker(wish, world.clock())
    (tmp_path / "up").touch()
    assert broker_tool.write_broker(wish, world.clock())["applied"]
    assert not broker_tool.write_broker(wish, world.clock())["applied"]
    world.clock.forward(4)
    assert broker_tool.write_broker(wish, world.clock())["apply"] == "reload"
    assert told.read_text().splitlines() == [
        "try-restart -- mosquitto.service", "try-restart -- mosquitto.service",
        "try-reload-or-restart -- mosquitto.service",
    ]  # fmt: skip


BAD: Sequence[tuple[dict[str, Any], str]] = [
    ({"tenants": ("fund/+",)}, "lower-case"),
    ({"tenants": ("#",)}, "lower-case"),
    ({"tenants": ("t" * 60,)}, "shorter names"),
    ({"listen": "not an address"}, "no IP address"),
    ({"log": "file with spaces"}, "log is"),
    ({"user": "nobody-here"}, "no user nobody-here"),
    ({"hosts": (), "ca": None}, "either --ca"),
    ({"tls": Path("/x")}, "either --ca"),
]


@pytest.mark.parametrize(("change", "why"), BAD)
def test_what_cannot_be_meant_is_refused_whole(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    if "user" in change and not USER:
        pytest.skip("only root gives files away")
    world, out = World(tmp_path), tmp_path / "broker"
    with pytest.raises((BrokerError, IdentityError), match=why):
        broker_tool.write_broker(ask(world, out, **change), world.clock())
    assert not out.exists()


def test_a_path_that_mosquitto_cannot_read_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(BrokerError, match="no path with spaces"):
        broker_tool.write_broker(ask(world, tmp_path / "my broker"), world.clock())
    for change in ({"port": 0}, {"user": "a b"}, {"folder": "relative"}):
        with pytest.raises(BrokerError):
            replace(BrokerPlan("/etc/x", ("fund",)), **change)  # type: ignore[arg-type]
    with pytest.raises(BrokerError, match="max_packet_bytes"):
        BrokerLimits(max_packet_bytes=10)
    with pytest.raises(BrokerError, match="session_expiry"):
        BrokerLimits(session_expiry="soon")


@pytest.mark.parametrize("swap", ["key", "client", "chain", "ended"])
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, swap: str) -> None:
    world, other, out = World(tmp_path / "a"), World(tmp_path / "b"), tmp_path / "given"
    given = tmp_path / "broker"
    broker_tool.write_broker(ask(world, given), world.clock())
    broker_tool.write_broker(ask(other, tmp_path / "other"), world.clock())
    keys, theirs = given / "keys", tmp_path / "other" / "keys"
    now = world.clock()
    if swap == "key":
        (keys / "tls.key").write_bytes((theirs / "tls.key").read_bytes())
    elif swap == "chain":
        for name in ("tls.key", "tls.crt"):
            (keys / name).write_bytes((theirs / name).read_bytes())
    elif swap == "client":
        mine = party(world, tmp_path / "parties", CAR)
        for name in ("tls.key", "tls.crt"):
            (keys / name).write_bytes((mine / name).read_bytes())
    else:
        now += timedelta(days=91)
    why = {
        "key": "not the certificate of",
        "client": "no server",
        "chain": "does not lead to",
        "ended": "not now",
    }
    with pytest.raises(BrokerError, match=why[swap]):
        broker_tool.write_broker(BrokerAsk(out, tls=given, tenants=("fund",), user=USER), now)
    assert not out.exists()


def test_a_folder_from_another_machine_serves_too(tmp_path: Path) -> None:
    world, out = World(tmp_path), tmp_path / "out"
    broker_tool.write_broker(ask(world, tmp_path / "made"), world.clock())
    code, said = run("--tls", str(tmp_path / "made"), "--out", str(out), "--tenant", "fund")
    assert code == 0 and len(said["changed"]) == 6
    code, said = run("--tls", str(tmp_path / "made"), "--out", str(tmp_path / "none"))
    assert code == 2 and "--tenant" in said["error"]
    (tmp_path / "made" / "keys" / "crl.pem").unlink()
    said = broker_tool.write_broker(
        BrokerAsk(tmp_path / "bare", tls=tmp_path / "made", tenants=("fund",)), world.clock()
    )
    assert any("nobody can be locked out" in text for text in said["warnings"]) and said["crl_ends"] is None
    assert "no crlfile" in (tmp_path / "bare" / "mosquitto.conf").read_text()


def test_the_command_tells_people_what_to_do(tmp_path: Path) -> None:
    world, out = World(tmp_path), tmp_path / "broker"
    result = CliRunner().invoke(
        command, ["broker", "--ca", str(world.folder), "--out", str(out), "--host", "localhost"]
    )
    assert result.exit_code == 0 and "restart the broker: systemctl restart mosquitto" in result.stdout
    again = CliRunner().invoke(
        command, ["broker", "--ca", str(world.folder), "--out", str(out), "--host", "localhost"]
    )
    assert "nothing to change" in again.stdout


def test_a_broker_that_knows_what_to_apply() -> None:
    assert mosquitto.apply_for([], newly_revoked=False) is Apply.NOTHING
    assert mosquitto.apply_for(["keys/tls.crt"], newly_revoked=False) is Apply.RELOAD
    assert mosquitto.apply_for(["keys/crl.pem"], newly_revoked=True) is Apply.RESTART
    assert mosquitto.apply_for(["mosquitto.conf"], newly_revoked=False) is Apply.RESTART


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works for another user")
def test_root_changes_nothing_of_its_own_through_the_authority_s_links() -> None:
    """The authority is nobody's, and the process is one of its own: a user id is the whole process's."""
    home = Path(tempfile.mkdtemp(dir="/tmp", prefix="hf-theirs-"))
    home.chmod(0o755)
    world = World(home)
    try:
        secret, crl = home / "secret", world.folder / "crl"
        secret.write_bytes(b"root's")
        secret.chmod(0o600)
        world.register.close()
        (crl / "tls.crl").unlink(missing_ok=True)
        crl.mkdir(exist_ok=True)
        (crl / "evil").symlink_to(secret)
        (crl / "tls.pem").unlink(missing_ok=True)
        (crl / "tls.pem").symlink_to(secret)
        copy = world.collector / "devices" / "device_ca.crl"
        copy.parent.mkdir(exist_ok=True)
        copy.unlink(missing_ok=True)
        for path in (world.folder, *world.folder.rglob("*"), world.collector, *world.collector.rglob("*")):
            os.lchown(path, 65534, 65534)
        done = subprocess.run(
            [
                Path(sys.executable).parent / "holdfast", "provision", "broker", "--ca", world.folder,
                "--out", home / "out", "--host", "localhost", "--user", "root",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (secret.stat().st_uid, secret.read_bytes()) == (0, b"root's")
        assert not (crl / "tls.pem").is_symlink() and (crl / "tls.pem").stat().st_uid == 65534
        assert {path.lstat().st_uid for path in (*crl.iterdir(), *world.folder.iterdir(), copy)} == {65534}
        assert {path.stat().st_uid for path in (home / "out").rglob("*")} == {0}
    finally:
        shutil.rmtree(home)
