"""The time line of one vehicle: lanes of its sensors, coarse track, marks, and what is missing of the window.

Read from `track`, one small row a segment; more rows than MAX_POINTS are joined by neighbours, largest and
smallest kept, so that a spike never gets lost by thinning.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from cloud_sync.access import READ_INCIDENTS, Principal
from cloud_sync.collector import month
from cloud_sync.errors import BadRequest, NotFound
from cloud_sync.fleet import GRID_DECIMALS
from cloud_sync.incidents import iso_utc
from cloud_sync.runtime.fleet_rows import MAX_MS, Json, said
from edge.segment import Lost
from models.verdict import CAUSE_NAMES, Cause

MAX_POINTS: Final = 300
"""Points of a lane: a screen has no more columns to draw them in."""
MAX_WINDOW_MS: Final = 7 * 86_400_000
"""A week holds about ten thousand segments; for more ask day by day."""
MAX_MARKS: Final = 200
MAX_MISSING: Final = 50
"""Sentences on what is missing; a record with more holes is read in its months."""
LONGEST_MS: Final = 3_600_000
"""A segment is sealed after 60 s; one that spans more than an hour has a clock that jumped."""
DEGREE_M: Final = 111_320.0
"""Metres in a degree of latitude."""
WHEELS: Final = ("FL", "FR", "RL", "RR")

Row = tuple[int, int, Json]
"""Start, end (milliseconds since 1970), lanes."""


def timeline(db: sqlite3.Connection, principal: Principal, device: str, from_ms: int, to_ms: int) -> Json:
    """What `device` told in [from_ms, to_ms] (Timeline). Raises NotFound, BadRequest for a window that is
    empty or longer than MAX_WINDOW_MS.

    Values of bands: position `moving`, `still`, `known`; case `open`, `closed`; device the power state.
    Marks: `opened` and `closed` (text: `cause.<cause>`), `run_started`, `port` (text: port and condition).
    """
    if not 0 <= from_ms < to_ms <= MAX_MS:
        raise BadRequest("the window must begin before it ends: give `from` and `to` in ISO 8601")
    if to_ms - from_ms > MAX_WINDOW_MS:
        raise BadRequest("the window is longer than 7 days: ask for a part of it")
    visible(db, principal, device)
    who = (principal.tenant, device)
    rows: list[Row] = [
        (start, end, json.loads(lanes))
        for start, end, lanes in db.execute(
            "SELECT start_ms, end_ms, lanes FROM track WHERE tenant=? AND device=? AND start_ms>=?"
            " AND start_ms<=? AND lanes IS NOT NULL AND end_ms>=? ORDER BY start_ms, run, number",
            (*who, from_ms - LONGEST_MS, to_ms, from_ms),
        )
    ]
    size = -(-len(rows) // MAX_POINTS) or 1
    groups = [rows[at : at + size] for at in range(0, len(rows), size)]
    return {
        "from_at": iso_utc(from_ms),
        "to_at": iso_utc(to_ms),
        "lanes": [lane for lane in _lanes(groups) if lane["points"]],
        "track": list(_track(groups)),
        "marks": _marks(db, principal, device, rows, from_ms, to_ms),
        "missing": _missing(db, who, from_ms, to_ms),
    }


def visible(db: sqlite3.Connection, principal: Principal, device: str) -> None:
    """Raise NotFound unless there is such a vehicle and `principal` may see it."""
    row = db.execute(
        "SELECT c.branch FROM vehicles v LEFT JOIN cards c ON c.tenant=v.tenant AND c.device=v.device"
        " WHERE v.tenant=? AND v.device=?",
        (principal.tenant, device),
    ).fetchone()
    if row is None or not principal.sees(row[0]):
        raise NotFound("there is no such vehicle: the list of vehicles has those that you may see")


Group = Sequence[Row]
Make = Callable[[Group], tuple[Any, str] | None]


def _lanes(groups: Sequence[Group]) -> Iterator[Json]:
    makers: tuple[tuple[str, str, Make], ...] = (
        ("position", "", _position),
        ("speed", "km/h", lambda group: _number(group, "s", max)),
        ("tyres", "kPa", _tyres),
        ("vibration", "m/s^2", _vibration),
        ("tilt", "deg", lambda group: _number(group, "t", max)),
        ("supply", "V", lambda group: _number(group, "u", min)),
        ("case", "", _case),
        ("radio", "satellites", _radio),
        ("device", "", _device),
    )
    for lane, unit, make in makers:
        points = []
        for group in groups:
            made = make(group)
            if made is not None:
                points.append({"at": iso_utc(group[0][0]), "value": made[0], "text": made[1]})
        yield {"lane": lane, "unit": unit, "points": points}


def _all(group: Group, name: str) -> list[Any]:
    return [lanes[name] for _, _, lanes in group if name in lanes]


def _number(group: Group, name: str, choose: Callable[[list[float]], float]) -> tuple[float, str] | None:
    values = _all(group, name)
    return (choose(values), "") if values else None


def _position(group: Group) -> tuple[str | None, str] | None:
    if not _all(group, "p"):
        lost = _all(group, "n")
        return (None, lost[-1]) if lost else None
    speeds = _all(group, "s")
    if not speeds:
        return "known", ""
    return ("moving" if max(speeds) >= 4.0 else "still"), ""


def _tyres(group: Group) -> tuple[float, str] | None:
    """The least pressure, and in words each wheel's range."""
    found: list[list[float]] = [[], [], [], []]
    for wheels in _all(group, "y"):
        for values, seen in zip(found, wheels, strict=True):
            values.extend(seen or ())
    told = [(name, min(v), max(v)) for name, v in zip(WHEELS, found, strict=True) if v]
    if not told:
        return None
    text = ", ".join(
        f"{name} {low:.0f}" if low == high else f"{name} {low:.0f}-{high:.0f}" for name, low, high in told
    )
    return min(low for _, low, _ in told), text


