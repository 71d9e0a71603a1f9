"""A hand-driven vehicle for tests of the detector: readings of all sensors, second by second."""

from __future__ import annotations

import math
from collections.abc import Iterable

from firmware_bridge.reading import (
    FixQuality,
    PortCondition,
    PortState,
    Position,
    PositionVoid,
    Power,
    PowerState,
    SkyView,
    Tyre,
    Vibration,
    VoidReason,
    Wheel,
)
from models.detector import Detector
from models.fence import Fence
from models.limits import Limits
from models.verdict import Action, Cause, Verdict

S = 1_000_000_000
LAT, LON = 46.86, 6.77
TYRES = {wheel: f"a1b2c3d{int(wheel)}" for wheel in Wheel}
G = 9.81
Seen = tuple[bool, int, float | None]
"""Has a fix; satellites heard; strongest signal in dB-Hz."""
SEE: Seen = (True, 11, 45.0)
BLIND: Seen = (False, 0, None)


class World:
    """Every attribute may be changed at any time; `run` plays seconds with what they say."""

    def __init__(
        self,
        *,
        tyres: dict[Wheel, str] | None = TYRES,
        fence: Fence | None = None,
        limits: Limits | None = None,
        expects_board: bool = True,
    ) -> None:
        self.detector = Detector(limits or Limits(), tyres=tyres, fence=fence, expects_board=expects_board)
        self.t_s = 0.0
        self.north_m = self.east_m = 0.0
        self.speed = 0.0
        self.doppler: float | None = None
        """What the receiver says instead of the truth, where not None."""
        self.quality = FixQuality.AUTONOMOUS
        self.volts = 12.5
        self.case_open = False
        self.rms = 0.02
        self.peak = 0.05
        self.tilt_deg = 0.0
        self.rolling = False
        self.degc, self.kpa = 6.0, 230.0
        self.gnss = self.board = self.tyre_radio = True
        self.sky: Seen = SEE
        self.jamming: bool | None = None
        self.tyre_every_s = 60
        self.next_report_s = 15
        self.power_every_s = 10
        self.verdicts: list[Verdict] = []

    @property
    def now(self) -> int:
        return round(self.t_s * S)

    def run(self, seconds: float, step_s: float = 1.0) -> World:
        """Play; one fix, one window, and supply and tyres at their periods, each step."""
        for _ in range(round(seconds / step_s)):
            self.t_s += step_s
            self.east_m += self.speed * step_s
            if self.gnss:
                self._gnss()
            if self.board:
                self._board(step_s)
            self.take(self.detector.tick(self.now))
        return self

    def take(self, verdicts: Iterable[Verdict]) -> None:
        self.verdicts += verdicts

    def fix(self, north_m: float = 0.0, east_m: float = 0.0, speed: float | None = None) -> Position:
        """A fix at an offset from the true place."""
        lat = LAT + math.degrees((self.north_m + north_m) / 6_371_008.8)
        lon = LON + math.degrees((self.east_m + east_m) / 6_371_008.8 / math.cos(math.radians(LAT)))
        said = self.speed if self.doppler is None else self.doppler
        return Position(self.now, "gnss", lat, lon, self.quality, said if speed is None else speed)

    def see(self, reading: object) -> None:
        """Hand in one reading of the test's own."""
        self.take(self.detector.observe(reading))  # type: ignore[arg-type]

    def port(self, port: str, condition: PortCondition) -> None:
        self.see(PortState(self.now, port, condition, "said by a test"))

    def power(self) -> Power:
        state = PowerState.DRIVING if self.volts > 13 else PowerState.PARKED_WATCH
        return Power(self.now, "board", self.volts, state, self.case_open, self.next_report_s)

    def tyre(self, wheel: Wheel, *, sensor_id: str | None = None, rolling: bool | None = None) -> Tyre:
        said = self.rolling if rolling is None else rolling
        return Tyre(self.now, "board", sensor_id or TYRES[wheel], self.kpa, self.degc, said, True)

    def drive(self, seconds: float, speed: float = 14.0) -> World:
        """An ordinary drive: engine, road, rolling tyres after a minute."""
        self.volts, self.rms, self.peak, self.speed, self.rolling = 14.2, 0.8, 2.0, speed, False
        self.run(min(60.0, seconds))
        self.rolling = True
        return self.run(max(0.0, seconds - 60.0))

    def park(self, seconds: float) -> World:
        """Stand with the engine off; the tyres' switches open after half a minute."""
        self.volts, self.rms, self.peak, self.speed = 12.5, 0.02, 0.05, 0.0
        self.run(min(35.0, seconds))
        self.rolling = False
        return self.run(max(0.0, seconds - 35.0))

    def parked(self) -> World:
        """A short drive and ten minutes of standing: where most tests begin."""
        return self.drive(180).park(600)

    def opened(self) -> list[Cause]:
        return [v.cause for v in self.verdicts if v.action is Action.OPENED]

    def closed(self) -> list[Cause]:
        return [v.cause for v in self.verdicts if v.action is Action.CLOSED]

    def first(self, cause: Cause) -> Verdict:
        return next(v for v in self.verdicts if v.cause is cause)

    def _gnss(self) -> None:
        fixed, heard, snr = self.sky
        if fixed:
            self.see(self.fix())
        else:
            self.see(PositionVoid(self.now, "gnss", VoidReason.STATUS))
        self.see(SkyView(self.now, "gnss", 12, heard, snr, self.jamming))

    def _board(self, step_s: float) -> None:
        tilt = math.radians(self.tilt_deg)
        third = self.rms / math.sqrt(3)
        gravity = (G * math.sin(tilt), 0.0, G * math.cos(tilt))
        self.see(Vibration(self.now, "board", 1.0, 1000.0, (third, third, third), self.peak, gravity, None))
        if self.t_s % self.power_every_s < step_s or self.case_open:
            self.see(self.power())
        for wheel in Wheel:
            if self.tyre_radio and (self.t_s + 11 * wheel) % self.tyre_every_s < step_s:
                self.see(self.tyre(wheel))
