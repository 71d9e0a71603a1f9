"""Who read an exact position, exported evidence, logged in or changed something: the audit.

What touches a vehicle's exact track is also a signed statement of the log (`AccessKey`), written in the same
transaction as its row: nobody, the operator of this server included, can take it out afterwards unseen.
Logins and changes of accounts, tokens and rules stand in the table alone.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from enum import IntEnum, unique
from typing import Any, Final

from cloud_sync.access import READ_AUDIT, Principal
from cloud_sync.errors import BadRequest, Denied
from cloud_sync.incidents import iso_utc
from cloud_sync.runtime import cursors
from cloud_sync.runtime.store import Store, log_statement
from cloud_sync.statement import ACCESS, make_statement
from firmware_bridge.wire import cbor, cose

EXACT_POSITION: Final = "exact_position"
EVIDENCE_EXPORT: Final = "evidence_export"
"""The actions that are signed; all other names are free and stand in the table alone."""
MIN_PURPOSE_CHARS: Final = 3
MAX_PURPOSE_CHARS: Final = 200
"""A case number or a sentence."""
MAX_WHAT_CHARS: Final = 300
MAX_PAGE: Final = 500

_MAX_ID: Final = (1 << 63) - 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS audit(
  id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, at_ms INTEGER NOT NULL, account TEXT NOT NULL,
  action TEXT NOT NULL, device TEXT, what TEXT NOT NULL, purpose TEXT NOT NULL, statement_hash BLOB);
CREATE INDEX IF NOT EXISTS audit_by_tenant ON audit(tenant, id);
"""


@unique
class AccessKey(IntEnum):
    """Keys of the body of an `access` statement. Numbers are never reused.

    What people typed stands in lists, so that no top-level value but DEVICE can equal a device's name.
    """

    DEVICE = 1
    ACTION = 2
    ACCOUNT = 3
    """[name, role], and the id of the API token where one was used."""
    WHAT = 4
    """[text]: which incident, which bundle."""
    PURPOSE = 5
    """[text]: why, in the words of who asked."""


def migrate(db: sqlite3.Connection) -> None:
    """Create the table of this module where it is missing."""
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)


def note(
    store: Store,
    principal: Principal,
    action: str,
    device: str | None,
    what: str,
    purpose: str,
    key: cose.PrivateKey | None,
    wall_ms: int,
    *,
    signed: bool = True,
) -> int:
    """Write one entry of the principal's, durable on return; its number.

    `signed`: also as a statement of the log, which needs a `device` and the ledger `key`. Raises BadRequest
    for a signed entry without a purpose, StoreBusy: then what was to be audited must not happen.
    """
    with store.transaction() as db:
        return note_in(db, principal, action, device, what, purpose, key, wall_ms, signed=signed)


def note_in(
    db: sqlite3.Connection,
    principal: Principal,
    action: str,
    device: str | None,
    what: str,
    purpose: str,
    key: cose.PrivateKey | None,
    wall_ms: int,
    *,
    signed: bool = True,
) -> int:
    """`note` within the caller's transaction."""
    digest = None
    what, purpose = _line(what)[:MAX_WHAT_CHARS], _line(purpose)[:MAX_PURPOSE_CHARS]
    if signed:
        if len(purpose) < MIN_PURPOSE_CHARS:
            raise BadRequest("say what it is needed for, in a few words: it stands in the audit")
        if device is None or key is None:
            raise ValueError("a signed entry names a device and has a key")
        statement = make_statement(
            ACCESS, principal.tenant, wall_ms, _body(principal, action, device, what, purpose), key
        )
        log_statement(db, principal.tenant, statement)
        digest = hashlib.sha256(statement).digest()
    return _insert(db, (principal.tenant, wall_ms, principal.name, action, device, what, purpose, digest))


def note_account(
    db: sqlite3.Connection, tenant: str, account: str, action: str, what: str, wall_ms: int
) -> int:
    """An unsigned entry of somebody who is not a principal (yet): a failed login, the console."""
    row = (tenant, wall_ms, _line(account)[:80], action, None, _line(what)[:MAX_WHAT_CHARS], "", None)
    return _insert(db, row)


