"""The fleet as the API tells it: list, map, one vehicle, time line, completeness, and what changed.

Reads take a connection to the collector's store and a principal; they see the principal's tenant and
branches and nothing else. `now_ms` is the collector's clock. Positions are coarse (0.01 degrees).

Who may not read incidents sees a fleet without them; who may not read titles, no state of titles.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from cloud_sync.access import READ_INCIDENTS, READ_TITLES, Principal
from cloud_sync.errors import BadCursor, BadRequest, NotFound
from cloud_sync.incidents import iso_utc
from cloud_sync.runtime import case_reads, cursors, fleet_rows
from cloud_sync.runtime.fleet_record_reads import completeness, completeness_list
from cloud_sync.runtime.fleet_rows import CLOCKS, RANK, SELECT, STATES, Json, query, said, stamp
from cloud_sync.runtime.fleet_timeline import timeline
from models.verdict import CAUSE_NAMES

CODES: Final[dict[str, tuple[str, ...]]] = {
    "reason.incident": ("n", "cause"),
    "reason.overdue": ("minutes", "since"),
    "reason.certificate": ("days",),
    "reason.certificate_expired": (),
    "reason.outbox": ("segments",),
    "reason.outbox_growing": ("segments",),
    "reason.low_battery": ("volts",),
    "reason.record": ("n",),
    "reason.forked": (),
    "reason.clock": (),
    "reason.stopped": ("at",),
    "record.whole": (),
    "record.missing": ("n", "run", "first", "last"),
    "record.missing_until": ("n", "run", "first", "last", "month"),
    "record.missing_more": ("n",),
    "record.thinned": ("n",),
    "record.crashed": ("n",),
    "record.refused": ("n",),
    "record.erased": ("n",),
    "record.forked": ("n",),
    "record.window_missing": ("n", "from", "to"),
    "record.window_dropped": ("n", "from", "to"),
    "record.window_erased": ("n", "month"),
    "alarm.chain_fork": ("n", "at"),
    "alarm.projection_failed": ("n", "at"),
}
"""Every code that a Said of these reads can have, with its parameters. Times are ISO 8601 in UTC (`since`,
`at`, `from`, `to`, the latter two may be None), `run` is the beginning of a run's id, `month` is YYYY-MM,
`cause` is the name of a cause, `n` counts segments (reason.record, record.missing*, window_missing, erased,
forked), events (thinned, crashed, refused, window_dropped), incidents (reason.incident), alarms (alarm.*)."""

SORTS: Final = {
    "worst": f"-{RANK}",
    "health": "-health",
    "heard": "coalesce(heard_ms, 0)",
    "name": "coalesce(name_key, device)",
}
"""worst: the list's own order; health: the same without incidents; heard: longest not heard of first."""
DETAIL_INCIDENTS: Final = 50
"""Newest incidents on a vehicle's page; its list of incidents has them all."""


