"""Which wall time to believe: a receiver's, the host's, or only that it is later than the build.

A host clock without a battery starts in 1970 or where it was last shut down; a receiver that does not yet
know the week counts from 1980. Neither may ever become the time of an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from firmware_bridge.wire.stamp import NS, Stamp, TimeSource

DAY_NS: Final = 86_400 * NS
YEAR_NS: Final = 31_556_952 * NS
MILLENNIUM_NS: Final = 946_684_800 * NS
"""2000-01-01: the floor where none is configured (a replay); no receiver's time before it is ever meant."""
MAX_AHEAD_NS: Final = DAY_NS
"""A time more than this ahead of a synchronised host clock is from the future."""
MAX_AFTER_FLOOR_NS: Final = 20 * YEAR_NS
"""No device outlives its build by more; 1024-week mistakes reach 19.6 years, so they fall to the floor."""
GNSS_UNCERTAINTY_MS: Final = 1000
"""A sentence reaches us up to one second after the moment that it names."""
SYNCED_UNCERTAINTY_MS: Final = 100
"""A host clock held by NTP over a mobile network."""
HOST_UNCERTAINTY_MS: Final = 86_400_000
"""A host clock that nobody disciplines: assumed good to a day."""
FLOOR_UNCERTAINTY_MS: Final = 20 * 31_556_952_000
"""Behind the floor anything up to MAX_AFTER_FLOOR_NS is possible."""
DRIFT_PPM: Final = 100
"""A cheap crystal over temperature; what a held GNSS time loses while no fix comes."""
STEP_NS: Final = 2 * NS
"""A receiver's time that differs by more from the time we keep is a step and must be confirmed."""
CONFIRMATIONS: Final = 3
"""So many observations in a row must agree before a step is followed: one bad date is not enough."""


@dataclass(frozen=True, slots=True)
class Now:
    """What the one Clock says at a moment."""

    mono_ns: int
    """Monotonic nanoseconds of the run."""
    host_wall_ns: int
    """What the host takes for wall time, nanoseconds since 1970-01-01T00:00:00Z."""
    host_synced: bool
    """The host clock is held by NTP, or it is a scenario's own."""
    floor_ns: int
    """No wall time before this can be the present; 0 where none is known."""


def plausible(utc_ns: int, now: Now) -> bool:
    """Whether `utc_ns` can be the present: not before the floor, not from the future."""
    floor_ns = now.floor_ns
    if utc_ns < floor_ns or utc_ns < MILLENNIUM_NS:
        return False
    if now.host_synced:
        return -MAX_AHEAD_NS <= utc_ns - now.host_wall_ns <= MAX_AHEAD_NS
    return floor_ns < MILLENNIUM_NS or utc_ns <= floor_ns + MAX_AFTER_FLOOR_NS


class TimeKeeper:
    """Keeps the best wall time of a run. Pure: monotonic time in, stamps out."""

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        self._seen_ns = 0
        self._step_ns = 0
        self._agreeing = 0

    def observe(self, utc_ns: int, mono_ns: int) -> None:
        """A receiver with a fix said, at `mono_ns`, that it was `utc_ns`; its date is trusted already.

        The first is taken at once. One that steps by more than two seconds from the time kept is followed
        only when two more agree with it.
        """
        offset = utc_ns - mono_ns
        kept = self._offset_ns
        if kept is not None and abs(offset - kept) > STEP_NS:
            agrees = self._agreeing > 0 and abs(offset - self._step_ns) <= STEP_NS
            self._agreeing = self._agreeing + 1 if agrees else 1
            self._step_ns = offset
            if self._agreeing < CONFIRMATIONS:
                return
        self._agreeing = 0
        self._offset_ns = offset
        self._seen_ns = mono_ns

    def stamp(self, now: Now) -> Stamp:
        """The stamp of this moment: never before the floor, never from the future of a synchronised host."""
        if self._offset_ns is not None:
            wall = self._offset_ns + now.mono_ns
            if plausible(wall, now):
                drift = (now.mono_ns - self._seen_ns) * DRIFT_PPM // 1_000_000 // 1_000_000
                return Stamp(now.mono_ns, wall, TimeSource.GNSS, GNSS_UNCERTAINTY_MS + max(drift, 0))
        host = now.host_wall_ns
        if now.host_synced and host >= now.floor_ns:
            return Stamp(now.mono_ns, host, TimeSource.HOST_SYNCED, SYNCED_UNCERTAINTY_MS)
        unsynced = Now(now.mono_ns, host, False, now.floor_ns)
        if plausible(host, unsynced):
            return Stamp(now.mono_ns, host, TimeSource.HOST, HOST_UNCERTAINTY_MS)
        if now.floor_ns >= MILLENNIUM_NS:
            return Stamp(now.mono_ns, now.floor_ns, TimeSource.FLOOR, FLOOR_UNCERTAINTY_MS)
        return Stamp(now.mono_ns, None, TimeSource.NONE, 0)
