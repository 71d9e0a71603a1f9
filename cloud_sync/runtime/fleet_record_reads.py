"""How complete each device's record is, month by month (UTC), as the API tells it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from cloud_sync.access import Principal
from cloud_sync.errors import BadCursor, BadRequest
from cloud_sync.incidents import iso_utc
from cloud_sync.runtime import cursors, fleet_rows
from cloud_sync.runtime.fleet_rows import Json, said
from cloud_sync.runtime.fleet_timeline import visible

MAX_GAPS: Final = 5
"""Gaps named one by one in a month; the rest is counted."""
RUN_CHARS: Final = 8
"""Digits of a run's id that a sentence shows."""

_MONTH = re.compile(r"(?!0000)\d{4}-(0[1-9]|1[0-2])", re.ASCII)
_COUNTS: Final = (
    "segments", "events", "tombstones", "thinned", "crashed", "refused", "erased", "missing", "forks",
)  # fmt: skip
_ROWS: Final = (
    "SELECT m.device, m.month, m.segments, m.events, m.tombstones, m.thinned, m.crashed, m.refused, m.erased,"
    " coalesce(g.n, 0) AS missing, coalesce(f.n, 0) AS forks, cd.name, cd.branch FROM record_months m"
    " LEFT JOIN (SELECT device, month, sum(last - first + 1) AS n FROM record_gaps WHERE tenant=:tenant"
    " AND {gap} GROUP BY device, month) g ON g.device=m.device AND g.month=m.month"
    " LEFT JOIN (SELECT x.device, b.month, count(DISTINCT x.hash) AS n FROM forks x JOIN bodies b"
    " ON b.hash=x.hash WHERE x.tenant=:tenant AND {fork} GROUP BY x.device, b.month) f"
    " ON f.device=m.device AND f.month=m.month"
    " LEFT JOIN cards cd ON cd.tenant=m.tenant AND cd.device=m.device WHERE m.tenant=:tenant AND {where}"
)


def completeness(db: sqlite3.Connection, principal: Principal, device: str, now_ms: int) -> Json:
    """The record of one device, oldest month first (Completeness). Raises NotFound."""
    visible(db, principal, device)
    values: Json = {"tenant": principal.tenant, "device": device}
    sql = _ROWS.format(gap="device=:device", fork="x.device=:device", where="m.device=:device")
    months = [_month(db, principal.tenant, row) for row in db.execute(sql + " ORDER BY m.month", values)]
    last = db.execute(
        "SELECT event_ms, event_unc, event_source FROM vehicles WHERE tenant=? AND device=?",
        (principal.tenant, device),
    ).fetchone()
    return {
        "device": device,
        "months": months,
        "up_to": fleet_rows.moment(*last),
        "now": iso_utc(now_ms),
    }