def vehicles(
    db: sqlite3.Connection,
    principal: Principal,
    *,
    branch: str | None = None,
    state: Sequence[str] = (),
    cause: str | None = None,
    clock: str | None = None,
    q: str | None = None,
    sort: str = "worst",
    limit: int = 50,
    cursor: str | None = None,
    now_ms: int,
) -> Json:
    """A page of vehicles (VehicleList). `cause`: of one of its open incidents; `q`: part of device or name.

    Raises BadRequest for a filter that cannot be meant, BadCursor for a cursor of another list or filter.
    """
    where, values = fleet_rows.seen(principal, now_ms)
    states = _states(state)
    fleet_rows.check_limit(limit)
    if sort not in SORTS:
        raise BadRequest(f"sort {sort!r:.40} is not known: it is one of {', '.join(SORTS)}")
    _filter(db, principal, where, values, branch=branch, cause=cause, clock=clock, q=q)
    kind = fleet_rows.list_kind("vehicles", principal, sort, states, branch, cause, clock, q)
    after = None
    if cursor is not None:
        after = cursors.decode(kind, cursor, cursors.secret(db))
        if len(after) != 2:
            raise BadCursor("this cursor is of another version: ask again without one")
    # One look at all of them gives the counts and this page's keys; whole rows are read for the page alone.
    counts = dict.fromkeys(STATES, 0)
    keys: list[tuple[Any, str]] = []
    nodes = 0
    for number, key, device, node in db.execute(
        query(where, f" SELECT state, {SORTS[sort]}, device, node FROM r"), values
    ):
        counts[STATES[number]] += 1
        nodes += bool(node) and (not states or STATES[number] in states)
        if (not states or STATES[number] in states) and (after is None or (key, device) > after):
            keys.append((key, device))
    page = heapq.nsmallest(limit + 1, keys)
    following = None
    if len(page) > limit:
        page.pop()
        following = cursors.encode(kind, page[-1], cursors.secret(db))
    return {
        "items": rows_of(db, principal, [device for _, device in page], now_ms),
        "next": following,
        "total": sum(n for name, n in counts.items() if not states or name in states),
        "nodes": nodes,
        "counts": counts,
        "now": iso_utc(now_ms),
    }


def rows_of(db: sqlite3.Connection, principal: Principal, devices: Sequence[str], now_ms: int) -> list[Json]:
    """VehicleRows of `devices`, in their order, as far as they exist and `principal` may see them."""
    where, values = fleet_rows.seen(principal, now_ms)
    where.append("v.device IN (SELECT value FROM json_each(:devices))")
    values["devices"] = json.dumps(list(devices))
    found = fleet_rows.rows(db, principal, query(where, f"{SELECT} FROM r"), values, now_ms)
    by_device = {row["device"]: row for row, _ in found}
    return [by_device[device] for device in dict.fromkeys(devices) if device in by_device]


def fleet_map(db: sqlite3.Connection, principal: Principal, now_ms: int) -> Json:
    """Every vehicle with a position, for the map (FleetMap), the least grave first: drawn last is on top."""
    where, values = fleet_rows.seen(principal, now_ms)
    tail = f" SELECT device, lat, lon, state, coalesce(name, device) FROM r ORDER BY {RANK}, device"
    items: list[tuple[Any, ...]] = []
    unplaced = 0
    for row in db.execute(query(where, tail), values):
        if row[1] is None:
            unplaced += 1
        else:
            items.append(row)
    return {"states": list(STATES), "items": items, "unplaced": unplaced, "now": iso_utc(now_ms)}


def vehicle(db: sqlite3.Connection, principal: Principal, device: str, now_ms: int) -> Json:
    """One vehicle (VehicleDetail). Raises NotFound, also for one of another branch."""
    where, values = fleet_rows.seen(principal, now_ms)
    where.append("v.device=:device")
    values["device"] = device
    found = fleet_rows.rows(db, principal, query(where, f"{SELECT} FROM r"), values, now_ms)
    if not found:
        raise NotFound(NO_SUCH)
    row, columns = found[0]
    who = (principal.tenant, device)
    incidents: list[Json] = []
    if principal.may(READ_INCIDENTS):
        listed = case_reads.incidents(
            db, principal, device=device, sort="newest", limit=DETAIL_INCIDENTS, now_ms=now_ms
        )
        incidents = listed["items"]
    return {
        "vehicle": row,
        "note": "" if principal.role == "partner" else columns["note"] or "",
        "tokens": _column(db, "title_devices", "token", who) if principal.may(READ_TITLES) else [],
        "tyres": _column(db, "device_tyres", "sensor_id", who),
        "software": columns["software"],
        "run": None if columns["run"] is None else columns["run"].hex(),
        "runs": columns["runs"],
        "segments": columns["segments"],
        "events": columns["events"],
        "certificate_until": stamp(columns["certificate_ms"]),
        "loss_window_ms": columns["loss_ms"],
        "incidents": incidents,
        "alarms": [
            said(f"alarm.{kind}", n=n, at=iso_utc(at_ms))
            for kind, n, at_ms in db.execute(
                "SELECT kind, count(*), max(raised_ms) FROM alarms WHERE tenant=? AND device=?"
                " GROUP BY kind ORDER BY 3 DESC",
                who,
            )
        ],
        "now": iso_utc(now_ms),
    }


