from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edge import lora
from edge.errors import FormatError
from edge.lora import EPOCH_S, Alert, open_alert, pack, seal_alert, tag_key, unpack

EUI = bytes.fromhex("a84041ffff123456")
EVENT_KEY = ec.derive_private_key(7, ec.SECP256R1())
KEY = tag_key(EVENT_KEY, EUI)
FULL = Alert(70_000, 7, 3, EPOCH_S + 5, 47.1234, -8.5432, 12_450, 31, 13.5)

ALERTS = st.builds(
    lambda position, **rest: Alert(lat_deg=position[0], lon_deg=position[1], **rest),
    seq=st.integers(0, 2**32 - 1),
    kind=st.integers(0, 31),
    cause=st.integers(0, 255),
    time_s=st.none() | st.integers(EPOCH_S, EPOCH_S + 2**32 - 2),
    position=st.just((None, None)) | st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    supply_mv=st.none() | st.integers(0, 65_534),
    tilt_deg=st.none() | st.integers(0, 180),
    speed_mps=st.none() | st.floats(0, 127),
)


def test_the_layout_byte_by_byte() -> None:
    assert pack(FULL).hex() == (
        "27" "1170" "00000005" "0730c2" "feb248" "03" "30a2" "1f" "1b"
    )  # fmt: skip
    assert pack(Alert(0, 0, 0)).hex() == "200000ffffffff80000080000000ffffffff"


def test_the_tag_is_the_hmac_of_device_sequence_and_payload() -> None:
    frame = seal_alert(FULL, KEY, EUI)
    expected = hmac.new(KEY, EUI + (70_000).to_bytes(4, "big") + frame[:18], hashlib.sha256).digest()
    assert frame[18:] == expected[:4]
    assert seal_alert(FULL, KEY, EUI, tag_bytes=8)[18:] == expected[:8]


@given(ALERTS)
def test_alerts_round_trip(alert: Alert) -> None:
    frame = seal_alert(alert, KEY, EUI)
    assert len(frame) == 22
    back = open_alert(frame, KEY, EUI, alert.seq - 1 if alert.seq else None)
    assert (back.seq, back.kind, back.cause, back.time_s) == (
        alert.seq,
        alert.kind,
        alert.cause,
        alert.time_s,
    )
    assert (back.supply_mv, back.tilt_deg) == (alert.supply_mv, alert.tilt_deg)
    for name, step in (("lat_deg", 1e-4), ("lon_deg", 1e-4), ("speed_mps", 0.5)):
        sent, got = getattr(alert, name), getattr(back, name)
        assert (sent is None) == (got is None)
        assert sent is None or abs(sent - got) <= step / 2 + 1e-9


@given(st.binary(max_size=40), st.integers(0, 2**32 - 1))
def test_arbitrary_bytes_never_pass_and_never_surprise(data: bytes, last: int) -> None:
    with pytest.raises(FormatError):
        open_alert(data, KEY, EUI, last)


@given(st.binary(min_size=18, max_size=18))
def test_arbitrary_payloads_decode_or_are_refused(data: bytes) -> None:
    try:
        alert = unpack(data, int.from_bytes(data[1:3], "big"))
    except FormatError:
        return
    assert pack(alert) == data


@pytest.mark.parametrize("bit", range(22 * 8))
def test_every_bit_is_covered_by_the_tag(bit: int) -> None:
    frame = bytearray(seal_alert(FULL, KEY, EUI))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError):
        open_alert(bytes(frame), KEY, EUI, 69_999)


def test_replays_other_devices_and_other_keys_are_refused() -> None:
    frame = seal_alert(FULL, KEY, EUI)
    assert open_alert(frame, KEY, EUI, 69_999).seq == 70_000
    assert open_alert(frame, KEY, EUI, 70_000 - 65_536).seq == 70_000
    for last in (70_000, 70_001, 200_000, 70_000 - 65_537, None):
        with pytest.raises(FormatError):
            open_alert(frame, KEY, EUI, last)
    with pytest.raises(FormatError):
        open_alert(frame, tag_key(EVENT_KEY, EUI[::-1]), EUI, 69_999)
    with pytest.raises(FormatError):
        open_alert(frame, KEY, EUI[::-1], 69_999)
    with pytest.raises(FormatError, match="used up"):
        open_alert(frame, KEY, EUI, 2**32 - 1)


@pytest.mark.parametrize("cut", range(22))
def test_truncated_and_longer_frames_are_refused(cut: int) -> None:
    frame = seal_alert(FULL, KEY, EUI)
    for wrong in (frame[:cut], frame + b"\x00", frame + frame):
        with pytest.raises(FormatError):
            open_alert(wrong, KEY, EUI, 69_999)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": -1}, {"seq": 2**32}, {"kind": 32}, {"cause": 256}, {"time_s": 5},
        {"lat_deg": 90.1, "lon_deg": 0.0},
        {"lat_deg": float("nan"), "lon_deg": 0.0}, {"lat_deg": 1.0}, {"lon_deg": 1.0},
        {"lat_deg": 0.0, "lon_deg": 180.5}, {"supply_mv": 65_535}, {"tilt_deg": 181}, {"speed_mps": 127.5},
        {"speed_mps": float("nan")},
    ],
)  # fmt: skip
def test_values_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(FormatError):
        Alert(**{"seq": 1, "kind": 1, "cause": 1, **wrong})  # type: ignore[arg-type]


def test_a_dev_eui_and_a_tag_have_their_lengths() -> None:
    with pytest.raises(FormatError):
        tag_key(EVENT_KEY, b"short")
    with pytest.raises(FormatError):
        seal_alert(FULL, KEY, EUI, tag_bytes=2)
    assert lora.PAYLOAD_BYTES + lora.TAG_BYTES == 22
