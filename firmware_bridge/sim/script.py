"""What a world plays: chunks of bytes in time order, and the truth behind them.

A `Script` is a value: playing it twice gives the same bytes. Times are scenario times, in nanoseconds or
seconds after the start of the scenario; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from firmware_bridge.wire.stamp import ClockKind

NS: Final = 1_000_000_000
GNSS: Final = "gnss"
BOARD: Final = "board"
ROADSIDE: Final = "roadside"
"""Names of the ports a world can have."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that a device puts on its line at one moment."""

    t_ns: int
    """Scenario time, nanoseconds."""
    port: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Truth:
    """Something that really happens in the scenario, for checking what was detected."""

    t_s: float
    """The moment it begins: the first metre on the winch, the turn of the case's first screw."""
    cause: str
    """A name of `models.verdict.CAUSE_NAMES`."""
    text: str


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A serial port of the world and who listens to it."""

    name: str
    protocol: Literal["nmea", "board"]
    baud: int
    node: Literal["vehicle", "roadside"]


@dataclass(frozen=True, slots=True)
class Home:
    """Circle in which the vehicle is at home; leaving it is an incident."""

    lat_deg: float
    lon_deg: float
    radius_m: float


@dataclass(frozen=True, slots=True)
class PhaseMark:
    """From this moment on, this is what a spectator would see."""

    t_s: float
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Script:
    """All that a world needs to know about one scenario or one replayed log."""

    name: str
    kind: ClockKind
    epoch_wall_ns: int
    """Wall time (Unix, nanoseconds) of scenario time 0."""
    duration_s: float
    """Time of the last chunk, or later where the scenario ends in silence."""
    ports: tuple[PortSpec, ...]
    play: Callable[[], Iterator[Chunk]]
    """A fresh run through all chunks, times never going back."""
    phases: tuple[PhaseMark, ...]
    truths: tuple[Truth, ...] = ()
    simulated_parts: tuple[str, ...] = ()
    """Which parts of a replay were written by us and not by the log; for a simulated world, all of it."""
    tyres: dict[str, str] | None = None
    """Wheel (FL, FR, RL, RR) -> sensor id, 8 hexadecimal digits."""
    home: Home | None = None

    def phase_at(self, t_s: float) -> PhaseMark:
        """The phase that runs at `t_s`; the first one before it has begun."""
        found = self.phases[0]
        for mark in self.phases:
            if mark.t_s <= t_s:
                found = mark
        return found