def completeness_list(
    db: sqlite3.Connection,
    principal: Principal,
    month: str | None,
    *,
    branch: str | None = None,
    q: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
    now_ms: int,
) -> Json:
    """A page of all devices in `month` ('YYYY-MM', None: the newest), the worst first (CompletenessList).
    `q`: part of device or name.

    Raises BadRequest, BadCursor.
    """
    fleet_rows.check_limit(limit)
    if month is not None and not _MONTH.fullmatch(month):
        raise BadRequest(f"{month!r:.20} is not a month: write YYYY-MM, as in 2026-11")
    months = _months(db, principal.tenant)
    chosen = month or (months[-1] if months else iso_utc(now_ms)[:7])
    values: Json = {"tenant": principal.tenant, "month": chosen, "limit": limit + 1}
    where = ["m.month=:month"]
    if principal.branches:
        where.append("cd.branch IN (SELECT value FROM json_each(:own))")
        values["own"] = json.dumps(sorted(principal.branches))
    if branch is not None:
        fleet_rows.check_branch(db, principal, branch)
        where.append("cd.branch=:branch")
        values["branch"] = branch
    if q:
        fleet_rows.check_text(q)
        where.append("(instr(m.device, :q) OR instr(coalesce(cd.name_key, ''), :q))")
        values["q"] = q.strip().casefold()
    rows = _ROWS.format(gap="month=:month", fork="b.month=:month", where=" AND ".join(where))
    total = db.execute(f"SELECT count(*) FROM ({rows})", values).fetchone()[0]
    kind = fleet_rows.list_kind("completeness", principal, chosen, branch, q)
    after = ""
    if cursor is not None:
        key = cursors.decode(kind, cursor, cursors.secret(db))
        if len(key) != 2:
            raise BadCursor("this cursor is of another version: ask again without one")
        after = " WHERE (k, device) > (:after, :device)"
        values |= {"after": key[0], "device": key[1]}
    bad = "-(missing*1000000 + forks*100000 + erased*1000 + min(999, thinned+crashed+refused))"
    page = db.execute(
        f"SELECT * FROM (SELECT *, {bad} AS k FROM ({rows})){after} ORDER BY k, device LIMIT :limit", values
    ).fetchall()
    more = len(page) > limit
    following = None
    if more:
        edge = page[limit - 1]
        following = cursors.encode(kind, (edge[-1], edge[0]), cursors.secret(db))
    return {
        "month": chosen,
        "months": months,
        "items": [
            {
                "device": row[0], "name": row[11] or row[0], "branch": row[12],
                "month": _month(db, principal.tenant, row),
            }
            for row in page[:limit]
        ],
        "next": following,
        "total": total,
        "now": iso_utc(now_ms),
    }  # fmt: skip


def _months(db: sqlite3.Connection, tenant: str) -> list[str]:
    """Months that any record tells of, oldest first: one step in the index for each."""
    rows = db.execute(
        "WITH RECURSIVE m(month) AS (SELECT min(month) FROM record_months WHERE tenant=?1 UNION ALL"
        " SELECT (SELECT min(month) FROM record_months WHERE tenant=?1 AND month>m.month) FROM m"
        " WHERE m.month IS NOT NULL) SELECT month FROM m WHERE month IS NOT NULL",
        (tenant,),
    )
    return [str(row[0]) for row in rows]


def _month(db: sqlite3.Connection, tenant: str, row: Iterable[Any]) -> Json:
    """Month."""
    device, month, *counts = row
    n: dict[str, int] = dict(zip(_COUNTS, counts, strict=False))
    sentences = _missing(db, tenant, str(device), str(month), n["missing"]) if n["missing"] else []
    sentences += [
        said(f"record.{code}", n=n[name])
        for code, name in (
            ("forked", "forks"), ("erased", "erased"), ("crashed", "crashed"), ("refused", "refused"),
            ("thinned", "thinned"),
        )
        if n[name]
    ]  # fmt: skip
    complete = not (n["missing"] or n["forks"] or n["erased"])
    return {
        "month": month,
        "segments": n["segments"],
        "events": n["events"],
        "missing": n["missing"],
        "tombstones": n["tombstones"],
        "dropped": n["thinned"] + n["crashed"] + n["refused"],
        "erased": n["erased"],
        "forks": n["forks"],
        "complete": complete,
        "sentences": sentences or [said("record.whole")],
    }


def _missing(db: sqlite3.Connection, tenant: str, device: str, month: str, total: int) -> list[Json]:
    gaps = db.execute(
        "SELECT run, first, last, month_after FROM record_gaps WHERE tenant=? AND month=? AND device=?"
        " ORDER BY last - first DESC, run, first LIMIT ?",
        (tenant, month, device, MAX_GAPS),
    ).fetchall()
    out: list[Json] = []
    for run, first, last, after in gaps:
        params: dict[str, Any] = {
            "n": last - first + 1, "run": run.hex()[:RUN_CHARS], "first": first, "last": last,
        }  # fmt: skip
        total -= last - first + 1
        if after is not None and after != month:
            out.append(said("record.missing_until", **params, month=after))
        else:
            out.append(said("record.missing", **params))
    if total:
        out.append(said("record.missing_more", n=total))
    return out
