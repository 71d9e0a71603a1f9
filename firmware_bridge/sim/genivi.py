"""Logs of the GENIVI positioning loggers (`$GVGNSPOS`, `$GVGNSTIM`, `$GVSNSACC`) as a script.

Such a log holds values, not the receiver's bytes: each fix is written as RMC and GGA at the GNSS port, and
the accelerometer is woven in as the frames of a vibration board. What the log marks as not valid (by its
validity bits, or by 9999) stays an empty field.

Decided from the format's own header (`gnss.h` of GENIVI positioning: "month ... between 0 and 11", and its
NMEA reader stores the receiver's month minus one): months count from zero. The receiver logs an epoch again
each time it knows more of it, so that of several positions with one UTC time the last is taken. Fix status 0
(none) and 1 (time only) are void, whatever stands in the coordinates; 2 and 3 are fixes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from firmware_bridge.errors import DecodeError
from firmware_bridge.sensors import board as wire
from firmware_bridge.sim import nmea_writer
from firmware_bridge.sim.board import Framer
from firmware_bridge.sim.script import BOARD, GNSS, NS, Chunk, PhaseMark, PortSpec, Script
from firmware_bridge.wire.stamp import ClockKind

BOARD_ID: Final = bytes.fromhex("4846000347454e56")
SCALE_UM_S2: Final = 1000
"""One step of the woven board: 1 mm/s^2, so that 16 bits reach 3.3 g."""
_NOT_VALID: Final = 9999.0
_LAT, _LON, _ALT, _SPEED, _HEADING, _HDOP, _USED = 0x1, 0x2, 0x4, 0x10, 0x40, 0x100, 0x400
"""Validity bits of TGNSSPosition."""
_ACC_XYZ: Final = 0x7
"""Validity bits of TAccelerationData: x, y and z."""
_TIME_AND_DATE: Final = 0x3
"""Validity bits of TGNSSTime."""
_MAX_MPS2: Final = 32.0
_UPTIME_MS: Final = 31 * 86_400_000
"""A logger that says it has run for longer than a month is a damaged line."""


def recognised(data: bytes) -> bool:
    """Whether `data` is a log of this format."""
    return b",$GVGNSPOS," in data or b",$GVSNSACC," in data


@dataclass(frozen=True, slots=True)
class _Fix:
    """What one `$GVGNSPOS` says; None where the log marks it as not valid, `place` None without a fix."""

    place: tuple[float, float] | None
    speed_mps: float | None
    course_deg: float | None
    satellites: int | None
    hdop: float | None
    altitude_m: float | None


@dataclass(slots=True)
class _Epoch:
    t_ms: int
    utc: datetime
    fix: _Fix | None = None


@dataclass(frozen=True, slots=True)
class _Sample:
    t_ms: int
    mps2: tuple[float, float, float]


def script(name: str, data: bytes, *, floor_ns: int) -> Script:
    """The log as a script with a GNSS port and, where it has an accelerometer, a board port.

    Raises DecodeError where it has neither a position nor a sample.
    """
    epochs, samples = _parse(data)
    if not epochs and not samples:
        raise DecodeError("a GENIVI log without a single position or acceleration: nothing to replay")
    start_ms = min([*(e.t_ms for e in epochs), *(s.t_ms for s in samples)])
    last_ms = max([*(e.t_ms for e in epochs), *(s.t_ms for s in samples)])
    epoch_ns = floor_ns
    if epochs:
        epoch_ns = round(epochs[0].utc.timestamp()) * NS - (epochs[0].t_ms - start_ms) * 1_000_000
    ports = [PortSpec(GNSS, "nmea", 9600, "vehicle")]
    if samples:
        ports.append(PortSpec(BOARD, "board", 460_800, "vehicle"))

    def play() -> Iterator[Chunk]:
        chunks = [*_gnss(epochs, start_ms), *_board(samples, start_ms)]
        return iter(sorted(chunks, key=lambda chunk: chunk.t_ns))

    return Script(
        name=name, kind=ClockKind.REPLAY, epoch_wall_ns=epoch_ns, duration_s=(last_ms - start_ms) / 1000,
        ports=tuple(ports), play=play, phases=(PhaseMark(0.0, "replay", f"replaying {name}"),),
        simulated_parts=("NMEA sentences around the logged positions",)
        + (("board frames around the logged accelerations",) if samples else ()),
    )  # fmt: skip


def _parse(data: bytes) -> tuple[list[_Epoch], list[_Sample]]:
    epochs: list[_Epoch] = []
    samples: list[_Sample] = []
    for line in data.decode("ascii", errors="replace").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 4 or not fields[2].startswith("$GV"):
            continue
        try:
            if fields[2] == "$GVGNSTIM":
                _on_time(epochs, fields)
            elif fields[2] == "$GVGNSPOS" and epochs:
                _on_position(epochs, fields)
            elif fields[2] == "$GVSNSACC":
                samples += _sample(fields)
        except (ValueError, IndexError, OverflowError):
            continue  # a damaged line of a text log: the lines around it stand
    samples.sort(key=lambda sample: sample.t_ms)
    return [epoch for epoch in epochs if epoch.fix is not None], samples


def _on_time(epochs: list[_Epoch], fields: list[str]) -> None:
    year, month, day, hour, minute, second, ms = (int(field) for field in fields[4:11])
    utc = datetime(year, month + 1, day, hour, minute, min(second, 59), ms * 1000, tzinfo=UTC)
    if int(fields[13], 16) & _TIME_AND_DATE == _TIME_AND_DATE and (not epochs or epochs[-1].utc != utc):
        epochs.append(_Epoch(_uptime_ms(fields), utc))


def _on_position(epochs: list[_Epoch], fields: list[str]) -> None:
    """Attach to the epoch its time sentence opened; a later one of the same epoch replaces it."""
    bits = int(fields[26], 16)

    def value(index: int, bit: int, low: float, high: float) -> float | None:
        number = float(fields[index])
        return number if bits & bit and number != _NOT_VALID and low <= number <= high else None

    lat, lon = value(4, _LAT, -90.0, 90.0), value(5, _LON, -180.0, 180.0)
    fixed = int(fields[22]) >= 2
    used = value(14, _USED, 0, 99)
    epochs[-1].fix = _Fix(
        place=(lat, lon) if fixed and lat is not None and lon is not None else None,
        speed_mps=value(8, _SPEED, 0.0, 600.0),
        course_deg=value(10, _HEADING, 0.0, 360.0),
        satellites=None if used is None else int(used),
        hdop=value(12, _HDOP, 0.0, 99.9),
        altitude_m=value(6, _ALT, -1000.0, 20_000.0),
    )


def _sample(fields: list[str]) -> list[_Sample]:
    x, y, z = (float(field) for field in fields[4:7])
    if int(fields[8], 16) & _ACC_XYZ != _ACC_XYZ or not all(math.isfinite(v) for v in (x, y, z)):
        return []
    return [_Sample(_uptime_ms(fields), (x, y, z))]


def _uptime_ms(fields: list[str]) -> int:
    """The logger's own clock. Raises ValueError where it cannot be one."""
    t_ms = int(fields[0])
    if not 0 <= t_ms < _UPTIME_MS:
        raise ValueError(f"uptime of {t_ms} ms")
    return t_ms


