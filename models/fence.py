"""Left its region: a real exit has a road and persists; a reflection has neither."""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.errors import ConfigError
from models.geo import Place, distance_m
from models.incident import Claim, duration, ground, metres
from models.limits import Limits
from models.track import Track

_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Fence:
    """A circle in which the vehicle belongs. Raises ConfigError where it cannot be meant."""

    lat_deg: float
    """WGS-84, -90 .. 90."""
    lon_deg: float
    """WGS-84, -180 .. 180."""
    radius_m: float
    """20 m (the noise of a fix) .. 5,000 km."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lat_deg) and abs(self.lat_deg) <= 90):
            raise ConfigError(f"fence latitude {self.lat_deg!r} is outside -90 .. 90")
        if not (math.isfinite(self.lon_deg) and abs(self.lon_deg) <= 180):
            raise ConfigError(f"fence longitude {self.lon_deg!r} is outside -180 .. 180")
        if not 20 <= self.radius_m <= 5_000_000:
            raise ConfigError(f"fence radius {self.radius_m!r} m is outside 20 .. 5,000,000")

    @property
    def centre(self) -> Place:
        """Centre of the circle."""
        return Place(self.lat_deg, self.lon_deg)


class FenceWatch:
    """Inside or outside, with persistence and hysteresis. Fed with trusted fixes only."""

    def __init__(self, limits: Limits, fence: Fence) -> None:
        self._limits = limits
        self.fence = fence
        self.outside: bool | None = None
        """None before the first trusted fix; True only after an exit that was seen, False inside."""
        self.over_m = 0.0
        """How far outside the circle the last trusted fix lies; below 0 inside."""
        self._last_in: Place | None = None
        self._road_in = 0.0
        self._left_ns = 0
        self._count = 0
        self._first_ns = 0

    def fix(self, track: Track) -> None:
        """Follow a trusted fix."""
        if track.place is None:
            return
        limits, now = self._limits, track.place_ns
        self.over_m = distance_m(self.fence.centre, track.place) - self.fence.radius_m
        if self.outside:
            self._count = self._count + 1 if self.over_m < -self._margin() else 0
            if self._count >= limits.fence_fixes:
                self.outside, self._count = False, 0
            return
        if self.over_m <= 0:
            self.outside = False
        if self.over_m <= limits.fence_margin_m:
            self._count = 0
            if self.outside is False:
                self._last_in, self._road_in, self._left_ns = track.place, track.odometer_m, now
            return
        self._count += 1
        if self._count == 1:
            self._first_ns = now
        if self._count < limits.fence_fixes or (now - self._first_ns) / _S < limits.fence_span_s:
            return
        if self._last_in is not None and self._travelled(track, self._last_in):
            self.outside, self._count = True, 0

    def claim(self, track: Track, now: int) -> Claim | None:
        """The claim while the vehicle is outside."""
        if not self.outside:
            return None
        away = metres(max(0.0, self.over_m))
        sentence = (
            f"Left its region of {metres(self.fence.radius_m)} around its place: "
            f"now {away} beyond the edge, {duration((now - self._left_ns) / _S)} after it was last inside, "
            f"at {track.speed_mps * 3.6:.0f} km/h."
        )
        grounds = (
            ground("fence", "position", 0.8, f"{away} beyond the edge, by fixes that persist"),
            ground("road", "position", 0.8, "Doppler speed adds up to the same way"),
        )
        return Claim(self._left_ns, sentence, grounds, max(100.0, self.over_m))

    def _travelled(self, track: Track, last_in: Place) -> bool:
        """Doppler's road since the last fix inside is about as long as the distance from it."""
        way = distance_m(last_in, track.place) if track.place is not None else 0.0
        return track.odometer_m - self._road_in >= self._limits.path_share * way

    def _margin(self) -> float:
        return min(self._limits.fence_margin_m, self.fence.radius_m / 5)