def feed_after(db: sqlite3.Connection, tenant: str, number: int, limit: int) -> list[Json]:
    """At most `limit` rows of the feed after `number`: id, kind, device, ref, at_ms, oldest first."""
    names = ("id", "kind", "device", "ref", "at_ms")
    rows = db.execute(
        "SELECT id, kind, device, ref, at_ms FROM feed WHERE tenant=? AND id>? ORDER BY id LIMIT ?",
        (tenant, number, limit),
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def feed_bounds(db: sqlite3.Connection, tenant: str) -> tuple[int, int]:
    """(first, last): from `first` on, no row of the feed was pruned; `last` is the newest, 0 where none is.

    Who has read up to n and finds n < first - 1 has missed something and reads everything anew. (A row
    'vehicle' that a newer one of the same device replaced is not missed.)
    """
    pruned = db.execute("SELECT value FROM feed_state WHERE key='pruned'").fetchone()
    newest = db.execute("SELECT max(id) FROM feed WHERE tenant=?", (tenant,)).fetchone()[0]
    return (1 if pruned is None else int(pruned[0]) + 1), int(newest or 0)


NO_SUCH: Final = "there is no such vehicle: the list of vehicles has those that you may see"


def _filter(
    db: sqlite3.Connection,
    principal: Principal,
    where: list[str],
    values: Json,
    *,
    branch: str | None,
    cause: str | None,
    clock: str | None,
    q: str | None,
) -> None:
    if branch is not None:
        fleet_rows.check_branch(db, principal, branch)
        where.append("cd.branch=:branch")
        values["branch"] = branch
    if cause is not None:
        causes = {name: int(number) for number, name in CAUSE_NAMES.items()}
        if cause not in causes:
            raise BadRequest(f"cause {cause!r:.40} is not known: it is one of {', '.join(causes)}")
        where.append(
            "v.device IN (SELECT x.device FROM cases x JOIN incidents y ON y.tenant=x.tenant AND"
            " y.device=x.device AND y.run=x.run AND y.incident=x.incident WHERE :sees AND x.tenant=:tenant"
            f" AND x.state IN ({fleet_rows.ALIVE}) AND y.cause=:cause)"
        )
        values["cause"] = causes[cause]
    if clock is not None:
        kinds = {name: number for number, name in CLOCKS.items()}
        if clock not in kinds:
            raise BadRequest(f"clock {clock!r:.40} is not known: it is one of {', '.join(kinds)}")
        where.append("v.clock=:clock")
        values["clock"] = kinds[clock]
    if q:
        fleet_rows.check_text(q)
        where.append("(instr(v.device, :q) OR instr(coalesce(cd.name_key, ''), :q))")
        values["q"] = q.strip().casefold()


def _states(state: Sequence[str]) -> tuple[str, ...]:
    for name in state:
        if name not in STATES:
            raise BadRequest(f"state {name!r:.40} is not known: it is one of {', '.join(STATES)}")
    return tuple(name for name in STATES if name in state)


def _column(db: sqlite3.Connection, table: str, column: str, who: tuple[str, str]) -> list[str]:
    sql = f"SELECT {column} FROM {table} WHERE tenant=? AND device=? ORDER BY 1"
    return [str(row[0]) for row in db.execute(sql, who)]


__all__ = [
    "CODES", "completeness", "completeness_list", "feed_after", "feed_bounds", "fleet_map", "rows_of",
    "timeline", "vehicle", "vehicles",
]  # fmt: skip
