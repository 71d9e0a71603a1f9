"""Everything the rules may look at: one running summary a sensor, none of which keeps readings."""

from __future__ import annotations

from collections.abc import Mapping

from firmware_bridge.reading import Wheel
from models.limits import Limits
from models.motion import Motion
from models.parking import Parking
from models.ports import Ports
from models.sky import Sky
from models.supply import Supply
from models.track import Track
from models.tyres import TyreWatch

_S = 1_000_000_000


class Scene:
    """The present, as far as the sensors tell it."""

    def __init__(self, limits: Limits, tyres: Mapping[Wheel, str] | None) -> None:
        self.limits = limits
        self.track = Track(limits)
        self.parking = Parking(limits)
        self.motion = Motion(limits)
        self.tyres = TyreWatch(limits, tyres or {})
        self.supply = Supply(limits)
        self.sky = Sky(limits)
        self.ports = Ports()
        self.watch_s = 0.0
        """Seconds this detector has been watching; suspended hosts do not watch."""
        self.rolls = 0
        """Transmissions since the episode began that say a wheel turns."""

    def engine_off(self, now: int, since_ns: int) -> bool:
        """A report after `since_ns` and lately says that the supply rests, and none since two minutes before
        it said that something charges: a start is reported some seconds after the first metre."""
        supply = self.supply
        if supply.heard_ns is None or supply.heard_ns <= since_ns or not supply.fresh(now):
            return False
        rest = self.limits.cut_v <= supply.volts < self.limits.engine_v
        return rest and not supply.engine_since(since_ns - 120 * _S)

    def board_alive(self, now: int) -> bool:
        """The board told its vibration or its supply lately."""
        return self.motion.alive(now) or self.supply.fresh(now)
