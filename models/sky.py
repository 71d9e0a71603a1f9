"""What the receiver hears: a jammer, a tunnel and a deaf antenna differ here."""

from __future__ import annotations

from firmware_bridge.reading import SkyView
from models.limits import Limits

_S = 1_000_000_000
_MIN_VIEW = 4
"""With fewer satellites in view than a fix needs, silence means nothing."""


class Sky:
    """Running state over a receiver's sentences."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.talk_ns: int | None = None
        self.fix_ns: int | None = None
        """Last fix that was not estimated."""
        self.fixed_since_ns: int | None = None
        """Begin of the present stretch of fixes."""
        self.void_since_ns: int | None = None
        """No fix since, although the receiver spoke all the time and had one before."""
        self.good_ns: int | None = None
        self.dead_since_ns: int | None = None
        """Satellites in view, none heard, since."""
        self.sudden = False
        """The signals of `dead_since_ns` went within a second or two."""
        self.flag_since_ns: int | None = None
        """The receiver's own jamming indicator is set since."""

    def fixed(self, now: int) -> None:
        """A fix that is not estimated."""
        self._talk(now)
        if (
            self.fix_ns is None
            or self.void_since_ns is not None
            or now - self.fix_ns > self._limits.talk_gap_s * _S
        ):
            self.fixed_since_ns = now
        self.fix_ns, self.void_since_ns = now, None

    def unfixed(self, now: int) -> None:
        """A void or an estimated position."""
        self._talk(now)
        if self.void_since_ns is None and self.fix_ns is not None:
            self.void_since_ns = now

    def view(self, view: SkyView) -> None:
        """Signal strengths."""
        now, limits = view.t_ns, self._limits
        self._talk(now)
        if view.jamming is not True:
            self.flag_since_ns = None
        elif self.flag_since_ns is None:
            self.flag_since_ns = now
        if view.satellites_in_view < _MIN_VIEW:
            return
        strongest = view.snr_max_dbhz
        if view.satellites_heard == 0 or strongest is None or strongest < limits.snr_dead_dbhz:
            if self.dead_since_ns is None and self.good_ns is not None:
                self.dead_since_ns = now
                self.sudden = now - self.good_ns <= limits.sudden_s * _S
            return
        self.dead_since_ns = None
        if strongest >= limits.snr_good_dbhz and view.satellites_heard >= _MIN_VIEW:
            self.good_ns = now

    def speaking(self, now: int) -> bool:
        """The receiver is alive."""
        return self.talk_ns is not None and now - self.talk_ns <= self._limits.talk_gap_s * _S

    def _talk(self, now: int) -> None:
        if self.talk_ns is not None and now - self.talk_ns > self._limits.talk_gap_s * _S:
            self.void_since_ns = self.dead_since_ns = self.flag_since_ns = self.good_ns = None
        self.talk_ns = now