def _gnss(epochs: list[_Epoch], start_ms: int) -> Iterator[Chunk]:
    for epoch in epochs:
        fix = epoch.fix
        if fix is None:
            continue
        # GGA first: a decoder that takes its position from RMC then knows this epoch's satellites.
        data = nmea_writer.gga(
            epoch.utc, fix.place, satellites=fix.satellites, hdop=fix.hdop, altitude_m=fix.altitude_m
        ) + nmea_writer.rmc(epoch.utc, fix.place, fix.speed_mps, fix.course_deg)
        yield Chunk((epoch.t_ms - start_ms) * 1_000_000, GNSS, data)


def _board(samples: list[_Sample], start_ms: int) -> Iterator[Chunk]:
    """HELLO, then one frame of raw vibration for each second of samples."""
    if not samples:
        return
    framer = Framer()
    yield Chunk((samples[0].t_ms - start_ms) * 1_000_000, BOARD, framer.hello(BOARD_ID, 1))
    rate_hz = _rate(samples)
    for first in range(0, len(samples), rate_hz):
        batch = samples[first : first + rate_hz]
        steps = np.rint(np.clip([s.mps2 for s in batch], -_MAX_MPS2, _MAX_MPS2) * (1e6 / SCALE_UM_S2))
        raw = (rate_hz, SCALE_UM_S2, bytes(steps.astype("<i2").tobytes()))
        at_ms = batch[-1].t_ms - start_ms
        yield Chunk(at_ms * 1_000_000, BOARD, framer.data(wire.encode_data(at_ms, raw=raw)))


def _rate(samples: list[_Sample]) -> int:
    """Samples a second, from the usual distance between two."""
    if len(samples) < 2:
        return 1
    usual_ms = float(np.median(np.diff([sample.t_ms for sample in samples])))
    return max(1, min(100, round(1000.0 / usual_ms))) if usual_ms > 0 else 100
