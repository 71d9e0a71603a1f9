"""A vehicle that drives, parks, is winched, carried and robbed of its tracker: one state a second.

The route is invented and lies on the open water of a lake, so that no invented track passes anybody's
door. Positions follow the state's speed and course exactly; noise is the receiver's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

EARTH_M: Final = 6_371_008.8
"""Mean radius of the Earth in metres (IUGG)."""
START_LAT_DEG: Final = 46.4400
START_LON_DEG: Final = 6.4800
START_COURSE_DEG: Final = 40.0
ALTITUDE_M: Final = 372.0


@unique
class Kind(StrEnum):
    """What is happening to the vehicle."""

    DRIVE = "drive"
    PARKED = "parked"
    WINCHED = "winched"
    CARRIED = "carried"
    OPENED = "opened"
    """The tracker's case is open and somebody pulls it out."""
    GONE = "gone"
    """The tracker has no supply any more."""


@unique
class Sky(StrEnum):
    """What the receiver's antenna is given."""

    OPEN = "open"
    TUNNEL = "tunnel"
    JAMMED = "jammed"


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the scenario."""

    kind: Kind
    duration_s: int
    text: str
    bumps_s: tuple[int, ...] = ()
    """Seconds of the phase in which something harmless shakes the vehicle: a lorry, a slammed door."""


@dataclass(frozen=True, slots=True)
class SkyWindow:
    """From `start_s` to `end_s` of the scenario the sky is not open."""

    start_s: int
    end_s: int
    sky: Sky


@dataclass(frozen=True, slots=True)
class State:
    """Truth about the vehicle over one second."""

    t_s: int
    kind: Kind
    lat_deg: float
    lon_deg: float
    speed_mps: float
    course_deg: float
    accel_mps2: float
    """Along the vehicle."""
    yaw_rps: float
    """Turn to the right, radians a second."""
    pitch_deg: float
    """Nose up."""
    roll_deg: float
    engine: bool
    """The vehicle's own engine runs."""
    wheels_mps: float
    """Speed of the tyres' surface: 0 on a flatbed."""
    sky: Sky
    bump: bool
    case_open: bool
    supplied: bool
    """The board has its supply; where False for the first time, it is cut within this second."""


def moved(lat_deg: float, lon_deg: float, north_m: float, east_m: float) -> tuple[float, float]:
    """The point that lies so far north and east; good to centimetres over the metres of one second."""
    lat = lat_deg + math.degrees(north_m / EARTH_M)
    return lat, lon_deg + math.degrees(east_m / (EARTH_M * math.cos(math.radians(lat_deg))))


