"""One incident as the API tells it (IncidentRow): the columns, the joins, the coarse place. Read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from cloud_sync import casework
from cloud_sync.access import READ_TITLES, Principal
from cloud_sync.casework import Ref, State, Verb
from cloud_sync.errors import NotFound
from cloud_sync.incidents import iso_utc
from cloud_sync.places import Near
from cloud_sync.runtime import cases
from cloud_sync.translate import to_chinese
from firmware_bridge.wire.stamp import ClockKind
from models.verdict import CAUSE_NAMES, Cause

Json = dict[str, Any]
Nearest = Callable[[float, float], Near | None]
"""`Places.nearest` of the operator's own list."""

GRID_DECIMALS: Final = 2
"""Decimals of a coarse position: 0.01 degrees, about a kilometre."""
CLOCKS: Final = {kind: kind.name.lower() for kind in ClockKind}

COLUMNS: Final = (
    "k.device, k.run, k.incident, c.name, c.branch, i.cause, k.state, i.open, k.severity, i.confidence,"
    " i.sentence, i.opened_ms, i.unc_ms, i.source, k.updated_ms, i.closed_ms, k.assignee, k.version,"
    " s.clock, i.lat, i.lon"
)
FROM: Final = (
    " FROM cases k JOIN incidents i ON i.tenant = k.tenant AND i.device = k.device AND i.run = k.run"
    " AND i.incident = k.incident LEFT JOIN cards c ON c.tenant = k.tenant AND c.device = k.device"
    " LEFT JOIN segments s ON s.hash = i.segment_hash"
)


def row(
    db: sqlite3.Connection,
    tenant: str,
    incident_id: str,
    *,
    principal: Principal | None = None,
    near: Nearest | None = None,
) -> Json:
    """One incident (IncidentRow). Raises NotFound.

    Without a `principal` for the server itself: then its branch is to be checked by whoever passes it on.
    """
    ref = casework.parse_id(incident_id)
    found = db.execute(
        f"SELECT {COLUMNS}{FROM} WHERE k.tenant = ? AND k.device = ? AND k.run = ? AND k.incident = ?",
        (tenant, ref.device, ref.run, ref.incident),
    ).fetchone()
    if found is None or (principal is not None and not principal.sees(found[4])):
        raise NotFound(cases.NO_SUCH)
    return told(db, tenant, found, principal, near)


def placed(db: sqlite3.Connection, tenant: str, ref: Ref) -> tuple[float, float, Json, int] | None:
    """Latitude, longitude, Moment and time (ms) of the newest position that an incident tells."""
    found = db.execute(
        "SELECT lat, lon, wall_ms, unc_ms, source FROM incident_changes WHERE tenant = ? AND device = ?"
        " AND run = ? AND incident = ? AND lat IS NOT NULL AND lon IS NOT NULL ORDER BY seq DESC LIMIT 1",
        (tenant, ref.device, ref.run, ref.incident),
    ).fetchone()
    if found is None:
        return None
    lat, lon, wall_ms, unc_ms, source = found
    return lat, lon, moment(wall_ms, unc_ms, source), wall_ms


def moment(wall_ms: int, unc_ms: int | None, source: str) -> Json:
    """A Moment."""
    return {"at": iso_utc(wall_ms), "unc_ms": unc_ms, "source": source}


def told(
    db: sqlite3.Connection,
    tenant: str,
    found: Sequence[Any],
    principal: Principal | None,
    near: Nearest | None,
) -> Json:
    (
        device, run, number, name, branch, cause, state, is_open, severity, confidence, sentence, opened_ms,
        unc_ms, source, updated_ms, closed_ms, assignee, version, clock, lat, lon,
    ) = found  # fmt: skip
    ref = Ref(device, run, number)
    place = None if lat is None or lon is None else _coarse(db, tenant, ref, near)
    newest = _newest(db, tenant, device, near) if place is None else None
    titled = principal is None or principal.may(READ_TITLES)
    return {
        "id": str(ref), "device": device, "name": name or device, "branch": branch,
        "cause": CAUSE_NAMES[Cause(cause)], "state": state, "device_open": bool(is_open),
        "severity": severity, "confidence": confidence, "sentence": sentence,
        "sentence_zh": to_chinese(sentence), "opened": moment(opened_ms, unc_ms, source),
        "updated_at": iso_utc(updated_ms), "closed_at": _ended(db, tenant, ref, state, closed_ms, updated_ms),
        "assignee": assignee, "version": version, "clock": CLOCKS[ClockKind(clock or 0)],
        "place": place or newest, "place_of": "incident" if place else "vehicle" if newest else None,
        "title_state": cases.title_of(db, tenant, device)[1] if titled else None,
    }  # fmt: skip


def _ended(
    db: sqlite3.Connection, tenant: str, ref: Ref, state: str, closed_ms: int | None, updated_ms: int
) -> str | None:
    """When the case was closed, by a person or else by the device; None where it is not."""
    if state != State.CLOSED:
        return None
    by = [a for a in cases.acts(db, tenant, ref.device, ref.run, ref.incident) if a.action is Verb.CLOSE]
    return iso_utc(by[-1].wall_ms if by else updated_ms if closed_ms is None else closed_ms)


def _coarse(db: sqlite3.Connection, tenant: str, ref: Ref, near: Nearest | None) -> Json | None:
    at = placed(db, tenant, ref)
    if at is None:
        return None
    return _named(at[0], at[1], at[2], near)


def _newest(db: sqlite3.Connection, tenant: str, device: str, near: Nearest | None) -> Json | None:
    """The newest place of the vehicle, for an incident that came without one."""
    found = db.execute(
        "SELECT lat, lon, place_ms, place_unc, place_source FROM vehicles WHERE tenant = ? AND device = ?"
        " AND lat IS NOT NULL AND place_ms IS NOT NULL",
        (tenant, device),
    ).fetchone()
    return None if found is None else _named(found[0], found[1], moment(*found[2:]), near)


def _named(exact_lat: float, exact_lon: float, at: Json, near: Nearest | None) -> Json:
    lat, lon = round(exact_lat, GRID_DECIMALS), round(exact_lon, GRID_DECIMALS)
    named = None if near is None else near(lat, lon)
    return {
        "lat": lat, "lon": lon, "name": None if named is None else named.name,
        "distance_m": None if named is None else named.distance_m, "at": at,
    }  # fmt: skip
