"""What is known to be missing of each device, number by number, in whatever order segments arrive.

Of each run, `vehicle_runs.top` is the largest number known to exist: seen, named by a tombstone, or named by
the run after it. `record_gaps` holds what lies below and is neither here nor under a tombstone. Both are
functions of the set of segments alone. A gap belongs to the month of the segment before it.

`record_months` counts by device and month (UTC, of a segment's first event), so that a month's list of ten
thousand devices is one index range.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from cloud_sync.incidents import MAX_NUMBER
from edge.segment import Lost, Previous, Segment, Tombstone

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS vehicle_runs(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, top INTEGER NOT NULL DEFAULT -1,
  holes INTEGER NOT NULL DEFAULT 0, claim_month TEXT, seen INTEGER NOT NULL DEFAULT 0,
  wall_ms INTEGER, received_ms INTEGER, clock INTEGER NOT NULL DEFAULT 0, latest TEXT NOT NULL DEFAULT '{}',
  PRIMARY KEY(tenant, device, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record_gaps(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, first INTEGER NOT NULL,
  last INTEGER NOT NULL, month TEXT NOT NULL, month_after TEXT,
  PRIMARY KEY(tenant, device, run, first)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_gaps_month ON record_gaps(tenant, month, device);
CREATE TABLE IF NOT EXISTS record_months(
  tenant TEXT NOT NULL, month TEXT NOT NULL, device TEXT NOT NULL, segments INTEGER NOT NULL DEFAULT 0,
  events INTEGER NOT NULL DEFAULT 0, tombstones INTEGER NOT NULL DEFAULT 0,
  thinned INTEGER NOT NULL DEFAULT 0, crashed INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0,
  erased INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(tenant, month, device)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_months_device ON record_months(tenant, device, month);
CREATE TABLE IF NOT EXISTS tombs(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, number INTEGER NOT NULL,
  place INTEGER NOT NULL, month TEXT NOT NULL, at_ms INTEGER NOT NULL, reason INTEGER NOT NULL,
  of_run BLOB NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY(tenant, device, run, number, place)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tombs_time ON tombs(tenant, device, at_ms);
"""
_COLUMN: Final = {Lost.THINNED: "thinned", Lost.CRASH: "crashed", Lost.REFUSED_FULL: "refused"}

Who = tuple[str, str]
"""Tenant, device."""


def add(db: sqlite3.Connection, segment: Segment, month: str, end_ms: int, events: int) -> bool:
    """Count `segment` (new, of `month`, in `track` already) into the record, in the caller's transaction.

    Returns whether what is missing may have changed.
    """
    who = (segment.tenant, segment.device)
    stones = [stone for stone in segment.tombstones if stone.last <= MAX_NUMBER]
    _count(db, who, month, events, 0)
    if not stones and segment.number and _next(db, who, segment.run, segment.number):
        return False
    changed = _cover(db, who, segment.run, segment.number, segment.number)
    if stones:
        _bury(db, segment, stones, month, end_ms)
        for stone in stones:
            if stone.reason is Lost.THINNED:
                changed |= _cover(db, who, stone.run, stone.first, stone.last)
                _date(db, who, stone.run, stone.first)
    if isinstance(segment.previous, Previous) and segment.previous.number <= MAX_NUMBER:
        changed |= _claim(db, who, segment.previous, month)
    _date_near(db, who, segment.run, segment.number, changed)
    return changed


def add_erased(db: sqlite3.Connection, who: Who, run: bytes, number: int, month: str, events: int) -> bool:
    """`add` for a segment whose content was erased before it could be counted: its number alone is left."""
    _count(db, who, month, events, 1)
    changed = _cover(db, who, run, number, number)
    _date_near(db, who, run, number, changed)
    return changed


def missing(db: sqlite3.Connection, who: Who) -> int:
    """Segments of a device that are known to exist and are not here."""
    row = db.execute(
        "SELECT coalesce(sum(last - first + 1), 0) FROM record_gaps WHERE tenant=? AND device=?", who
    ).fetchone()
    return int(row[0])