def distance_m(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    """Great-circle distance in metres (haversine)."""
    half_lat = math.radians(lat_b - lat_a) / 2
    half_lon = math.radians(lon_b - lon_a) / 2
    h = math.sin(half_lat) ** 2 + (
        math.cos(math.radians(lat_a)) * math.cos(math.radians(lat_b)) * math.sin(half_lon) ** 2
    )
    return 2 * EARTH_M * math.asin(min(1.0, math.sqrt(h)))


_Leg = tuple[float, int, float]
"""Speed wanted in m/s, seconds, degrees of turn over them."""
_CAR: Final[tuple[_Leg, ...]] = (
    (0.0, 12, 0.0), (13.4, 50, 4.0), (6.5, 11, 82.0), (13.9, 62, 0.0), (0.0, 31, 0.0), (13.9, 45, -6.0),
    (7.0, 11, -86.0), (20.5, 95, 8.0), (13.0, 30, 0.0), (6.0, 10, -75.0), (13.6, 55, 3.0), (0.0, 22, 0.0),
    (12.5, 40, 0.0), (6.5, 11, 78.0), (21.5, 110, -9.0),
)  # fmt: skip
_LORRY: Final[tuple[_Leg, ...]] = (
    (0.0, 6, 0.0), (9.5, 45, 5.0), (4.5, 14, 84.0), (16.5, 110, -4.0), (0.0, 26, 0.0), (13.0, 70, 0.0),
    (5.0, 13, -80.0), (21.0, 190, 6.0), (12.0, 30, 0.0), (5.0, 13, -70.0),
)  # fmt: skip
_CAR_ACCEL: Final = 1.7
_LORRY_ACCEL: Final = 0.8
_BRAKE: Final = 1.9
"""Metres a second squared, as people drive."""
WINCH_MPS: Final = 0.07
"""Speed of a recovery winch's rope under load."""
RAMP_DEG: Final = 11.0
"""Tilt of a flatbed let down to the ground."""
_STILL_BEFORE_END_S: Final = 8
"""A drive stands still for this long before its phase ends."""


def _leg_at(legs: tuple[_Leg, ...], second: int) -> _Leg:
    second %= sum(leg[1] for leg in legs)
    for leg in legs:
        if second < leg[1]:
            return leg
        second -= leg[1]
    return legs[-1]


def _winch_pitch(second: int, duration_s: int) -> float:
    """Nose-up degrees: up the ramp with the first third, level again in the last third."""
    third = duration_s / 3
    if second < third:
        return max(0.6, RAMP_DEG * second / third)
    if second < 2 * third:
        return RAMP_DEG
    return max(0.8, RAMP_DEG * (duration_s - second) / third)


class Vehicle:
    """Walks through phases second by second; `states` is the only way to use it, and only once."""

    def __init__(self, phases: tuple[Phase, ...], windows: tuple[SkyWindow, ...] = ()) -> None:
        self._phases = phases
        self._windows = windows
        self._lat, self._lon = START_LAT_DEG, START_LON_DEG
        self._course = START_COURSE_DEG
        self._speed = 0.0
        self._pitch = 0.6
        self._roll = -0.9

    def states(self) -> Iterator[State]:
        """One state for each second of all phases, in order."""
        t_s = 0
        for phase in self._phases:
            for second in range(phase.duration_s):
                yield self._step(phase, second, t_s)
                t_s += 1

    def _sky(self, t_s: int) -> Sky:
        for window in self._windows:
            if window.start_s <= t_s < window.end_s:
                return window.sky
        return Sky.OPEN

    def _step(self, phase: Phase, second: int, t_s: int) -> State:
        wanted, turn_deg = self._wanted(phase, second)
        climb = _LORRY_ACCEL if phase.kind is Kind.CARRIED else _CAR_ACCEL
        if phase.kind is Kind.WINCHED:
            accel = wanted - self._speed
        else:
            accel = max(-_BRAKE, min(climb, wanted - self._speed))
        before = self._speed
        self._speed = max(0.0, before + accel)
        if self._speed < 0.5 and phase.kind is not Kind.WINCHED:
            turn_deg = 0.0
        if phase.kind is Kind.WINCHED:
            self._pitch = _winch_pitch(second, phase.duration_s)
        lat, lon = self._lat, self._lon
        course = math.radians(self._course)
        way_m = (before + self._speed) / 2
        self._lat, self._lon = moved(lat, lon, way_m * math.cos(course), way_m * math.sin(course))
        state = State(
            t_s=t_s, kind=phase.kind, lat_deg=lat, lon_deg=lon, speed_mps=before, course_deg=self._course,
            accel_mps2=self._speed - before, yaw_rps=math.radians(turn_deg),
            pitch_deg=self._pitch, roll_deg=self._roll, engine=phase.kind is Kind.DRIVE,
            wheels_mps=before if phase.kind is Kind.DRIVE else 0.0, sky=self._sky(t_s),
            bump=second in phase.bumps_s, case_open=phase.kind in (Kind.OPENED, Kind.GONE),
            supplied=phase.kind is not Kind.GONE,
        )  # fmt: skip
        self._course = (self._course + turn_deg) % 360.0
        return state

    def _wanted(self, phase: Phase, second: int) -> tuple[float, float]:
        """Speed wanted in m/s and degrees of turn in this second."""
        if phase.kind is Kind.WINCHED:
            rope_runs = phase.duration_s / 3 <= second < 2 * phase.duration_s / 3 or second < 8
            return (WINCH_MPS if rope_runs else 0.0), 0.0
        if phase.kind not in (Kind.DRIVE, Kind.CARRIED):
            return 0.0, 0.0
        speed, length_s, turn = _leg_at(_CAR if phase.kind is Kind.DRIVE else _LORRY, second)
        left_s = phase.duration_s - second - _STILL_BEFORE_END_S
        return max(0.0, min(speed, _BRAKE * left_s * 0.8)), turn / length_s
