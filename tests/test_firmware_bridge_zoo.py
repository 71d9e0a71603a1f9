"""Receivers of many makers: gpsd's captures, against what gpsd itself read in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_bridge.reading import Position, Reading, Refusal
from firmware_bridge.sensors.board import BoardDecoder
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import Now

NOW = Now(0, 0, False, 0)
TOLERANCE_DEG = 1e-4


def read(data: bytes, portion: int) -> tuple[list[Reading], Counter[str]]:
    decoder = NmeaDecoder("gnss")
    readings: list[Reading] = []
    refused: Counter[str] = Counter()
    for at in range(0, len(data), portion):
        for item in decoder.feed(data[at : at + portion], NOW):
            if isinstance(item, Refusal):
                refused[item.reason] += 1
            else:
                readings.append(item)
    assert decoder.held <= 258
    return readings, refused


def gpsd_places(check: Path) -> list[tuple[float, float]]:
    """Every place that gpsd reported for a capture."""
    places = []
    if check.exists():
        for text in check.read_text(errors="replace").splitlines():
            if '"class":"TPV"' in text:
                report = json.loads(text[text.index('{"class"') :])
                if "lat" in report and "lon" in report:
                    places.append((report["lat"], report["lon"]))
    return places


def test_every_capture_whole_and_in_portions(shared_data: Callable[[str], Path]) -> None:
    logs = sorted(shared_data("gps/gpsd").glob("*.log"))
    assert len(logs) > 50
    for log in logs:
        data = log.read_bytes()
        assert read(data, 7) == read(data, len(data) + 1), log.name


def test_every_position_is_one_that_gpsd_read_too(shared_data: Callable[[str], Path]) -> None:
    positions = receivers = 0
    strangers: list[str] = []
    for log in sorted(shared_data("gps/gpsd").glob("*.log")):
        places = gpsd_places(log.with_name(log.name + ".chk"))
        ours = [item for item in read(log.read_bytes(), 4096)[0] if isinstance(item, Position)]
        if not ours or not places:
            continue
        receivers += 1
        positions += len(ours)
        strangers += [
            f"{log.name}: {item.lat_deg}, {item.lon_deg}"
            for item in ours
            if not any(
                abs(item.lat_deg - lat) <= TOLERANCE_DEG and abs(item.lon_deg - lon) <= TOLERANCE_DEG
                for lat, lon in places
            )
        ]
    assert strangers == []
    assert receivers > 40
    assert positions > 1000


@pytest.mark.parametrize("kept", [3, 5])
def test_captures_with_loss_invent_no_place(shared_data: Callable[[str], Path], kept: int) -> None:
    """Drop a byte in a hundred and seven: fewer positions, but never another one."""
    for name in ("ublox-8.log", "nmea-rtk.log", "quectel-l76k-nmea.log"):
        data = shared_data(f"gps/gpsd/{name}").read_bytes()
        true = {(i.lat_deg, i.lon_deg) for i in read(data, 4096)[0] if isinstance(i, Position)}
        lossy = b"".join(
            data[at : at + 107 - 1] if at % kept else data[at : at + 107] for at in range(0, len(data), 107)
        )
        left = [(i.lat_deg, i.lon_deg) for i in read(lossy, 4096)[0] if isinstance(i, Position)]
        assert left
        assert set(left) <= true


def test_captures_on_a_board_port_are_refused_in_bounded_memory(shared_data: Callable[[str], Path]) -> None:
    for log in sorted(shared_data("gps/gpsd").glob("*.log"))[:20]:
        decoder = BoardDecoder("board")
        for item in decoder.feed(log.read_bytes(), NOW):
            assert isinstance(item, Refusal)
        assert decoder.intact == 0
