"""Writes what a 1 Hz receiver says: GGA, GSA, GSV, RMC and VTG of NMEA 0183 version 4.10.

Errors are those of a small antenna on a car: 1.5 to 2 m that wander over a minute, a little white noise,
Doppler speed good to 0.1 m/s. Without a fix every sentence says void and holds no position.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import xor
from typing import Final

import numpy as np

from firmware_bridge.sim.motion import ALTITUDE_M, Sky, State, moved

KNOT_MPS: Final = 1852 / 3600
_WANDER_M: Final = 1.5
"""One sigma a horizontal axis of the slowly wandering error; with the white part about 2 m in all."""
_WANDER_S: Final = 70.0
_WHITE_M: Final = 0.25
_DOPPLER_MPS: Final = 0.06
_GEOID_M: Final = 48.6
_COURSE_FROM_MPS: Final = 0.5
"""Below this speed a receiver's course means nothing and the field stays empty."""
_SKY: Final[tuple[tuple[int, int, int, int], ...]] = (
    (3, 62, 78, 44), (4, 21, 51, 37), (6, 48, 132, 42), (9, 71, 266, 46),
    (11, 12, 214, 31), (14, 35, 308, 40), (17, 28, 171, 38), (19, 55, 12, 43),
    (22, 9, 96, 27), (26, 41, 240, 41), (28, 18, 333, 34), (31, 6, 147, 0),
)  # fmt: skip
"""Satellite, elevation, azimuth (degrees), signal to noise (dB-Hz; 0 = not heard)."""


def sentence(body: str) -> bytes:
    """`body` (between $ and *) with its checksum and line end."""
    return f"${body}*{reduce(xor, body.encode('ascii'), 0):02X}\r\n".encode("ascii")


def angle(degrees: float, *, longitude: bool) -> str:
    """`ddmm.mmmmm,N` or `dddmm.mmmmm,E`; minutes never round up to 60."""
    letter = ("EW" if longitude else "NS")[degrees < 0]
    steps = round(abs(degrees) * 60 * 100_000)
    whole, part = divmod(steps, 60 * 100_000)
    return f"{whole:0{3 if longitude else 2}d}{part / 100_000:08.5f},{letter}"


def rmc(
    at: datetime, place: tuple[float, float] | None, speed_mps: float | None, course_deg: float | None
) -> bytes:
    """RMC at UTC `at`; `place` (latitude, longitude in degrees) None writes a void one."""
    time, date = _time(at), at.strftime("%d%m%y")
    if place is None:
        return sentence(f"GPRMC,{time},V,,,,,,,{date},,,N")
    lat, lon = angle(place[0], longitude=False), angle(place[1], longitude=True)
    speed = "" if speed_mps is None else f"{speed_mps / KNOT_MPS:.2f}"
    course = "" if course_deg is None else f"{course_deg % 360.0:.2f}"
    return sentence(f"GPRMC,{time},A,{lat},{lon},{speed},{course},{date},,,A")


def gga(
    at: datetime,
    place: tuple[float, float] | None,
    *,
    satellites: int | None,
    hdop: float | None,
    altitude_m: float | None,
) -> bytes:
    """GGA at UTC `at`; fields that are None stay empty, `place` None is quality 0."""
    used = "" if satellites is None else f"{satellites:02d}"
    dop = "" if hdop is None else f"{hdop:.1f}"
    if place is None:
        return sentence(f"GPGGA,{_time(at)},,,,,0,{used},{dop},,M,,M,,")
    lat, lon = angle(place[0], longitude=False), angle(place[1], longitude=True)
    height = "" if altitude_m is None else f"{altitude_m:.1f}"
    return sentence(f"GPGGA,{_time(at)},{lat},{lon},1,{used},{dop},{height},M,{_GEOID_M:.1f},M,,")


def _time(at: datetime) -> str:
    return f"{at:%H%M%S}.{at.microsecond // 10_000:02d}"


