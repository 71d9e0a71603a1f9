"""What the invented receiver says is what a real one may say."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import reduce
from operator import xor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.reading import Position, PositionVoid, SkyView
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.sim import nmea_writer
from firmware_bridge.sim.motion import Kind, Phase, Sky, SkyWindow, State, Vehicle, distance_m
from firmware_bridge.timekeeper import Now

EPOCH_NS = 1_796_229_000 * 10**9


def states(*windows: SkyWindow) -> list[State]:
    return list(Vehicle((Phase(Kind.DRIVE, 240, "drive"),), windows).states())


def said(windows: tuple[SkyWindow, ...] = (), seed: int = 1) -> list[tuple[State, bytes]]:
    receiver = nmea_writer.Receiver(seed, EPOCH_NS)
    return [(state, receiver.second(state)) for state in states(*windows)]


def decoded(items: list[tuple[State, bytes]]) -> list[object]:
    decoder = NmeaDecoder("gnss")
    out: list[object] = []
    for state, data in items:
        t_ns = state.t_s * 10**9
        out += decoder.feed(data, Now(t_ns, EPOCH_NS + t_ns, True, 0))
    return out


def test_every_sentence_has_a_right_checksum_and_fits_82_characters() -> None:
    for _, data in said((SkyWindow(60, 120, Sky.TUNNEL),)):
        lines = data.split(b"\r\n")
        assert lines.pop() == b""
        for line in lines:
            body, _, check = line[1:].partition(b"*")
            assert line[:1] == b"$"
            assert int(check, 16) == reduce(xor, body)
            assert len(line) + 2 <= 82


def test_fixes_decode_close_to_the_truth() -> None:
    items = said()
    truth = {state.t_s: state for state, _ in items}
    fixes = [reading for reading in decoded(items) if isinstance(reading, Position)]
    assert len(fixes) >= len(items) - 1
    errors = []
    for fix in fixes:
        assert fix.utc_ns is not None
        state = truth[(fix.utc_ns - EPOCH_NS) // 10**9]
        errors.append(distance_m(state.lat_deg, state.lon_deg, fix.lat_deg, fix.lon_deg))
        assert fix.speed_mps == pytest.approx(state.speed_mps, abs=0.4)
        assert not fix.estimated
    assert max(errors) < 12
    assert 0.5 < sum(errors) / len(errors) < 5


def test_nothing_is_refused_and_the_sky_is_seen() -> None:
    readings = decoded(said())
    assert {type(reading) for reading in readings} == {Position, SkyView}
    views = [reading for reading in readings if isinstance(reading, SkyView)]
    assert all(view.satellites_in_view == 12 and view.satellites_heard == 11 for view in views)


def test_a_tunnel_is_void_and_its_signals_fade() -> None:
    readings = decoded(said((SkyWindow(60, 150, Sky.TUNNEL),)))
    void = [reading for reading in readings if isinstance(reading, PositionVoid)]
    assert 80 <= len(void) <= 94
    dead = [view for view in readings if isinstance(view, SkyView) and view.satellites_heard == 0]
    fading = [view for view in readings if isinstance(view, SkyView) and 0 < view.satellites_heard < 11]
    assert 80 <= len(dead) <= 90
    assert len(fading) >= 2


def test_a_jammer_takes_all_satellites_at_one_blow_and_leaves_them_in_view() -> None:
    views = [v for v in decoded(said((SkyWindow(60, 150, Sky.JAMMED),))) if isinstance(v, SkyView)]
    assert {view.satellites_heard for view in views} == {0, 11}
    assert {view.satellites_in_view for view in views} == {12}
    assert sum(view.satellites_heard == 0 for view in views) in (89, 90, 91)


def test_a_void_epoch_holds_no_coordinate() -> None:
    for state, data in said((SkyWindow(0, 240, Sky.JAMMED),)):
        assert b",N," not in data.replace(b",,N,", b",,"), state
        assert b",V," in data


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    assert said(seed=1) == said(seed=1)
    assert said(seed=1) != said(seed=2)


@given(st.floats(-180, 180))
def test_angles_survive_and_minutes_stay_below_60(degrees: float) -> None:
    text, _, letter = nmea_writer.angle(degrees, longitude=True).partition(",")
    minutes = float(text[3:])
    assert minutes < 60
    value = (int(text[:3]) + minutes / 60) * (-1 if letter == "W" else 1)
    assert value == pytest.approx(degrees, abs=1e-7)


@pytest.mark.parametrize(
    ("degrees", "written"),
    [(0.99999999999, "00100.00000,E"), (-0.5, "00030.00000,W"), (180.0, "18000.00000,E")],
)
def test_angles_at_the_edges(degrees: float, written: str) -> None:
    assert nmea_writer.angle(degrees, longitude=True) == written


def test_missing_values_are_empty_fields() -> None:
    at = datetime(2026, 12, 2, 23, 59, 59, 990_000, tzinfo=UTC)
    assert (
        nmea_writer.rmc(at, (1.5, -2.5), None, None)
        == b"$GPRMC,235959.99,A,0130.00000,N,00230.00000,W,,,021226,,,A*4B\r\n"
    )
    gga = nmea_writer.gga(at, (1.5, -2.5), satellites=None, hdop=None, altitude_m=None)
    assert gga.startswith(b"$GPGGA,235959.99,0130.00000,N,00230.00000,W,1,,,,M,")