def _count(db: sqlite3.Connection, who: Who, month: str, events: int, erased: int) -> None:
    db.execute(
        "INSERT INTO record_months(tenant, month, device, segments, events, erased) VALUES(?,?,?,1,?,?)"
        " ON CONFLICT(tenant, month, device) DO UPDATE SET segments=segments+1,"
        " events=events+excluded.events, erased=erased+excluded.erased",
        (who[0], month, who[1], events, erased),
    )


def _date_near(db: sqlite3.Connection, who: Who, run: bytes, number: int, changed: bool) -> None:
    if not changed:
        row = db.execute(
            "SELECT holes FROM vehicle_runs WHERE tenant=? AND device=? AND run=?", (*who, run)
        ).fetchone()
        changed = bool(row[0])
    if changed:
        _date(db, who, run, number)


def _bury(
    db: sqlite3.Connection, segment: Segment, stones: Sequence[Tombstone], month: str, end_ms: int
) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO tombs VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
        [
            (
                segment.tenant, segment.device, segment.run, segment.number, place, month, end_ms,
                int(stone.reason), stone.run, stone.first, stone.last, min(stone.count, MAX_NUMBER),
            )
            for place, stone in enumerate(stones)
        ],
    )  # fmt: skip
    for stone in stones:
        column = _COLUMN[stone.reason]
        db.execute(
            f"UPDATE record_months SET tombstones=tombstones+1, {column}={column}+?"
            " WHERE tenant=? AND month=? AND device=?",
            (min(stone.count, MAX_NUMBER), segment.tenant, month, segment.device),
        )


def _top(db: sqlite3.Connection, who: Who, run: bytes) -> tuple[int, int]:
    row = db.execute(
        "SELECT top, holes FROM vehicle_runs WHERE tenant=? AND device=? AND run=?", (*who, run)
    ).fetchone()
    if row is not None:
        return int(row[0]), int(row[1])
    db.execute("INSERT INTO vehicle_runs(tenant, device, run) VALUES(?,?,?)", (*who, run))
    return -1, 0


def _set_top(db: sqlite3.Connection, who: Who, run: bytes, top: int) -> None:
    db.execute(
        "UPDATE vehicle_runs SET top=?1, holes=EXISTS(SELECT 1 FROM record_gaps g WHERE g.tenant=?2"
        " AND g.device=?3 AND g.run=?4) WHERE tenant=?2 AND device=?3 AND run=?4",
        (top, *who, run),
    )


def _next(db: sqlite3.Connection, who: Who, run: bytes, number: int) -> bool:
    """Take `number` where it is the next of a run without gaps, as nearly always; whether it was."""
    done = db.execute(
        "UPDATE vehicle_runs SET top=?1 WHERE tenant=?2 AND device=?3 AND run=?4 AND top=?1-1 AND holes=0",
        (number, *who, run),
    )
    return done.rowcount == 1


def _cover(db: sqlite3.Connection, who: Who, run: bytes, low: int, high: int) -> bool:
    """Numbers low .. high of `run` are here or told to be missing. Whether gaps changed."""
    top, holes = _top(db, who, run)
    if low == top + 1 and not holes:
        db.execute("UPDATE vehicle_runs SET top=? WHERE tenant=? AND device=? AND run=?", (high, *who, run))
        return False
    changed = False
    if low > top + 1:
        _open(db, who, run, top, low - 1)
        changed = True
    elif low <= top:
        for first, last, month, after in db.execute(
            "SELECT first, last, month, month_after FROM record_gaps WHERE tenant=?1 AND device=?2 AND run=?3"
            " AND first<=?5 AND last>=?4 AND first>=coalesce((SELECT max(first) FROM record_gaps"
            " WHERE tenant=?1 AND device=?2 AND run=?3 AND first<=?4), ?4)",
            (*who, run, low, high),
        ).fetchall():
            changed = True
            db.execute(
                "DELETE FROM record_gaps WHERE tenant=? AND device=? AND run=? AND first=?",
                (*who, run, first),
            )
            for begin, end in ((first, low - 1), (high + 1, last)):
                if begin <= end:
                    db.execute(
                        "INSERT INTO record_gaps VALUES(?,?,?,?,?,?,?)", (*who, run, begin, end, month, after)
                    )
    if changed or high > top:
        _set_top(db, who, run, max(top, high))
    return changed


