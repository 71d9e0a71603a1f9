"""Fields of NMEA 0183 sentences: each function takes the bytes of a field and refuses what cannot be true.

Nothing is guessed: a field that could mean two things is refused with a FieldError whose `reason` is the
snake_case word it is counted under. NMEA 0183 v4.11 section 6.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Final

from firmware_bridge.errors import DecodeError
from firmware_bridge.reading import FixQuality
from firmware_bridge.wire.stamp import NS

DAY_MS: Final = 86_400_000
HALF_DAY_MS: Final = DAY_MS // 2
MPS_PER_KNOT: Final = 1852 / 3600
MAX_KNOTS: Final = 1000.0
"""Export rules stop receivers at 1000 kn; nothing on wheels comes near."""
PIVOT_YEAR: Final = 80
"""Two-digit years from here on are 19yy: GPS time begins in 1980, and a receiver that does not know the
week starts there. None of them is ever plausible."""
_NORTH: Final = {b"N": 1.0, b"S": -1.0}
_EAST: Final = {b"E": 1.0, b"W": -1.0}
_WHOLE_SECOND: Final = {b"": 0, b"0": 0, b"00": 0, b"000": 0}
_EPOCH: Final = date(1970, 1, 1).toordinal()

MODES: Final[dict[bytes, FixQuality]] = {
    b"A": FixQuality.AUTONOMOUS,
    b"D": FixQuality.DIFFERENTIAL,
    b"P": FixQuality.PRECISE,
    b"R": FixQuality.RTK_FIXED,
    b"F": FixQuality.RTK_FLOAT,
    b"E": FixQuality.ESTIMATED,
}
"""FAA mode indicator (since NMEA 2.3) of a fix."""
VOID_MODES: Final = frozenset((b"N", b"M", b"S"))
"""Not valid, manual input, simulator: no position of this vehicle, whatever the status says."""
QUALITIES: Final[dict[bytes, FixQuality]] = {
    b"1": FixQuality.AUTONOMOUS,
    b"2": FixQuality.DIFFERENTIAL,
    b"3": FixQuality.PRECISE,
    b"4": FixQuality.RTK_FIXED,
    b"5": FixQuality.RTK_FLOAT,
    b"6": FixQuality.ESTIMATED,
}
"""GGA quality indicator of a fix."""
NO_FIX: Final = b"0"
MADE_UP_QUALITIES: Final = frozenset((b"7", b"8"))
"""Manual input, simulator."""


class FieldError(DecodeError):
    """A field that cannot be true, with the reason it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def coordinates(lat: bytes, north: bytes, lon: bytes, east: bytes) -> tuple[float, float]:
    """Latitude and longitude in degrees of `ddmm.mmmm,N,dddmm.mmmm,E`. Raises FieldError.

    The two digits left of the point are minutes however many stand before them, so a sender that drops
    a leading zero is read right. Sixty minutes are refused, not carried.
    """
    if north not in _NORTH or east not in _EAST:
        raise FieldError("hemisphere_unknown" if north and east else "hemisphere_missing")
    latitude = _degrees(lat)
    longitude = _degrees(lon)
    if latitude > 90.0:
        raise FieldError("latitude_out_of_range")
    if longitude > 180.0:
        raise FieldError("longitude_out_of_range")
    if latitude == 0.0 and longitude == 0.0:
        # What a receiver sends that clears its memory and sets the status too early; open sea.
        raise FieldError("null_island")
    return latitude * _NORTH[north], longitude * _EAST[east]


def _degrees(field: bytes) -> float:
    left, _, right = field.partition(b".")
    if not left.isdigit() or (right and not right.isdigit()):
        if not field:
            raise FieldError("coordinate_missing")
        raise FieldError("coordinate_signed" if field[:1] in (b"-", b"+") else "coordinate_malformed")
    if not 3 <= len(left) <= 5:
        raise FieldError("coordinate_malformed")
    number = float(field)
    whole = number // 100.0
    minutes = number - whole * 100.0
    if minutes >= 60.0:
        raise FieldError("minutes_out_of_range")
    return whole + minutes / 60.0


@lru_cache(maxsize=8)
def time_of_day_ms(field: bytes) -> int | None:
    """Milliseconds since midnight UTC of `hhmmss[.s...]`; None where empty. Raises FieldError.

    The sentences of an epoch repeat their time, so the last few are remembered. Second 60 is a leap
    second and counts as the next one.
    """
    if not field:
        return None
    clock, _, fraction = field.partition(b".")
    if len(clock) != 6 or not clock.isdigit():
        raise FieldError("bad_time")
    ms = _WHOLE_SECOND.get(fraction)
    if ms is None:
        if not fraction.isdigit():
            raise FieldError("bad_time")
        ms = int((fraction + b"00")[:3])
    number = int(clock)
    hours, minutes, seconds = number // 10_000, number // 100 % 100, number % 100
    if hours > 23 or minutes > 59 or seconds > 60:
        raise FieldError("bad_time")
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms


@lru_cache(maxsize=8)
def day_ns(field: bytes) -> int | None:
    """Midnight of `ddmmyy` in nanoseconds since 1970; None where empty. Raises FieldError."""
    if not field:
        return None
    if len(field) != 6 or not field.isdigit():
        raise FieldError("bad_date")
    year = int(field[4:])
    return civil_ns(year + (1900 if year >= PIVOT_YEAR else 2000), int(field[2:4]), int(field[:2]))


def civil_ns(year: int, month: int, day: int) -> int:
    """Midnight of a date in nanoseconds since 1970. Raises FieldError."""
    try:
        return (date(year, month, day).toordinal() - _EPOCH) * 86_400 * NS
    except ValueError as error:
        raise FieldError("bad_date") from error


def nearest_ns(tod_ms: int, reference_ns: int) -> int:
    """The moment with time of day `tod_ms` that lies within twelve hours of `reference_ns`."""
    reference_ms = reference_ns // 1_000_000
    away = (tod_ms - reference_ms + HALF_DAY_MS) % DAY_MS - HALF_DAY_MS
    return (reference_ms + away) * 1_000_000


def number(field: bytes) -> float | None:
    """A plain decimal number, perhaps negative; None where empty or anything else, so never NaN."""
    if field.replace(b".", b"", 1).isdigit():
        return float(field)
    if field[:1] == b"-" and field[1:].replace(b".", b"", 1).isdigit():
        return float(field)
    return None


def speed_mps(field: bytes) -> float:
    """Knots to metres per second. Raises FieldError on what no vehicle drives."""
    if field.replace(b".", b"", 1).isdigit():
        knots = float(field)
        if knots <= MAX_KNOTS:
            return knots * MPS_PER_KNOT
    raise FieldError("bad_speed")


def course_deg(field: bytes) -> float:
    """Degrees from true north, 0 .. 360. Raises FieldError."""
    if field.replace(b".", b"", 1).isdigit():
        degrees = float(field)
        if degrees <= 360.0:
            return degrees
    raise FieldError("bad_course")
