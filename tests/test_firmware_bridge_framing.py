"""COBS frames: whole, byte by byte, damaged, flooded."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.errors import FrameError
from firmware_bridge.framing import (
    MAX_FRAME,
    BadFrame,
    Deframer,
    Frame,
    FrameType,
    cobs_decode,
    cobs_encode,
    frame,
)

# Cheshire and Baker's table, as on the usual reference pages.
COBS = [
    (b"", "01"),
    (b"\x00", "0101"),
    (b"\x00\x00", "010101"),
    (b"\x00\x11\x00", "01021101"),
    (b"\x11\x22\x00\x33", "0311220233"),
    (b"\x11\x22\x33\x44", "0511223344"),
    (b"\x11\x00\x00\x00", "0211010101"),
    (bytes(range(1, 255)), "ff" + bytes(range(1, 255)).hex()),
    (bytes(range(255)), "01ff" + bytes(range(1, 255)).hex()),
    (bytes(range(1, 256)), "ff" + bytes(range(1, 255)).hex() + "02ff"),
    (bytes(range(2, 256)) + b"\x00", "ff" + bytes(range(2, 256)).hex() + "0101"),
    (bytes(range(3, 256)) + b"\x00\x01", "fe" + bytes(range(3, 256)).hex() + "0201"),
]


@pytest.mark.parametrize(("plain", "encoded"), COBS)
def test_cobs_reference_vectors(plain: bytes, encoded: str) -> None:
    assert cobs_encode(plain).hex() == encoded
    assert cobs_decode(bytes.fromhex(encoded)) == plain


long_runs = st.lists(
    st.one_of(st.binary(max_size=12), st.integers(250, 260).map(lambda n: b"\x07" * n), st.just(b"\x00")),
    max_size=6,
).map(b"".join)


@given(st.one_of(st.binary(max_size=600), long_runs))
def test_cobs_round_trip_without_zeros(data: bytes) -> None:
    encoded = cobs_encode(data)
    assert 0 not in encoded
    assert len(encoded) <= len(data) + 1 + len(data) // 254
    assert cobs_decode(encoded) == data


@pytest.mark.parametrize("bad", [b"\x00", b"\x05\x11", b"\x02\x11\x09\x22", b"\x03\x11\x00\x01"])
def test_cobs_refuses_what_does_not_fit(bad: bytes) -> None:
    with pytest.raises(FrameError):
        cobs_decode(bad)


def test_layout_on_the_wire() -> None:
    wire = frame(FrameType.DATA, 7, b"\xa1\x00\x01")
    assert wire.endswith(b"\x00")
    assert wire.count(0) == 1
    raw = cobs_decode(wire[:-1])
    assert raw[:3] == bytes((1, 2, 7))
    assert raw[3:-4] == b"\xa1\x00\x01"
    assert raw[-4:] == zlib.crc32(raw[:-4]).to_bytes(4, "little")


def test_frame_too_long_to_send_is_refused() -> None:
    assert len(frame(2, 0, b"\x01" * 2000)) <= MAX_FRAME + 1
    with pytest.raises(FrameError, match="split it"):
        frame(2, 0, b"\x01" * MAX_FRAME)


payloads = st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=8)


@given(payloads, st.integers(1, 40))
def test_any_portioning_gives_the_same_frames(bodies: list[bytes], portion: int) -> None:
    wire = b"".join(frame(2, seq, body) for seq, body in enumerate(bodies))
    expected = [Frame(2, seq, body) for seq, body in enumerate(bodies)]
    assert Deframer().feed(wire) == expected
    pieces = Deframer()
    got = [item for at in range(0, len(wire), portion) for item in pieces.feed(wire[at : at + portion])]
    assert got == expected
    assert pieces.held == 0


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=50))
def test_back_in_step_after_garbage(noise: bytes, body: bytes) -> None:
    deframer = Deframer()
    items = deframer.feed(noise + b"\x00" + frame(2, 9, body))
    assert items[-1] == Frame(2, 9, body)


def one(wire: bytes) -> Frame | BadFrame:
    (item,) = Deframer().feed(wire)
    return item


def reason(wire: bytes) -> str:
    item = one(wire)
    assert isinstance(item, BadFrame)
    return item.reason


def test_each_damage_has_its_reason() -> None:
    good = frame(2, 1, b"\xa1\x00\x01")
    flipped = bytearray(good)
    flipped[2] ^= 0x40
    assert reason(bytes(flipped)) == "bad_crc"
    assert reason(b"\xff\x01\x02\x00") == "bad_cobs"
    assert reason(cobs_encode(b"\x01\x02\x03") + b"\x00") == "too_short"
    other = b"\x02\x02\x01\xa0"
    newer = cobs_encode(other + zlib.crc32(other).to_bytes(4, "little")) + b"\x00"
    assert reason(newer) == "unknown_version"
    assert reason(b"\x01" * (MAX_FRAME + 1) + b"\x00") == "too_long"


def test_truncated_frame_costs_only_itself() -> None:
    first, second = frame(2, 1, b"\xa1\x00\x01"), frame(2, 2, b"\xa1\x00\x02")
    items = Deframer().feed(first[:-4] + b"\x00" + second)
    assert isinstance(items[0], BadFrame)
    assert items[1:] == [Frame(2, 2, b"\xa1\x00\x02")]


def test_lost_delimiter_costs_two_frames_and_no_more() -> None:
    frames = [frame(2, n, b"\xa1\x00\x01") for n in range(3)]
    items = Deframer().feed(frames[0][:-1] + frames[1] + frames[2])
    assert isinstance(items[0], BadFrame)
    assert items[1:] == [Frame(2, 2, b"\xa1\x00\x01")]


def test_every_single_bit_flip_is_caught() -> None:
    good = frame(2, 1, bytes(range(40)))
    for bit in range((len(good) - 1) * 8):
        hurt = bytearray(good)
        hurt[bit // 8] ^= 1 << bit % 8
        assert not any(isinstance(item, Frame) for item in Deframer().feed(bytes(hurt) + b"\x00"))


def test_flood_without_delimiter_is_bounded_and_told_once() -> None:
    deframer = Deframer()
    told: list[object] = []
    for _ in range(1000):
        told += deframer.feed(b"\x55" * 1000)
        assert deframer.held <= MAX_FRAME
    assert [item.reason for item in told if isinstance(item, BadFrame)] == ["too_long"]
    assert deframer.feed(b"\x00" + frame(1, 0, b"\xa0")) == [Frame(1, 0, b"\xa0")]


def test_reset_forgets_what_had_begun() -> None:
    deframer = Deframer()
    whole = frame(2, 1, b"\xa1\x00\x01")
    deframer.feed(whole[:5])
    deframer.reset()
    assert deframer.held == 0
    assert deframer.feed(whole) == [Frame(2, 1, b"\xa1\x00\x01")]


def test_noisy_line_delivers_most_and_nothing_false() -> None:
    rng = random.Random(4)
    sent = [bytes(rng.randrange(256) for _ in range(rng.randrange(5, 60))) for _ in range(2000)]
    line = bytearray()
    for seq, body in enumerate(sent):
        for byte in frame(2, seq & 0xFF, body):
            chance = rng.random()
            if chance < 3e-4:
                line.append(byte ^ 1 << rng.randrange(8))
            elif chance < 6e-4:
                continue
            elif chance < 9e-4:
                line += bytes((byte, rng.randrange(256)))
            else:
                line.append(byte)
    got = [item.payload for item in Deframer().feed(bytes(line)) if isinstance(item, Frame)]
    assert len(got) > 1850
    assert set(got) <= set(sent)
