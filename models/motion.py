"""What the accelerometer says of a parked vehicle: shaken, struck, tilted. Says nothing of where it is."""

from __future__ import annotations

import math
from collections import deque

from firmware_bridge.reading import Vibration
from models.geo import angle_deg
from models.limits import Limits

_S = 1_000_000_000
_CALM_S = 30.0
"""Stillness shorter than this does not end a stretch of shaking: traffic lights."""

_BUSY_S = 15.0
"""Time constant of `busy`."""


class Motion:
    """Running state over vibration windows."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.heard_ns: int | None = None
        self.rms_mps2 = 0.0
        self.dominant_hz: float | None = None
        self.shaken_since_ns: int | None = None
        """Begin of the present stretch of shaking, pauses below 30 s included."""
        self.shaken_ns: int | None = None
        self.busy = 0.0
        """Share of the last half minute that was shaken, 0 .. 1."""
        self.shocks_ns: deque[int] = deque(maxlen=limits.shocks)
        self.shock_peak_mps2 = 0.0
        self.tilt_deg = 0.0
        """Against the parked position, 0 while there is none."""
        self.tilt_max_deg = 0.0
        self.tilted_ns: int | None = None
        """When a tilt that held long enough began; stays set until the next parked episode."""
        self._tilted_last_ns = 0
        self._tilt_since_ns: int | None = None
        self._level: tuple[float, float, float] | None = None
        self._watching = False

    def parked(self) -> None:
        """A parked episode begins: learn its level anew."""
        self._watching, self._level = True, None
        self._untilt()

    def driven(self) -> None:
        """The episode is over: accelerations are not tilt."""
        self._watching, self._level = False, None
        self._untilt()

    def take(self, window: Vibration) -> None:
        """One window."""
        now, limits = window.t_ns, self._limits
        if self.heard_ns is not None and now - self.heard_ns > limits.talk_gap_s * _S:
            self.shaken_since_ns, self.busy = None, 0.0
        before, self.heard_ns = self.heard_ns, now
        self.rms_mps2 = math.hypot(*window.rms_mps2)
        self.dominant_hz = window.dominant_hz
        shaken = self.rms_mps2 >= limits.shaken_mps2
        if before is not None:
            share = min(1.0, max(0.0, (now - before) / _S) / _BUSY_S)
            self.busy += share * (shaken - self.busy)
        if shaken:
            if self.shaken_since_ns is None:
                self.shaken_since_ns = now
            self.shaken_ns = now
        elif self.shaken_ns is not None and now - self.shaken_ns > _CALM_S * _S:
            self.shaken_since_ns = None
        if window.peak_mps2 >= limits.shock_mps2:
            self.shocks_ns.append(now)
            self.shock_peak_mps2 = max(self.shock_peak_mps2, window.peak_mps2)
        if self._watching:
            self._tilt(window)

    def shaken(self, now: int, within_s: float = 15.0) -> bool:
        """Shaken within the last seconds."""
        return self.shaken_ns is not None and now - self.shaken_ns <= within_s * _S

    def shaken_for_s(self, now: int) -> float:
        """Length of the present stretch of shaking, 0 when calm."""
        if self.shaken_since_ns is None or not self.shaken(now, _CALM_S):
            return 0.0
        return (now - self.shaken_since_ns) / _S

    def calm_for_s(self, now: int) -> float:
        """Seconds since anything shook it; the age of the last shaking window."""
        return float("inf") if self.shaken_ns is None else (now - self.shaken_ns) / _S

    def struck(self, now: int) -> bool:
        """Several shocks within the window."""
        shocks = self.shocks_ns
        return len(shocks) == shocks.maxlen and now - shocks[0] <= self._limits.shock_window_s * _S

    def alive(self, now: int) -> bool:
        """A window arrived lately enough to know whether anything shakes."""
        return self.heard_ns is not None and now - self.heard_ns <= self._limits.talk_gap_s * _S

    def _tilt(self, window: Vibration) -> None:
        limits, now = self._limits, window.t_ns
        if self._level is None:
            if (
                self.rms_mps2 < limits.shaken_mps2
                and angle_deg(window.gravity_mps2, (0.0, 0.0, 1.0)) is not None
            ):
                self._level = window.gravity_mps2
            return
        tilt = angle_deg(self._level, window.gravity_mps2)
        if tilt is None:
            return
        self.tilt_deg = tilt
        if tilt < limits.tilt_deg:
            self._tilt_since_ns = None
            return
        if self._tilt_since_ns is None:
            self._tilt_since_ns = now
            return
        if now - self._tilt_since_ns >= limits.tilt_hold_s * _S:
            if self.tilted_ns is None:
                self.tilted_ns = self._tilt_since_ns
            self._tilted_last_ns = now
            self.tilt_max_deg = max(self.tilt_max_deg, tilt)

    def tilted_within(self, t_ns: int, seconds: float) -> bool:
        """A tilt that held was last seen in these seconds before `t_ns`, or after it."""
        return self.tilted_ns is not None and t_ns - self._tilted_last_ns <= seconds * _S

    def steep_now(self) -> bool:
        """Held, and now steeper than any jack lifts."""
        return (
            self._tilt_since_ns is not None
            and self.tilted_ns is not None
            and (self.tilt_deg >= self._limits.steep_deg)
        )

    def _untilt(self) -> None:
        self.tilt_deg = self.tilt_max_deg = 0.0
        self.tilted_ns = self._tilt_since_ns = None
        self.shock_peak_mps2 = 0.0
        self.shocks_ns.clear()
