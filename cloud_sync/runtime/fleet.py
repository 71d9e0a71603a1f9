"""The fleet as the operator sees it, projected from every accepted segment in the collector's transaction.

Tables (each with its tenant; all but `feed` and `cards` are functions of the set of segments)
- `vehicles`       one row a device: its newest state
- `vehicle_runs`   one row a run: the newest of each thing that the run said (`cloud_sync.fleet.Latest`)
- `track`          one row a segment: its time and its lanes, thinned; lanes are NULL once erased
- `tombs`, `record_gaps`, `record_months`   what is missing (`fleet_record`)
- `vehicle_certs`  until when each event key of a device is certified
- `feed`           what changed, numbered, for the live view: at most one row 'vehicle' a device
- `cards`          what the operator calls a vehicle, its branch, a note

Which run is newer: the one whose own newest wall time is later; a run that never knew a time counts by its
first receipt. Which of two events of a run is newer: the one with the higher number.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final

from cryptography import x509

from cloud_sync import fleet
from cloud_sync.collector import month, months
from cloud_sync.fleet import BEAT, DEPTH, EVENT, ITEMS, PLACE, POWER, Latest
from cloud_sync.incidents import MAX_NUMBER
from cloud_sync.runtime import cursors, fleet_record
from edge.errors import EdgeError
from edge.segment import Sealed, peek
from firmware_bridge.errors import WireError

MAX_FEED: Final = 200_000
"""Rows of the feed. A viewer that was away for longer reads everything anew."""
PRUNE_EVERY: Final = 1024
"""Rows between two looks at the feed's length."""
GRACE_MS: Final = 120_000
"""After a promised heartbeat: a segment is sealed within 60 s, and the way here takes some seconds."""
GROWING_FROM: Final = 50
"""Segments in an outbox from which on its growing is worth a word: an hour without network."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS vehicles(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB, runs INTEGER NOT NULL DEFAULT 0,
  segments INTEGER NOT NULL DEFAULT 0, events INTEGER NOT NULL DEFAULT 0, clock INTEGER NOT NULL DEFAULT 0,
  heard_ms INTEGER, event_ms INTEGER, event_unc INTEGER, event_source TEXT, due_ms INTEGER,
  stopped INTEGER NOT NULL DEFAULT 0, beat_ms INTEGER, loss_ms INTEGER, software TEXT,
  depth INTEGER, depth_bytes INTEGER, growing INTEGER NOT NULL DEFAULT 0,
  power TEXT NOT NULL DEFAULT 'unknown', supply REAL, lat REAL, lon REAL, place_ms INTEGER,
  place_unc INTEGER, place_source TEXT, moving INTEGER, missing INTEGER NOT NULL DEFAULT 0,
  erased INTEGER NOT NULL DEFAULT 0, certificate_ms INTEGER, PRIMARY KEY(tenant, device)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS track(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, number INTEGER NOT NULL,
  month TEXT NOT NULL, month_last TEXT NOT NULL, start_ms INTEGER, end_ms INTEGER, events INTEGER NOT NULL,
  lanes TEXT, PRIMARY KEY(tenant, device, run, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS track_time ON track(tenant, device, start_ms) WHERE lanes IS NOT NULL;
CREATE TABLE IF NOT EXISTS vehicle_certs(
  tenant TEXT NOT NULL, device TEXT NOT NULL, kid BLOB NOT NULL, until_ms INTEGER,
  PRIMARY KEY(tenant, device, kid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feed(
  id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, kind TEXT NOT NULL, device TEXT NOT NULL,
  ref TEXT NOT NULL, at_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS feed_tenant ON feed(tenant, id);
CREATE INDEX IF NOT EXISTS feed_vehicle ON feed(tenant, device) WHERE kind = 'vehicle';
CREATE TABLE IF NOT EXISTS feed_state(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cards(
  tenant TEXT NOT NULL, device TEXT NOT NULL, name TEXT, branch TEXT, note TEXT NOT NULL DEFAULT '',
  name_key TEXT, PRIMARY KEY(tenant, device)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cards_branch ON cards(tenant, branch);
"""
_COLUMNS: Final = (
    "run", "clock", "event_ms", "event_unc", "event_source", "due_ms", "stopped", "beat_ms", "loss_ms",
    "software", "depth", "depth_bytes", "growing", "power", "supply", "lat", "lon", "place_ms", "place_unc",
    "place_source", "moving",
)  # fmt: skip
_UPSERT: Final = (
    f"INSERT INTO vehicles(tenant, device, runs, segments, events, heard_ms, {', '.join(_COLUMNS)})"
    f" VALUES(?,?,?,?,?,?{',?' * len(_COLUMNS)}) ON CONFLICT(tenant, device) DO UPDATE SET"
    " runs=runs+excluded.runs, segments=segments+excluded.segments, events=events+excluded.events,"
    " heard_ms=max(coalesce(heard_ms, excluded.heard_ms), coalesce(excluded.heard_ms, heard_ms)), "
    + ", ".join(f"{name}=excluded.{name}" for name in _COLUMNS)
)
Who = tuple[str, str]
"""Tenant, device."""


