"""Incidents as the cloud sees them: the fold over what a device said of each, in whatever order it came.

An alarm overtakes backlog, so the closing of an incident can arrive before its opening. The state of an
incident is therefore computed from the set of its changes and depends on nothing else: a change that comes
twice, late or out of order gives the same incident.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from edge.errors import FormatError
from edge.event import Event, Key, Kind, parse_stamp
from firmware_bridge.wire import cbor
from firmware_bridge.wire.signals import Sig, physical
from firmware_bridge.wire.stamp import Stamp, TimeSource
from models.verdict import CAUSE_NAMES, Action, Cause

MAX_SENTENCE_CHARS: Final = 600
"""A sentence longer than this is cut, as the edge's recorder does; the longest has about 200 characters."""
MAX_EVIDENCE_LINES: Final = 16
"""Evidence of one change; the detector fuses six sensors."""
MAX_EVIDENCE_CHARS: Final = 200
NS_IN_MS: Final = 1_000_000
MAX_NUMBER: Final = (1 << 31) - 1
"""Largest event or incident number taken: one event a second for 68 years in one run."""
FUTURE_MS: Final = 5 * 60_000
"""How far a device's clock may run ahead of the collector's; later is a wrong date (a receiver's week)."""
COARSE_DECIMALS: Final = 4
"""Decimals of a position kept here: 1e-4 degrees, about 11 m."""

RECEIVED: Final = "received"
"""Source of a time that is the collector's own: of receipt."""
SOURCES: Final = {
    TimeSource.NONE: "clock",
    TimeSource.FLOOR: "clock",
    TimeSource.HOST: "clock",
    TimeSource.HOST_SYNCED: "network",
    TimeSource.GNSS: "gnss",
}
"""What a device's wall time went by, in the words of the API."""

EvidenceLine = tuple[str, str]
"""Sensor, text."""


class Believed(NamedTuple):
    """A time as far as it can be believed."""

    ms: int
    """Milliseconds since 1970-01-01T00:00:00Z."""
    unc_ms: int | None
    """Half-width; None where the receipt stands in, or the device's figure is absurd."""
    source: str
    """gnss, network, clock or received."""


