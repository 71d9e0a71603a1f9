"""What the detector says: one explained incident with a life, not five alarms."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final


@unique
class Cause(IntEnum):
    """Why an incident is open. Numbers stand in events and are never reused."""

    MOVED_WITHOUT_WHEELS = 1
    """Towed, winched or carried: the place changes, the wheels do not turn."""
    REMOVED_OR_OPENED = 2
    """The device was opened, cut off or carried away from its vehicle."""
    LEFT_REGION = 3
    JAMMED = 4
    SILENT = 5
    """A source that must speak does not, and no announced sleep explains it."""


CAUSE_NAMES: Final[dict[Cause, str]] = {cause: cause.name.lower() for cause in Cause}
"""The names used in JSON and on the command line."""


@unique
class Action(IntEnum):
    """What happens to the incident."""

    OPENED = 1
    UPDATED = 2
    CLOSED = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation that speaks for an incident."""

    sensor: str
    """position, tyres, vibration, supply, case, radio"""
    text: str
    """One clause a person understands, with the figure in it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A change in one incident."""

    t_ns: int
    """Monotonic time of the decision."""
    since_ns: int
    """Monotonic time of the first observation that belongs to it."""
    incident: int
    """Number of the incident within the run, from 1."""
    cause: Cause
    action: Action
    confidence: float
    """0 .. 1; how sure, by the number and kind of independent sensors. Not a calibrated probability."""
    sentence: str
    """What happened, how it is known, in one sentence."""
    evidence: tuple[Evidence, ...]
    lat_deg: float | None = None
    lon_deg: float | None = None
