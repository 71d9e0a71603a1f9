"""A reading that cannot be true cannot be built: each number below, above, NaN and infinite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firmware_bridge.errors import DecodeError
from firmware_bridge.reading import (
    BoardHello,
    FixQuality,
    Position,
    Power,
    PowerState,
    Relay,
    SkyView,
    Tyre,
    Vibration,
)
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import Now

STILL = (0.0, 0.0, 9.8)
GOOD: tuple[Any, ...] = (
    Position(0, "gnss", 46.5, 6.6, FixQuality.AUTONOMOUS, 1.0, 1.0, 372.0, 0.9, 3.0, 7),
    SkyView(0, "gnss", 12, 9, 44.0),
    Tyre(0, "board", "a1b2c3d4", 230.0, 20.0, None),
    Vibration(0, "board", 1.0, 1000.0, STILL, 0.1, STILL, 30.0),
    Power(0, "board", 12.6, PowerState.DRIVING, False, 60),
    BoardHello(0, "board", "01", "1.2", 3),
    Relay(0, "lora", "0011223344556677", 5, 10, b"y", -97, -7.25),
)
RANGES: dict[str, tuple[float, float]] = {
    "lat_deg": (-90.0, 90.0),
    "lon_deg": (-180.0, 180.0),
    "speed_mps": (0.0, 1000.0),
    "course_deg": (0.0, 360.0),
    "altitude_m": (-1000.0, 20_000.0),
    "hdop": (0.0, 1000.0),
    "accuracy_m": (0.0, 100_000.0),
    "satellites": (0, 999),
    "satellites_in_view": (0, 999),
    "satellites_heard": (0, 999),
    "snr_max_dbhz": (0.0, 99.0),
    "pressure_kpa": (0.0, 1500.0),
    "temperature_degc": (-60.0, 215.0),
    "window_s": (0.0, 3600.0),
    "rate_hz": (30.0, 100_000.0),  # never below the dominant frequency, which is 30 Hz here
    "dominant_hz": (0.0, 1000.0),
    "supply_v": (0.0, 60.0),
    "boot_count": (0, 2**64 - 1),
    "f_cnt": (0, 2**32 - 1),
    "f_port": (0, 255),
    "rssi_dbm": (-200, 50),
    "snr_db": (-100.0, 100.0),
}
FIELDS = [(good, name) for good in GOOD for name in RANGES if hasattr(good, name)]


def test_every_range_is_tried() -> None:
    assert len(FIELDS) == len(RANGES)


@pytest.mark.parametrize(("good", "name"), FIELDS, ids=[name for _, name in FIELDS])
def test_a_number_out_of_its_range_cannot_be_built(good: Any, name: str) -> None:
    low, high = RANGES[name]
    for edge in (low, high):
        assert getattr(replace(good, **{name: edge}), name) == edge
    step = 1 if isinstance(low, int) else 0.01
    for wrong in (low - step, high + step, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(DecodeError):
            replace(good, **{name: wrong})


@pytest.mark.parametrize("name", ["rms_mps2", "gravity_mps2"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_vibration_of_no_number_cannot_be_built(name: str, wrong: float) -> None:
    good = GOOD[3]
    for axis in range(3):
        value = [*STILL]
        value[axis] = wrong
        with pytest.raises(DecodeError):
            replace(good, **{name: tuple(value)})
    with pytest.raises(DecodeError):
        replace(good, peak_mps2=wrong)


def test_what_a_receiver_does_not_say_is_none() -> None:
    bare = Position(0, "gnss", 46.5, 6.6, FixQuality.AUTONOMOUS)
    assert (bare.speed_mps, bare.altitude_m, bare.hdop, bare.accuracy_m, bare.satellites) == (None,) * 5
    assert SkyView(0, "gnss", 0, 0, None).snr_max_dbhz is None


def sentence(body: str) -> bytes:
    check = 0
    for byte in body.encode():
        check ^= byte
    return f"${body}*{check:02X}\r\n".encode()


@pytest.mark.parametrize(
    ("hdop", "altitude", "reasons", "kept"),
    [
        ("0.9", "-704.5", [], (-704.5, 0.9)),
        ("0.9", "2000022.17", ["bad_altitude"], (None, 0.9)),
        ("0.9", "-1000.1", ["bad_altitude"], (None, 0.9)),
        ("-1.0", "520.0", ["bad_hdop"], (520.0, None)),
        ("9" * 30, "9" * 30, ["bad_altitude", "bad_hdop"], (None, None)),
        ("nan", "inf", [], (None, None)),
    ],
)
def test_a_figure_out_of_range_costs_itself_and_not_the_position(
    hdop: str, altitude: str, reasons: list[str], kept: tuple[float | None, float | None]
) -> None:
    place = "4730.0000,N,00830.0000,E"
    data = sentence(f"GPGGA,100000.00,{place},1,07,{hdop},{altitude},M,0.0,M,,")
    data += sentence(f"GPRMC,100000.00,A,{place},20.0,90.0,010130,,,A")
    *refused, fix = NmeaDecoder("gnss").feed(data, Now(0, 0, False, 0))
    assert isinstance(fix, Position) and fix.lat_deg == 47.5
    assert (fix.altitude_m, fix.hdop) == kept and fix.satellites == 7
    assert [item.reason for item in refused if not isinstance(item, Position)] == reasons


def test_more_satellites_than_fly_are_refused_not_raised() -> None:
    talkers = ("GP", "GL")
    data = b"".join(sentence(f"{talker}GSV,1,1,999,01,40,083,46") for talker in talkers)
    items = NmeaDecoder("gnss").feed(data + sentence("GPGSV,1,1,01,01,40,083,46"), Now(0, 0, False, 0))
    assert [getattr(item, "reason", None) for item in items] == ["bad_sky"]
