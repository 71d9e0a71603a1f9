"""The story of one incident, gathered from the collector's store for `cloud_sync.story`. Read-only."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from cloud_sync import casework
from cloud_sync import story as stories
from cloud_sync.access import READ_EXACT, READ_TITLES, WRITE_INCIDENTS, Principal
from cloud_sync.casework import DEVICE, Case, Ref, Verb
from cloud_sync.incidents import iso_utc
from cloud_sync.ledger.contract import LOCKED_STATES
from cloud_sync.projection import belongs, sighting_line
from cloud_sync.runtime import case_rows, cases
from cloud_sync.runtime.case_rows import Json, Nearest
from cloud_sync.story import Facts, Seen, Verdict
from cloud_sync.translate import to_chinese
from models.verdict import Cause

NOTES_HIDDEN: Final = "partner"
"""Role that reads the steps of a case without the words of the people who took them."""
TYRES_BEFORE_MS: Final = 24 * 3_600_000
"""How long before an incident the last tyre data is looked for."""

_INCIDENT: Final = (
    "SELECT i.cause, i.confidence, i.evidence, i.open, i.opened_ms, i.since_ms, i.unc_ms, i.source,"
    " i.closed_ms, i.segment_hash, s.log_index FROM incidents i"
    " LEFT JOIN segments s ON s.hash = i.segment_hash"
    " WHERE i.tenant = ? AND i.device = ? AND i.run = ? AND i.incident = ?"
)
_VEHICLE: Final = (
    "SELECT heard_ms, due_ms, event_ms, missing, erased, lat, lon, place_ms FROM vehicles"
    " WHERE tenant = ? AND device = ?"
)


def story_of(
    db: sqlite3.Connection,
    principal: Principal,
    incident_id: str,
    now_ms: int,
    *,
    near: Nearest | None = None,
) -> Json:
    """One incident as an operator reads it (Story). Raises NotFound, also for those of others."""
    row = case_rows.row(db, principal.tenant, incident_id, principal=principal, near=near)
    ref = casework.parse_id(incident_id)
    tenant = principal.tenant
    found = db.execute(_INCIDENT, (tenant, ref.device, ref.run, ref.incident)).fetchone()
    cause, confidence, evidence, is_open, opened_ms, since_ms, unc_ms, source, closed_ms, segment, index = (
        found
    )
    lines = [(str(sensor), str(text)) for sensor, text in json.loads(evidence)]
    told = cases.acts(db, tenant, ref.device, ref.run, ref.incident)
    case = casework.fold(told, device_closed=not is_open)
    may = casework.allowed(case) if principal.may(WRITE_INCIDENTS) else ()
    seen = _sightings(db, tenant, ref.device, since_ms, closed_ms)
    token, title_state = (None, None)
    if principal.may(READ_TITLES):
        token, title_state = cases.title_of(db, tenant, ref.device)
    facts = Facts(
        now_ms=now_ms, device=ref.device, cause=Cause(cause), confidence=confidence,
        sensors=len({sensor for sensor, _ in lines}), began_ms=opened_ms, unc_ms=unc_ms, source=source,
        ended_ms=closed_ms, log_index=index, state=case.state, assignee=case.assignee,
        verdict=_verdict(case, told), clock=row["clock"], title_state=title_state,
        pledged=title_state in LOCKED_STATES, sightings=tuple(one for one, _ in seen), may=may,
        exact=principal.may(READ_EXACT),
        **_vehicle(db, tenant, ref, near), **_tyres(db, tenant, ref.device, since_ms),
    )  # fmt: skip
    out = stories.tell(facts)
    evidence_lines = [*lines, *(sighting_line(one.node, one.sensors, iso_utc(at)) for one, at in seen)]
    return {
        "incident": row,
        "evidence": [{"sensor": s, "text": t, "text_zh": to_chinese(t)} for s, t in evidence_lines],
        "known": _said(out.known),
        "unknown": _said(out.unknown),
        "next": _said(out.next),
        "may": [str(verb) for verb in may],
        "acts": _acts(db, principal, ref, told, opened_ms, closed_ms, index),
        "segment": segment.hex(),
        "log_index": index,
        "title": token,
        "exact_place": case_rows.placed(db, tenant, ref) is not None,
        "now": iso_utc(now_ms),
    }


def _said(items: tuple[stories.Said, ...]) -> list[Json]:
    return [{"code": code, "params": params} for code, params in items]


def _verdict(case: Case, told: tuple[casework.Act, ...]) -> Verdict | None:
    if case.verdict is None:
        return None
    last = [act for act in told if act.action in (Verb.CONFIRM, Verb.REFUTE)][-1]
    return Verdict(case.verdict, last.author, last.wall_ms)


def _vehicle(db: sqlite3.Connection, tenant: str, ref: Ref, near: Nearest | None) -> dict[str, Any]:
    """What the newest state of the vehicle and the incident's own position give to Facts."""
    row = db.execute(_VEHICLE, (tenant, ref.device)).fetchone()
    if row is None:
        row = (None, None, None, 0, 0, None, None, None)
    heard_ms, due_ms, event_ms, missing, erased, lat, lon, place_ms = row
    own = case_rows.placed(db, tenant, ref)
    newest: tuple[int, float, float] | None = None if own is None else (own[3], own[0], own[1])
    if lat is not None and place_ms is not None and (newest is None or place_ms > newest[0]):
        newest = (place_ms, lat, lon)
    named = None
    if newest is not None and near is not None:
        named = near(round(newest[1], case_rows.GRID_DECIMALS), round(newest[2], case_rows.GRID_DECIMALS))
    return {
        "placed": newest is not None, "place_ms": None if newest is None else newest[0],
        "place": None if named is None else named.name,
        "distance_m": None if named is None else named.distance_m, "heard_ms": heard_ms, "due_ms": due_ms,
        "missing": missing, "erased": erased, "complete_ms": event_ms,
    }  # fmt: skip


