"""Titles in the collector's database: the embedded engine's state, its events, and what must stay erasable.

Contract state and statements hold keyed hashes only. The words behind them (owner, loan) stand in
`title_private` and nowhere else, so that they can be erased while every proof still holds. Everything
carries its tenant; no query goes without one.

A transition, its events and its signed statement are one transaction: either all are there or none is.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloud_sync.incidents import iso_utc
from cloud_sync.ledger import contract, engine
from cloud_sync.ledger.errors import Refused, WrongState
from cloud_sync.statement import TITLE, make_statement
from firmware_bridge.wire import cose

MAX_PRIVATE_CHARS: Final = 200
"""Owner or loan as typed; a name and a number need far less."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS title_state(
  tenant TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
  PRIMARY KEY(tenant, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS title_events(
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, token TEXT NOT NULL, number INTEGER NOT NULL,
  function TEXT NOT NULL, org TEXT NOT NULL, role TEXT NOT NULL, state TEXT NOT NULL,
  time_ms INTEGER NOT NULL, events TEXT NOT NULL, statement_hash BLOB NOT NULL,
  UNIQUE(tenant, token, number));
CREATE TABLE IF NOT EXISTS title_private(
  tenant TEXT NOT NULL, token TEXT NOT NULL, field TEXT NOT NULL, text TEXT NOT NULL,
  PRIMARY KEY(tenant, token, field)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS title_devices(
  tenant TEXT NOT NULL, device TEXT NOT NULL, token TEXT NOT NULL, PRIMARY KEY(tenant, device)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS title_devices_token ON title_devices(tenant, token);
CREATE TABLE IF NOT EXISTS device_tyres(
  tenant TEXT NOT NULL, device TEXT NOT NULL, sensor_id TEXT NOT NULL,
  PRIMARY KEY(tenant, device, sensor_id)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Committed:
    """A transition that stands in the database."""

    title: dict[str, Any]
    statement: bytes
    """Signed; still to be given to the log within the same transaction when `transact` made it."""


class SqliteState:
    """The state of one tenant, as the engine reads and writes it. Writes need an open transaction."""

    def __init__(self, db: sqlite3.Connection, tenant: str) -> None:
        self._db = db
        self._tenant = tenant

    def read(self, key: str) -> tuple[bytes | None, int]:
        """Value and version of `key`."""
        row = self._db.execute(
            "SELECT value, version FROM title_state WHERE tenant = ? AND key = ?", (self._tenant, key)
        ).fetchone()
        return (None, engine.ABSENT) if row is None else (bytes(row[0]), int(row[1]))

    def keys(self, prefix: str) -> Sequence[str]:
        """Keys that begin with `prefix` (ASCII), sorted."""
        rows = self._db.execute(
            "SELECT key FROM title_state WHERE tenant = ? AND key >= ? AND key < ? ORDER BY key",
            (self._tenant, prefix, prefix + "\x7f"),
        )
        return [str(row[0]) for row in rows]

    def commit(self, outcome: engine.Outcome) -> None:
        """Apply `outcome`. Raises Conflict, having written nothing, when something it read has changed."""
        engine.check_versions(self, outcome)
        self._db.executemany(
            "INSERT INTO title_state(tenant, key, value, version) VALUES(?, ?, ?, 0)"
            " ON CONFLICT(tenant, key) DO UPDATE SET value = excluded.value, version = version + 1",
            [(self._tenant, key, value) for key, value in outcome.writes.items()],
        )


def migrate(db: sqlite3.Connection) -> None:
    """Create the tables of this module where they are missing."""
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)


def transact(db: sqlite3.Connection, tenant: str, call: engine.Call, key: cose.PrivateKey) -> Committed:
    """Run and apply `call` inside the caller's open transaction; the caller logs the statement in it.

    Raises Refused as the contract does; then nothing was written and the transaction can go on.
    """
    return apply(db, tenant, engine.simulate(SqliteState(db, tenant), call), key)


def ask(db: sqlite3.Connection, tenant: str, function: str, *args: str) -> Any:
    """The answer of one of the contract's questions. Raises Refused."""
    if function in contract.FUNCTIONS and contract.FUNCTIONS[function].writes:
        raise Refused(f"{function} is not a question")
    call = engine.Call(function, args, "anyone", "", 0)
    return json.loads(engine.simulate(SqliteState(db, tenant), call).answer)


def apply(db: sqlite3.Connection, tenant: str, outcome: engine.Outcome, key: cose.PrivateKey) -> Committed:
    """Write a simulated `outcome`, its events and its statement, inside the caller's transaction.

    Raises Conflict when something it read has changed since, Refused for a question.
    """
    title = engine.title_of(outcome)
    if title is None:
        raise Refused(f"{outcome.call.function} is a question, not a transition")
    SqliteState(db, tenant).commit(outcome)
    statement = make_statement(TITLE, tenant, outcome.call.time_ms, engine.statement_body(outcome), key)
    db.execute(
        "INSERT INTO title_events(tenant, token, number, function, org, role, state, time_ms, events,"
        " statement_hash) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            tenant, title["token"], title["number"], outcome.call.function, outcome.call.org,
            outcome.call.role, title["state"], outcome.call.time_ms,
            json.dumps([[event.name, dict(event.payload)] for event in outcome.events]),
            hashlib.sha256(statement).digest(),
        ),
    )  # fmt: skip
    return Committed(title, statement)


def set_private(db: sqlite3.Connection, tenant: str, token: str, field: str, text: str) -> None:
    """Keep the words behind a keyed hash. Raises Refused when they are too long or unprintable."""
    if not 0 < len(text) <= MAX_PRIVATE_CHARS or not text.isprintable():
        raise Refused(f"{field} is 1 .. {MAX_PRIVATE_CHARS} printable characters")
    db.execute(
        "INSERT INTO title_private(tenant, token, field, text) VALUES(?, ?, ?, ?)"
        " ON CONFLICT(tenant, token, field) DO UPDATE SET text = excluded.text",
        (tenant, token, field, text),
    )


def bound_token(db: sqlite3.Connection, tenant: str, device: str) -> str | None:
    """The token of the vehicle that carries `device`."""
    row = db.execute(
        "SELECT token FROM title_devices WHERE tenant = ? AND device = ?", (tenant, device)
    ).fetchone()
    return None if row is None else str(row[0])


def find_token(db: sqlite3.Connection, tenant: str, prefix: str) -> str:
    """The one token of `tenant` that begins with `prefix`. Raises WrongState when none or several do."""
    names = [key.removeprefix("title/") for key in SqliteState(db, tenant).keys("title/")]
    found = [name for name in names if name.startswith(prefix.lower())]
    if not prefix or len(found) != 1:
        raise WrongState(f"{len(found)} titles begin with {prefix!r:.70}: `holdfast title list` shows them")
    return found[0]


def list_titles(db: sqlite3.Connection, tenant: str) -> list[dict[str, Any]]:
    """The titles of `tenant` in the order of minting, as the command line and JSON show them."""
    order = db.execute(
        "SELECT token FROM title_events WHERE tenant = ? AND number = 0 ORDER BY id", (tenant,)
    ).fetchall()
    return [describe(db, tenant, str(row[0])) for row in order]


def describe(db: sqlite3.Connection, tenant: str, token: str) -> dict[str, Any]:
    """One title with its words, devices and transitions. Raises Refused where there is none."""
    title = ask(db, tenant, "GetTitle", token)
    lien = title["lien"] or {}
    words = dict(
        db.execute("SELECT field, text FROM title_private WHERE tenant = ? AND token = ?", (tenant, token))
    )
    devices = _column(db, "SELECT device FROM title_devices WHERE tenant = ? AND token = ?", tenant, token)
    history = db.execute(
        "SELECT number, function, state, org, role, time_ms, events, statement_hash FROM title_events"
        " WHERE tenant = ? AND token = ? ORDER BY number",
        (tenant, token),
    )
    return {
        "token": token,
        "state": title["state"],
        "locked": title["state"] in contract.LOCKED_STATES,
        "since": iso_utc(title["since_ms"]),
        "owner": words.get("owner"),
        "loan": words.get("loan") if lien else None,
        "registry": title["registry"],
        "lender": lien.get("lender"),
        "guarantor": lien.get("consents", {}).get(contract.Role.GUARANTOR),
        "evidence": lien.get("evidence", []),
        "uri": title["uri"],
        "number": title["number"],
        "device": devices[0] if devices else None,
        "devices": devices,
        "transitions": [
            {
                "number": number, "function": function, "state": state, "org": org, "role": role,
                "at": iso_utc(time_ms), "events": [name for name, _ in json.loads(events)],
                "statement": digest.hex(),
            }
            for number, function, state, org, role, time_ms, events, digest in history
        ],
    }  # fmt: skip


def _column(db: sqlite3.Connection, sql: str, *args: str) -> list[str]:
    return [str(row[0]) for row in db.execute(sql + " ORDER BY 1", args)]
