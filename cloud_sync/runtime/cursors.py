"""Cursors of lists: where the next page begins, signed so that nobody can make one up.

    base64url( 16 bytes of HMAC-SHA-256 over kind, 0x00, body || body ),  body = JSON list of key values

`kind` names the list and what it is filtered by; it is signed and not sent, so that a cursor of one list,
filter or tenant says nothing to another. The key is the store's, made by the first process that may write.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from cloud_sync.errors import BadCursor, StoreError

KEY_BYTES: Final = 32
MAC_BYTES: Final = 16
"""128 bits: forging one takes as long as guessing an AES key."""
MAX_CURSOR_CHARS: Final = 1000
"""Key values are names, numbers and times; the longest, two names of 80 characters, needs about 500."""
_KEY: Final = "cursor_key"


def ensure_key(db: sqlite3.Connection) -> None:
    """Make the store's key where there is none, inside the caller's transaction."""
    db.execute("INSERT OR IGNORE INTO meta(key, value) VALUES(?, ?)", (_KEY, secrets.token_bytes(KEY_BYTES)))


def secret(db: sqlite3.Connection) -> bytes:
    """The store's key. Raises StoreError where this software has never prepared the store."""
    row = db.execute("SELECT value FROM meta WHERE key=?", (_KEY,)).fetchone()
    if row is None or len(row[0]) != KEY_BYTES:
        raise StoreError("the store has no key for cursors: start `holdfast collect` of this version once")
    return bytes(row[0])


def encode(kind: str, values: Sequence[str | int | float | None], key: bytes) -> str:
    """A cursor of list `kind` that says `values`."""
    body = json.dumps(list(values), separators=(",", ":"), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_mac(kind, body, key) + body).rstrip(b"=").decode("ascii")


def decode(kind: str, text: str, key: bytes) -> tuple[Any, ...]:
    """The values of a cursor of list `kind`. Raises BadCursor for anything `encode` did not make."""
    if not text.isascii() or len(text) > MAX_CURSOR_CHARS:
        raise BadCursor(_REFUSED)
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadCursor(_REFUSED) from error
    mac, body = raw[:MAC_BYTES], raw[MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(kind, body, key)):
        raise BadCursor(_REFUSED)
    return tuple(json.loads(body))


_REFUSED: Final = "this cursor was not made for this list and filter: ask again without one"


def _mac(kind: str, body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, kind.encode() + b"\x00" + body, hashlib.sha256)[:MAC_BYTES]
