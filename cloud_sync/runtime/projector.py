"""Incidents, sightings and title alerts, projected from every accepted segment in the same transaction.

Each event goes into `incident_changes` or `sightings` once (its key is device, run, number); the row in
`incidents` is then computed anew from all changes of that incident. So these tables depend on the set of
segments and not on their order: alarms overtake, backlog follows, and a segment that comes twice adds
nothing. (Which segment a title names as its evidence is history: the first that arrived.)

A contract that refuses an alert is counted and never fails the collector's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from cloud_sync.incidents import Change, EvidenceLine, Incident, fold, iso_utc, to_json
from cloud_sync.ledger.contract import Role
from cloud_sync.ledger.engine import Call
from cloud_sync.ledger.errors import Refused
from cloud_sync.projection import belongs, must_alert, project, sighting_line
from cloud_sync.runtime import cases, fleet, title_state
from edge.segment import Sealed
from firmware_bridge.runtime.clock import Clock
from firmware_bridge.wire import cose
from models.verdict import CAUSE_NAMES, Action, Cause

ORACLE_ORG: Final = "collector"
"""The organisation whose collector verified the segment reports the alert."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS incident_changes(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, seq INTEGER NOT NULL,
  incident INTEGER NOT NULL, action INTEGER NOT NULL, cause INTEGER NOT NULL, confidence REAL NOT NULL,
  sentence TEXT NOT NULL, evidence TEXT NOT NULL, wall_ms INTEGER NOT NULL, since_ms INTEGER NOT NULL,
  segment INTEGER NOT NULL, segment_hash BLOB NOT NULL, lat REAL, lon REAL,
  unc_ms INTEGER, source TEXT NOT NULL DEFAULT 'received',
  PRIMARY KEY(tenant, device, run, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS incidents(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, incident INTEGER NOT NULL,
  cause INTEGER NOT NULL, open INTEGER NOT NULL, opened_ms INTEGER NOT NULL, since_ms INTEGER NOT NULL,
  updated_ms INTEGER NOT NULL, closed_ms INTEGER, confidence REAL NOT NULL, sentence TEXT NOT NULL,
  evidence TEXT NOT NULL, segment INTEGER NOT NULL, segment_hash BLOB NOT NULL, seq INTEGER NOT NULL,
  lat REAL, lon REAL, unc_ms INTEGER, source TEXT NOT NULL DEFAULT 'received',
  PRIMARY KEY(tenant, device, run, incident)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS incident_alerts(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, incident INTEGER NOT NULL,
  token TEXT NOT NULL, refused TEXT, PRIMARY KEY(tenant, device, run, incident)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sightings(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, seq INTEGER NOT NULL,
  sensor_id TEXT NOT NULL, wall_ms INTEGER NOT NULL, rssi_dbm INTEGER,
  PRIMARY KEY(tenant, device, run, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sightings_by_sensor ON sightings(tenant, sensor_id, wall_ms);
CREATE TABLE IF NOT EXISTS projector_counts(
  tenant TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(tenant, name)) WITHOUT ROWID;
"""
_CHANGE: Final = (
    "incident, seq, action, cause, confidence, sentence, evidence, wall_ms, since_ms, segment, segment_hash,"
    " lat, lon, unc_ms, source"
)
_INCIDENT: Final = (
    "incident, cause, open, opened_ms, since_ms, updated_ms, closed_ms, confidence, sentence, evidence,"
    " segment, segment_hash, seq, lat, lon, unc_ms, source"
)
_ADDED: Final = (
    ("unc_ms", "INTEGER"),
    ("source", "TEXT NOT NULL DEFAULT 'received'"),
)
"""Columns of incidents and their changes that an older store lacks."""


class Projector:
    """Turns accepted segments into incidents, sightings and title alerts."""

    def __init__(self, ledger_key: cose.PrivateKey, clock: Clock) -> None:
        self._key = ledger_key
        self._clock = clock

    def migrate(self, db: sqlite3.Connection) -> None:
        """Create the tables of this module and of the titles where they are missing."""
        migrate(db)

    def on_segment(self, db: sqlite3.Connection, sealed: Sealed, received_wall_ms: int) -> list[bytes]:
        """Project `sealed` inside the caller's transaction.

        Returns the signed statements that the caller logs in the same transaction: one for each title
        that an incident of this segment brings into alert.
        """
        segment = sealed.segment
        said = project(sealed, received_wall_ms)
        for name, n in said.refused.items():
            _count(db, segment.tenant, f"refused_{name}", n)
        place = (segment.tenant, segment.device, segment.run)
        db.executemany(
            "INSERT OR IGNORE INTO sightings(tenant, device, run, seq, sensor_id, wall_ms, rssi_dbm)"
            " VALUES(?, ?, ?, ?, ?, ?, ?)",
            [(*place, s.seq, s.sensor_id, s.wall_ms, s.rssi_dbm) for s in said.sightings],
        )
        statements = []
        for change in said.changes:
            if _add_change(db, place, change) and must_alert(change):
                statements += self._alert(db, place, change, received_wall_ms)
        for incident in sorted({change.incident for change in said.changes}):
            _refold(db, place, incident)
            ref = f"{segment.device}.{segment.run.hex()}.{incident}"
            fleet.add_feed(db, segment.tenant, "incident", segment.device, ref, received_wall_ms)
        fleet.on_segment(db, sealed, received_wall_ms)
        return statements

    def _alert(
        self, db: sqlite3.Connection, place: tuple[str, str, bytes], change: Change, received_wall_ms: int
    ) -> list[bytes]:
        tenant, device, _ = place
        token = title_state.bound_token(db, tenant, device)
        if token is None:
            return []
        new = db.execute(
            "INSERT OR IGNORE INTO incident_alerts(tenant, device, run, incident, token)"
            " VALUES(?, ?, ?, ?, ?)",
            (*place, change.incident, token),
        ).rowcount
        if not new:
            return []
        args = (token, change.segment_hash.hex(), CAUSE_NAMES[change.cause])
        call = Call("ReportAlert", args, ORACLE_ORG, Role.ORACLE, received_wall_ms)
        try:
            statement = title_state.transact(db, tenant, call, self._key).statement
            fleet.add_feed(db, tenant, "title", device, token, received_wall_ms)
            return [statement]
        except Refused as error:
            db.execute(
                "UPDATE incident_alerts SET refused = ?"
                " WHERE tenant = ? AND device = ? AND run = ? AND incident = ?",
                (str(error), *place, change.incident),
            )
            _count(db, tenant, "alert_refused", 1)
            return []


def migrate(db: sqlite3.Connection) -> None:
    """Create what is missing of the tables of this module, the titles, the cases and the fleet.

    A store of an older version is projected anew where it must be; that takes about a second for a thousand
    segments, once.
    """
    title_state.migrate(db)
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)
    for table in ("incident_changes", "incidents"):
        names = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        for column, kind in _ADDED:
            if column not in names:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    fleet.migrate(db)
    for sealed, received_ms in fleet.backfill(db):
        _time(db, sealed, received_ms)
    cases.migrate(db)


def _time(db: sqlite3.Connection, sealed: Sealed, received_ms: int) -> None:
    """Give the incidents of a segment that an older version projected the error bars of their times."""
    segment = sealed.segment
    place = (segment.tenant, segment.device, segment.run)
    for change in project(sealed, received_ms).changes:
        known = db.execute(
            "UPDATE incident_changes SET unc_ms = ?, source = ?"
            " WHERE tenant = ? AND device = ? AND run = ? AND seq = ?",
            (change.unc_ms, change.source, *place, change.seq),
        ).rowcount
        if known:
            _fold_row(db, place, change.incident)


def list_incidents(db: sqlite3.Connection, tenant: str) -> list[dict[str, Any]]:
    """The incidents of `tenant` by the time of their opening, as the command line and JSON show them."""
    rows = db.execute(
        f"SELECT device, run, {_INCIDENT} FROM incidents WHERE tenant = ?"
        " ORDER BY opened_ms, device, run, incident",
        (tenant,),
    ).fetchall()
    out = []
    for device, run, *columns in rows:
        incident = _incident(columns)
        out.append(
            to_json(incident, device=device, run=run.hex(), extra=_sighted(db, tenant, device, incident))
        )
    return out


def counts(db: sqlite3.Connection, tenant: str) -> dict[str, int]:
    """What could not be projected, by reason."""
    return {
        str(name): int(n)
        for name, n in db.execute(
            "SELECT name, n FROM projector_counts WHERE tenant = ? ORDER BY name", (tenant,)
        )
    }


def erase(
    db: sqlite3.Connection,
    tenant: str,
    device: str,
    from_ms: int,
    to_ms: int,
    *,
    wall_ms: int | None = None,
    reason: str = "with the incident",
) -> int:
    """Delete what was projected from `device` in [from_ms, to_ms), inside the caller's transaction.

    For the erasure of a vehicle-month: sentences and positions here are as personal as the segments. An
    incident goes as a whole by the time of its opening, with what people wrote about it (`wall_ms` and
    `reason` stand with the emptied bodies of their statements). Returns the number of rows deleted.
    """
    scope = (tenant, device, from_ms, to_ms)
    gone = db.execute(
        "SELECT run, incident FROM incidents"
        " WHERE tenant = ? AND device = ? AND opened_ms >= ? AND opened_ms < ?",
        scope,
    ).fetchall()
    deleted = 0
    for run, incident in gone:
        if cases.acts(db, tenant, device, run, incident):
            deleted += cases.erase(db, tenant, device, run, incident, wall_ms=wall_ms, reason=reason)
    for table in ("incident_changes", "incidents"):
        for run, incident in gone:
            deleted += db.execute(
                f"DELETE FROM {table} WHERE tenant = ? AND device = ? AND run = ? AND incident = ?",
                (tenant, device, run, incident),
            ).rowcount
    for run, incident in gone:
        cases.on_incident(db, tenant, device, run, incident)
    deleted += db.execute(
        "DELETE FROM sightings WHERE tenant = ? AND wall_ms >= ? AND wall_ms < ? AND (device = ?"
        " OR sensor_id IN (SELECT sensor_id FROM device_tyres WHERE tenant = ? AND device = ?))",
        (tenant, from_ms, to_ms, device, tenant, device),
    ).rowcount
    return deleted


def _add_change(db: sqlite3.Connection, place: tuple[str, str, bytes], change: Change) -> bool:
    """Keep `change`; False when it was known."""
    row = (
        *place, change.incident, change.seq, int(change.action), int(change.cause), change.confidence,
        change.sentence, json.dumps(change.evidence), change.wall_ms, change.since_ms, change.segment,
        change.segment_hash, change.lat_deg, change.lon_deg, change.unc_ms, change.source,
    )  # fmt: skip
    marks = ", ".join("?" * len(row))
    sql = f"INSERT OR IGNORE INTO incident_changes(tenant, device, run, {_CHANGE}) VALUES({marks})"
    return db.execute(sql, row).rowcount == 1


def _refold(db: sqlite3.Connection, place: tuple[str, str, bytes], number: int) -> None:
    _fold_row(db, place, number)
    cases.on_incident(db, *place, number)


def _fold_row(db: sqlite3.Connection, place: tuple[str, str, bytes], number: int) -> None:
    rows = db.execute(
        f"SELECT {_CHANGE} FROM incident_changes"
        " WHERE tenant = ? AND device = ? AND run = ? AND incident = ?",
        (*place, number),
    ).fetchall()
    incident = fold(_change(row) for row in rows)
    row = (
        *place, incident.incident, int(incident.cause), int(incident.open), incident.opened_ms,
        incident.since_ms, incident.updated_ms, incident.closed_ms, incident.confidence, incident.sentence,
        json.dumps(incident.evidence), incident.segment, incident.segment_hash, incident.seq,
        incident.lat_deg, incident.lon_deg, incident.unc_ms, incident.source,
    )  # fmt: skip
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT OR REPLACE INTO incidents(tenant, device, run, {_INCIDENT}) VALUES({marks})", row)


def _sighted(db: sqlite3.Connection, tenant: str, device: str, incident: Incident) -> list[EvidenceLine]:
    rows = db.execute(
        "SELECT s.device, s.sensor_id, s.wall_ms FROM sightings s JOIN device_tyres t"
        " ON t.tenant = s.tenant AND t.sensor_id = s.sensor_id"
        " WHERE s.tenant = ? AND t.device = ? AND s.device <> t.device ORDER BY s.wall_ms, s.device",
        (tenant, device),
    )
    heard: dict[str, tuple[int, set[str]]] = {}
    for node, sensor, wall_ms in rows:
        if belongs(wall_ms, incident.since_ms, incident.closed_ms):
            heard.setdefault(node, (wall_ms, set()))[1].add(sensor)
    return [sighting_line(node, len(ids), iso_utc(first_ms)) for node, (first_ms, ids) in heard.items()]


def _lines(text: str) -> tuple[EvidenceLine, ...]:
    return tuple((str(sensor), str(said)) for sensor, said in json.loads(text))


def _change(row: tuple[Any, ...]) -> Change:
    number, seq, action, cause, confidence, sentence, evidence, *rest = row
    return Change(number, seq, Action(action), Cause(cause), confidence, sentence, _lines(evidence), *rest)


def _incident(row: list[Any]) -> Incident:
    (
        number, cause, is_open, opened, since, updated, closed, confidence, sentence, evidence, *rest
    ) = row  # fmt: skip
    return Incident(
        number, Cause(cause), bool(is_open), opened, since, updated, closed, confidence, sentence,
        _lines(evidence), *rest,
    )  # fmt: skip


def _count(db: sqlite3.Connection, tenant: str, name: str, n: int) -> None:
    db.execute(
        "INSERT INTO projector_counts(tenant, name, n) VALUES(?, ?, ?)"
        " ON CONFLICT(tenant, name) DO UPDATE SET n = n + excluded.n",
        (tenant, name, n),
    )
