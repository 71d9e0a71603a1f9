"""GENIVI logs: values written as sentences and frames, nothing added that the log does not say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from firmware_bridge.errors import DecodeError
from firmware_bridge.reading import BoardHello, Position, PositionVoid, Reading, Refusal, Vibration
from firmware_bridge.sensors.board import BoardDecoder
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.sim.replay import replay
from firmware_bridge.sim.script import Script
from firmware_bridge.timekeeper import Now

NS = 10**9
ALL = "0X003C67DF"


def tim(t_ms: int, second: int, month: int = 1) -> str:
    return f"{t_ms},0,$GVGNSTIM,{t_ms - 50},2016,{month:02d},23,20,39,{second:02d},000,00,0,0X00000003\n"


def pos(t_ms: int, *, lat: float = 49.0247292, fix: int = 3, bits: str = ALL, speed: str = " 5.2") -> str:
    return (
        f"{t_ms},0,$GVGNSPOS,{t_ms - 50},{lat:.7f},12.0567650, 335.8, 381.9,{speed},9999.0,164.60,3.7,2.2,"
        f"3.0,05,9999,9999, 2.6, 1.7,9999.0,9999.0,9999.0,{fix},0X00000001,0X00000001,0X00000001,{bits}\n"
    )


def acc(t_ms: int, x: float = 0.1, bits: str = "0X0000000F") -> str:
    return f"{t_ms},0,$GVSNSACC,{t_ms - 2},{x:7.4f}, 0.4123, 9.5436,  7.4,{bits}\n"


def read(data: str | bytes) -> tuple[Script, list[Reading | Refusal]]:
    script = replay("x.log", data.encode() if isinstance(data, str) else data, floor_ns=0)
    decoders = {"gnss": NmeaDecoder("gnss"), "board": BoardDecoder("board")}
    out: list[Reading | Refusal] = []
    last = 0
    for chunk in script.play():
        assert chunk.t_ns >= last
        last = chunk.t_ns
        now = Now(chunk.t_ns, script.epoch_wall_ns + chunk.t_ns, True, 0)
        out += decoders[chunk.port].feed(chunk.data, now)
    return script, out


def positions(readings: list[Reading | Refusal]) -> list[Position]:
    return [reading for reading in readings if isinstance(reading, Position)]


def test_an_epoch_that_is_logged_three_times_is_one_fix_with_all_that_was_learnt() -> None:
    bare = pos(7860, bits="0X003C0053", fix=2)
    _, readings = read(tim(7860, 52) + bare + tim(7860, 52) + pos(7860) + tim(7870, 52) + pos(7870))
    (fix,) = positions(readings)
    assert fix.lat_deg == pytest.approx(49.0247292, abs=2e-7)
    assert (fix.satellites, fix.hdop, fix.altitude_m) == (5, 2.2, 335.8)
    assert fix.speed_mps == pytest.approx(5.2, abs=0.01)
    assert fix.course_deg == pytest.approx(164.6)


def test_months_count_from_zero() -> None:
    script, readings = read(tim(1000, 52) + pos(1000))
    assert datetime.fromtimestamp(script.epoch_wall_ns / NS, UTC) == datetime(
        2016, 2, 23, 20, 39, 52, tzinfo=UTC
    )
    assert positions(readings)[0].utc_ns == script.epoch_wall_ns


@pytest.mark.parametrize("fix", [0, 1])
def test_no_fix_is_void_whatever_the_coordinates_say(fix: int) -> None:
    _, readings = read(tim(1000, 52) + pos(1000, fix=fix))
    assert not positions(readings)
    assert any(isinstance(reading, PositionVoid) for reading in readings)


def test_what_the_log_marks_as_not_valid_stays_unknown() -> None:
    _, readings = read(tim(1000, 52) + pos(1000, bits="0X003C0003"))
    (fix,) = positions(readings)
    assert (fix.speed_mps, fix.course_deg, fix.altitude_m, fix.hdop, fix.satellites) == (None,) * 5
    _, readings = read(tim(1000, 52) + pos(1000, speed="9999.0"))
    assert positions(readings)[0].speed_mps is None


def test_accelerations_become_one_vibration_a_second_of_the_same_figures() -> None:
    script, readings = read("".join(acc(1000 + 100 * n) for n in range(30)))
    assert isinstance(readings[0], BoardHello)
    felt = [reading for reading in readings if isinstance(reading, Vibration)]
    assert len(felt) == 3
    assert felt[0].rate_hz == 10
    assert felt[0].gravity_mps2 == pytest.approx((0.1, 0.4123, 9.5436), abs=0.001)
    assert len(script.simulated_parts) == 2


def test_samples_that_are_not_valid_are_left_out() -> None:
    _, readings = read(
        "".join(acc(1000 + 100 * n, bits="0X00000001") for n in range(20)) + tim(900, 1) + pos(900)
    )
    assert not [reading for reading in readings if isinstance(reading, Vibration)]


def test_damaged_lines_are_passed_over() -> None:
    lines = (
        tim(1000, 52) + "1000,0,$GVGNSPOS,95\n" + pos(1000).replace("335.8", "335.x") + "\x00,,$GVGNSTIM,\n"
    )
    lines += acc(10**14)
    lines += tim(2000, 53) + pos(2000) + tim(3000, 54, month=12) + "9,0,$GVSNSACC,9,nan,0,0,1,0XF\n"
    _, readings = read(lines)
    assert len(positions(readings)) == 1
    assert not [reading for reading in readings if isinstance(reading, Refusal)]


def test_a_log_with_nothing_in_it_is_refused() -> None:
    with pytest.raises(DecodeError, match="nothing to replay"):
        replay("x", b"1,0,$GVGNSPOS,1,2\n", floor_ns=0)


def test_regensburg(shared_data: Callable[[str], Path]) -> None:
    script, readings = read(shared_data("gps/20160209_RPi_GENIVI_Regensburg.log").read_bytes())
    fixes = positions(readings)
    void = [reading for reading in readings if isinstance(reading, PositionVoid)]
    felt = [reading for reading in readings if isinstance(reading, Vibration)]
    assert len(fixes) == 511
    assert len(void) == 38
    assert 545 <= len(felt) <= 550
    assert not [reading for reading in readings if isinstance(reading, Refusal)]
    assert all(9.0 < v.gravity_mps2[2] < 10.5 for v in felt)
    assert [spec.name for spec in script.ports] == ["gnss", "board"]
