from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import aiomqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_lab import find_mosquitto, free_port, start_mosquitto

from firmware_bridge.reading import Reading, Refusal, Relay
from firmware_bridge.sensors.chirpstack import ChirpStackDecoder

EUI = "a84041ffff123456"
TOPIC = f"application/6a1f8a3c-1a2b-4c3d-9e8f-001122334455/device/{EUI}/event/up"


def event(**changes: object) -> dict[str, object]:
    """An event as ChirpStack 4 writes it, neutral values."""
    return {
        "deduplicationId": "3ac7e3c4-4401-4b8d-9386-a5c902f9202d",
        "time": "2026-11-20T09:34:15.775023242+00:00",
        "deviceInfo": {
            "tenantId": "52f14cd4-c6f1-4fbd-8f87-4025e1d49242", "tenantName": "t", "applicationName": "a",
            "applicationId": "6a1f8a3c-1a2b-4c3d-9e8f-001122334455", "deviceProfileName": "p",
            "deviceName": "d", "devEui": EUI, "tags": {"key": "value"},
        },
        "devAddr": "00189440", "adr": True, "dr": 1, "fCnt": 42, "fPort": 1, "confirmed": False,
        "data": base64.b64encode(bytes(range(22))).decode(),
        "rxInfo": [
            {"gatewayId": "0016c001f153a14c", "uplinkId": 4217106255, "rssi": -107, "snr": -4.2},
            {"gatewayId": "0016c001f153a14d", "uplinkId": 1, "rssi": -36, "snr": 10.5},
        ],
        "txInfo": {"frequency": 867100000, "modulation": {"lora": {"spreadingFactor": 11}}},
        **changes,
    }  # fmt: skip


def feed(payload: object, topic: str = TOPIC) -> Reading | Refusal:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    (one,) = ChirpStackDecoder("lora").feed(topic, data, 5)
    return one


def test_an_uplink_is_carried_on_unread() -> None:
    assert feed(event()) == Relay(5, "lora", EUI, 42, 1, bytes(range(22)), -36, 10.5)


def test_fields_that_are_zero_are_left_out_by_protobuf_json() -> None:
    bare = {"deviceInfo": {"devEui": EUI}}
    assert feed(bare) == Relay(5, "lora", EUI, 0, 0, b"", None, None)
    assert feed(event(rxInfo=[{}])) == Relay(5, "lora", EUI, 42, 1, bytes(range(22)), 0, 0.0)


def test_upper_case_euis_mean_the_same_device() -> None:
    relay = feed(event(deviceInfo={"devEui": EUI.upper()}), TOPIC.replace(EUI, EUI.upper()))
    assert isinstance(relay, Relay) and relay.dev_eui == EUI


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "lora_json"),
        (b"{", "lora_json"),
        (b"\xff\xfe", "lora_json"),
        (b"[]", "lora_json"),
        (b"null", "lora_json"),
        (b"[" * 50_000, "lora_json"),
        (b'{"fCnt": NaN}', "lora_json"),
        (b'{"rxInfo": [{"rssi": -Infinity}]}', "lora_json"),
        (b'{"fCnt": ' + b"9" * 5000 + b"}", "lora_json"),
        (json.dumps(event()).encode()[:-1], "lora_json"),
        (json.dumps(event()).encode() + b"x", "lora_json"),
        (b" " * 70_000, "lora_size"),
        (event(deviceInfo=None), "lora_device"),
        (event(deviceInfo={}), "lora_device"),
        (event(deviceInfo={"devEui": "a84041ffff12345"}), "lora_device"),
        (event(deviceInfo={"devEui": "a84041ffff12345g"}), "lora_device"),
        (event(deviceInfo={"devEui": "0000000000000001"}), "lora_device"),
        (event(fCnt=-1), "lora_counter"),
        (event(fCnt=2**32), "lora_counter"),
        (event(fCnt="42"), "lora_counter"),
        (event(fCnt=True), "lora_counter"),
        (event(fCnt=1.5), "lora_counter"),
        (event(fPort=256), "lora_counter"),
        (event(data="###"), "lora_payload"),
        (event(data="AAA"), "lora_payload"),
        (event(data="AA==\n"), "lora_payload"),
        (event(data="Ä"), "lora_payload"),
        (event(data=5), "lora_payload"),
        (event(data=base64.b64encode(bytes(243)).decode()), "lora_payload"),
        (event(data="A" * 60_000), "lora_payload"),
        (event(rxInfo={}), "lora_radio"),
        (event(rxInfo=[5]), "lora_radio"),
        (event(rxInfo=[{"rssi": "-36"}]), "lora_radio"),
        (event(rxInfo=[{"rssi": -1000}]), "lora_radio"),
        (event(rxInfo=[{"rssi": -36, "snr": 1e308}]), "lora_radio"),
    ],
)
def test_what_is_malformed_is_refused_and_named(payload: object, reason: str) -> None:
    refusal = feed(payload)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert refusal.port == "lora" and len(refusal.sample) <= 32


@pytest.mark.parametrize(
    "topic", ["", "x", TOPIC + "/", TOPIC.replace("/up", "/join"), TOPIC.replace(EUI, "#"), "a/" + TOPIC]
)
def test_other_topics_are_refused(topic: str) -> None:
    refusal = feed(event(), topic)
    assert isinstance(refusal, Refusal) and refusal.reason == "lora_topic"


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    assert isinstance(feed(data), Refusal)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=12,
    ),
    st.sampled_from(["deviceInfo", "fCnt", "fPort", "data", "rxInfo"]),
)
def test_no_value_in_a_field_raises(value: object, field: str) -> None:
    assert isinstance(feed(event(**{field: value})), (Relay, Refusal))


def test_the_source_subscribes_and_delivers(tmp_path: Path) -> None:
    """Against a Mosquitto as ChirpStack uses it, which goes away and comes back."""
    mosquitto = find_mosquitto()
    from edge.runtime import chirpstack
    from edge.runtime.load import load_config

    port = free_port()
    config_file = tmp_path / "node.toml"
    config_file.write_text(
        f'[node]\ntenant = "fund"\ndevice = "road-1"\nkind = "roadside"\n'
        f'[chirpstack]\nhost = "127.0.0.1"\nport = {port}\n',
        "utf-8",
    )
    (tmp_path / "m.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n", "ascii")
    got: list[Reading | Refusal] = []

    async def say(payloads: list[bytes]) -> None:
        async with aiomqtt.Client("127.0.0.1", port) as client:
            for payload in payloads:
                await client.publish(TOPIC, payload, qos=1)

    async def wait(count: int) -> None:
        async with asyncio.timeout(60):
            while len(got) < count:
                await asyncio.sleep(0.02)

    async def main() -> None:
        source = asyncio.create_task(chirpstack.run(load_config(config_file), got.extend))
        await wait(1)
        assert getattr(got[0], "condition", None) == "absent"
        broker = start_mosquitto(mosquitto, tmp_path / "m.conf")
        try:
            await wait(2)
            assert getattr(got[1], "condition", None) == "ok"
            await say([json.dumps(event()).encode(), b"garbage"])
            await wait(4)
        finally:
            broker.terminate()
            broker.wait(10)
        await wait(5)
        source.cancel()

    asyncio.run(main())
    assert isinstance(got[2], Relay) and got[2].payload == bytes(range(22))
    assert isinstance(got[3], Refusal) and got[3].reason == "lora_json"
    assert getattr(got[4], "condition", None) == "absent"
