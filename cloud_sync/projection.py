"""What a segment means to the collector: incidents, sightings, and whether a pledged title hears of it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from cloud_sync.incidents import Change, EvidenceLine, claimed_ms, from_event
from edge.errors import FormatError
from edge.event import Event, Key, Kind
from edge.segment import Sealed
from firmware_bridge.wire import cbor
from models.verdict import Action, Cause

ALERT_CAUSES: Final = frozenset({Cause.MOVED_WITHOUT_WHEELS, Cause.REMOVED_OR_OPENED})
"""Only these endanger the collateral itself; silence and jamming alone do not."""
ALERT_CONFIDENCE: Final = 0.6
"""Below this a title is left alone: two independent sensors at least (models.verdict)."""
SIGHTING_BEFORE_MS: Final = 10 * 60_000
"""A sighting up to ten minutes before the first observation still belongs to an incident."""
SIGHTING_AFTER_MS: Final = 24 * 3_600_000
"""An open incident gathers sightings for a day; after that the vehicle may have been recovered."""
MAX_SENSOR_ID_CHARS: Final = 32

_SENSOR_ID = re.compile(r"[0-9a-f]{2,32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A roadside node heard a tyre sensor."""

    sensor_id: str
    """Lower-case hexadecimal, as enrolled."""
    seq: int
    wall_ms: int
    rssi_dbm: int | None


@dataclass(frozen=True, slots=True)
class Projection:
    """What one segment says."""

    changes: tuple[Change, ...]
    sightings: tuple[Sighting, ...]
    refused: dict[str, int]
    """Events whose body was not what its kind promises, by kind: counted, never in the way of the rest."""


def project(sealed: Sealed, received_ms: int) -> Projection:
    """The incidents and sightings of `sealed`, which arrived at `received_ms` (milliseconds since 1970)."""
    changes: list[Change] = []
    sightings: list[Sighting] = []
    refused: Counter[str] = Counter()
    digest = sealed.hash
    for event in sealed.segment.events:
        try:
            if event.kind is Kind.INCIDENT:
                changes.append(
                    from_event(
                        event, received_ms=received_ms, segment=sealed.segment.number, segment_hash=digest
                    )
                )
            elif event.kind is Kind.SIGHTING:
                sightings.append(_sighting(event, received_ms))
        except FormatError:
            refused[event.kind.name.lower()] += 1
    return Projection(tuple(changes), tuple(sightings), dict(refused))


def must_alert(change: Change) -> bool:
    """Whether a title whose vehicle carries this device is told of `change`."""
    return (
        change.action is not Action.CLOSED
        and change.cause in ALERT_CAUSES
        and change.confidence >= ALERT_CONFIDENCE
    )


def belongs(sighting_ms: int, since_ms: int, closed_ms: int | None) -> bool:
    """Whether a sighting falls into an incident's time."""
    end_ms = since_ms + SIGHTING_AFTER_MS if closed_ms is None else closed_ms
    return since_ms - SIGHTING_BEFORE_MS <= sighting_ms <= end_ms


def sighting_line(node: str, sensors: int, first: str) -> EvidenceLine:
    """The line that says how many of a vehicle's enrolled sensors `node` heard, `first` being when."""
    noun = "tyre sensor" if sensors == 1 else "tyre sensors"
    return "roadside", f"{node} heard {sensors} enrolled {noun} of this vehicle, first at {first}"


def sensor_id(value: cbor.Value | str) -> str:
    """A tyre sensor id in the one spelling. Raises FormatError."""
    text = value.hex() if isinstance(value, bytes) else value
    if not isinstance(text, str) or not _SENSOR_ID.fullmatch(text.lower()):
        raise FormatError(
            f"{value!r:.60} is not a tyre sensor id (2 .. {MAX_SENSOR_ID_CHARS} hexadecimal digits)"
        )
    return text.lower()


def _sighting(event: Event, received_ms: int) -> Sighting:
    rssi = event.body.get(Key.RSSI_DBM)
    wall_ms = claimed_ms(event, received_ms)
    known = rssi if isinstance(rssi, int) and not isinstance(rssi, bool) and -200 <= rssi <= 50 else None
    return Sighting(sensor_id(event.body.get(Key.SENSOR_ID)), event.seq, wall_ms, known)