def migrate(db: sqlite3.Connection) -> None:
    """Create the tables of this module and the key for cursors where they are missing."""
    for statement in (_SCHEMA + fleet_record.SCHEMA).split(";"):
        if statement.strip():
            db.execute(statement)
    if _has_table(db, "meta"):
        cursors.ensure_key(db)


def on_segment(db: sqlite3.Connection, sealed: Sealed, received_ms: int) -> bool:
    """Project `sealed` inside the caller's transaction; False, and nothing is written, when it was known."""
    segment = sealed.segment
    if segment.number > MAX_NUMBER:
        return False
    who = (segment.tenant, segment.device)
    said = fleet.told(segment, received_ms)
    if said.whole:
        first, last = month(said.start_ms), month(said.end_ms)
    else:
        first, last = months(segment, received_ms)
    new = db.execute(
        "INSERT OR IGNORE INTO track VALUES(?,?,?,?,?,?,?,?,?,?)",
        (*who, segment.run, segment.number, first, last, said.start_ms, said.end_ms, said.events, said.lanes),
    ).rowcount
    if not new:
        return False
    changed = fleet_record.add(db, segment, first, said.end_ms, said.events)
    begun, latest = _remember(db, who, segment.run, said, int(segment.clock), received_ms)
    _renew(db, who, (begun, 1, said.events, received_ms), segment.run, latest)
    if changed:
        db.execute(
            "UPDATE vehicles SET missing=? WHERE tenant=? AND device=?", (fleet_record.missing(db, who), *who)
        )
    _certified(db, who, sealed.kid)
    _feed_vehicle(db, who, received_ms)
    return True


def add_feed(db: sqlite3.Connection, tenant: str, kind: str, device: str, ref: str, at_ms: int) -> int:
    """Tell the live view that something changed, inside the caller's transaction; the number of the row.

    `kind`: incident, vehicle, title, case, log. `ref`: the id of what changed.
    """
    row = db.execute(
        "INSERT INTO feed(tenant, kind, device, ref, at_ms) VALUES(?,?,?,?,?)",
        (tenant, kind, device, ref, at_ms),
    )
    number = row.lastrowid
    assert number is not None
    if number % PRUNE_EVERY == 0:
        prune(db, MAX_FEED)
    return number


def prune(db: sqlite3.Connection, keep: int) -> None:
    """Delete the oldest rows of the feed beyond `keep`, inside the caller's transaction."""
    row = db.execute("SELECT id FROM feed ORDER BY id DESC LIMIT 1 OFFSET ?", (keep,)).fetchone()
    if row is None:
        return
    db.execute("DELETE FROM feed WHERE id<=?", row)
    db.execute("INSERT OR REPLACE INTO feed_state VALUES('pruned', ?)", row)


def set_card(
    db: sqlite3.Connection, tenant: str, device: str, name: str | None, branch: str | None, note: str | None
) -> None:
    """Write a vehicle's card, inside the caller's transaction: what is None stays, "" takes it away."""
    db.execute("INSERT OR IGNORE INTO cards(tenant, device) VALUES(?,?)", (tenant, device))
    for column, value in (("name", name), ("branch", branch)):
        if value is not None:
            db.execute(
                f"UPDATE cards SET {column}=? WHERE tenant=? AND device=?",
                (value.strip() or None, tenant, device),
            )
    if name is not None:
        key = name.strip().casefold() or None
        db.execute("UPDATE cards SET name_key=? WHERE tenant=? AND device=?", (key, tenant, device))
    if note is not None:
        db.execute("UPDATE cards SET note=? WHERE tenant=? AND device=?", (note, tenant, device))


