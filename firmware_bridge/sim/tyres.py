"""Four tyres: warm when they roll, cool when they stand, and their sensors' habit of speaking.

Pressure follows temperature at constant volume (Gay-Lussac); +20 degrees C is about +24 kPa on a tyre
filled to 230 kPa. A sensor's motion switch decides how often it transmits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

IDS: Final[dict[str, bytes]] = {
    "FL": bytes.fromhex("a1b2c3d4"),
    "FR": bytes.fromhex("a1b2c3e7"),
    "RL": bytes.fromhex("a1b2c41a"),
    "RR": bytes.fromhex("a1b2c42d"),
}
"""Invented sensor ids by wheel."""
_FILLED_KPA: Final[dict[str, float]] = {"FL": 231.0, "FR": 230.0, "RL": 222.0, "RR": 224.0}
"""Gauge pressure each was filled to at `_FILLED_DEGC`."""
_FILLED_DEGC: Final = 12.0
_ATMOSPHERE_KPA: Final = 96.9
"""At 372 m above the sea."""
_KELVIN: Final = 273.15
WARM_UP_DEGC: Final = 20.0
"""Excess over the air that a tyre reaches at town and country speeds."""
_WARM_S: Final = 330.0
_COOL_S: Final = 2400.0
"""Time constants of warming while rolling and of cooling at rest."""
ROLLING_PERIOD_S: Final = 60
REST_PERIOD_S: Final = 900
_ROLL_ON_MPS: Final = 4.0
_ROLL_OFF_MPS: Final = 1.0
_ROLL_ON_S: Final = 3
_ROLL_OFF_S: Final = 35
"""The switch closes after so many seconds above the one speed, opens after so many below the other."""
_HEARD: Final = 0.97
"""Share of transmissions that the receiver in the car hears."""


@dataclass(frozen=True, slots=True)
class Transmission:
    """One frame of one sensor, as the receiver heard it."""

    at_s: float
    """Offset within the second."""
    sensor_id: bytes
    kpa: int
    """Gauge."""
    degc: int
    rolling: bool


class TyreSet:
    """The four tyres of one vehicle; `step` once a second."""

    def __init__(self, seed: int, air_degc: float) -> None:
        self._rng = np.random.default_rng([seed, 4])
        self._degc = dict.fromkeys(IDS, air_degc)
        self._due_s = {wheel: 5.0 + 13.0 * n for n, wheel in enumerate(IDS)}
        self._rolling = False
        self._since_change = 0

    def kpa(self, wheel: str) -> float:
        """Gauge pressure now."""
        filled = _FILLED_KPA[wheel] + _ATMOSPHERE_KPA
        ratio = (self._degc[wheel] + _KELVIN) / (_FILLED_DEGC + _KELVIN)
        return filled * ratio - _ATMOSPHERE_KPA

    def degc(self, wheel: str) -> float:
        """Temperature of the air in the tyre."""
        return self._degc[wheel]

    def step(self, t_s: int, wheels_mps: float, air_degc: float) -> list[Transmission]:
        """Advance to `t_s` (seconds, one more than at the call before); what was heard in this second."""
        for n, wheel in enumerate(IDS):
            share = min(1.0, wheels_mps / 14.0)
            goal = air_degc + WARM_UP_DEGC * share * (1.0 + 0.04 * (1 - n // 2))
            tau = _WARM_S if wheels_mps > _ROLL_OFF_MPS else _COOL_S
            self._degc[wheel] += (goal - self._degc[wheel]) * (1.0 - math.exp(-1.0 / tau))
        if self._switched(wheels_mps):
            for wheel in IDS:
                self._due_s[wheel] = t_s + float(self._rng.uniform(0.2, 4.0))
        heard: list[Transmission] = []
        for wheel in IDS:
            if self._due_s[wheel] >= t_s + 1:
                continue
            at_s = max(0.0, self._due_s[wheel] - t_s)
            period = ROLLING_PERIOD_S if self._rolling else REST_PERIOD_S
            self._due_s[wheel] += period + float(self._rng.uniform(-1.0, 1.0))
            if self._rng.random() < _HEARD:
                heard.append(self.transmission(wheel, at_s))
        return heard

    def transmission(self, wheel: str, at_s: float) -> Transmission:
        """What the sensor of `wheel` says when it is made to speak."""
        return Transmission(at_s, IDS[wheel], round(self.kpa(wheel)), round(self._degc[wheel]), self._rolling)

    def _switched(self, wheels_mps: float) -> bool:
        against = wheels_mps < _ROLL_OFF_MPS if self._rolling else wheels_mps > _ROLL_ON_MPS
        self._since_change = self._since_change + 1 if against else 0
        if self._since_change < (_ROLL_OFF_S if self._rolling else _ROLL_ON_S):
            return False
        self._rolling = not self._rolling
        self._since_change = 0
        return True
