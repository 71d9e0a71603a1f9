"""What the enrolled tyre sensors say about rolling. Ids that are not enrolled are a neighbour's: ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firmware_bridge.reading import Tyre, Wheel
from models.limits import Limits

_S = 1_000_000_000


@dataclass(slots=True)
class _Sensor:
    heard_ns: int | None = None
    kpa: float = 0.0
    degc: float = 0.0
    start_kpa: float | None = None
    """As it was when the movement began."""
    start_degc: float | None = None
    still_ns: int | None = None
    """Last transmission that said 'standing'."""
    proven: bool = False
    """Has said 'rolling' in this run: its switch works."""


class TyreWatch:
    """The enrolled sensors of one vehicle."""

    def __init__(self, limits: Limits, enrolled: Mapping[Wheel, str]) -> None:
        self._limits = limits
        self._sensors = {sensor_id.lower(): _Sensor() for sensor_id in enrolled.values()}
        self.heard_ns: int | None = None
        """Last transmission of any enrolled sensor."""
        self.rolling_ns: int | None = None
        """Last transmission that said 'rolling'."""
        self.warmed = False
        """A tyre warmed or its pressure rose since the movement began: it rolls."""

    def __len__(self) -> int:
        return len(self._sensors)

    def take(self, tyre: Tyre) -> bool:
        """One transmission; False where the id is not enrolled."""
        sensor = self._sensors.get(tyre.sensor_id)
        if sensor is None:
            return False
        self.heard_ns = sensor.heard_ns = tyre.t_ns
        sensor.kpa, sensor.degc = tyre.pressure_kpa, tyre.temperature_degc
        if tyre.rolling:
            sensor.proven = True
            self.rolling_ns = tyre.t_ns
        elif tyre.rolling is False:
            sensor.still_ns = tyre.t_ns
        if sensor.start_kpa is not None and sensor.start_degc is not None:
            limits = self._limits
            if (
                sensor.degc - sensor.start_degc >= limits.warm_degc
                or sensor.kpa - sensor.start_kpa >= limits.warm_kpa
            ):
                self.warmed = True
        return True

    def mark(self) -> None:
        """A movement begins: later values are compared with these."""
        self.warmed = False
        for sensor in self._sensors.values():
            if sensor.heard_ns is not None:
                sensor.start_kpa, sensor.start_degc = sensor.kpa, sensor.degc

    def forget_mark(self) -> None:
        """The movement is over."""
        self.warmed = False
        for sensor in self._sensors.values():
            sensor.start_kpa = sensor.start_degc = None

    def known(self) -> int:
        """Sensors heard at least once in this run."""
        return sum(sensor.heard_ns is not None for sensor in self._sensors.values())

    def still_since(self, t_ns: int, *, proven: bool) -> int:
        """Sensors that said 'standing' after `t_ns`; `proven`: only those whose switch is known to work."""
        return sum(
            sensor.still_ns is not None and sensor.still_ns > t_ns and (sensor.proven or not proven)
            for sensor in self._sensors.values()
        )

    def judgeable(self) -> bool:
        """Enough sensors were heard that their standing still means something."""
        return (
            self.known() >= min(self._limits.tyres_needed, max(1, len(self._sensors)))
            and len(self._sensors) > 0
        )
