"""Rows of vehicles as the API shows them: one SQL for lists, counts, map and single rows, so that they agree.

What is worst is computed at each reading, because time alone makes a heartbeat overdue. Rank:
1000 + severity of the worst open incident; 500 + hours (at most 499) of an overdue heartbeat;
100 + the weights of what needs attention; 0.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from cloud_sync.access import READ_INCIDENTS, READ_TITLES, Principal
from cloud_sync.casework import OVER, State
from cloud_sync.errors import BadRequest
from cloud_sync.incidents import iso_utc
from firmware_bridge.wire.stamp import ClockKind
from models.verdict import CAUSE_NAMES, Cause

Json = dict[str, Any]

DAY_MS: Final = 86_400_000
CERTIFICATE_DAYS: Final = 14
"""Before the end of a certificate: time for a technician to see the car once."""
OUTBOX_SEGMENTS: Final = 1000
"""Segments that wait in a device: a day without network."""
MAX_PAGE: Final = 500
STATES: Final = ("incident", "overdue", "attention", "ok")
CLOCKS: Final = {int(kind): kind.name.lower() for kind in ClockKind}

_NODE: Final = "EXISTS (SELECT 1 FROM sightings n WHERE n.tenant=v.tenant AND n.device=v.device)"
_FORKED: Final = "v.device IN (SELECT device FROM forks WHERE tenant=:tenant)"

FLAGS: Final = {
    "certificate": (1, 60, f"(v.clock=0 AND v.certificate_ms<:now+{CERTIFICATE_DAYS * DAY_MS})"),
    "outbox": (2, 50, f"(coalesce(v.depth, 0)>{OUTBOX_SEGMENTS})"),
    "outbox_growing": (4, 40, "(v.growing=1)"),
    "low_battery": (8, 80, "(v.power='low_battery')"),
    "record": (16, 70, f"(v.missing>0 OR {_FORKED})"),
    "clock": (32, 30, "(coalesce(v.event_source, 'received') IN ('clock', 'received'))"),
    "stopped": (64, 20, "(v.stopped=1)"),
}
"""What needs attention: bit, weight, condition."""
_NULL_FALSE: Final = "coalesce({}, 0)"
_BITS: Final = "+".join(f"{bit}*{_NULL_FALSE.format(sql)}" for bit, _, sql in FLAGS.values())
_WEIGHT: Final = "+".join(f"(({{0}}&{bit})>0)*{weight}" for bit, weight, _ in FLAGS.values())

ALIVE: Final = ", ".join(f"'{state}'" for state in State if state not in OVER)
_WITH: Final = (
    "WITH oc AS MATERIALIZED (SELECT c.device, c.run, c.incident, c.severity, count(*) AS n,"
    " max(c.severity * 100000000000000 + i.opened_ms) AS worst, i.cause"
    " FROM cases c JOIN incidents i ON i.tenant=c.tenant AND i.device=c.device AND i.run=c.run"
    " AND i.incident=c.incident WHERE :sees AND c.tenant=:tenant"
    f" AND c.state IN ({ALIVE}) GROUP BY c.device),"
    " b AS (SELECT v.*, cd.name, cd.name_key, cd.branch, cd.note, oc.severity, oc.run AS inc_run,"
    " oc.incident AS inc_number, oc.cause AS inc_cause, oc.n AS inc_count, "
    f" {_FORKED} AS forked, {_BITS} AS flags, coalesce(v.due_ms<:now, 0) AS late,"
    f" {_NODE} AS node"
    " FROM vehicles v LEFT JOIN cards cd ON cd.tenant=v.tenant AND cd.device=v.device"
    " LEFT JOIN oc ON oc.device=v.device WHERE {where}),"
    " r AS (SELECT *, CASE WHEN late THEN 500+min(499, (:now-due_ms)/3600000)"
    f" WHEN flags THEN 100+{_WEIGHT.format('flags')} ELSE 0 END AS health,"
    " CASE WHEN severity IS NOT NULL THEN 0 WHEN late THEN 1 WHEN flags THEN 2 ELSE 3 END AS state FROM b)"
)
RANK: Final = "coalesce(1000+severity, health)"

Where = tuple[list[str], dict[str, Any]]


def seen(principal: Principal, now_ms: int) -> Where:
    """Conditions and parameters that confine a reading to what `principal` may see."""
    values: dict[str, Any] = {
        "tenant": principal.tenant, "now": now_ms, "sees": int(principal.may(READ_INCIDENTS)),
    }  # fmt: skip
    where = ["v.tenant=:tenant"]
    if principal.branches:
        where.append("cd.branch IN (SELECT value FROM json_each(:own))")
        values["own"] = json.dumps(sorted(principal.branches))
    return where, values


def query(where: Sequence[str], tail: str) -> str:
    """The common SQL with its conditions, and `tail`, a SELECT from `r`."""
    return _WITH.replace("{where}", " AND ".join(where)) + tail


_COLUMNS: Final = (
    "device", "name", "branch", "state", "health", "severity", "flags", "forked", "inc_run", "inc_number",
    "inc_cause", "inc_count", "lat", "lon", "place_ms", "place_unc", "place_source", "heard_ms", "event_ms",
    "event_unc", "event_source", "due_ms", "power", "supply", "depth", "depth_bytes", "certificate_ms",
    "clock", "missing", "erased", "software", "run", "runs", "segments", "events", "loss_ms", "note",
    "beat_ms", "node",
)  # fmt: skip
SELECT: Final = f" SELECT {', '.join(_COLUMNS)}"


def rows(
    db: sqlite3.Connection, principal: Principal, sql: str, values: Json, now_ms: int
) -> list[tuple[Json, Json]]:
    """(VehicleRow, columns) for each row of a query that begins with SELECT."""
    found = [dict(zip(_COLUMNS, row, strict=False)) for row in db.execute(sql, values)]
    titles = title_states(db, principal, [row["device"] for row in found])
    return [(vehicle_row(row, titles.get(row["device"]), now_ms), row) for row in found]


def title_states(db: sqlite3.Connection, principal: Principal, devices: Iterable[str]) -> dict[str, str]:
    """State of the title of each of these devices' vehicles, as far as `principal` may read titles."""
    if not principal.may(READ_TITLES):
        return {}
    return dict(
        db.execute(
            "SELECT d.device, (SELECT e.state FROM title_events e WHERE e.tenant=d.tenant AND e.token=d.token"
            " ORDER BY e.number DESC LIMIT 1) FROM json_each(?2) j JOIN title_devices d"
            " ON d.tenant=?1 AND d.device=j.value",
            (principal.tenant, json.dumps(list(devices))),
        ).fetchall()
    )


