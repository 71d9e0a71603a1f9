"""Uplink events of ChirpStack 4's MQTT integration (JSON marshaler) as `Relay` readings.

    topic    application/<application id>/device/<DevEUI>/event/up
    payload  {"deviceInfo": {"devEui": "..."}, "fCnt": n, "fPort": n, "data": base64,
              "rxInfo": [{"rssi": n, "snr": n}]}

The frame itself is carried on unread: whose it is, and whether its tag is right, is for that device's
collector to say. JSON of protobuf leaves out fields that are zero, so a missing `fCnt` means 0.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import Final, NoReturn

from firmware_bridge.reading import Reading, Refusal, Relay

MAX_EVENT_BYTES: Final = 64 * 1024
"""An event has 1 to 3 kB with a few gateways; each adds about 500 bytes."""
MAX_PAYLOAD_BYTES: Final = 242
"""Largest application payload of any LoRaWAN region (RP002)."""
MAX_GATEWAYS: Final = 64
"""So many `rxInfo` entries are looked at; the strongest is what is kept."""
_DEV_EUI = re.compile(r"[0-9a-f]{16}", re.ASCII)
_TOPIC = re.compile(r"application/[^/]+/device/([0-9a-fA-F]{16})/event/up", re.ASCII)
_SAMPLE: Final = 32


class _Refused(Exception):
    """Carries the reason under which the event is counted."""


class ChirpStackDecoder:
    """Decodes one MQTT message at a time; never raises on input, and holds nothing."""

    def __init__(self, port: str) -> None:
        self.port = port

    def feed(self, topic: str, payload: bytes, t_ns: int) -> list[Reading | Refusal]:
        """The reading in one message that arrived at `t_ns`, or why it is none.

        Reasons: lora_topic, lora_size, lora_json, lora_device, lora_counter, lora_payload, lora_radio.
        """
        try:
            return [self._relay(topic, payload, t_ns)]
        except _Refused as refused:
            return [Refusal(t_ns, self.port, str(refused), payload[:_SAMPLE])]

    def _relay(self, topic: str, payload: bytes, t_ns: int) -> Relay:
        named = _TOPIC.fullmatch(topic)
        if named is None:
            raise _Refused("lora_topic")
        event = _object(payload)
        device = event.get("deviceInfo")
        dev_eui = device.get("devEui") if isinstance(device, dict) else None
        if not isinstance(dev_eui, str) or not _DEV_EUI.fullmatch(dev_eui.lower()):
            raise _Refused("lora_device")
        if dev_eui.lower() != named[1].lower():  # the broker's access rules go by topic
            raise _Refused("lora_device")
        rssi, snr = _strongest(event.get("rxInfo", []))
        return Relay(
            t_ns=t_ns,
            port=self.port,
            dev_eui=dev_eui.lower(),
            f_cnt=_integer(event.get("fCnt", 0), 0xFFFF_FFFF),
            f_port=_integer(event.get("fPort", 0), 255),
            payload=_frame(event.get("data", "")),
            rssi_dbm=rssi,
            snr_db=snr,
        )


def _object(payload: bytes) -> dict[str, object]:
    if len(payload) > MAX_EVENT_BYTES:
        raise _Refused("lora_size")
    try:
        event = json.loads(payload.decode("utf-8"), parse_constant=_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _Refused("lora_json") from error
    if not isinstance(event, dict):
        raise _Refused("lora_json")
    return event


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(value: object, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
        raise _Refused("lora_counter")
    return value


def _frame(value: object) -> bytes:
    if value is None:
        return b""  # an uplink without payload: the device lives
    if not isinstance(value, str) or len(value) > 2 * MAX_PAYLOAD_BYTES:
        raise _Refused("lora_payload")
    try:
        frame = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Refused("lora_payload") from error
    if len(frame) > MAX_PAYLOAD_BYTES:
        raise _Refused("lora_payload")
    return frame


def _strongest(received: object) -> tuple[int | None, float | None]:
    """Signal strength in dBm and signal-to-noise ratio in dB of the gateway that heard it best."""
    if not isinstance(received, list):
        raise _Refused("lora_radio")
    best: tuple[int | None, float | None] = (None, None)
    for gateway in received[:MAX_GATEWAYS]:
        if not isinstance(gateway, dict):
            raise _Refused("lora_radio")
        rssi = _number(gateway.get("rssi", 0), -200.0, 50.0)
        snr = _number(gateway.get("snr", 0), -100.0, 100.0)
        if best[0] is None or rssi > best[0]:
            best = round(rssi), snr
    return best


def _number(value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _Refused("lora_radio")
    if not math.isfinite(value):
        raise _Refused("lora_radio")
    return float(value)
