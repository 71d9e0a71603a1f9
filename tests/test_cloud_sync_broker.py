"""The embedded broker as a process of its own, with real clients: who gets in, and who may do what."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
import pytest
from mqtt_lab import (
    DEVICE,
    TENANT,
    broker,
    client,
    end,
    new_lab,
    plain_context,
    ready,
    rss_kib,
    start,
    write_broker_toml,
)  # fmt: skip

from cloud_sync.errors import ConfigError
from cloud_sync.runtime.broker import load_settings
from edge import topics
from provisioning import ca
from provisioning.ca import Purpose, Validity
from provisioning.identity import Identity
from provisioning.runtime.lab import Lab, certificate_pem, key_pem, write_private, write_tls

CAR = Identity(TENANT, DEVICE)
NOW = datetime.now(UTC)
VALID = Validity(NOW - timedelta(hours=1), NOW + timedelta(days=1))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return new_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def port(lab: Lab) -> Iterator[int]:
    with broker(lab) as port:
        yield port


def root_of(lab: Lab) -> ca.Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    folder = lab.home / "authority"
    certificate = x509.load_pem_x509_certificate((folder / "root.crt").read_bytes())
    key = load_pem_private_key((folder / "root.key").read_bytes(), None)
    return ca.Authority(certificate, key)  # type: ignore[arg-type]


async def refused(made: aiomqtt.Client) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with made:
            pass


async def arrives(made: aiomqtt.Client, *, within: float = 20.0) -> tuple[str, bytes]:
    """The next message this client hears."""
    async with asyncio.timeout(within):
        async for message in made.messages:
            return str(message.topic), bytes(message.payload)  # type: ignore[arg-type]
    raise AssertionError("the connection ended")


def together(lab: Lab, port: int, story: Callable[[aiomqtt.Client, aiomqtt.Client], Awaitable[None]]) -> None:
    """A collector that listens, and a car."""

    async def main() -> None:
        async with (
            client(lab.collector / "keys", port, f"{TENANT}.collector") as collector,
            client(lab.nodes[DEVICE] / "keys", port, CAR.client_id) as car,
        ):
            await collector.subscribe(topics.COLLECT_FILTER, qos=1)
            await story(collector, car)

    asyncio.run(main())


def test_segments_go_up_and_receipts_come_down(lab: Lab, port: int) -> None:
    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        await car.subscribe(topics.receipt_topic(TENANT, DEVICE), qos=1)
        body = bytes(range(256)) * 256  # 64 KiB, the largest segment
        await car.publish(topics.seg_topic(TENANT, DEVICE), body, qos=1)
        assert await arrives(collector) == (topics.seg_topic(TENANT, DEVICE), body)
        await collector.publish(topics.receipt_topic(TENANT, DEVICE), b"receipt", qos=1)
        assert await arrives(car) == (topics.receipt_topic(TENANT, DEVICE), b"receipt")

    together(lab, port, story)


def test_what_a_device_may_not_publish_is_acknowledged_and_not_delivered(lab: Lab, port: int) -> None:
    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        for topic in (
            topics.seg_topic(TENANT, "road-1"), topics.seg_topic("bank", DEVICE),
            topics.receipt_topic(TENANT, DEVICE), f"hf/1/{TENANT}/{DEVICE}/seg/x", "anything",
        ):  # fmt: skip
            await car.publish(topic, b"forged", qos=1)
        await car.publish(topics.seg_topic(TENANT, DEVICE), b"own", qos=1)
        assert await arrives(collector) == (topics.seg_topic(TENANT, DEVICE), b"own"), "in order"

    together(lab, port, story)


def test_a_device_cannot_send_itself_a_receipt(lab: Lab, port: int) -> None:
    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        await car.subscribe(topics.receipt_topic(TENANT, DEVICE), qos=1)
        await car.publish(topics.receipt_topic(TENANT, DEVICE), b"forged", qos=1)
        await collector.publish(topics.receipt_topic(TENANT, DEVICE), b"real", qos=1)
        assert (await arrives(car))[1] == b"real"

    together(lab, port, story)


@pytest.mark.parametrize(
    "wide",
    ["#", "hf/#", "hf/1/+/+/rcpt", f"hf/1/{TENANT}/+/rcpt", f"hf/1/{TENANT}/#", f"hf/1/{TENANT}/road-1/rcpt",
     topics.COLLECT_FILTER, f"hf/1/{TENANT}/{DEVICE}/#", "$SYS/#"],
)  # fmt: skip
def test_what_a_device_may_not_subscribe_is_refused(lab: Lab, port: int, wide: str) -> None:
    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        (code,) = await car.subscribe(wide, qos=1)
        assert code.is_failure  # type: ignore[union-attr]

    together(lab, port, story)


def test_a_collector_cannot_listen_to_receipts_or_widen_its_filter(lab: Lab, port: int) -> None:
    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        for wide in ("#", "hf/1/+/#", "hf/1/+/+/+", "hf/1/+/+/rcpt"):
            (code,) = await collector.subscribe(wide, qos=1)
            assert code.is_failure, wide  # type: ignore[union-attr]

    together(lab, port, story)


def test_a_tenants_collector_never_hears_another_tenant(lab: Lab, port: int, tmp_path: Path) -> None:
    bank_car, bank = Identity("bank", "car-9"), Identity("bank", "collector")
    root = root_of(lab).certificate
    for identity in (bank_car, bank):
        write_tls(tmp_path / identity.device, lab.tls, root, identity, VALID)

    async def main() -> None:
        async with (
            client(tmp_path / "collector", port, bank.client_id) as theirs,
            client(tmp_path / "car-9", port, bank_car.client_id) as their_car,
            client(lab.nodes[DEVICE] / "keys", port, CAR.client_id) as car,
        ):
            await theirs.subscribe(topics.COLLECT_FILTER, qos=1)
            await car.publish(topics.seg_topic(TENANT, DEVICE), b"ours", qos=1)
            await their_car.publish(topics.seg_topic("bank", "car-9"), b"theirs", qos=1)
            assert (await arrives(theirs))[1] == b"theirs"

    asyncio.run(main())


@pytest.mark.parametrize(
    "client_id", ["fund.road-1", "fund.collector", "", "car-1", "fund.car-1.2", "FUND.CAR-1"]
)
def test_a_client_id_that_is_not_the_certificates(lab: Lab, port: int, client_id: str) -> None:
    asyncio.run(refused_by_id(lab, port, client_id))


async def refused_by_id(lab: Lab, port: int, client_id: str) -> None:
    await refused(client(lab.nodes[DEVICE] / "keys", port, client_id))


def test_a_spoofer_does_not_throw_out_whom_it_imitates(lab: Lab, port: int) -> None:
    """The broker library takes a session over before it authenticates."""

    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        await refused(client(lab.nodes["road-1"] / "keys", port, CAR.client_id))
        await refused(client(lab.nodes["road-1"] / "keys", port, f"{TENANT}.collector"))
        await car.publish(topics.seg_topic(TENANT, DEVICE), b"still here", qos=1)
        assert (await arrives(collector))[1] == b"still here"

    together(lab, port, story)


def test_the_second_connection_of_a_client_ends_the_first(lab: Lab, port: int) -> None:
    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        async with client(lab.nodes[DEVICE] / "keys", port, CAR.client_id) as second:
            with pytest.raises(aiomqtt.MqttError):
                await arrives(car)
            await second.publish(topics.seg_topic(TENANT, DEVICE), b"second", qos=1)
            assert (await arrives(collector))[1] == b"second"
        with pytest.raises(aiomqtt.MqttError):
            await car.publish(topics.seg_topic(TENANT, DEVICE), b"first", qos=1, timeout=1)

    together(lab, port, story)


def test_n_collectors_may_share_one_identity(lab: Lab, port: int) -> None:
    async def main() -> None:
        keys = lab.collector / "keys"
        async with (
            client(keys, port, f"{TENANT}.collector.1") as one,
            client(keys, port, f"{TENANT}.collector.2") as two,
        ):
            for each in (one, two):
                (code,) = await each.subscribe(topics.COLLECT_FILTER, qos=1)
                assert not code.is_failure  # type: ignore[union-attr]

    asyncio.run(main())


def test_wills_are_refused(lab: Lab, port: int) -> None:
    async def main() -> None:
        will = aiomqtt.Will(topics.seg_topic(TENANT, "road-1"), b"forged", qos=1)
        await refused(client(lab.nodes[DEVICE] / "keys", port, CAR.client_id, will=will))

    asyncio.run(main())


def test_nothing_is_retained(lab: Lab, port: int) -> None:
    async def main() -> None:
        async with client(lab.nodes[DEVICE] / "keys", port, CAR.client_id) as car:
            await car.publish(topics.seg_topic(TENANT, DEVICE), b"old", qos=1, retain=True)
            async with client(lab.collector / "keys", port, f"{TENANT}.collector") as collector:
                await collector.subscribe(topics.COLLECT_FILTER, qos=1)
                await car.publish(topics.seg_topic(TENANT, DEVICE), b"new", qos=1)
                assert (await arrives(collector))[1] == b"new"

    asyncio.run(main())


def test_no_certificate(lab: Lab, port: int) -> None:
    async def main() -> None:
        made = aiomqtt.Client(
            "127.0.0.1", port, identifier=CAR.client_id, tls_context=plain_context(lab), timeout=5
        )
        await refused(made)
        await refused(aiomqtt.Client("127.0.0.1", port, identifier=CAR.client_id, timeout=2))

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["rogue", "event", "expired", "no_urn"])
def test_certificates_that_admit_nobody(lab: Lab, port: int, tmp_path: Path, kind: str) -> None:
    root, key = root_of(lab), ca.new_key()
    issuer = lab.tls
    if kind == "rogue":
        issuer = ca.make_issuing(
            ca.make_root("fund root", ca.new_key(), VALID), "x", ca.new_key(), Purpose.TLS, VALID
        )
    old = Validity(NOW - timedelta(days=90), NOW - timedelta(minutes=5))
    certificate = {
        "rogue": lambda: ca.issue_tls_client(issuer, key.public_key(), CAR, VALID),
        "event": lambda: ca.issue_event(lab.event, key.public_key(), CAR, VALID),
        "expired": lambda: ca.issue_tls_client(lab.tls, key.public_key(), CAR, old),
        "no_urn": lambda: ca.issue_server(lab.tls, key.public_key(), ["fund.car-1"], VALID),
    }[kind]()
    chain = lab.event if kind == "event" else issuer
    write_private(tmp_path / "k/tls.key", key_pem(key))
    write_private(tmp_path / "k/tls.crt", certificate_pem(certificate, chain.certificate))
    write_private(tmp_path / "k/ca.crt", certificate_pem(root.certificate))

    async def main() -> None:
        await refused(client(tmp_path / "k", port, CAR.client_id))

    asyncio.run(main())


def raw(lab: Lab, port: int) -> ssl.SSLSocket:
    context = plain_context(lab)
    keys = lab.nodes[DEVICE] / "keys"
    context.load_cert_chain(keys / "tls.crt", keys / "tls.key")
    made = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="localhost")
    made.settimeout(15)
    return made


def connect_packet(client_id: str) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack(">H", len(client_id)) + client_id.encode()
    return bytes([0x10, len(body)]) + body


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff", b"\x10\xff\xff\xff\x7f\x00\x04MQTT",
     b"\x10\x02\xff\xff", connect_packet(CAR.client_id)[:-3] + b"\xff\xfe\xfd", b"\x30\x00"],
)  # fmt: skip
def test_garbage_ends_the_connection_and_nobody_elses(lab: Lab, port: int, garbage: bytes) -> None:
    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        def throw() -> None:
            with raw(lab, port) as one:
                one.sendall(garbage)
                one.shutdown(socket.SHUT_WR)
                while one.recv(100):
                    pass

        await asyncio.to_thread(throw)
        await car.publish(topics.seg_topic(TENANT, DEVICE), b"fine", qos=1)
        assert (await arrives(collector))[1] == b"fine"

    together(lab, port, story)


def test_a_packet_over_the_limit_closes_before_it_is_read(lab: Lab, port: int) -> None:
    with raw(lab, port) as one:
        one.sendall(connect_packet(CAR.client_id))
        assert one.recv(4) == b"\x20\x02\x00\x00"
        topic = topics.seg_topic(TENANT, DEVICE).encode()
        header = struct.pack(">H", len(topic)) + topic + b"\x00\x01"
        one.sendall(b"\x32\xff\xff\xff\x7f" + header)  # announces 256 MiB and sends none of it
        assert one.recv(1) == b""


def test_a_silent_client_does_not_stop_the_others(lab: Lab, port: int) -> None:
    async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
        with raw(lab, port):
            await car.publish(topics.seg_topic(TENANT, DEVICE), b"fine", qos=1)
            assert (await arrives(collector))[1] == b"fine"

    together(lab, port, story)


def test_it_stays_small(lab: Lab, tmp_path: Path) -> None:
    process = start("cloud_sync.runtime.broker", write_broker_toml(lab, 0))
    try:
        port = int(str(ready(process)["port"]))

        async def story(collector: aiomqtt.Client, car: aiomqtt.Client) -> None:
            await asyncio.gather(
                *(car.publish(topics.seg_topic(TENANT, DEVICE), b"x" * 8000, qos=1) for _ in range(200))
            )
            heard = 0
            async for _ in collector.messages:
                heard += 1
                if heard == 200:
                    break

        together(lab, port, story)
        assert rss_kib(process.pid) < 80_000
    finally:
        assert end(process) == 0, "SIGTERM ends it orderly"


def test_a_taken_port(lab: Lab, port: int, tmp_path: Path) -> None:
    process = start("cloud_sync.runtime.broker", write_broker_toml(lab, port), stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 12
    assert out == ""
    assert f"127.0.0.1:{port} is taken" in err and "port = 0" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "[broker] is missing"),
        ("[broker", "not TOML"),
        ("[broker]\nport = 70000", "port must be"),
        ("[broker]\nport = true", "port must be"),
        ("[broker]\nhost = 5", "host and keys"),
        ("[broker]\nkeys = 'nowhere'", "is missing"),
        ("[broker]\npotr = 1883", "does not know potr"),
        ("[broker]\nmax_packet_bytes = 1", "max_packet_bytes"),
    ],
)
def test_a_configuration_that_cannot_be_meant(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "broker.toml").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as raised:
        load_settings(tmp_path / "broker.toml")
    assert says in str(raised.value) and "broker.toml" in str(raised.value)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    process = start("cloud_sync.runtime.broker", tmp_path / "none.toml", stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "cannot read" in err


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    lab = new_lab(tmp_path)
    (lab.broker / "keys/tls.key").write_bytes((lab.nodes[DEVICE] / "keys/tls.key").read_bytes())
    process = start("cloud_sync.runtime.broker", write_broker_toml(lab, 0), stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "cannot be used" in err