def _open(db: sqlite3.Connection, who: Who, run: bytes, top: int, last: int) -> None:
    """Numbers top+1 .. last are missing; a gap that ends at `top` grows."""
    grown = db.execute(
        "UPDATE record_gaps SET last=?1 WHERE tenant=?2 AND device=?3 AND run=?4 AND last=?5 AND first="
        "(SELECT max(first) FROM record_gaps WHERE tenant=?2 AND device=?3 AND run=?4)",
        (last, *who, run, top),
    ).rowcount
    if not grown:
        db.execute("INSERT INTO record_gaps VALUES(?,?,?,?,?,'',NULL)", (*who, run, top + 1, last))


def _claim(db: sqlite3.Connection, who: Who, previous: Previous, month: str) -> bool:
    """A later run, begun in `month`, says that `previous` exists. Whether gaps changed."""
    top, _ = _top(db, who, previous.run)
    db.execute(
        "UPDATE vehicle_runs SET claim_month=min(coalesce(claim_month, ?1), ?1)"
        " WHERE tenant=?2 AND device=?3 AND run=?4",
        (month, *who, previous.run),
    )
    if previous.number > top:
        _open(db, who, previous.run, top, previous.number)
        _set_top(db, who, previous.run, previous.number)
    _date_last(db, who, previous.run)
    return previous.number > top


def _date(db: sqlite3.Connection, who: Who, run: bytes, number: int) -> None:
    """Give the gaps around `number`, which is here or under a tombstone, their months anew.

    On either side the nearest one, and those beyond it that only tombstones part from it: what lies behind
    a segment does not care.
    """
    for sql, edge in (("first>? ORDER BY first", 0), ("first<? ORDER BY first DESC", 1)):
        bound = number
        while row := db.execute(
            f"SELECT first, last FROM record_gaps WHERE tenant=? AND device=? AND run=? AND {sql} LIMIT 1",
            (*who, run, bound),
        ).fetchone():
            bound, last = row
            _date_gap(db, who, run, bound, last)
            beside = bound - 1 if edge else last + 1
            if db.execute(
                "SELECT 1 FROM track WHERE tenant=? AND device=? AND run=? AND number=?", (*who, run, beside)
            ).fetchone():
                break


def _date_last(db: sqlite3.Connection, who: Who, run: bytes) -> None:
    """The months of a run's last gap, and of those that only tombstones part from it: a claim moves these."""
    _date(db, who, run, MAX_NUMBER + 1)


def _date_gap(db: sqlite3.Connection, who: Who, run: bytes, first: int, last: int) -> None:
    before = db.execute(
        "SELECT month FROM track WHERE tenant=? AND device=? AND run=? AND number<?"
        " ORDER BY number DESC LIMIT 1",
        (*who, run, first),
    ).fetchone()
    after = db.execute(
        "SELECT month FROM track WHERE tenant=? AND device=? AND run=? AND number>? ORDER BY number LIMIT 1",
        (*who, run, last),
    ).fetchone()
    claim = db.execute(
        "SELECT claim_month FROM vehicle_runs WHERE tenant=? AND device=? AND run=?", (*who, run)
    ).fetchone()[0]
    later = after[0] if after is not None else claim
    month = before[0] if before is not None else later
    db.execute(
        "UPDATE record_gaps SET month=?, month_after=? WHERE tenant=? AND device=? AND run=? AND first=?",
        (month or "", later, *who, run, first),
    )