def vehicle_row(row: Json, title_state: str | None, now_ms: int) -> Json:
    """VehicleRow of the columns of SELECT."""
    severity, until = row["severity"], row["certificate_ms"]
    return {
        "device": row["device"],
        "kind": "roadside" if row["node"] else "vehicle",
        "name": row["name"] or row["device"],
        "branch": row["branch"],
        "state": STATES[row["state"]],
        "rank": row["health"] if severity is None else 1000 + severity,
        "reasons": reasons(row, now_ms),
        "incident": incident_id(row),
        "cause": None if row["inc_cause"] is None else CAUSE_NAMES[Cause(row["inc_cause"])],
        "open_incidents": row["inc_count"] or 0,
        "place": place(row),
        "last_heard": stamp(row["heard_ms"]),
        "last_event": moment(row["event_ms"], row["event_unc"], row["event_source"]),
        "next_due": stamp(row["due_ms"]),
        "power_state": row["power"],
        "supply_v": row["supply"],
        "outbox": None if row["depth"] is None else {"segments": row["depth"], "bytes": row["depth_bytes"]},
        "certificate_days": None if until is None else (until - now_ms) // DAY_MS,
        "clock": CLOCKS[row["clock"]],
        "title_state": title_state,
        "complete": not (row["missing"] or row["erased"] or row["forked"]),
    }


def incident_id(row: Json) -> str | None:
    """Id of the worst open incident."""
    return None if row["inc_run"] is None else f"{row['device']}.{row['inc_run'].hex()}.{row['inc_number']}"


