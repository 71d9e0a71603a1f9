"""Time with error bars: what every reading and every event carries.

Order comes from the monotonic time within a run; wall time is a claim with a source and an uncertainty,
and may be absent. A clock that jumps can therefore never reorder events.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final

NS: Final = 1_000_000_000


@unique
class ClockKind(IntEnum):
    """Whose time a record was made under; a live tenant's collector quarantines the other two."""

    LIVE = 0
    REPLAY = 1
    SIMULATED = 2


@unique
class TimeSource(IntEnum):
    """Where a wall time came from, best last."""

    NONE = 0
    """No wall time: the host clock is below the floor and no receiver has told the date."""
    FLOOR = 1
    """The host clock is not to be trusted; wall time is at least the floor."""
    HOST = 2
    """Host clock, not known to be synchronised."""
    HOST_SYNCED = 3
    """Host clock disciplined by NTP or by the scenario."""
    GNSS = 4
    """Date and time of a receiver with a fix."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """One moment: monotonic within a run, and on the wall as well as is known."""

    mono_ns: int
    """Nanoseconds since an arbitrary start of the run; never goes back."""
    wall_ns: int | None
    """Nanoseconds since 1970-01-01T00:00:00Z, or None where unknown."""
    source: TimeSource
    uncertainty_ms: int
    """Half width of the interval the true wall time lies in, in milliseconds."""
