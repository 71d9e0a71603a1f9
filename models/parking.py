"""Parked episodes: where the vehicle was left, and how far it is from there without having driven itself.

An episode begins with a long standstill and ends only when the vehicle has driven by its own wheels (or,
without tyre sensors, has driven at all). A ride on a flatbed, with its own stops, stays inside it.
"""

from __future__ import annotations

from models.geo import Place, distance_m
from models.limits import Limits
from models.track import Track

_S = 1_000_000_000

_ANCHOR_FIXES = 600
"""Fixes over which the anchor is averaged: a receiver's error wanders over minutes, a winch takes fewer."""


class Parking:
    """Follows a `Track`. `anchor` is None while the vehicle drives or has not stood yet."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.anchor: Place | None = None
        self.since_ns = 0
        self.moved_ns: int | None = None
        """First sign of movement by Doppler within the episode."""
        self.distance_m = 0.0
        """From the anchor to the trusted place."""
        self.shift_m = 0.0
        """The same for a mean over some fixes: slow, but sees a winch."""
        self.still_since_ns: int | None = None
        self._road_from = 0.0
        self._fast = 0
        self._fast_ns = 0
        self._means = 0
        self._mean_lat = self._mean_lon = 0.0

    @property
    def parked(self) -> bool:
        """An episode is running."""
        return self.anchor is not None

    def road_m(self, track: Track) -> float:
        """Road by Doppler since the episode began."""
        return track.odometer_m - self._road_from

    def confirmed_m(self, track: Track) -> float:
        """Distance from the anchor if Doppler agrees with it, else 0."""
        agrees = self.road_m(track) >= self._limits.path_share * self.distance_m
        return self.distance_m if agrees else 0.0

    def fix(self, track: Track, *, keep: bool) -> bool:
        """Follow a trusted fix. `keep`: a long standstill must not begin a new episode (an incident is open,
        or a ramp was seen). True when an episode began."""
        now, place = track.place_ns, track.place
        if place is None:
            return False
        began = False
        if track.speed_mps < self._limits.still_mps:
            self._fast = 0
            if self.still_since_ns is None:
                self.still_since_ns = now
            if now - self.still_since_ns >= self._limits.park_s * _S:
                began = self._stood(track, place, keep)
        else:
            self.still_since_ns = None
            if track.speed_mps >= self._limits.moving_mps:
                self._fast += 1
                if self._fast == 1:
                    self._fast_ns = now
                if self._fast == self._limits.moving_fixes and self.anchor and self.moved_ns is None:
                    self.moved_ns = self._fast_ns
            else:
                self._fast = 0
        if self.anchor is not None:
            self.distance_m = distance_m(self.anchor, place)
            self._average(self.anchor, place)
        return began

    def end(self) -> None:
        """The vehicle drives by itself."""
        self.anchor, self.moved_ns, self.still_since_ns = None, None, None
        self.distance_m = self.shift_m = 0.0

    def _stood(self, track: Track, place: Place, keep: bool) -> bool:
        if self.anchor is None or (not keep and self.moved_ns is not None):
            self._begin(track, place)
            return True
        return False

    def _begin(self, track: Track, place: Place) -> None:
        self.anchor, self.since_ns, self.moved_ns = place, track.place_ns, None
        self.distance_m = self.shift_m = 0.0
        self._road_from = track.odometer_m
        self._means = 0

    def _average(self, anchor: Place, place: Place) -> None:
        """Exponential mean of the place; while it stands, the anchor itself is refined by it."""
        if self._means == 0:
            self._mean_lat, self._mean_lon = place
        self._means += 1
        share = 1 / min(self._means, self._limits.shift_fixes)
        self._mean_lat += share * (place.lat_deg - self._mean_lat)
        self._mean_lon += share * ((place.lon_deg - self._mean_lon + 180.0) % 360.0 - 180.0)
        mean = Place(self._mean_lat, self._mean_lon)
        self.shift_m = distance_m(anchor, mean)
        if self.moved_ns is None and self.shift_m < self._limits.shift_m:
            weight = 1 / min(self._means, _ANCHOR_FIXES)
            self.anchor = Place(
                anchor.lat_deg + weight * (place.lat_deg - anchor.lat_deg),
                anchor.lon_deg + weight * ((place.lon_deg - anchor.lon_deg + 180.0) % 360.0 - 180.0),
            )