def _tyres(db: sqlite3.Connection, tenant: str, device: str, since_ms: int) -> dict[str, Any]:
    """How many tyre sensors are enrolled; when one was heard last, from a day before the incident on."""
    count = db.execute(
        "SELECT count(*) FROM device_tyres WHERE tenant = ? AND device = ?", (tenant, device)
    ).fetchone()[0]
    last = None
    if count:
        last = db.execute(
            "SELECT end_ms FROM track WHERE tenant = ? AND device = ? AND start_ms >= ? AND lanes IS NOT NULL"
            " AND instr(lanes, '\"y\":') ORDER BY start_ms DESC LIMIT 1",
            (tenant, device, since_ms - TYRES_BEFORE_MS),
        ).fetchone()
    return {"tyres": count, "tyres_ms": None if last is None else last[0]}


def _sightings(
    db: sqlite3.Connection, tenant: str, device: str, since_ms: int, closed_ms: int | None
) -> list[tuple[Seen, int]]:
    """Roadside nodes that heard its tyre sensors in the incident's time, with when each did first."""
    rows = db.execute(
        "SELECT s.device, s.sensor_id, s.wall_ms FROM device_tyres t CROSS JOIN sightings s"
        " ON s.tenant = t.tenant AND s.sensor_id = t.sensor_id WHERE t.tenant = ? AND t.device = ?"
        " AND s.device <> t.device ORDER BY s.wall_ms, s.device",
        (tenant, device),
    )
    heard: dict[str, tuple[set[str], int, int]] = {}
    for node, sensor, wall_ms in rows:
        if belongs(wall_ms, since_ms, closed_ms):
            ids, first, _ = heard.get(node, (set(), wall_ms, wall_ms))
            heard[node] = ({*ids, sensor}, first, wall_ms)
    return [(Seen(node, len(ids), last), first) for node, (ids, first, last) in heard.items()]


def _acts(
    db: sqlite3.Connection,
    principal: Principal,
    ref: Ref,
    told: tuple[casework.Act, ...],
    opened_ms: int,
    closed_ms: int | None,
    index: int | None,
) -> list[Json]:
    """The steps by time. What the device says has the number 0 and no statement: its segment says it."""
    logged = {
        number: (digest.hex(), at)
        for number, digest, at in db.execute(
            "SELECT a.number, a.statement_hash, s.log_index FROM case_acts a LEFT JOIN statements s"
            " ON s.hash = a.statement_hash WHERE a.tenant = ? AND a.device = ? AND a.run = ?"
            " AND a.incident = ?",
            (principal.tenant, ref.device, ref.run, ref.incident),
        )
    }
    hidden = principal.role == NOTES_HIDDEN
    steps = [
        _step(act.number, str(act.action), act.wall_ms, act.author)
        | {
            "assignee": act.assignee, "note": "" if hidden else act.note,
            "statement": logged[act.number][0], "log_index": logged[act.number][1],
        }
        for act in told
    ]  # fmt: skip
    opened = _step(0, "open", opened_ms, DEVICE) | {"log_index": index}
    if closed_ms is not None:
        closed = _step(0, str(Verb.CLOSE), closed_ms, DEVICE)
        place = next((n for n, act in enumerate(told) if act.wall_ms > closed_ms), len(told))
        steps.insert(place, closed)
    return [opened, *steps]


def _step(number: int, action: str, at_ms: int, author: str) -> Json:
    return {
        "number": number, "action": action, "at": iso_utc(at_ms), "author": author, "assignee": None,
        "note": "", "statement": None, "log_index": None,
    }  # fmt: skip
