"""The LoRaWAN profile: one alert in 18 bytes and a 4 or 8 byte tag, for when nothing else gets out.

Port 1 carries `payload || tag`. Payload, big endian:

    0      version (3 bits) | kind (5 bits)
    1..2   low 16 bits of the sequence number
    3..6   seconds since 2020-01-01T00:00:00Z; all ones: unknown
    7..9   latitude in 1e-4 degrees, signed; 0x800000: unknown
    10..12 longitude likewise
    13     cause, a number of models.verdict
    14..15 supply in millivolts; all ones: unknown
    16     tilt in degrees; all ones: unknown
    17     speed in half metres a second; all ones: unknown

Tag: the first bytes of HMAC-SHA256 over DevEUI || full 32-bit sequence number || payload. This is a profile
of our own and no registered COSE algorithm. Four bytes are enough only because a guess costs airtime and the
network server limits the rate; where the data rate allows, use eight. A later segment over IP states the
same and signs it.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge.errors import FormatError

VERSION: Final = 1
PORT: Final = 1
PAYLOAD_BYTES: Final = 18
TAG_BYTES: Final = 4
LONG_TAG_BYTES: Final = 8
EPOCH_S: Final = 1_577_836_800
"""2020-01-01T00:00:00Z as seconds since 1970; 32 bits reach 2156."""
_HEAD = struct.Struct(">BHI")
_TAIL = struct.Struct(">BHBB")
_NO_TIME: Final = 0xFFFF_FFFF
_NO_SUPPLY: Final = 0xFFFF
_NO_BYTE: Final = 0xFF
_NO_DEGREES: Final = -0x80_0000
_PER_DEGREE: Final = 10_000
_DEV_EUI_BYTES: Final = 8
_MAX_SEQ: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Alert:
    """What fits. Raises FormatError for values outside of the ranges."""

    seq: int
    """0 .. 2^32 - 1, one more with each alert of this device."""
    kind: int
    """0 .. 31, a number of edge.event.Kind."""
    cause: int
    """0 .. 255."""
    time_s: int | None = None
    """Seconds since 1970-01-01T00:00:00Z, from 2020 to 2156; None where the device has no trusted time."""
    lat_deg: float | None = None
    lon_deg: float | None = None
    """Rounded to 1e-4 degrees, 11 m; both or neither."""
    supply_mv: int | None = None
    """0 .. 65534."""
    tilt_deg: int | None = None
    """0 .. 180."""
    speed_mps: float | None = None
    """0 .. 127, rounded to 0.5."""

    def __post_init__(self) -> None:
        _check("seq", self.seq, 0, _MAX_SEQ)
        _check("kind", self.kind, 0, 31)
        _check("cause", self.cause, 0, 255)
        _check("time_s", self.time_s, EPOCH_S, EPOCH_S + _NO_TIME - 1)
        _check("lat_deg", self.lat_deg, -90.0, 90.0)
        _check("lon_deg", self.lon_deg, -180.0, 180.0)
        _check("supply_mv", self.supply_mv, 0, _NO_SUPPLY - 1)
        _check("tilt_deg", self.tilt_deg, 0, 180)
        _check("speed_mps", self.speed_mps, 0.0, 127.0)
        if (self.lat_deg is None) != (self.lon_deg is None):
            raise FormatError("an alert has latitude and longitude, or neither")


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:  # NaN fails every comparison
        raise FormatError(f"alert: {name} {value!r} outside {low} .. {high}")


def tag_key(event_key: ec.EllipticCurvePrivateKey, dev_eui: bytes) -> bytes:
    """The 32-byte key of this device's tags, handed to its tenant's collector at enrolment.

    HKDF-SHA256 (RFC 5869) of the event key's private value, so that a node keeps no further secret.
    """
    _check_dev_eui(dev_eui)
    secret = event_key.private_numbers().private_value.to_bytes(32, "big")
    return HKDF(hashes.SHA256(), 32, salt=None, info=b"holdfast lora tag v1" + dev_eui).derive(secret)


def pack(alert: Alert) -> bytes:
    """The 18 bytes of `alert`."""
    time = _NO_TIME if alert.time_s is None else alert.time_s - EPOCH_S
    speed = _NO_BYTE if alert.speed_mps is None else round(alert.speed_mps * 2)
    return (
        _HEAD.pack(VERSION << 5 | alert.kind, alert.seq & 0xFFFF, time)
        + _degrees(alert.lat_deg)
        + _degrees(alert.lon_deg)
        + _TAIL.pack(
            alert.cause,
            _NO_SUPPLY if alert.supply_mv is None else alert.supply_mv,
            _NO_BYTE if alert.tilt_deg is None else alert.tilt_deg,
            speed,
        )
    )


def unpack(payload: bytes, seq: int) -> Alert:
    """The alert of 18 bytes whose full sequence number is `seq`. Raises FormatError."""
    if len(payload) != PAYLOAD_BYTES:
        raise FormatError(f"an alert has {PAYLOAD_BYTES} bytes, not {len(payload)}")
    first, low, time = _HEAD.unpack_from(payload)
    cause, supply, tilt, speed = _TAIL.unpack_from(payload, 13)
    if first >> 5 != VERSION:
        raise FormatError(f"alert version {first >> 5}; this software reads {VERSION}")
    if low != seq & 0xFFFF:
        raise FormatError("the alert has another sequence number")
    return Alert(
        seq=seq,
        kind=first & 0x1F,
        cause=cause,
        time_s=None if time == _NO_TIME else EPOCH_S + time,
        lat_deg=_from_degrees(payload[7:10]),
        lon_deg=_from_degrees(payload[10:13]),
        supply_mv=None if supply == _NO_SUPPLY else supply,
        tilt_deg=None if tilt == _NO_BYTE else tilt,
        speed_mps=None if speed == _NO_BYTE else speed / 2,
    )


def seal_alert(alert: Alert, key: bytes, dev_eui: bytes, *, tag_bytes: int = TAG_BYTES) -> bytes:
    """`alert` as it is sent on port 1: 22 bytes, or 26 with the long tag."""
    if tag_bytes not in (TAG_BYTES, LONG_TAG_BYTES):
        raise FormatError(f"a tag has {TAG_BYTES} or {LONG_TAG_BYTES} bytes, not {tag_bytes}")
    payload = pack(alert)
    return payload + _tag(key, dev_eui, alert.seq, payload)[:tag_bytes]


def open_alert(frame: bytes, key: bytes, dev_eui: bytes, last_seq: int | None) -> Alert:
    """The alert in `frame`, if the tag is right.

    `last_seq` is the last accepted sequence number of this device, None before the first. The frame's must
    be higher, by less than 65536: a replay therefore fails its tag. Raises FormatError.
    """
    tag = frame[PAYLOAD_BYTES:]
    if len(tag) not in (TAG_BYTES, LONG_TAG_BYTES):
        raise FormatError(f"an alert frame has 22 or 26 bytes, not {len(frame)}")
    payload = frame[:PAYLOAD_BYTES]
    seq = _full(int.from_bytes(payload[1:3], "big"), last_seq)
    if not hmac.compare_digest(_tag(key, dev_eui, seq, payload)[: len(tag)], tag):
        raise FormatError(
            "the alert's tag is wrong: another key, a changed frame, or one that was sent before"
        )
    return unpack(payload, seq)


def _full(low: int, last: int | None) -> int:
    if last is None:
        return low
    seq = (last & ~0xFFFF) | low
    seq = seq if seq > last else seq + 0x1_0000
    if seq > _MAX_SEQ:
        raise FormatError("the device's sequence numbers are used up: enrol it anew")
    return seq


def _tag(key: bytes, dev_eui: bytes, seq: int, payload: bytes) -> bytes:
    _check_dev_eui(dev_eui)
    return hmac.new(key, dev_eui + seq.to_bytes(4, "big") + payload, hashlib.sha256).digest()


def _check_dev_eui(dev_eui: bytes) -> None:
    if len(dev_eui) != _DEV_EUI_BYTES:
        raise FormatError(f"a DevEUI has {_DEV_EUI_BYTES} bytes, not {len(dev_eui)}")


def _degrees(value: float | None) -> bytes:
    return (_NO_DEGREES if value is None else round(value * _PER_DEGREE)).to_bytes(3, "big", signed=True)


def _from_degrees(data: bytes) -> float | None:
    value = int.from_bytes(data, "big", signed=True)
    return None if value == _NO_DEGREES else value / _PER_DEGREE