class Receiver:
    """A receiver with a memory: its error wanders, and it needs some seconds after a shadow."""

    def __init__(self, seed: int, epoch_wall_ns: int) -> None:
        self._rng = np.random.default_rng([seed, 2])
        self._epoch = datetime.fromtimestamp(epoch_wall_ns // 1_000_000_000, UTC)
        self._north = self._east = 0.0
        self._last_s = 0
        self._shadow_s = 0
        self._lag_s = 0

    def second(self, state: State) -> bytes:
        """All sentences of the epoch of `state`."""
        self._wander(state.t_s)
        at = self._epoch + timedelta(seconds=state.t_s)
        heard = self._heard(state)
        if len(heard) < 4 or self._lag_s > 0:
            return self._void(at, heard)
        place = moved(
            state.lat_deg,
            state.lon_deg,
            self._north + float(self._rng.normal(0, _WHITE_M)),
            self._east + float(self._rng.normal(0, _WHITE_M)),
        )
        speed = max(0.0, state.speed_mps + float(self._rng.normal(0, _DOPPLER_MPS)))
        course = state.course_deg + float(self._rng.normal(0, 0.4 + 2.0 / (1.0 + state.speed_mps)))
        moving = speed >= _COURSE_FROM_MPS
        used = sorted(heard)[:12]
        hdop = round(0.7 + 2.4 / len(used), 1)
        knots, kmh = speed / KNOT_MPS, speed * 3.6
        track = f"{course % 360.0:.2f}" if moving else ""
        ids = ",".join(f"{prn:02d}" for prn in used) + "," * (12 - len(used))
        altitude_m = ALTITUDE_M + 1.6 * self._north + float(self._rng.normal(0, 0.4))
        return b"".join(
            (
                gga(at, place, satellites=len(used), hdop=hdop, altitude_m=altitude_m),
                sentence(f"GPGSA,A,3,{ids},{hdop * 1.6:.1f},{hdop:.1f},{hdop * 1.25:.1f}"),
                *self._in_view(heard),
                rmc(at, place, speed, course if moving else None),
                sentence(f"GPVTG,{track},T,,M,{knots:.2f},N,{kmh:.2f},K,A"),
            )
        )

    def _wander(self, t_s: int) -> None:
        """First-order Gauss-Markov step over the time since the last epoch."""
        keep = math.exp(-(t_s - self._last_s) / _WANDER_S) if t_s else 0.0
        fresh = _WANDER_M * math.sqrt(1.0 - keep * keep)
        self._north = keep * self._north + float(self._rng.normal(0, fresh))
        self._east = keep * self._east + float(self._rng.normal(0, fresh))
        self._last_s = t_s

    def _heard(self, state: State) -> dict[int, int]:
        """Satellite -> signal to noise of those that are heard now."""
        noise = self._rng.integers(-2, 3, len(_SKY))
        clear = {prn: snr + int(n) for (prn, _, _, snr), n in zip(_SKY, noise, strict=True) if snr}
        if state.sky is Sky.OPEN:
            self._lag_s = max(0, self._lag_s - 1) if self._shadow_s == 0 else min(3, self._shadow_s)
            self._shadow_s = 0
            return clear
        self._shadow_s += 1
        if state.sky is Sky.TUNNEL and self._shadow_s <= 6:  # the portal fades, a jammer does not
            fade = 6 * self._shadow_s
            return {prn: snr - fade for prn, snr in clear.items() if snr - fade >= 14}
        return {}

    def _void(self, at: datetime, heard: dict[int, int]) -> bytes:
        return b"".join(
            (
                gga(at, None, satellites=0, hdop=99.9, altitude_m=None),
                sentence("GPGSA,A,1,,,,,,,,,,,,,99.9,99.9,99.9"),
                *self._in_view(heard),
                rmc(at, None, None, None),
                sentence("GPVTG,,T,,M,,N,,K,N"),
            )
        )

    @staticmethod
    def _in_view(heard: dict[int, int]) -> list[bytes]:
        """GSV: all satellites of the almanac, with a signal only where one is heard."""
        parts = [_SKY[n : n + 4] for n in range(0, len(_SKY), 4)]
        return [
            sentence(
                f"GPGSV,{len(parts)},{number},{len(_SKY):02d}"
                + "".join(
                    f",{prn:02d},{elevation:02d},{azimuth:03d},"
                    + (f"{heard[prn]:02d}" if prn in heard else "")
                    for prn, elevation, azimuth, _ in part
                )
            )
            for number, part in enumerate(parts, 1)
        ]
