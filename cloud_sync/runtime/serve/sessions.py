"""Sessions of the page in serve.db: a random 256-bit token in a cookie, stored hashed.

A session ends when it was idle too long, when its life is over, at logout, when the account's password is set
or the account is disabled. The CSRF token is derived from the session's token: whoever knows the one by the
cookie can be told the other, and it says nothing about the first.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import sqlite3
from typing import Final

from cloud_sync.runtime.serve.accounts import COLUMNS, SEEN_EVERY_MS, AccountRow, digest, row_of
from cloud_sync.runtime.serve.config import SessionLimits

MAX_SESSIONS: Final = 20
"""Of one account; the oldest ends when there is one more."""
MAX_TOKEN_CHARS: Final = 64
"""A token has 43 characters; a cookie with more is not one of ours."""


def open_session(db: sqlite3.Connection, tenant: str, account: int, now_ms: int) -> str:
    """A new session; returns its token. In a transaction. Always a new token: nothing that a browser brought
    along becomes a login (session fixation)."""
    token = secrets.token_urlsafe(32)
    db.execute(
        "INSERT INTO sessions(hash, tenant, account, made_ms, seen_ms) VALUES(?,?,?,?,?)",
        (digest(token), tenant, account, now_ms, now_ms),
    )
    db.execute(
        "DELETE FROM sessions WHERE account = ? AND hash NOT IN"
        " (SELECT hash FROM sessions WHERE account = ? ORDER BY made_ms DESC, hash LIMIT ?)",
        (account, account, MAX_SESSIONS),
    )
    db.execute("UPDATE accounts SET seen_ms = ? WHERE id = ?", (now_ms, account))
    return token


def find_session(
    db: sqlite3.Connection, token: str, limits: SessionLimits, now_ms: int
) -> tuple[AccountRow, bool] | None:
    """The account of a living session, and whether it is time to note that it was used."""
    if len(token) > MAX_TOKEN_CHARS:
        return None
    row = db.execute(
        f"SELECT {COLUMNS}, s.seen_ms FROM sessions s"
        " JOIN accounts a ON a.id = s.account AND a.tenant = s.tenant"
        " WHERE s.hash = ? AND s.seen_ms > ? AND s.made_ms > ? AND a.disabled = 0",
        (digest(token), now_ms - limits.idle_s * 1000, now_ms - limits.life_s * 1000),
    ).fetchone()
    if row is None:
        return None
    return row_of(row[:-1]), now_ms - int(row[-1]) >= SEEN_EVERY_MS


def touch_session(db: sqlite3.Connection, token: str, account: int, now_ms: int) -> None:
    """Note that the session is in use. In a transaction."""
    db.execute("UPDATE sessions SET seen_ms = ? WHERE hash = ?", (now_ms, digest(token)))
    db.execute("UPDATE accounts SET seen_ms = ? WHERE id = ?", (now_ms, account))


def close_session(db: sqlite3.Connection, token: str) -> None:
    """Logout. In a transaction."""
    db.execute("DELETE FROM sessions WHERE hash = ?", (digest(token),))


def sweep(db: sqlite3.Connection, limits: SessionLimits, now_ms: int) -> int:
    """Delete what ended by itself; returns how many. In a transaction."""
    done = db.execute(
        "DELETE FROM sessions WHERE seen_ms <= ? OR made_ms <= ?",
        (now_ms - limits.idle_s * 1000, now_ms - limits.life_s * 1000),
    )
    db.execute("DELETE FROM tokens WHERE expires_ms <= ?", (now_ms - 30 * 86_400_000,))
    db.execute("DELETE FROM oidc_logins WHERE made_ms <= ?", (now_ms - 3_600_000,))
    return done.rowcount


def csrf_of(token: str) -> str:
    """The X-CSRF-Token that belongs to a session."""
    mac = hmac.new(token.encode("utf-8", "surrogatepass"), b"holdfast csrf", hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def csrf_fits(token: str, given: str) -> bool:
    """Whether `given` is the session's, in constant time."""
    return hmac.compare_digest(csrf_of(token).encode(), given.encode("utf-8", "surrogatepass"))
