"""What a verified segment says about its vehicle: newest state, and one thinned row for the time line. Pure.

Alarms overtake backlog, so segments arrive in any order. Within a run the event's number decides what is
newer, never a clock; so `merge` of what two segments say is the same whichever came first. Time is believed
only as far as `incidents.of_stamp` does: a date that has not yet come is no date.

A position is rounded to GRID_DEG here, whatever the device sent.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from cloud_sync.incidents import FUTURE_MS, MAX_NUMBER, NS_IN_MS, of_stamp
from edge.event import Body, Event, Key, Kind
from edge.segment import Segment
from firmware_bridge.reading import PowerState
from firmware_bridge.wire.signals import Sig

GRID_DECIMALS: Final = 2
"""Positions outside an audited reading: 0.01 degrees, about a kilometre."""
MOVING_KMH: Final = 4.0
"""A receiver at rest shows up to about 2 km/h; a walker pushes a car at 4."""
MAX_TEXT_CHARS: Final = 80
"""Of a device's text in a mark or a software name; a time line has no room for more."""
MAX_MARKS: Final = 8
"""Marks kept of one segment; a port that flaps fifty times a minute says the same as eight times."""
MAX_SENSOR: Final = 1_000_000
"""Largest wire integer of a sensor that is shown: ten times what any of them can mean."""
DEPTHS: Final = 3
"""Outbox depths remembered of a run: enough to see three heartbeats grow."""

POWER_NAMES: Final = {state.value: state.name.lower() for state in PowerState}

Item = list[Any]
"""JSON-ready: number of the event, number of its segment, then what it says."""
Latest = dict[str, Item]
"""The newest of each of EVENT, BEAT, POWER, PLACE, and DEPTH: up to three items, newest first."""

EVENT: Final = "event"
"""[seq, segment, at_ms, unc_ms, source]"""
BEAT: Final = "beat"
"""[seq, segment, at_ms, next_s, loss_window_ms, software, stopped]"""
POWER: Final = "power"
"""[seq, segment, at_ms, state, supply_v, next_s]"""
PLACE: Final = "place"
"""[seq, segment, at_ms, unc_ms, source, lat, lon, moving, accuracy of the fix in metres or None]"""
DEPTH: Final = "depth"
"""[[seq, segment, segments, bytes], ...]"""
ITEMS: Final = (EVENT, BEAT, POWER, PLACE, DEPTH)


@dataclass(frozen=True, slots=True)
class Told:
    """What one segment says."""

    latest: Latest
    start_ms: int
    end_ms: int
    wall_ms: int | None
    """Newest wall time that the device itself knew; None where it knew none."""
    events: int
    lanes: str
    """Compact JSON, `_lanes`."""
    whole: bool = True
    """Nothing was left out and every wall time is believed: it begins and ends when it says it does."""


def told(segment: Segment, received_ms: int) -> Told:
    """What `segment`, which arrived at `received_ms` (milliseconds since 1970), says about its vehicle.

    Events whose body is not what their kind promises say less; none of them raises. Event numbers beyond
    MAX_NUMBER are left out.
    """
    events = segment.events
    if events and max(map(_SEQ, events)) > MAX_NUMBER:
        events = tuple(event for event in events if event.seq <= MAX_NUMBER)
    kinds: defaultdict[Kind, list[Event]] = defaultdict(list)
    for event in events:
        kinds[event.kind].append(event)
    walls = [wall_ns for event in events if (wall_ns := event.stamp.wall_ns) is not None]
    newest = max(events, key=_SEQ, default=None)
    believed = _believed(walls, received_ms)
    at = _Times(segment.number, received_ms)
    latest: Latest = {}
    if newest is not None:
        latest[EVENT] = [*at.of(newest)]
    for event in (*kinds.get(Kind.HEARTBEAT, ()), *kinds.get(Kind.RUN_START, ())):
        _beat(latest, event, at)
    for event in kinds.get(Kind.POWER, ()):
        _power(latest, event, at)
    _place(latest, kinds, at)
    start, end = believed or (received_ms, received_ms)
    whole = len(events) == len(segment.events) and (not walls or believed == _span(walls))
    lanes = to_json(_lanes(kinds, latest, at))
    return Told(latest, start, end, believed and believed[1], len(events), lanes, whole)


_SEQ: Final = attrgetter("seq")


class _Times:
    """Head of an item: number of the event, of its segment, and the time as far as it can be believed."""

    __slots__ = ("_number", "_received_ms")

    def __init__(self, number: int, received_ms: int) -> None:
        self._number = number
        self._received_ms = received_ms

    def of(self, event: Event) -> tuple[int, int, int, int | None, str]:
        """(seq, segment, at_ms, unc_ms, source)"""
        return event.seq, self._number, *of_stamp(event.stamp, self._received_ms)


