"""The MCU board's frames to readings, and everything that a board must not be believed."""

from __future__ import annotations

import math
from collections import Counter
from itertools import count

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.framing import FrameType, frame
from firmware_bridge.reading import BoardHello, Power, PowerState, Reading, Refusal, Tyre, Vibration
from firmware_bridge.sensors.board import BoardDecoder, Raw, encode_data, encode_hello
from firmware_bridge.timekeeper import Now

NOW = Now(5_000_000_000, 0, False, 0)
TYRE = (bytes.fromhex("a1b2c3d4"), 220, 21, 7)
HELLO = frame(FrameType.HELLO, 0, encode_hello(b"\x01\x02\x03\x04\x05\x06\x07\x08", "hf-board 1.2", 3))


def data(seq: int, body: bytes) -> bytes:
    return frame(FrameType.DATA, seq, body)


def decode(wire: bytes) -> tuple[list[Reading], Counter[str]]:
    return split(BoardDecoder("board").feed(wire, NOW))


def split(items: list[Reading | Refusal]) -> tuple[list[Reading], Counter[str]]:
    readings = [item for item in items if not isinstance(item, Refusal)]
    return readings, Counter(item.reason for item in items if isinstance(item, Refusal))


def test_hello_gives_the_port_an_identity() -> None:
    readings, refused = decode(HELLO)
    assert readings == [BoardHello(NOW.mono_ns, "board", "0102030405060708", "hf-board 1.2", 3)]
    assert not refused


def test_tyres_and_power() -> None:
    body = encode_data(1000, tyres=[TYRE, (b"\x00\x00\x00\x01", 0, -20, 0)], power=(12_640, 1, 0, 60))
    readings, refused = decode(data(1, body))
    assert readings == [
        Tyre(NOW.mono_ns, "board", "a1b2c3d4", 220.0, 21.0, True, True),
        Tyre(NOW.mono_ns, "board", "00000001", 0.0, -20.0, None, False),
        Power(NOW.mono_ns, "board", 12.64, PowerState.PARKED_WATCH, False, 60),
    ]
    assert not refused


def test_features_of_a_parked_board() -> None:
    body = encode_data(1000, features=(60_000, 100, 1, 2, 3, 40, 0, -120, 9810, 125))
    readings, refused = decode(data(1, body))
    assert readings == [
        Vibration(NOW.mono_ns, "board", 60.0, 100.0, (0.001, 0.002, 0.003), 0.04, (0.0, -0.12, 9.81), 12.5)
    ]
    assert not refused
    still = encode_data(1000, features=(60_000, 100, 1, 2, 3, 40, 0, -120, 9810, None))
    (reading,), _ = decode(data(1, still))
    assert isinstance(reading, Vibration)
    assert reading.dominant_hz is None


