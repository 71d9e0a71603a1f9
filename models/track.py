"""Where the vehicle is: fixes that Doppler cannot explain are counted and do not move it.

The invariant everything else rests on: a movement is real only if the road that Doppler speed adds up to
(`odometer_m`) is about as long as the distance. A receiver that jumps 200 m at 0.01 m/s went nowhere,
whatever accuracy it claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from firmware_bridge.reading import Position
from models.geo import Place, distance_m
from models.limits import Limits

_S = 1_000_000_000


class Trust(Enum):
    """What became of a fix."""

    TRUSTED = auto()
    ESTIMATED = auto()
    """Dead reckoning: never moves the place."""
    SUSPECT = auto()
    """Doppler denies it."""
    UNPROVEN = auto()
    """Far away after a pause in which anything may have happened; believed if it persists."""


@dataclass(slots=True)
class _Run:
    """Fixes at another place that agree with one another."""

    first: Place
    last: Place
    first_ns: int
    last_ns: int
    last_utc_ns: int | None
    last_mps: float | None
    count: int
    road_m: float
    hidden: bool


class Track:
    """The trusted place, its speed and the road so far."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.place: Place | None = None
        self.place_ns = 0
        self.speed_mps = 0.0
        """Doppler speed of the last trusted fix."""
        self.odometer_m = 0.0
        """Road by Doppler, and stretches hidden by a pause and since confirmed."""
        self.suspects = 0
        """Fixes that Doppler denied."""
        self.estimated = 0
        self._mps: float | None = None
        self._utc_ns: int | None = None
        self._run: _Run | None = None

    def fix(self, fix: Position) -> Trust:
        """Take a fix; only TRUSTED ones have moved `place`."""
        if fix.estimated:
            self.estimated += 1
            return Trust.ESTIMATED
        place = Place(fix.lat_deg, fix.lon_deg)
        if self.place is None:
            self._settle(place, fix)
            return Trust.TRUSTED
        step = distance_m(self.place, place)
        dt = self._pause_s(fix, self.place_ns, self._utc_ns)
        if step <= self._reach(self._mps, fix.speed_mps, dt):
            self.odometer_m += _road(self._mps, fix.speed_mps, dt, step)
            self._settle(place, fix)
            return Trust.TRUSTED
        hidden = dt > self._limits.path_gap_s and (self._run is None or self._run.hidden)
        if self._persists(place, fix, hidden):
            self.odometer_m += step if hidden else 0.0
            self._settle(place, fix)
            return Trust.TRUSTED
        if hidden:
            return Trust.UNPROVEN
        self.suspects += 1
        return Trust.SUSPECT

    def _pause_s(self, fix: Position, before_ns: int, before_utc_ns: int | None) -> float:
        """Seconds between two fixes: by the receiver's own clock where it tells a short pause, since a busy
        host reads several sentences at one moment; else by arrival."""
        if fix.utc_ns is not None and before_utc_ns is not None:
            said = (fix.utc_ns - before_utc_ns) / _S
            if 0 < said <= self._limits.path_gap_s:
                return said
        return max(0.0, (fix.t_ns - before_ns) / _S)

    def _reach(self, before: float | None, now: float | None, dt: float) -> float:
        limits = self._limits
        if before is None or now is None:
            fastest = limits.unknown_speed_mps
        else:
            fastest = limits.reach_factor * max(before, now)
        return limits.fix_noise_m + fastest * dt

    def _settle(self, place: Place, fix: Position) -> None:
        self.place, self.place_ns, self._run = place, fix.t_ns, None
        self._mps, self._utc_ns = fix.speed_mps, fix.utc_ns
        self.speed_mps = fix.speed_mps if fix.speed_mps is not None else 0.0

    def _persists(self, place: Place, fix: Position, hidden: bool) -> bool:
        """Whether the run of fixes at another place is to be believed now."""
        limits, run = self._limits, self._run
        if run is not None:
            dt = self._pause_s(fix, run.last_ns, run.last_utc_ns)
            step = distance_m(run.last, place)
            if dt <= limits.talk_gap_s and step <= self._reach(run.last_mps, fix.speed_mps, dt):
                run.count += 1
                run.road_m += _road(run.last_mps, fix.speed_mps, dt, step)
                run.last, run.last_mps = place, fix.speed_mps
                run.last_ns, run.last_utc_ns = fix.t_ns, fix.utc_ns
                return self._believed(run)
        self._run = _Run(place, place, fix.t_ns, fix.t_ns, fix.utc_ns, fix.speed_mps, 1, 0.0, hidden)
        return False

    def _believed(self, run: _Run) -> bool:
        limits = self._limits
        if run.count < limits.relocate_fixes:
            return False
        way = distance_m(run.first, run.last)
        if way > 2 * limits.fix_noise_m and run.road_m >= limits.path_share * way:
            return True  # it drives there, by its own Doppler: the old place was the wrong one
        hold = limits.relocate_gap_s if run.hidden else limits.relocate_denied_s
        return (run.last_ns - run.first_ns) / _S >= hold


def _road(before: float | None, now: float | None, dt: float, step: float) -> float:
    """Metres of road between two fixes; without Doppler the straight line, noise taken off."""
    if before is None or now is None:
        return step if step > 15.0 else 0.0
    mean = (before + now) / 2
    return mean * dt if mean >= 0.3 else 0.0