def erase(db: sqlite3.Connection, tenant: str, device: str, name: str) -> int:
    """Forget what `device` told in the month `name` ('YYYY-MM'), in the caller's transaction; rows changed.

    What is left: that segments with these numbers exist and were erased, and how many events they held.
    """
    who = (tenant, device)
    scope = "tenant=? AND device=? AND month<=? AND month_last>=? AND lanes IS NOT NULL"
    gone: dict[bytes, set[int]] = {}
    for run, number, first in db.execute(
        f"SELECT run, number, month FROM track WHERE {scope}", (*who, name, name)
    ).fetchall():
        gone.setdefault(bytes(run), set()).add(number)
        db.execute(
            "UPDATE record_months SET erased=erased+1 WHERE tenant=? AND month=? AND device=?",
            (tenant, first, device),
        )
    if not gone:
        return 0
    segments = db.execute(
        f"UPDATE track SET lanes=NULL, start_ms=NULL, end_ms=NULL WHERE {scope}", (*who, name, name)
    ).rowcount
    stones = sum(_forget(db, who, run, frozenset(numbers)) for run, numbers in gone.items())
    db.execute("UPDATE vehicles SET erased=erased+? WHERE tenant=? AND device=?", (segments, *who))
    _renew(db, who, (0, 0, 0, None))
    return segments + stones


def backfill(db: sqlite3.Connection) -> Iterator[tuple[Sealed, int]]:
    """Project the stored segments of devices that have none in `track` yet: a store of an older version.

    Yields each segment with its time of receipt after it was projected, for what else wants to look at it.
    Inside the caller's transaction. Bytes that can no longer be read are left out: `holdfast log` names them.
    """
    if not (_has_table(db, "segments") and _has_table(db, "bodies")):
        return
    missing = db.execute(
        "SELECT tenant, device FROM segments GROUP BY tenant, device EXCEPT"
        " SELECT tenant, device FROM vehicles"
    ).fetchall()
    for who in missing:
        rows = db.execute(
            "SELECT min(s.id), s.run, s.number, s.received_ms, s.clock, b.month, b.month_last, b.data,"
            " coalesce(s.last_seq-s.first_seq+1, 0)"
            " FROM segments s JOIN bodies b ON b.hash=s.hash WHERE s.tenant=? AND s.device=?"
            " GROUP BY s.run, s.number ORDER BY s.id",
            who,
        ).fetchall()
        for _, run, number, received_ms, clock, begun, ended, data, events in rows:
            if data is None:
                key = (*who, run, number, begun, ended)
                _backfill_erased(db, key, received_ms, clock, events)
                continue
            try:
                sealed = peek(data)
            except (WireError, EdgeError):
                continue
            on_segment(db, sealed, received_ms)
            yield sealed, received_ms


def _backfill_erased(
    db: sqlite3.Connection,
    key: tuple[str, str, bytes, int, str, str],
    received_ms: int,
    clock: int,
    events: int,
) -> None:
    """`key`: the first columns of `track`."""
    who, (run, number, begun_in) = key[:2], key[2:5]
    new = db.execute(
        "INSERT OR IGNORE INTO track VALUES(?,?,?,?,?,?,NULL,NULL,?,NULL)", (*key, events)
    ).rowcount
    if not new:
        return
    fleet_record.add_erased(db, who, run, number, begun_in, events)
    said = fleet.Told({}, received_ms, received_ms, None, events, "")
    begun, _ = _remember(db, who, run, said, clock, received_ms)
    _renew(db, who, (begun, 1, events, received_ms))
    db.execute(
        "UPDATE vehicles SET erased=erased+1, missing=? WHERE tenant=? AND device=?",
        (fleet_record.missing(db, who), *who),
    )


def _remember(
    db: sqlite3.Connection, who: Who, run: bytes, said: fleet.Told, clock: int, received_ms: int
) -> tuple[int, Latest]:
    """Merge what a segment said into its run: 1 when it is the run's first, else 0; and the run's newest."""
    row = db.execute(
        "SELECT latest, seen FROM vehicle_runs WHERE tenant=? AND device=? AND run=?", (*who, run)
    ).fetchone()
    latest = fleet.merge(json.loads(row[0]), said.latest)
    db.execute(
        "UPDATE vehicle_runs SET latest=?1, seen=seen+1, clock=?2,"
        " wall_ms=max(coalesce(wall_ms, ?3), coalesce(?3, wall_ms)),"
        " received_ms=min(coalesce(received_ms, ?4), ?4) WHERE tenant=?5 AND device=?6 AND run=?7",
        (fleet.to_json(latest), clock, said.wall_ms, received_ms, *who, run),
    )
    return int(not row[1]), latest