def _believed(walls_ns: list[int], received_ms: int) -> tuple[int, int] | None:
    """The first and the last of these times that can be believed (milliseconds), None where none can."""
    if not walls_ns:
        return None
    low, high = _span(walls_ns)
    if low >= 0 and high <= received_ms + FUTURE_MS:
        return low, high
    known = [ms for wall in walls_ns if 0 <= (ms := wall // NS_IN_MS) <= received_ms + FUTURE_MS]
    return (min(known), max(known)) if known else None


def _span(walls_ns: list[int]) -> tuple[int, int]:
    return min(walls_ns) // NS_IN_MS, max(walls_ns) // NS_IN_MS


def _beat(latest: Latest, event: Event, at: _Times) -> None:
    body = event.body
    stopped = int(event.kind is Kind.HEARTBEAT and Key.NEXT_HEARTBEAT_S not in body)
    seq, number, at_ms, _, _ = at.of(event)
    said = (amount(body, Key.NEXT_HEARTBEAT_S), amount(body, Key.LOSS_WINDOW_MS), text(body, Key.SOFTWARE))
    _newest(latest, BEAT, [seq, number, at_ms, *said, stopped])
    depth = amount(body, Key.OUTBOX_SEGMENTS)
    if depth is not None:
        new: Item = [[seq, number, depth, amount(body, Key.OUTBOX_BYTES) or 0]]
        latest[DEPTH] = merge(latest, {DEPTH: new})[DEPTH]


def _power(latest: Latest, event: Event, at: _Times) -> None:
    seq, number, at_ms, _, _ = at.of(event)
    volts = least([event.body], Sig.SUPPLY_VOLTAGE, 0.01)
    promise = amount(event.body, Key.NEXT_HEARTBEAT_S)
    _newest(latest, POWER, [seq, number, at_ms, power_name(event.body), volts, promise])


def _place(latest: Latest, kinds: Mapping[Kind, list[Event]], at: _Times) -> None:
    for kind in _PLACED:
        for event in reversed(kinds.get(kind, ())):
            where = place(event.body)
            if where is not None:
                speed = most([event.body], Sig.SPEED, 0.1)
                moving = None if speed is None else int(speed >= MOVING_KMH)
                accuracy = most([event.body], Sig.HORIZONTAL_ACCURACY, 0.1)
                _newest(latest, PLACE, [*at.of(event), *where, moving, accuracy])
                break


_PLACED: Final = (Kind.POSITION, Kind.INCIDENT, Kind.SIGHTING)
_WHEELS: Final = (
    Sig.TYRE_PRESSURE_FL, Sig.TYRE_PRESSURE_FR, Sig.TYRE_PRESSURE_RL, Sig.TYRE_PRESSURE_RR,
)  # fmt: skip
_RMS: Final = (Sig.VIBRATION_RMS_X, Sig.VIBRATION_RMS_Y, Sig.VIBRATION_RMS_Z)


def _lanes(kinds: Mapping[Kind, list[Event]], latest: Latest, at: _Times) -> dict[str, Any]:
    """One segment for the time line: any of

    p [lat, lon, at_ms, unc_ms, source, accuracy of the fix (m) or None], s largest speed (km/h),
    y [[min, max] (kPa) or None for FL, FR, RL, RR],
    v [largest rms, largest peak] (m/s^2), t largest tilt (degrees), u least supply (V), c case open (0, 1),
    r [fewest satellites or None, fix type or None], n why there is no position, w power state,
    m [[at_ms, code, text], ...].
    """
    out: dict[str, Any] = {}
    if PLACE in latest:
        item = latest[PLACE]
        out["p"] = [item[5], item[6], *item[2:5], item[8]]
    if fixes := _bodies(kinds, Kind.POSITION):
        _put(out, "s", most(fixes, Sig.SPEED, 0.1))
        out["r"] = [least(fixes, Sig.SATELLITES), most(fixes[-1:], Sig.FIX_TYPE)]
    if tyres := _bodies(kinds, Kind.TYRES):
        out["y"] = [extent(tyres, wheel) for wheel in _WHEELS]
    if shaken := _bodies(kinds, Kind.VIBRATION):
        out["v"] = [_rms(shaken), most(shaken, Sig.VIBRATION_PEAK, 0.001) or 0.0]
        _put(out, "t", most(shaken, Sig.TILT, 0.1))
    if powers := _bodies(kinds, Kind.POWER):
        _put(out, "u", least(powers, Sig.SUPPLY_VOLTAGE, 0.01))
        out["c"] = int(any(body.get(Sig.CASE_OPEN) == 1 for body in powers))
        out["w"] = power_name(powers[-1])
    if lost := kinds.get(Kind.NO_POSITION):
        out["n"] = text(lost[-1].body, Key.TEXT) or "void"
    marks = [[at.of(event)[2], "run_started", ""] for event in kinds.get(Kind.RUN_START, ())]
    marks += [
        [
            at.of(event)[2],
            "port",
            f"{text(event.body, Key.PORT) or '?'}: {text(event.body, Key.CONDITION) or '?'}",
        ]
        for event in kinds.get(Kind.PORT, ())[:MAX_MARKS]
    ]
    if marks:
        out["m"] = marks[:MAX_MARKS]
    return out


def _bodies(kinds: Mapping[Kind, list[Event]], kind: Kind) -> list[Body]:
    return [event.body for event in kinds.get(kind, ())]


def _put(out: dict[str, Any], name: str, value: float | None) -> None:
    if value is not None:
        out[name] = value


def _rms(bodies: list[Body]) -> float:
    """Largest length of the three axes (m/s^2)."""
    square = 0
    for body in bodies:
        axes = [body.get(sig) for sig in _RMS]
        square = max(square, sum(a * a for a in axes if type(a) is int and -MAX_SENSOR <= a <= MAX_SENSOR))
    return round(math.sqrt(square) * 0.001, 3)


to_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode
"""Compact JSON, the same for the same content."""


def merge(one: Mapping[str, Item], other: Mapping[str, Item]) -> Latest:
    """The newest of both, item by item, by number of the event: the same in either order."""
    out: Latest = dict(one)
    for name, item in other.items():
        if name == DEPTH:
            both = {tuple(depth) for depth in (*out.get(DEPTH, ()), *item)}
            out[DEPTH] = [list(depth) for depth in sorted(both, reverse=True)[:DEPTHS]]
        else:
            _newest(out, name, item)
    return out


def without(latest: Mapping[str, Item], segments: frozenset[int]) -> Latest:
    """`latest` without what the segments with these numbers said: they were erased."""
    out: Latest = {}
    for name, item in latest.items():
        if name == DEPTH:
            left = [depth for depth in item if depth[1] not in segments]
            if left:
                out[name] = left
        elif item[1] not in segments:
            out[name] = item
    return out


def due_ms(latest: Mapping[str, Item]) -> int | None:
    """When the vehicle has promised to be heard again (milliseconds since 1970), without any grace.

    `latest` is of one run: what an earlier run promised ended with it.

    The later of what the newest heartbeat and the newest power event promise: a board that says "parked,
    next report in six hours" is asleep by announcement, whatever the last heartbeat before it said. None
    after an orderly end, which promises nothing.
    """
    beat, power = latest.get(BEAT), latest.get(POWER)
    if beat is not None and beat[6] and (power is None or power[0] < beat[0]):
        return None
    times = [
        item[2] + 1000 * item[at] for item, at in ((beat, 3), (power, 5)) if item and item[at] is not None
    ]
    return max(times, default=None)


def growing(latest: Mapping[str, Item], least: int) -> bool:
    """The outbox was fuller at each of the last DEPTHS heartbeats, and holds at least `least` segments."""
    depths = [depth[2] for depth in latest.get(DEPTH, ())]
    return len(depths) == DEPTHS and depths[0] >= least and depths[0] > depths[1] > depths[2]


def place(body: Body) -> tuple[float, float] | None:
    """Latitude and longitude of `body` on the grid (degrees), None where they are missing or impossible."""
    lat, lon = body.get(Sig.LATITUDE), body.get(Sig.LONGITUDE)
    if type(lat) is not int or type(lon) is not int or abs(lat) > 900_000 or abs(lon) > 1_800_000:
        return None
    return round(lat * 1e-4, GRID_DECIMALS), round(lon * 1e-4, GRID_DECIMALS)


def extent(bodies: Iterable[Body], signal: int, scale: float = 1) -> tuple[float, float] | None:
    """The least and the largest physical value of `signal`; None where none is a number a sensor can mean."""
    number = int(signal)  # a plain key is found twice as fast as an enumeration's
    values = [body[number] for body in bodies if number in body]
    if not values:
        return None
    known = [value for value in values if type(value) is int]
    low, high = min(known, default=0), max(known, default=0)
    if low < -MAX_SENSOR or high > MAX_SENSOR:
        known = [value for value in known if -MAX_SENSOR <= value <= MAX_SENSOR]
        low, high = min(known, default=0), max(known, default=0)
    if not known:
        return None
    return (low, high) if scale == 1 else (round(low * scale, 3), round(high * scale, 3))


def least(bodies: Iterable[Body], signal: int, scale: float = 1) -> float | None:
    """The first of `extent`."""
    found = extent(bodies, signal, scale)
    return None if found is None else found[0]


def most(bodies: Iterable[Body], signal: int, scale: float = 1) -> float | None:
    """The second of `extent`."""
    found = extent(bodies, signal, scale)
    return None if found is None else found[1]


def amount(body: Body, key: Key) -> int | None:
    """A count or a duration of `body`: 0 .. MAX_NUMBER, else None."""
    value = body.get(key)
    return value if type(value) is int and 0 <= value <= MAX_NUMBER else None


def text(body: Body, key: Key) -> str | None:
    """A device's text, printable and cut to MAX_TEXT_CHARS."""
    value = body.get(key)
    if not isinstance(value, str):
        return None
    return "".join(char if char.isprintable() else " " for char in value[:MAX_TEXT_CHARS])


def power_name(body: Body) -> str:
    """driving, parked_watch, low_battery; unknown for anything else."""
    state = body.get(Sig.POWER_STATE)
    return POWER_NAMES.get(state, "unknown") if type(state) is int else "unknown"


def _newest(latest: Latest, name: str, item: Item) -> None:
    known = latest.get(name)
    if known is None or (item[0], item[1]) > (known[0], known[1]):
        latest[name] = item
