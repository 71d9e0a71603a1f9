"""The life of incidents in the collector's database: acts of people, each with its signed statement.

An act, the statement that tells of it, the case as it then stands and the line in the feed are one
transaction: either all are there or none is. Who acts names the number of acts that they have seen;
of two who decide upon the same state, the second is told what the first did.

The row of `cases` is computed anew from `incidents` and `case_acts` whenever either changes, and holds
nothing that they do not.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from cloud_sync import casework
from cloud_sync.access import WRITE_INCIDENTS, Principal
from cloud_sync.casework import DEVICE, RULE, Act, Case, Ref, State, Verb
from cloud_sync.errors import Conflict, Denied, NotFound
from cloud_sync.incidents import iso_utc
from cloud_sync.ledger.contract import LOCKED_STATES
from cloud_sync.runtime import audit, fleet, title_state
from cloud_sync.runtime.store import Store, log_statement
from cloud_sync.statement import CASE, make_statement
from firmware_bridge.wire import cose
from models.verdict import Cause

NO_SUCH: Final = "there is no such incident"
"""Also for those of others: that one exists must not be told."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS case_acts(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, incident INTEGER NOT NULL,
  number INTEGER NOT NULL, action TEXT NOT NULL, author TEXT NOT NULL, role TEXT NOT NULL,
  assignee TEXT, note TEXT NOT NULL, at_ms INTEGER NOT NULL, statement_hash BLOB NOT NULL,
  PRIMARY KEY(tenant, device, run, incident, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cases(
  tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL, incident INTEGER NOT NULL,
  state TEXT NOT NULL, assignee TEXT, version INTEGER NOT NULL, severity INTEGER NOT NULL,
  updated_ms INTEGER NOT NULL, verdict INTEGER, PRIMARY KEY(tenant, device, run, incident)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cases_by_state ON cases(tenant, state, severity);
CREATE INDEX IF NOT EXISTS cases_by_verdict ON cases(tenant, updated_ms) WHERE verdict IS NOT NULL;
"""
_KEY: Final = "tenant = ? AND device = ? AND run = ? AND incident = ?"


@dataclass(frozen=True, slots=True)
class _Found:
    """An incident as an act needs it."""

    cause: Cause
    segment: bytes
    closed: bool
    acts: tuple[Act, ...]

    @property
    def case(self) -> Case:
        return casework.fold(self.acts, device_closed=self.closed)


def migrate(db: sqlite3.Connection) -> None:
    """Create the tables of this module and of the audit where they are missing, inside a transaction or not.

    Incidents of an older store get their cases.
    """
    audit.migrate(db)
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'incidents'").fetchone():
        for row in db.execute(
            "SELECT tenant, device, run, incident FROM incidents EXCEPT"
            " SELECT tenant, device, run, incident FROM cases"
        ).fetchall():
            on_incident(db, *row)


def on_incident(db: sqlite3.Connection, tenant: str, device: str, run: bytes, incident: int) -> None:
    """Compute the case of an incident anew, in the caller's transaction, after `incidents` changed.

    Where the incident is gone, its case goes too.
    """
    key = (tenant, device, run, incident)
    row = db.execute(
        f"SELECT cause, open, confidence, updated_ms FROM incidents WHERE {_KEY}", key
    ).fetchone()
    if row is None:
        db.execute(f"DELETE FROM cases WHERE {_KEY}", key)
        return
    cause, is_open, confidence, updated_ms = row
    told = acts(db, *key)
    case = casework.fold(told, device_closed=not is_open)
    severity = casework.severity(Cause(cause), confidence, pledged=pledged(db, tenant, device))
    db.execute(
        "INSERT OR REPLACE INTO cases(tenant, device, run, incident, state, assignee, version, severity,"
        " updated_ms, verdict) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key, str(case.state), case.assignee, case.version, severity,
            max([updated_ms, *(act.wall_ms for act in told)]), case.verdict,
        ),
    )  # fmt: skip


def act(
    store: Store,
    principal: Principal,
    incident_id: str,
    *,
    action: str,
    version: int,
    note: str = "",
    assignee: str | None = None,
    accounts: Collection[str] = (),
    key: cose.PrivateKey,
    wall_ms: int,
) -> None:
    """One act of `principal` upon an incident; durable on return, and queued for the log.

    `accounts`: the names an incident of this branch may be given to. `wall_ms`: the collector's clock.
    Raises Denied without the scope, NotFound for an incident that is not there or not theirs, Conflict when
    somebody acted since `version`, BadRequest for an action that this state does not take, StoreBusy.
    """
    if not principal.may(WRITE_INCIDENTS):
        raise Denied("this account may read incidents but not act upon them")
    if principal.name in (RULE, DEVICE):
        raise Denied(f"acts of {principal.name!r} are not a person's: use an account of another name")
    ref = casework.parse_id(incident_id)
    with store.transaction() as db:
        check_seen(db, principal, ref)
        found = _find(db, principal.tenant, ref)
        case = found.case
        if version != case.version:
            raise Conflict(_since(found.acts, version))
        verb, text, name = casework.check(case, action, note=note, assignee=assignee, accounts=accounts)
        made = Act(case.version + 1, verb, principal.name, wall_ms, name, text)
        _append(db, principal.tenant, ref, found, made, role=principal.role, key=key)


def escalate_by_rule(
    store: Store,
    tenant: str,
    incident_id: str,
    *,
    rule: str,
    version: int,
    key: cose.PrivateKey,
    wall_ms: int,
) -> bool:
    """Escalate an incident that nobody has acted upon since `version`; whether it was.

    False, and nothing is written, where it is not open any more or somebody acted: calling again is safe.
    `rule` is the name of the rule. Raises NotFound (it may have been erased), StoreBusy.
    """
    ref = casework.parse_id(incident_id)
    with store.transaction() as db:
        found = _find(db, tenant, ref)
        case = found.case
        if case.version != version or case.state is not State.OPEN:
            return False
        note = f"nobody took it in time ({rule})"
        made = Act(case.version + 1, Verb.ESCALATE, RULE, wall_ms, None, note)
        _append(db, tenant, ref, found, made, role=rule, key=key)
        return True


def acts(db: sqlite3.Connection, tenant: str, device: str, run: bytes, incident: int) -> tuple[Act, ...]:
    """The acts upon an incident, oldest first."""
    rows = db.execute(
        f"SELECT number, action, author, at_ms, assignee, note FROM case_acts WHERE {_KEY} ORDER BY number",
        (tenant, device, run, incident),
    )
    return tuple(Act(number, Verb(action), *rest) for number, action, *rest in rows)


def erase(
    db: sqlite3.Connection,
    tenant: str,
    device: str,
    run: bytes,
    incident: int,
    *,
    wall_ms: int | None = None,
    reason: str = "with the incident",
) -> int:
    """Delete the case of an incident and what was written about it; the number of rows and bodies.

    The log keeps the hashes of its statements, and their proofs hold. In the caller's transaction.
    """
    key = (tenant, device, run, incident)
    gone = db.execute(
        "UPDATE bodies SET data = NULL, erased_ms = ?, reason = ? WHERE tenant = ? AND data IS NOT NULL"
        f" AND hash IN (SELECT statement_hash FROM case_acts WHERE {_KEY})",
        (wall_ms, reason, tenant, *key),
    ).rowcount
    for table in ("case_acts", "cases"):
        gone += db.execute(f"DELETE FROM {table} WHERE {_KEY}", key).rowcount
    return gone


def check_seen(db: sqlite3.Connection, principal: Principal, ref: Ref) -> None:
    """Raise NotFound unless the incident is there and of the principal's tenant and branches."""
    row = db.execute(
        "SELECT c.branch FROM incidents i LEFT JOIN cards c ON c.tenant = i.tenant AND c.device = i.device"
        " WHERE i.tenant = ? AND i.device = ? AND i.run = ? AND i.incident = ?",
        (principal.tenant, ref.device, ref.run, ref.incident),
    ).fetchone()
    if row is None or not principal.sees(row[0]):
        raise NotFound(NO_SUCH)


def pledged(db: sqlite3.Connection, tenant: str, device: str) -> bool:
    """Whether the vehicle of `device` is collateral now: its title is locked."""
    return title_of(db, tenant, device)[1] in LOCKED_STATES


def title_of(db: sqlite3.Connection, tenant: str, device: str) -> tuple[str | None, str | None]:
    """(token, state) of the title of the vehicle that carries `device`; (None, None) where none is bound."""
    token = title_state.bound_token(db, tenant, device)
    if token is None:
        return None, None
    row = db.execute(
        "SELECT state FROM title_events WHERE tenant = ? AND token = ? ORDER BY number DESC LIMIT 1",
        (tenant, token),
    ).fetchone()
    return token, None if row is None else str(row[0])


def _find(db: sqlite3.Connection, tenant: str, ref: Ref) -> _Found:
    key = (tenant, ref.device, ref.run, ref.incident)
    row = db.execute(f"SELECT cause, segment_hash, open FROM incidents WHERE {_KEY}", key).fetchone()
    if row is None:
        raise NotFound(NO_SUCH)
    return _Found(Cause(row[0]), bytes(row[1]), not row[2], acts(db, *key))


def _since(told: tuple[Act, ...], version: int) -> str:
    if version > len(told):
        return f"this incident has {len(told)} entries, not {version}: read it again"
    last = told[-1]
    more = len(told) - version - 1
    did = f"{last.author} did '{last.action}' at {iso_utc(last.wall_ms)}"
    return f"{did}{f' ({more} more before it)' if more else ''}, after you read it: read it again and decide"


def _append(
    db: sqlite3.Connection,
    tenant: str,
    ref: Ref,
    found: _Found,
    made: Act,
    *,
    role: str,
    key: cose.PrivateKey,
) -> None:
    state = casework.fold((*found.acts, made), device_closed=found.closed).state
    body = casework.body(ref, made, role=role, cause=found.cause, segment=found.segment, state=state)
    statement = make_statement(CASE, tenant, made.wall_ms, body, key)
    log_statement(db, tenant, statement)
    db.execute(
        "INSERT INTO case_acts(tenant, device, run, incident, number, action, author, role, assignee, note,"
        " at_ms, statement_hash) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            tenant, ref.device, ref.run, ref.incident, made.number, str(made.action), made.author, role,
            made.assignee, made.note, made.wall_ms, hashlib.sha256(statement).digest(),
        ),
    )  # fmt: skip
    on_incident(db, tenant, ref.device, ref.run, ref.incident)
    fleet.add_feed(db, tenant, "case", ref.device, str(ref), made.wall_ms)
