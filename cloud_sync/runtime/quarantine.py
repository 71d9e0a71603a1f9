"""What was refused, kept within bounds so that somebody can look at it.

The same bytes refused again for the same reason only raise a count. A device's refused bytes are kept up to
DEVICE_BYTES, all devices' together up to TOTAL_BYTES and TOTAL_ROWS; beyond, the oldest rows go first.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final

from cloud_sync.collector import Quarantined

DEVICE_BYTES: Final = 1 << 20
"""One MiB: sixteen of the largest segments; enough to see what a device does wrong."""
DEVICE_ROWS: Final = 1000
TOTAL_BYTES: Final = 64 << 20
"""64 MiB for all devices, whose names a hostile broker could invent."""
TOTAL_ROWS: Final = 50_000
MAX_DATA: Final = 64 * 1024
"""Bytes kept of one message: a whole segment, the beginning of anything larger."""
_MAX_TOPIC: Final = 200


def keep(db: sqlite3.Connection, refused: Quarantined, wall_ms: int) -> None:
    """Keep `refused` inside the caller's transaction, within the bounds of this module."""
    payload = refused.message.payload
    digest = hashlib.sha256(payload).digest()
    who = (refused.tenant, refused.device)
    seen = db.execute(
        "UPDATE quarantine SET seen=seen+1, last_ms=? WHERE tenant=? AND device=? AND hash=? AND reason=?",
        (wall_ms, *who, digest, refused.reason.value),
    )
    if seen.rowcount:
        return
    db.execute(
        "INSERT INTO quarantine(tenant, device, reason, detail, topic, hash, size, data, first_ms, last_ms)"
        " VALUES(?,?,?,?,?,?,?,?,?,?)",
        (
            *who, refused.reason.value, refused.detail, refused.message.topic[:_MAX_TOPIC], digest,
            len(payload), payload[:MAX_DATA], wall_ms, wall_ms,
        ),
    )  # fmt: skip
    _bound(db, "tenant=? AND device=?", who, DEVICE_ROWS, DEVICE_BYTES)
    _bound(db, "1", (), TOTAL_ROWS, TOTAL_BYTES)


def _bound(db: sqlite3.Connection, where: str, who: tuple[str, ...], rows: int, size: int) -> None:
    """Delete the oldest rows of `where` until at most `rows` rows and `size` bytes are left."""
    while True:
        count, held = db.execute(
            f"SELECT count(*), coalesce(sum(length(data)), 0) FROM quarantine WHERE {where}", who
        ).fetchone()
        if count <= rows and held <= size:
            return
        db.execute(f"DELETE FROM quarantine WHERE id=(SELECT min(id) FROM quarantine WHERE {where})", who)