def shaking(rate: int, seconds: float, hz: float, amplitude: float, scale: int = 4788) -> list[Raw]:
    """Raw batches of 0.1 s, or of one sample where the rate is low: gravity on z, a sine on x."""
    n = np.arange(round(rate * seconds))
    accel = np.zeros((len(n), 3))
    accel[:, 0] = amplitude * np.sin(2 * math.pi * hz * n / rate)
    accel[:, 2] = 9.81
    steps = np.rint(accel * 1e6 / scale).astype("<i2")
    size = max(rate // 10, 1)
    return [(rate, scale, steps[at : at + size].tobytes()) for at in range(0, len(steps), size)]


def raw_wire(batches: list[Raw], *, step_ms: int = 100, seqs: count[int] | None = None) -> bytes:
    seqs = count() if seqs is None else seqs
    return b"".join(
        data(next(seqs) & 0xFF, encode_data(n * step_ms, raw=batch)) for n, batch in enumerate(batches)
    )


@pytest.mark.parametrize(("rate", "hz"), [(1000, 31.0), (100, 12.0), (10, 4.0), (4000, 190.0)])
def test_raw_becomes_one_reading_a_second(rate: int, hz: float) -> None:
    batches = shaking(rate, 3.0, hz, 2.0)
    if rate == 4000:  # 400 samples do not fit a frame
        batches = [(r, s, raw[at : at + 1200]) for r, s, raw in batches for at in range(0, len(raw), 1200)]
    readings, refused = decode(raw_wire(batches, step_ms=100 if rate != 4000 else 50))
    assert not refused
    assert len(readings) == 3
    for reading in readings:
        assert isinstance(reading, Vibration)
        assert reading.window_s == 1.0
        assert reading.rate_hz == rate
        assert reading.dominant_hz == hz
        assert reading.rms_mps2[0] == pytest.approx(2.0 / math.sqrt(2), rel=0.02)
        assert reading.rms_mps2[1:] == pytest.approx((0.0, 0.0), abs=1e-6)
        assert reading.peak_mps2 == pytest.approx(2.0, rel=0.06)
        assert reading.gravity_mps2 == pytest.approx((0.0, 0.0, 9.81), abs=0.01)


def test_still_window_has_no_dominant_frequency() -> None:
    readings, _ = decode(raw_wire(shaking(1000, 1.0, 20.0, 0.0)))
    (reading,) = readings
    assert isinstance(reading, Vibration)
    assert reading.dominant_hz is None
    assert reading.peak_mps2 == pytest.approx(0.0, abs=1e-9)


def test_slow_sway_is_not_taken_for_vibration() -> None:
    swaying = shaking(100, 1.0, 1.0, 3.0)
    (reading,), _ = decode(raw_wire(swaying))
    assert isinstance(reading, Vibration)
    assert reading.dominant_hz is not None
    assert reading.dominant_hz > 2.0


def test_batches_that_do_not_divide_a_second_lose_nothing() -> None:
    whole = b"".join(raw for _, _, raw in shaking(1000, 4.0, 25.0, 1.0))
    uneven: list[Raw] = [(1000, 4788, whole[at : at + 6 * 77]) for at in range(0, len(whole), 6 * 77)]
    readings, refused = decode(raw_wire(uneven, step_ms=77))
    assert len(readings) == 4
    assert not refused
    assert all(isinstance(r, Vibration) and r.dominant_hz == 25.0 for r in readings)


def test_lost_frame_is_counted_and_its_window_begins_anew() -> None:
    frames = [data(n, encode_data(n * 100, raw=raw)) for n, raw in enumerate(shaking(1000, 3.0, 30.0, 1.0))]
    readings, refused = decode(b"".join(frames[:5] + frames[6:]))
    assert refused == {"frames_missing": 1}
    assert len(readings) == 2  # 24 batches of a tenth are left behind the gap


def test_sequence_wraps_without_loss() -> None:
    body = encode_data(1, power=(12_000, 0, 0, 1))
    _, refused = decode(b"".join(data(n & 0xFF, body) for n in range(250, 520)))
    assert not refused


def test_hello_after_a_restart_is_no_loss() -> None:
    wire = data(200, encode_data(90_000, power=(12_000, 0, 0, 1))) + HELLO
    _, refused = decode(wire + data(1, encode_data(20, power=(12_000, 0, 0, 1))))
    assert not refused


def test_board_time_going_back_is_a_restart() -> None:
    wire = data(0, encode_data(90_000, tyres=[TYRE])) + data(1, encode_data(100, tyres=[TYRE]))
    readings, refused = decode(wire)
    assert len(readings) == 2
    assert refused == {"board_restarted": 1}


def test_pause_or_new_rate_begins_a_new_window() -> None:
    first, second = shaking(1000, 0.5, 30.0, 1.0), shaking(1000, 0.9, 30.0, 1.0)
    wire = raw_wire(first) + b"".join(
        data(5 + n, encode_data(60_000 + n * 100, raw=raw)) for n, raw in enumerate(second)
    )
    assert decode(wire)[0] == []
    other = raw_wire(shaking(1000, 0.9, 30.0, 1.0)) + data(
        9, encode_data(900, raw=shaking(500, 0.1, 30.0, 1.0)[0])
    )
    assert decode(other)[0] == []


MALFORMED: list[tuple[str, object, str]] = [
    ("no map", [1, 2], "not_a_map"),
    ("no time", {3: []}, "data_malformed"),
    ("time is text", {0: "now"}, "data_malformed"),
    ("time below zero", {0: -1}, "data_malformed"),
    ("time too large", {0: 1 << 40}, "data_malformed"),
    ("float", {0: 1.5}, "bad_cbor"),
    ("NaN", {0: 1, 4: [float("nan"), 0, 0, 1]}, "bad_cbor"),
    ("text keys", {"0": 1}, "bad_cbor"),
    ("raw of two", {0: 1, 1: [1000, 4788]}, "raw_malformed"),
    ("raw with half a sample", {0: 1, 1: [1000, 4788, b"\x00" * 7]}, "raw_malformed"),
    ("raw without samples", {0: 1, 1: [1000, 4788, b""]}, "raw_malformed"),
    ("rate zero", {0: 1, 1: [0, 4788, b"\x00" * 6]}, "raw_out_of_range"),
    ("rate too high", {0: 1, 1: [4001, 4788, b"\x00" * 6]}, "raw_out_of_range"),
    ("scale absurd", {0: 1, 1: [1000, 10**9, b"\x00" * 6]}, "raw_out_of_range"),
    ("nine features", {0: 1, 2: [1000, 100, 1, 1, 1, 1, 1, 1, 1]}, "features_malformed"),
    ("feature is text", {0: 1, 2: [1000, 100, "1", 1, 1, 1, 1, 1, 1, None]}, "features_malformed"),
    ("feature is true", {0: 1, 2: [1000, 100, True, 1, 1, 1, 1, 1, 1, None]}, "features_malformed"),
    ("rms below zero", {0: 1, 2: [1000, 100, -1, 1, 1, 1, 1, 1, 1, None]}, "features_out_of_range"),
    ("gravity of a star", {0: 1, 2: [1000, 100, 1, 1, 1, 1, 10**8, 1, 1, None]}, "features_out_of_range"),
    ("above Nyquist", {0: 1, 2: [1000, 100, 1, 1, 1, 1, 1, 1, 1, 501]}, "features_out_of_range"),
    ("window of zero", {0: 1, 2: [0, 100, 1, 1, 1, 1, 1, 1, 1, None]}, "features_out_of_range"),
    ("tyres no list", {0: 1, 3: 5}, "tyre_malformed"),
    ("tyre id of 3 bytes", {0: 1, 3: [[b"abc", 220, 20, 0]]}, "tyre_malformed"),
    ("tyre id zero", {0: 1, 3: [[b"\x00" * 4, 220, 20, 0]]}, "tyre_id_zero"),
    ("pressure FFFF", {0: 1, 3: [[b"abcd", 0xFFFF, 20, 0]]}, "tyre_out_of_range"),
    ("pressure below zero", {0: 1, 3: [[b"abcd", -1, 20, 0]]}, "tyre_out_of_range"),
    ("tyre on fire", {0: 1, 3: [[b"abcd", 220, 255, 0]]}, "tyre_out_of_range"),
    ("supply below zero", {0: 1, 4: [-1, 0, 0, 1]}, "power_out_of_range"),
    ("supply of a tram", {0: 1, 4: [600_000, 0, 0, 1]}, "power_out_of_range"),
    ("unknown state", {0: 1, 4: [12_000, 9, 0, 1]}, "power_malformed"),
    ("case half open", {0: 1, 4: [12_000, 0, 2, 1]}, "power_malformed"),
    ("sleep of a year", {0: 1, 4: [12_000, 0, 0, 31_536_000]}, "power_out_of_range"),
    ("power too short", {0: 1, 4: [12_000]}, "power_malformed"),
    ("unknown part", {0: 1, 9: 1}, "unhandled"),
]


@pytest.mark.parametrize(("body", "reason"), [m[1:] for m in MALFORMED], ids=[m[0] for m in MALFORMED])
def test_what_cannot_be_true_is_refused_by_name(body: object, reason: str) -> None:
    readings, refused = decode(data(0, cbor2.dumps(body, canonical=True)))
    assert readings == []
    assert refused == {reason: 1}


def test_one_mad_part_does_not_cost_the_others() -> None:
    body = {0: 1, 2: "mad", 3: [[b"abcd", 0xFFFF, 20, 0], list(TYRE)], 4: [12_000, 0, 1, 60]}
    readings, refused = decode(data(0, cbor2.dumps(body, canonical=True)))
    assert [type(r) for r in readings] == [Tyre, Power]
    assert refused == {"features_malformed": 1, "tyre_out_of_range": 1}


def test_too_many_tyres_are_cut() -> None:
    readings, refused = decode(data(0, encode_data(1, tyres=[TYRE] * 40)))
    assert len(readings) == 32
    assert refused == {"tyres_too_many": 1}


@pytest.mark.parametrize(
    "body",
    [
        {0: b"\x00" * 8, 1: "x", 2: 1},
        {0: b"\x01" * 7, 1: "x", 2: 1},
        {0: b"\x01" * 8, 1: 5, 2: 1},
        {0: b"\x01" * 8, 1: "x", 2: -1},
        {0: b"\x01" * 8, 1: "x"},
    ],
)
def test_malformed_hello(body: object) -> None:
    readings, refused = decode(frame(FrameType.HELLO, 0, cbor2.dumps(body, canonical=True)))
    assert readings == []
    assert refused == {"hello_malformed": 1}


def test_firmware_text_is_cut_and_made_printable() -> None:
    wire = frame(FrameType.HELLO, 0, encode_hello(b"\x01" * 8, "\x1b[2J" + "v" * 500, 1))
    (hello,), _ = decode(wire)
    assert isinstance(hello, BoardHello)
    assert len(hello.firmware) == 32
    assert hello.firmware.isprintable()


def test_other_and_unknown_frame_types_are_counted() -> None:
    wire = frame(FrameType.LOG, 0, b"\x61a") + frame(77, 1, b"\xa0") + frame(FrameType.DATA, 2, b"\xff")
    readings, refused = decode(wire)
    assert readings == []
    assert refused == {"unhandled": 1, "unknown_type": 1, "bad_cbor": 1}


def test_trailing_bytes_behind_the_map_are_refused() -> None:
    _, refused = decode(data(0, encode_data(1, tyres=[TYRE]) + b"\x00"))
    assert refused == {"bad_cbor": 1}


def story() -> bytes:
    seqs = count(1)
    wire = HELLO + raw_wire(shaking(1000, 2.0, 30.0, 1.0), seqs=seqs)
    for n in range(5):
        body = encode_data(3000 + n, tyres=[TYRE], power=(12_000, 0, 0, 1))
        wire += data(next(seqs), body)
    return wire


@given(st.integers(1, 700))
def test_any_portioning_gives_the_same_readings(portion: int) -> None:
    wire = story()
    decoder = BoardDecoder("board")
    items = [
        item for at in range(0, len(wire), portion) for item in decoder.feed(wire[at : at + portion], NOW)
    ]
    assert items == BoardDecoder("board").feed(wire, NOW)
    assert decoder.intact == 26


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_garbage_anywhere_is_survived_and_counted(noise: bytes, at: int) -> None:
    wire = story()
    at %= len(wire)
    decoder = BoardDecoder("board")
    items = decoder.feed(wire[:at] + noise + wire[at:], NOW)
    tail = decoder.feed(b"\x00" + data(200, encode_data(9_999_999, tyres=[TYRE])), NOW)
    assert any(isinstance(item, Tyre) for item in tail)
    assert all(isinstance(item, Refusal) or item.t_ns == NOW.mono_ns for item in items)


@given(st.binary(max_size=120))
def test_no_payload_raises(payload: bytes) -> None:
    for kind in (FrameType.HELLO, FrameType.DATA):
        for item in BoardDecoder("board").feed(frame(kind, 0, payload), NOW):
            assert isinstance(item, (BoardHello, Tyre, Power, Vibration, Refusal))


leaves = st.one_of(
    st.integers(-(1 << 40), 1 << 40), st.binary(max_size=12), st.text(max_size=4), st.none(), st.booleans()
)
bodies = st.dictionaries(
    st.integers(0, 5),
    st.one_of(leaves, st.lists(st.one_of(leaves, st.lists(leaves, max_size=5)), max_size=11)),
    max_size=6,
)


@given(bodies)
def test_no_map_raises(body: dict[int, object]) -> None:
    wire = frame(FrameType.DATA, 0, cbor2.dumps(body | {0: 5}, canonical=True))
    for item in BoardDecoder("board").feed(wire, NOW):
        assert isinstance(item, (Tyre, Power, Vibration, Refusal))


def test_reset_forgets_sequence_and_samples() -> None:
    decoder = BoardDecoder("board")
    decoder.feed(raw_wire(shaking(1000, 0.9, 30.0, 1.0)), NOW)
    decoder.reset()
    assert decoder.feed(data(99, encode_data(5, raw=shaking(1000, 0.1, 30.0, 1.0)[0])), NOW) == []