@dataclass(frozen=True, slots=True)
class Change:
    """One INCIDENT event."""

    incident: int
    seq: int
    """Number of the event within the run: orders the changes of one incident."""
    action: Action
    cause: Cause
    confidence: float
    """0 .. 1."""
    sentence: str
    evidence: tuple[EvidenceLine, ...]
    wall_ms: int
    """Time of the decision; the time of receipt where the device knew no wall time."""
    since_ms: int
    """Time of the first observation, as far as is known."""
    segment: int
    """Number of the segment within the run."""
    segment_hash: bytes
    lat_deg: float | None = None
    lon_deg: float | None = None
    unc_ms: int | None = None
    """Half-width of `wall_ms`; None where the receipt stands in."""
    source: str = RECEIVED
    """What `wall_ms` goes by: gnss, network, clock, received."""


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident as its changes tell it."""

    incident: int
    cause: Cause
    open: bool
    opened_ms: int
    since_ms: int
    updated_ms: int
    closed_ms: int | None
    confidence: float
    """The highest it ever had."""
    sentence: str
    evidence: tuple[EvidenceLine, ...]
    """Every different line, in the order in which it was first said."""
    segment: int
    """Segment of the first change known; the opening, once it has arrived."""
    segment_hash: bytes
    seq: int
    lat_deg: float | None
    lon_deg: float | None
    unc_ms: int | None = None
    """Half-width of `opened_ms`."""
    source: str = RECEIVED
    """What `opened_ms` goes by."""


def from_event(event: Event, *, received_ms: int, segment: int, segment_hash: bytes) -> Change:
    """The change that an INCIDENT event tells. Raises FormatError when its body does not say one."""
    if event.kind is not Kind.INCIDENT:
        raise FormatError(f"event {event.seq} is not an incident")
    body = event.body
    cause, action = _int(body, Key.CAUSE), _int(body, Key.ACTION)
    if cause not in Cause._value2member_map_ or action not in Action._value2member_map_:
        raise FormatError(f"event {event.seq} names cause {cause}, action {action}: not known here")
    permille = _int(body, Key.CONFIDENCE_PERMILLE)
    if not 0 <= permille <= 1000:
        raise FormatError(f"event {event.seq} has a confidence of {permille} permille")
    sentence = body.get(Key.SENTENCE)
    if not isinstance(sentence, str):
        raise FormatError(f"event {event.seq} has no sentence")
    at = believed(event, received_ms)
    wall_ms = since_ms = at.ms
    if Key.SINCE in body:
        since = parse_stamp(body[Key.SINCE])
        if since.wall_ns is not None:
            since_ms = max(0, min(wall_ms, since.wall_ns // NS_IN_MS))
        elif since.mono_ns <= event.stamp.mono_ns:
            since_ms = max(0, wall_ms - (event.stamp.mono_ns - since.mono_ns) // NS_IN_MS)
    return Change(
        _int(body, Key.INCIDENT), event.seq, Action(action), Cause(cause), permille / 1000,
        sentence[:MAX_SENTENCE_CHARS], _evidence(body.get(Key.EVIDENCE, [])), wall_ms, since_ms, segment,
        segment_hash, _degrees(body, Sig.LATITUDE, 90.0), _degrees(body, Sig.LONGITUDE, 180.0),
        at.unc_ms, at.source,
    )  # fmt: skip


def claimed_ms(event: Event, received_ms: int) -> int:
    """Wall time of `event` in milliseconds as far as it can be believed.

    The time of receipt stands in where the device knew no wall time or names one that has not yet come.
    Raises FormatError for a number no database holds.
    """
    return believed(event, received_ms).ms


def believed(event: Event, received_ms: int) -> Believed:
    """`claimed_ms` with its error bars. Raises FormatError for a number no database holds."""
    if event.seq > MAX_NUMBER:
        raise FormatError(f"event number {event.seq} is not possible")
    return of_stamp(event.stamp, received_ms)


def of_stamp(stamp: Stamp, received_ms: int) -> Believed:
    """The wall time of `stamp` as far as it can be believed, else the time of receipt."""
    if stamp.wall_ns is None:
        return Believed(received_ms, None, RECEIVED)
    wall_ms = stamp.wall_ns // NS_IN_MS
    if not 0 <= wall_ms <= received_ms + FUTURE_MS:
        return Believed(received_ms, None, RECEIVED)
    unc_ms = stamp.uncertainty_ms
    return Believed(wall_ms, unc_ms if unc_ms <= MAX_NUMBER else None, SOURCES[stamp.source])


def fold(changes: Iterable[Change]) -> Incident:
    """The incident of `changes` (all of one incident of one run, at least one), in any order."""
    ordered = sorted(changes, key=lambda change: change.seq)
    if not ordered:
        raise ValueError("an incident has at least one change")
    openings = [change for change in ordered if change.action is Action.OPENED]
    first = openings[0] if openings else ordered[0]
    last = ordered[-1]
    closed = [change for change in ordered if change.action is Action.CLOSED]
    lines = dict.fromkeys(line for change in ordered for line in change.evidence)
    placed = [change for change in ordered if change.lat_deg is not None and change.lon_deg is not None]
    return Incident(
        incident=first.incident,
        cause=first.cause,
        open=not closed,
        opened_ms=first.wall_ms if openings else first.since_ms,
        since_ms=min(change.since_ms for change in ordered),
        updated_ms=last.wall_ms,
        closed_ms=closed[0].wall_ms if closed else None,
        confidence=max(change.confidence for change in ordered),
        sentence=last.sentence or first.sentence,
        evidence=tuple(lines),
        segment=first.segment,
        segment_hash=first.segment_hash,
        seq=first.seq,
        lat_deg=placed[-1].lat_deg if placed else None,
        lon_deg=placed[-1].lon_deg if placed else None,
        unc_ms=first.unc_ms,
        source=first.source,
    )


def iso_utc(wall_ms: int) -> str:
    """`wall_ms` as ISO 8601 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(wall_ms // 1000, UTC).replace(microsecond=wall_ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_json(
    incident: Incident, *, device: str, run: str, extra: Iterable[EvidenceLine] = ()
) -> dict[str, Any]:
    """`incident` as the command line and JSON show it; `extra` is evidence of other devices."""
    lines = [*incident.evidence, *extra]
    return {
        "cause": CAUSE_NAMES[incident.cause],
        "opened_at": iso_utc(incident.opened_ms),
        "since": iso_utc(incident.since_ms),
        "updated_at": iso_utc(incident.updated_ms),
        "closed_at": None if incident.closed_ms is None else iso_utc(incident.closed_ms),
        "state": "open" if incident.open else "closed",
        "sentence": incident.sentence,
        "confidence": incident.confidence,
        "device": device,
        "run": run,
        "incident": incident.incident,
        "evidence": [{"sensor": sensor, "text": text} for sensor, text in lines],
        "segment": incident.segment,
        "segment_hash": incident.segment_hash.hex(),
        "seq": incident.seq,
        "lat_deg": incident.lat_deg,
        "lon_deg": incident.lon_deg,
    }


def _int(body: dict[int, cbor.Value], key: Key) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise FormatError(f"an incident without a usable {key.name.lower()}")
    return value


def _evidence(value: cbor.Value) -> tuple[EvidenceLine, ...]:
    if not isinstance(value, list):
        raise FormatError("evidence is not a list")
    lines = []
    for item in value[:MAX_EVIDENCE_LINES]:
        match item:
            case [str(sensor), str(text)]:
                lines.append((sensor[:MAX_EVIDENCE_CHARS], text[:MAX_EVIDENCE_CHARS]))
            case _:
                raise FormatError("evidence is not a list of [sensor, text]")
    return tuple(lines)


def _degrees(body: dict[int, cbor.Value], signal: Sig, limit: float) -> float | None:
    value = body.get(signal)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(physical(signal, value)) > limit:
        raise FormatError(f"{signal.name.lower()} of an incident is not possible")
    return round(physical(signal, value), COARSE_DECIMALS)
