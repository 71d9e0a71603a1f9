"""Places on the sphere: good to 0.5 % of a distance, which is finer than any threshold here."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

EARTH_M: Final = 6_371_008.8
"""Mean radius of the Earth (IUGG)."""


class Place(NamedTuple):
    """WGS-84 degrees."""

    lat_deg: float
    lon_deg: float


def distance_m(a: Place, b: Place) -> float:
    """Great-circle distance in metres (haversine); right across the date line and at the poles."""
    lat_a, lat_b = math.radians(a[0]), math.radians(b[0])
    half_lat = math.sin((lat_b - lat_a) / 2)
    half_lon = math.sin(math.radians(b[1] - a[1]) / 2)
    h = half_lat * half_lat + math.cos(lat_a) * math.cos(lat_b) * half_lon * half_lon
    return 2 * EARTH_M * math.asin(min(1.0, math.sqrt(h)))


def angle_deg(a: tuple[float, float, float], b: tuple[float, float, float]) -> float | None:
    """Angle between two vectors, 0 .. 180 degrees; None where one of them has no length."""
    scale = math.hypot(*a) * math.hypot(*b)
    if scale < 1e-9 or not math.isfinite(scale):
        return None
    cosine = (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]) / scale
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
