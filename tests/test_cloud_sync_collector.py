"""What the collector thinks of one message: every reason to refuse it, and what is no reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cloudkit import START_MS, Device, Kit, make_kit
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_sync.collector import (
    Accepted,
    Duplicate,
    Message,
    Policy,
    Quarantined,
    Reason,
    Registry,
    classify,
    examine,
    month,
    months,
    previous_hash,
    read_certificate,
)  # fmt: skip
from cloud_sync.errors import CertificateError
from cloud_sync.runtime.devices import load_ca, load_devices
from edge import segment as sg
from edge.event import Event, Kind
from firmware_bridge.wire import cbor, cose
from firmware_bridge.wire.stamp import ClockKind, Stamp, TimeSource


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("collector") / "lab")


@pytest.fixture(scope="module")
def registry(kit: Kit) -> Registry:
    registry, problems = load_devices(kit.config.devices, load_ca(kit.config.keys / "device_ca.crt"))
    assert problems == [] and len(registry) == 2
    return registry


@pytest.fixture
def car(kit: Kit) -> Device:
    return kit.device("car-1")


def reason(verdict: sg.Sealed | Quarantined) -> Reason | None:
    return verdict.reason if isinstance(verdict, Quarantined) else None


def test_a_good_segment_passes(car: Device, registry: Registry) -> None:
    sealed = car.seal()
    verdict = examine(car.message(sealed), registry, Policy(), START_MS)
    assert isinstance(verdict, sg.Sealed) and verdict.hash == sealed.hash


def test_every_reason_to_refuse(car: Device, kit: Kit, registry: Registry) -> None:
    other = kit.device("car-2")
    good = car.seal()
    stranger = dataclasses.replace(car, name="car-9")
    replayed = dataclasses.replace(car, clock=ClockKind.REPLAY)
    simulated = dataclasses.replace(car, clock=ClockKind.SIMULATED)
    lying = dataclasses.replace(car, name="car-2")  # car-1's key, but the segment names car-2
    flipped = good.data[:-1] + bytes([good.data[-1] ^ 1])
    cases = [
        (Message(car.topic, b"\x00" * (sg.MAX_SEGMENT_BYTES + 1)), Reason.OVERSIZED),
        (Message("hf/1/fund/car-1/other", good.data), Reason.WRONG_TOPIC),
        (Message("", good.data), Reason.WRONG_TOPIC),
        (Message("hf/1/fund/../seg", good.data), Reason.WRONG_TOPIC),
        (Message(car.topic, b""), Reason.MALFORMED),
        (Message(car.topic, good.data[:-1]), Reason.MALFORMED),
        (Message(car.topic, good.data + b"\x00"), Reason.MALFORMED),
        (car.message(cose.sign1(cbor.encode([1, 2]), car.key, good.kid)), Reason.MALFORMED),
        (stranger.message(stranger.seal(key=kit.tls_key("car-1"))), Reason.UNKNOWN_DEVICE),
        (car.message(car.seal(key=kit.tls_key("car-1"))), Reason.WRONG_KEY),
        (car.message(car.seal(key=other.key)), Reason.WRONG_KEY),
        (Message(other.topic, good.data), Reason.WRONG_KEY),
        (Message("hf/1/bank/car-1/seg", good.data), Reason.UNKNOWN_DEVICE),
        (Message(car.topic, flipped), Reason.BAD_SIGNATURE),
        (Message(car.topic, lying.seal().data), Reason.WRONG_DEVICE),
        (replayed.message(replayed.seal()), Reason.WRONG_CLOCK),
        (simulated.message(simulated.seal()), Reason.WRONG_CLOCK),
    ]
    for message, expected in cases:
        verdict = examine(message, registry, Policy(), START_MS)
        assert reason(verdict) is expected, (message.topic, expected, verdict)
        assert isinstance(verdict, Quarantined) and verdict.detail


def test_the_demo_s_policy_takes_the_other_clocks_and_refuses_live(car: Device, registry: Registry) -> None:
    policy = Policy(frozenset({ClockKind.REPLAY, ClockKind.SIMULATED}))
    for clock in ClockKind:
        device = dataclasses.replace(car, clock=clock)
        verdict = examine(device.message(device.seal()), registry, policy, START_MS)
        assert (reason(verdict) is Reason.WRONG_CLOCK) == (clock is ClockKind.LIVE)


def test_an_expired_certificate_binds_live_segments_only(car: Device, registry: Registry) -> None:
    year_2101_ms = 4_134_000_000_000
    verdict = examine(car.message(car.seal()), registry, Policy(), year_2101_ms)
    assert reason(verdict) is Reason.EXPIRED_KEY
    old = dataclasses.replace(car, clock=ClockKind.REPLAY)
    policy = Policy(frozenset({ClockKind.REPLAY}))
    assert reason(examine(old.message(old.seal()), registry, policy, year_2101_ms)) is None


def test_numbers_that_no_column_holds_are_refused(car: Device, registry: Registry) -> None:
    car.number, car.previous = 1 << 63, b"\x00" * 32
    assert reason(examine(car.message(car.seal()), registry, Policy(), START_MS)) is Reason.MALFORMED
    car.number, big = 1, dataclasses.replace(car.event(), seq=1 << 63)
    assert reason(examine(car.message(car.seal([big])), registry, Policy(), START_MS)) is Reason.MALFORMED


@given(data=st.binary(max_size=300), topic=st.text(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_quarantined_and_never_raises(data: bytes, topic: str, registry: Registry) -> None:
    for where in ("hf/1/fund/car-1/seg", topic):
        assert reason(examine(Message(where, data), registry, Policy(), START_MS)) is not None


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_passes(at: int, flip: int, kit: Kit, registry: Registry) -> None:
    car = kit.device("car-1")
    data = bytearray(car.seal().data)
    data[at % len(data)] ^= flip
    assert reason(examine(Message(car.topic, bytes(data)), registry, Policy(), START_MS)) is not None


def test_classification(car: Device) -> None:
    sealed = car.seal()
    assert classify(sealed, [], []) == Accepted(sealed)
    assert classify(sealed, [sealed.hash], []) == Duplicate(sealed)
    assert classify(sealed, [b"a" * 32], [b"a" * 32, b"b" * 32]) == Accepted(sealed, (b"a" * 32, b"b" * 32))
    assert classify(sealed, [b"a" * 32, sealed.hash], [sealed.hash]) == Duplicate(sealed)


def test_the_predecessor(car: Device) -> None:
    first = car.seal()
    assert previous_hash(first.segment) is None
    assert previous_hash(car.seal().segment) == first.hash
    car.restart()
    assert previous_hash(car.seal().segment) == car.sealed[-2].hash


def test_months(car: Device) -> None:
    assert month(START_MS) == "2026-12"
    car.wall_ms = 1_796_083_199_000  # 2026-11-30T23:59:59Z
    assert months(car.seal(3).segment, 0) == ("2026-11", "2026-12")
    unknown = Event(9, Kind.HEARTBEAT, Stamp(1, None, TimeSource.NONE, 0), {})
    absurd = Event(10, Kind.HEARTBEAT, Stamp(1, (1 << 64) * 1_000_000, TimeSource.GNSS, 0), {})
    car.number, car.previous = 0, "x"
    segment = dataclasses.replace(car.seal(1).segment, events=(unknown, absurd))
    assert months(segment, START_MS) == ("2026-12", "2026-12")


def test_only_event_certificates_of_the_ca_are_taken(kit: Kit, tmp_path: Path) -> None:
    ca = load_ca(kit.config.keys / "device_ca.crt")
    tls = x509.load_pem_x509_certificates((kit.lab.nodes["car-1"] / "keys" / "tls.crt").read_bytes())[0]
    rogue = make_kit(tmp_path / "rogue").lab.nodes["car-1"] / "keys" / "event.crt"
    for wrong in (
        tls.public_bytes(Encoding.DER),
        ca.public_bytes(Encoding.DER),
        x509.load_pem_x509_certificate(rogue.read_bytes()).public_bytes(Encoding.DER),
        b"rubbish",
    ):
        with pytest.raises(CertificateError):
            read_certificate(wrong, ca)


def test_files_in_the_wrong_place_are_named_and_skipped(kit: Kit, tmp_path: Path) -> None:
    good = (kit.lab.nodes["car-1"] / "keys" / "event.crt").read_bytes()
    for name, data in (("car-1", good), ("car-7", good), ("car-8", b"x"), ("car-9", b"x" * 20_000)):
        (tmp_path / "fund").mkdir(exist_ok=True)
        (tmp_path / "fund" / f"{name}.crt").write_bytes(data)
    registry, problems = load_devices(tmp_path, load_ca(kit.config.keys / "device_ca.crt"))
    assert len(registry) == 1 and registry.knows("fund", "car-1")
    assert len(problems) == 3 and all("car-" in problem for problem in problems)