def _vibration(group: Group) -> tuple[float, str] | None:
    values = _all(group, "v")
    if not values:
        return None
    return max(rms for rms, _ in values), f"max {max(peak for _, peak in values):.2f}"


def _case(group: Group) -> tuple[str, str] | None:
    values = _all(group, "c")
    return ("open" if max(values) else "closed", "") if values else None


def _radio(group: Group) -> tuple[int | None, str] | None:
    seen = [satellites for satellites, _ in _all(group, "r") if satellites is not None]
    lost = _all(group, "n")
    if lost and not seen:
        return None, lost[-1]
    return (min(seen), lost[-1] if lost else "") if seen else None


def _device(group: Group) -> tuple[str, str] | None:
    states = _all(group, "w")
    return (states[-1], "") if states else None


def _track(groups: Sequence[Group]) -> Iterator[Json]:
    for group in groups:
        for lat, lon, at_ms, *more in _all(group, "p")[-1:]:
            unc_ms, source, accuracy_m = more or (None, "clock", None)  # a store of an older version
            at = {"at": iso_utc(at_ms), "unc_ms": unc_ms, "source": source}
            unc_m = None if accuracy_m is None else round(accuracy_m + _grid_m(lat))
            yield {"lat": lat, "lon": lon, "name": None, "distance_m": None, "at": at, "unc_m": unc_m}


def _grid_m(lat: float) -> float:
    """How far a position that was put on the grid may have moved at most (metres)."""
    half = 10.0**-GRID_DECIMALS / 2
    return DEGREE_M * math.hypot(half, half * math.cos(math.radians(lat)))


def _marks(
    db: sqlite3.Connection, principal: Principal, device: str, rows: Sequence[Row], from_ms: int, to_ms: int
) -> list[Json]:
    marks: list[tuple[int, str, str]] = [
        (at_ms, value, text)
        for _, _, lanes in rows
        for at_ms, value, text in lanes.get("m", ())
        if from_ms <= at_ms <= to_ms
    ]
    if principal.may(READ_INCIDENTS):
        for cause, opened_ms, closed_ms in db.execute(
            "SELECT cause, opened_ms, closed_ms FROM incidents WHERE tenant=? AND device=?"
            " AND opened_ms<=? AND coalesce(closed_ms, opened_ms)>=?",
            (principal.tenant, device, to_ms, from_ms),
        ):
            text = f"cause.{CAUSE_NAMES[Cause(cause)]}"
            for at_ms, value in ((opened_ms, "opened"), (closed_ms, "closed")):
                if at_ms is not None and from_ms <= at_ms <= to_ms:
                    marks.append((at_ms, value, text))
    if len(marks) > MAX_MARKS:  # what people look for first stays
        marks.sort(key=lambda mark: mark[1] not in ("opened", "closed"))
    return [
        {"at": iso_utc(at_ms), "value": value, "text": text}
        for at_ms, value, text in sorted(marks[:MAX_MARKS])
    ]


def _missing(db: sqlite3.Connection, who: tuple[str, str], from_ms: int, to_ms: int) -> list[Json]:
    out: list[Json] = []
    gaps = db.execute(
        "SELECT last - first + 1, (SELECT max(end_ms) FROM track t WHERE t.tenant=g.tenant"
        " AND t.device=g.device AND t.run=g.run AND t.number=g.first-1),"
        " (SELECT min(start_ms) FROM track t WHERE t.tenant=g.tenant AND t.device=g.device AND t.run=g.run"
        " AND t.number=g.last+1) FROM record_gaps g WHERE tenant=? AND device=?"
        " AND month<=? AND coalesce(month_after, month)>=?",
        (*who, month(to_ms), month(from_ms)),
    )
    for n, after, before in gaps:
        if (after is None or after <= to_ms) and (before is None or before >= from_ms):
            out.append(said("record.window_missing", n=n, **_span(after, before)))
    for count, at_ms, reason in db.execute(
        "SELECT count, at_ms, reason FROM tombs WHERE tenant=? AND device=? AND at_ms>=? AND at_ms<=?"
        " ORDER BY at_ms",
        (*who, from_ms, to_ms + LONGEST_MS),
    ):
        when = None if reason == Lost.THINNED else at_ms
        out.append(said("record.window_dropped", n=count, **_span(None, when)))
    for name, n in db.execute(
        "SELECT month, erased FROM record_months WHERE tenant=? AND device=? AND month>=? AND month<=?"
        " AND erased>0",
        (*who, month(from_ms), month(to_ms)),
    ):
        out.append(said("record.window_erased", n=n, month=name))
    return out[:MAX_MISSING]


def _span(start: int | None, end: int | None) -> dict[str, str | int | float | None]:
    return {
        "from": None if start is None else iso_utc(start),
        "to": None if end is None else iso_utc(end),
    }