def _renew(
    db: sqlite3.Connection,
    who: Who,
    added: tuple[int, int, int, int | None],
    known_run: bytes | None = None,
    known: Latest | None = None,
) -> None:
    """Compute the vehicle's newest state anew from its runs; `added`: runs, segments, events, receipt.

    `known` is what `known_run` said, where the caller has it at hand.
    """
    runs = db.execute(
        "SELECT run, clock, latest FROM vehicle_runs WHERE tenant=? AND device=? AND seen>0"
        " ORDER BY coalesce(wall_ms, received_ms) DESC, run DESC",
        who,
    )
    newest: tuple[bytes, int] | None = None
    found: Latest = {}
    promise: Latest | None = None
    for run, clock, text in runs:
        newest = newest or (run, clock)
        latest: Latest = known if known is not None and run == known_run else json.loads(text)
        if promise is None and (BEAT in latest or POWER in latest):
            promise = latest
        for name, item in latest.items():
            found.setdefault(name, item)
        if len(found) == len(ITEMS):
            break
    runs.close()
    db.execute(_UPSERT, (*who, *added, *_values(newest, found, promise or {})))


def _values(newest: tuple[bytes, int] | None, found: Latest, promise: Latest) -> Iterable[Any]:
    """Values of _COLUMNS."""
    event, beat, power = found.get(EVENT), found.get(BEAT), found.get(POWER)
    place, depth = found.get(PLACE), found.get(DEPTH, [[None] * 4])[0]
    due = fleet.due_ms(promise)
    stopped = BEAT in promise and bool(promise[BEAT][6]) and due is None
    return (
        *(newest or (None, 0)),
        *(event[2:5] if event else (None, None, None)),
        None if due is None else due + GRACE_MS,
        int(stopped),
        *((beat[2], beat[4], beat[5]) if beat else (None, None, None)),
        depth[2], depth[3], int(fleet.growing(found, GROWING_FROM)),
        *((power[3], power[4]) if power else ("unknown", None)),
        *((place[5], place[6], place[2], place[3], place[4], place[7]) if place else (None,) * 6),
    )  # fmt: skip


def _forget(db: sqlite3.Connection, who: Who, run: bytes, numbers: frozenset[int]) -> int:
    key = (*who, run)
    row = db.execute("SELECT latest FROM vehicle_runs WHERE tenant=? AND device=? AND run=?", key).fetchone()
    if row is not None:
        left = fleet.to_json(fleet.without(json.loads(row[0]), numbers))
        db.execute("UPDATE vehicle_runs SET latest=? WHERE tenant=? AND device=? AND run=?", (left, *key))
    rows = 0
    for number in numbers:
        rows += db.execute(
            "DELETE FROM tombs WHERE tenant=? AND device=? AND run=? AND number=?", (*key, number)
        ).rowcount
    return rows


def _certified(db: sqlite3.Connection, who: Who, kid: bytes) -> None:
    """Note until when the key `kid` is certified; once for each key."""
    key = (*who, kid)
    if db.execute("SELECT 1 FROM vehicle_certs WHERE tenant=? AND device=? AND kid=?", key).fetchone():
        return
    row = None
    if _has_table(db, "devices"):
        row = db.execute(
            "SELECT certificate FROM devices WHERE tenant=? AND device=? AND kid=?", key
        ).fetchone()
    until_ms = None
    if row is not None:
        try:
            until = x509.load_der_x509_certificate(row[0]).not_valid_after_utc
            until_ms = int(until.timestamp() * 1000)
        except ValueError:
            until_ms = None  # of a store that somebody edited: nothing is known
    db.execute("INSERT INTO vehicle_certs VALUES(?,?,?,?)", (*key, until_ms))
    db.execute(
        "UPDATE vehicles SET certificate_ms=(SELECT max(until_ms) FROM vehicle_certs c"
        " WHERE c.tenant=vehicles.tenant AND c.device=vehicles.device) WHERE tenant=? AND device=?",
        who,
    )


def _feed_vehicle(db: sqlite3.Connection, who: Who, at_ms: int) -> None:
    db.execute("DELETE FROM feed WHERE tenant=? AND device=? AND kind='vehicle'", who)
    add_feed(db, who[0], "vehicle", who[1], who[1], at_ms)


def _has_table(db: sqlite3.Connection, name: str) -> bool:
    row = db.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name=?", (name,)).fetchone()
    return row is not None
