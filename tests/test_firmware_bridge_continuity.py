"""The figures of a drive, from real logs, however their bytes are portioned."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from json import loads
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.continuity import MAX_GAPS, MAX_NAMES, Continuity
from firmware_bridge.reading import BoardHello, PortCondition, PortState, Position, Reading, Refusal
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS

NO_HOST = Now(0, 0, False, 0)
SWISS = "gps/20100403_Z205_Switzerland.txt"
DAY_MS = 86_400_000


def read(data: bytes, portion: int) -> Continuity:
    figures = Continuity()
    decoder = NmeaDecoder("gnss", on_time=figures.epoch)
    for at in range(0, len(data), portion):
        figures.count(decoder.feed(data[at : at + portion], NO_HOST))
    return figures


@pytest.mark.parametrize("portion", [1 << 24, 4096, 61])
def test_swiss_drive(shared_data: Callable[[str], Path], portion: int) -> None:
    figures = read(shared_data(SWISS).read_bytes(), portion)
    assert figures.position_valid == 10_327
    assert figures.position_estimated == 89
    assert figures.position_void == 85
    assert figures.gaps_s == [12, 207]
    assert figures.fix_gaps_s == [2, 35, 12, 208, 4, 35, 13]
    assert figures.readings["position"] == 10_327
    assert figures.readings["position_void"] == 85
    assert "bad_checksum" not in figures.refused


@pytest.mark.parametrize("portion", [1 << 24, 1000, 7])
def test_munich_drive(shared_data: Callable[[str], Path], portion: int) -> None:
    figures = read(shared_data("gps/munich-gps.nmea").read_bytes(), portion)
    assert figures.position_valid == 1847
    assert figures.position_void == 20
    assert figures.gaps_s == []
    assert figures.fix_gaps_s == [21]


def f23(path: Path, *, rmc: bool) -> tuple[Continuity, list[int | None]]:
    figures = Continuity()
    decoder = NmeaDecoder("gnss", on_time=figures.epoch)
    stamps: list[int | None] = []
    for entry in map(loads, path.read_text().splitlines()):
        if not rmc and "RMC" in entry["line"]:
            continue
        host = round(datetime.fromisoformat(entry["host_utc"]).timestamp() * 1000) * 1_000_000
        items = decoder.feed(entry["line"].encode() + b"\r\n", Now(host, host, True, 0))
        figures.count(items)
        stamps += [item.utc_ns for item in items if isinstance(item, Position)]
    return figures, stamps


@pytest.mark.parametrize("rmc", [True, False])
def test_f23_no_fix_from_tomorrow_at_midnight(shared_data: Callable[[str], Path], rmc: bool) -> None:
    figures, stamps = f23(shared_data("field/F23.jsonl"), rmc=rmc)
    expected = [
        "2026-11-19T23:59:58Z",
        "2026-11-19T23:59:59Z",
        "2026-11-20T00:00:00Z",
        "2026-11-20T00:01:01Z",
    ]
    assert stamps == [round(datetime.fromisoformat(text).timestamp()) * NS for text in expected]
    assert figures.position_valid == 4
    assert figures.gaps_s == [61]
    assert figures.fix_gaps_s == [61]


def test_f07_the_jump_of_a_clock_that_was_not_set_is_no_gap(shared_data: Callable[[str], Path]) -> None:
    figures = read(shared_data("field/F07.nmea").read_bytes(), 1 << 20)
    assert (figures.position_valid, figures.position_void) == (2, 8)
    assert figures.gaps_s == [12]
    assert figures.refused == {"date_distrusted": 1}


def epochs(*moments: tuple[int, int | None, bool]) -> Continuity:
    figures = Continuity()
    for tod_ms, utc_ns, valid in moments:
        figures.epoch("gnss", tod_ms, utc_ns, valid)
    return figures


def test_gap_across_midnight_without_a_date() -> None:
    assert epochs((DAY_MS - 1000, None, True), (4000, None, True)).gaps_s == [5]


def test_gap_of_days_needs_the_date() -> None:
    day = 86_400 * NS
    assert epochs((0, 20 * day, True), (0, 23 * day, True)).gaps_s == [3 * 86_400]


def test_time_that_goes_back_is_no_gap() -> None:
    figures = epochs((60_000, 60 * NS, True), (20_000, 20 * NS, True), (21_000, 21 * NS, True))
    assert figures.gaps_s == []
    assert figures.fix_gaps_s == []


def test_threshold_and_rounding() -> None:
    assert epochs((0, None, True), (1500, None, True)).gaps_s == []
    assert epochs((0, None, True), (1501, None, True)).gaps_s == [2]
    assert epochs((0, None, True), (2499, None, True)).gaps_s == [2]


def test_void_epochs_open_a_gap_between_fixes_only() -> None:
    figures = epochs(*((n * 1000, n * NS, not 3 <= n < 8) for n in range(12)))
    assert figures.gaps_s == []
    assert figures.fix_gaps_s == [6]


def test_ports_are_kept_apart() -> None:
    figures = Continuity()
    figures.epoch("a", 0, None, True)
    figures.epoch("b", 30_000, None, True)
    figures.epoch("a", 1000, None, True)
    assert figures.gaps_s == []


@given(st.lists(st.tuples(st.integers(0, DAY_MS - 1), st.none() | st.integers(0, 1 << 62), st.booleans())))
def test_gaps_are_never_negative(moments: list[tuple[int, int | None, bool]]) -> None:
    figures = epochs(*moments)
    assert all(gap >= 2 for gap in figures.gaps_s + figures.fix_gaps_s)


def test_lists_and_names_are_bounded() -> None:
    figures = Continuity()
    for n in range(MAX_GAPS + 500):
        figures.epoch("gnss", n * 60_000 % DAY_MS, None, True)
    assert len(figures.gaps_s) == MAX_GAPS
    figures.count(Refusal(0, "gnss", f"reason_{n}", b"") for n in range(MAX_NAMES + 50))
    assert len(figures.refused) == MAX_NAMES + 1
    assert figures.refused["other"] == 50


def test_kinds_have_snake_case_names() -> None:
    figures = Continuity()
    items: list[Reading | Refusal] = [
        BoardHello(0, "board", "01", "x", 1),
        PortState(0, "board", PortCondition.OK, ""),
        Refusal(0, "board", "bad_crc", b""),
    ]
    figures.count(items)
    assert figures.readings == {"board_hello": 1, "port_state": 1}
    assert figures.refused == {"bad_crc": 1}