def rows(
    db: sqlite3.Connection,
    principal: Principal,
    cursor: str | None,
    limit: int,
    *,
    account: str | None = None,
    action: str | None = None,
    device: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    now_ms: int,
) -> dict[str, Any]:
    """A page of the audit of the principal's tenant, newest first (AuditList); `from_ms` <= when < `to_ms`.

    Raises Denied without the scope, BadCursor, BadRequest. An account that is confined to branches sees the
    entries of the vehicles of its branches, and those that concern no vehicle.
    """
    if not principal.may(READ_AUDIT):
        raise Denied("this account may not read the audit")
    if not 1 <= limit <= MAX_PAGE:
        raise BadRequest(f"limit is 1 .. {MAX_PAGE}")
    if from_ms is not None and to_ms is not None and from_ms > to_ms:
        raise BadRequest("'from' is later than 'to'")
    secret, branches = cursors.secret(db), sorted(principal.branches)
    filters = {
        "a.account = ?": account, "a.action = ?": action, "a.device = ?": device, "a.at_ms >= ?": from_ms,
        "a.at_ms < ?": to_ms,
    }  # fmt: skip
    asked = {condition: value for condition, value in filters.items() if value is not None}
    kind = json.dumps(["audit", principal.tenant, branches, asked])
    before = _MAX_ID if cursor is None else int(cursors.decode(kind, cursor, secret)[0])
    inside = (
        " AND (a.device IS NULL OR EXISTS (SELECT 1 FROM cards c WHERE c.tenant = a.tenant"
        f" AND c.device = a.device AND c.branch IN ({', '.join('?' * len(branches))})))"
        if branches
        else ""
    )
    inside += "".join(f" AND {condition}" for condition in asked)
    size = db.execute("SELECT max(size) FROM checkpoints WHERE note IS NOT NULL").fetchone()[0] or 0
    found = db.execute(
        "SELECT a.id, a.at_ms, a.account, a.action, a.device, a.what, a.purpose, a.statement_hash,"
        " s.log_index FROM audit a LEFT JOIN statements s ON s.hash = a.statement_hash"
        f" WHERE a.tenant = ? AND a.id < ?{inside} ORDER BY a.id DESC LIMIT ?",
        (principal.tenant, before, *branches, *asked.values(), limit + 1),
    ).fetchall()
    more = len(found) > limit
    return {
        "items": [_row(row, size) for row in found[:limit]],
        "next": cursors.encode(kind, (found[limit - 1][0],), secret) if more else None,
        "now": iso_utc(now_ms),
    }


def _row(row: tuple[Any, ...], size: int) -> dict[str, Any]:
    """AuditRow; `size`: of the newest signed checkpoint."""
    number, at_ms, account, action, device, what, purpose, digest, index = row
    return {
        "number": number, "at": iso_utc(at_ms), "account": account, "action": action, "device": device,
        "what": what, "purpose": purpose, "statement": None if digest is None else digest.hex(),
        "log_index": index,
        "awaiting_checkpoint": digest is not None and (index is None or index >= size),
    }  # fmt: skip


def _body(principal: Principal, action: str, device: str, what: str, purpose: str) -> dict[int, cbor.Value]:
    token: list[cbor.Value] = [] if principal.token is None else [principal.token]
    body: dict[int, cbor.Value] = {
        AccessKey.DEVICE: device,
        AccessKey.ACTION: action,
        AccessKey.ACCOUNT: [principal.name, principal.role, *token],
        AccessKey.WHAT: [what],
        AccessKey.PURPOSE: [purpose],
    }
    return {int(key): value for key, value in body.items()}


def _line(text: str) -> str:
    """`text` as one printable line: it is shown in lists."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _insert(db: sqlite3.Connection, row: tuple[Any, ...]) -> int:
    made = db.execute(
        "INSERT INTO audit(tenant, at_ms, account, action, device, what, purpose, statement_hash)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    assert made.lastrowid is not None
    return made.lastrowid
