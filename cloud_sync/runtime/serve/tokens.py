"""API tokens in serve.db: `hft_<id>_<secret>`, for programs.

A token has some of its account's scopes, never more than the account has now, its tenant and its branches. It
dies with its expiry, when it is deleted, and when its account is disabled. Stored is the secret's SHA-256.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Final

from cloud_sync.access import Principal
from cloud_sync.errors import BadRequest, Denied, NotFound
from cloud_sync.runtime.serve.accounts import COLUMNS, SEEN_EVERY_MS, AccountRow, digest, row_of

MAX_TOKENS: Final = 50
"""Of one account."""
_FORM: Final = re.compile(r"hft_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret."""

    id: str
    account: int
    account_name: str
    name: str
    scopes: tuple[str, ...]
    made_ms: int
    expires_ms: int
    used_ms: int | None


def make_token(
    db: sqlite3.Connection, owner: Principal, name: str, scopes: list[str], days: int, now_ms: int
) -> tuple[Token, str]:
    """A new token of `owner` and its whole text, shown once. In a transaction.

    Raises Denied for a scope that the owner lacks, BadRequest with MAX_TOKENS.
    """
    lacking = sorted(set(scopes) - owner.scopes)
    if lacking:
        raise Denied(f"a token cannot have what its account lacks: {', '.join(lacking)}")
    (count,) = db.execute(
        "SELECT count(*) FROM tokens WHERE tenant = ? AND account = ?", (owner.tenant, owner.account)
    ).fetchone()
    if count >= MAX_TOKENS:
        raise BadRequest(f"this account has {count} tokens: delete some that are not used")
    number, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    expires_ms = now_ms + days * 86_400_000
    chosen = tuple(sorted(set(scopes)))
    db.execute(
        "INSERT INTO tokens(id, tenant, account, name, scopes, hash, made_ms, expires_ms)"
        " VALUES(?,?,?,?,?,?,?,?)",
        (
            number, owner.tenant, owner.account, name, json.dumps(chosen), digest(secret), now_ms, expires_ms,
        ),
    )  # fmt: skip
    made = Token(number, owner.account, owner.name, name, chosen, now_ms, expires_ms, None)
    return made, f"hft_{number}_{secret}"


def find_token(db: sqlite3.Connection, text: str, now_ms: int) -> tuple[AccountRow, Principal, bool] | None:
    """Whose token `text` is, with what it may do, and whether it is time to note its use."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    row = db.execute(
        f"SELECT {COLUMNS}, t.hash, t.scopes, t.used_ms FROM tokens t"
        " JOIN accounts a ON a.id = t.account AND a.tenant = t.tenant"
        " WHERE t.id = ? AND t.expires_ms > ? AND a.disabled = 0",
        (match[1], now_ms),
    ).fetchone()
    if row is None or not hmac.compare_digest(bytes(row[-3]), digest(match[2])):
        return None
    account = row_of(row[:-3])
    whole = account.principal()
    principal = Principal(
        whole.tenant, whole.account, whole.name, whole.role, whole.scopes & frozenset(json.loads(row[-2])),
        whole.branches, whole.language, match[1],
    )  # fmt: skip
    return account, principal, row[-1] is None or now_ms - int(row[-1]) >= SEEN_EVERY_MS


def touch_token(db: sqlite3.Connection, token: str, now_ms: int) -> None:
    """Note that the token is in use. In a transaction."""
    db.execute("UPDATE tokens SET used_ms = ? WHERE id = ?", (now_ms, token))


def all_of(db: sqlite3.Connection, tenant: str, account: int | None) -> list[Token]:
    """The tokens of `tenant` (of one account), newest first."""
    rows = db.execute(
        "SELECT t.id, t.account, a.name, t.name, t.scopes, t.made_ms, t.expires_ms, t.used_ms"
        " FROM tokens t JOIN accounts a ON a.id = t.account AND a.tenant = t.tenant"
        " WHERE t.tenant = ? AND (? IS NULL OR t.account = ?) ORDER BY t.made_ms DESC, t.id",
        (tenant, account, account),
    ).fetchall()
    return [
        Token(number, whose, name, title, tuple(json.loads(scopes)), made, expires, used)
        for number, whose, name, title, scopes, made, expires, used in rows
    ]


def delete_token(db: sqlite3.Connection, tenant: str, account: int | None, token: str) -> None:
    """End a token of `tenant` (of one account). In a transaction. Raises NotFound."""
    done = db.execute(
        "DELETE FROM tokens WHERE tenant = ? AND id = ? AND (? IS NULL OR account = ?)",
        (tenant, token, account, account),
    )
    if done.rowcount == 0:
        raise NotFound("there is no such token")
