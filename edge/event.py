"""One event: one fact, as a deterministic CBOR map with integer keys (`segment.cddl` is its grammar).

    {0: seq, 1: kind, 2: [mono_ns, wall_ms / nil, source, uncertainty_ms], 3: body}

`seq` counts from 0 within a run without gaps. `body` is a map: telemetry holds signals of
`firmware_bridge.wire.signals` under their numbers; the other kinds use the keys of `Key`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final, cast

from edge.errors import FormatError
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor
from firmware_bridge.wire.stamp import Stamp, TimeSource

MAX_EVENT_BYTES: Final = 4096
"""One event; a larger body is a mistake (the largest real one, an incident, has about 1 kB)."""
_MS: Final = 1_000_000


@unique
class Kind(IntEnum):
    """What an event says. Numbers are never reused."""

    RUN_START = 1
    HEARTBEAT = 2
    POSITION = 3
    TYRES = 4
    VIBRATION = 5
    POWER = 6
    INCIDENT = 7
    FACT = 8
    """Handed in over facts.sock by another process of this node."""
    REFUSED = 9
    """Counts of what was refused and quarantined since the last one, by reason."""
    RELAY = 10
    SIGHTING = 11
    """A roadside node heard a tyre sensor."""
    PORT = 12
    """The condition of a port changed."""
    NO_POSITION = 13
    """The receiver lost its fix; once when it begins."""


@unique
class Key(IntEnum):
    """Keys of bodies that are not signals; 100 and up, so that they never meet a signal number."""

    INCIDENT = 100
    CAUSE = 101
    ACTION = 102
    CONFIDENCE_PERMILLE = 103
    SENTENCE = 104
    EVIDENCE = 105
    """[* [sensor, text]]"""
    SINCE = 106
    """Stamp of the first observation, as in key 2 of the event."""
    COUNTS = 107
    """[* [name, count]], sorted by name."""
    SOFTWARE = 108
    LOSS_WINDOW_MS = 109
    NEXT_HEARTBEAT_S = 110
    OUTBOX_BYTES = 111
    OUTBOX_SEGMENTS = 112
    PORT = 113
    CONDITION = 114
    TEXT = 115
    SENSOR_ID = 116
    DEV_EUI = 117
    F_CNT = 118
    F_PORT = 119
    PAYLOAD = 120
    RSSI_DBM = 121
    SNR_TENTH_DB = 122
    SOURCE = 123
    """Which process handed in a fact."""
    CONFIG_HASH = 124


Body = dict[int, cbor.Value]


@dataclass(frozen=True, slots=True)
class Event:
    """One fact with its place in the run."""

    seq: int
    kind: Kind
    stamp: Stamp
    body: Body


def stamp_value(stamp: Stamp) -> list[cbor.Value]:
    """A stamp as it stands in events."""
    wall_ms = None if stamp.wall_ns is None else stamp.wall_ns // _MS
    return [stamp.mono_ns, wall_ms, int(stamp.source), stamp.uncertainty_ms]


def parse_stamp(value: cbor.Value) -> Stamp:
    """The stamp of `stamp_value`. Raises FormatError."""
    match value:
        case [int() as mono, (int() | None) as wall_ms, int() as source, int() as uncertainty]:
            if mono >= 0 and uncertainty >= 0 and source in TimeSource._value2member_map_:
                wall_ns = None if wall_ms is None else wall_ms * _MS
                return Stamp(mono, wall_ns, TimeSource(source), uncertainty)
    raise FormatError(f"not a stamp: {value!r:.80}")


def to_value(event: Event) -> cbor.Value:
    """`event` as the map that is encoded."""
    return {0: event.seq, 1: int(event.kind), 2: stamp_value(event.stamp), 3: event.body}


def encode(event: Event) -> bytes:
    """`event` as deterministic CBOR. Raises FormatError when it is larger than MAX_EVENT_BYTES."""
    data = cbor.encode(to_value(event))
    if len(data) > MAX_EVENT_BYTES:
        raise FormatError(f"event of {len(data)} bytes, at most {MAX_EVENT_BYTES}")
    return data


def from_value(value: cbor.Value) -> Event:
    """The event of a decoded map. Raises FormatError for anything that `segment.cddl` does not allow."""
    if not isinstance(value, dict) or len(value) != 4:
        raise FormatError("not an event map of four entries")
    match value:
        case {0: int() as seq, 1: int() as kind, 2: stamp, 3: dict() as body}:
            if seq < 0 or kind not in Kind._value2member_map_:
                raise FormatError(f"event {seq} of unknown kind {kind}")
            return Event(seq, Kind(kind), parse_stamp(stamp), cast(Body, body))
    raise FormatError("not an event map")


def decode(data: bytes) -> Event:
    """The event of `data`. Raises FormatError."""
    try:
        return from_value(cbor.decode(data, max_bytes=MAX_EVENT_BYTES))
    except WireError as error:
        raise FormatError(str(error)) from error