def reasons(row: Json, now_ms: int) -> list[Json]:
    """Why the vehicle stands where it stands, the gravest first; none where all is well."""
    out: list[Json] = []
    if row["severity"] is not None:
        cause = CAUSE_NAMES[Cause(row["inc_cause"])]
        out.append(said("reason.incident", n=row["inc_count"], cause=cause))
    if row["due_ms"] is not None and row["due_ms"] < now_ms:
        minutes = (now_ms - row["due_ms"]) // 60_000
        out.append(said("reason.overdue", minutes=minutes, since=iso_utc(row["due_ms"])))
    params: dict[str, Json] = {
        "certificate": {"days": max(0, ((row["certificate_ms"] or now_ms) - now_ms) // DAY_MS)},
        "outbox": {"segments": row["depth"]},
        "outbox_growing": {"segments": row["depth"]},
        "low_battery": {"volts": row["supply"]},
        "record": {"n": row["missing"]},
        "clock": {},
        "stopped": {"at": stamp(row["beat_ms"])},
    }
    held = [(weight, name) for name, (bit, weight, _) in FLAGS.items() if row["flags"] & bit]
    for _, name in sorted(held, reverse=True):
        code = name
        if name == "certificate" and row["certificate_ms"] < now_ms:
            code = "certificate_expired"
        elif name == "record" and not row["missing"]:
            code = "forked"
        out.append(said(f"reason.{code}", **({} if code in _BARE else params[name])))
    return out


_BARE: Final = frozenset({"certificate_expired", "forked"})


def place(row: Json) -> Json | None:
    """The newest coarse position (Place)."""
    if row["lat"] is None:
        return None
    at = moment(row["place_ms"], row["place_unc"], row["place_source"])
    return {"lat": row["lat"], "lon": row["lon"], "name": None, "distance_m": None, "at": at}


def moment(at_ms: int | None, unc_ms: int | None, source: str | None) -> Json | None:
    """Moment."""
    if at_ms is None:
        return None
    return {"at": iso_utc(at_ms), "unc_ms": unc_ms, "source": source}


def stamp(at_ms: int | None) -> str | None:
    """ISO 8601, None for None."""
    return None if at_ms is None else iso_utc(min(at_ms, MAX_MS))


MAX_MS: Final = 253_402_300_799_999
"""The end of the year 9999: a device may promise to be heard later than ISO 8601 can say."""


def check_limit(limit: int) -> None:
    """Raise BadRequest for a page that is empty or too long."""
    if not 1 <= limit <= MAX_PAGE:
        raise BadRequest(f"limit is 1 .. {MAX_PAGE}, not {limit}: page with `cursor`")


MAX_QUERY_CHARS: Final = 80
"""A search text; names of devices and cars are shorter."""


def check_text(q: str) -> None:
    """Raise BadRequest for a search text that is too long."""
    if len(q) > MAX_QUERY_CHARS:
        raise BadRequest(f"q has {len(q)} characters, at most {MAX_QUERY_CHARS}: give a part of the name")


def check_branch(db: sqlite3.Connection, principal: Principal, branch: str) -> None:
    """Raise BadRequest unless some card names `branch` and `principal` may see it."""
    known = db.execute(
        "SELECT 1 FROM cards WHERE tenant=? AND branch=? LIMIT 1", (principal.tenant, branch)
    ).fetchone()
    if known is None or not principal.sees(branch):
        raise BadRequest(f"there is no branch {branch!r:.80}: the vehicles' cards name the branches")


def list_kind(name: str, principal: Principal, *filters: object) -> str:
    """What a cursor of the list `name` is bound to: the tenant, what the principal may see, the filters."""
    seeing = [principal.tenant, sorted(principal.branches), principal.may(READ_INCIDENTS)]
    text = json.dumps([*seeing, *map(str, filters)])
    return f"{name} {hashlib.sha256(text.encode()).hexdigest()}"


def said(code: str, **params: str | int | float | None) -> Json:
    """Said."""
    return {"code": code, "params": params}
