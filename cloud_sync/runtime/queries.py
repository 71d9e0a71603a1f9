"""Questions to the collector's store for the command line, the demo and tests. Read-only."""

from __future__ import annotations

from typing import Any

from cloud_sync.collector import Reason
from cloud_sync.log.compact import root_of_entries
from cloud_sync.runtime import projector, title_state
from cloud_sync.runtime.bundles import Where, opened
from cloud_sync.runtime.store import Store
from edge.errors import NoteError
from edge.merkle import EMPTY_ROOT
from edge.note import verify_checkpoint


def log_status(where: Where) -> dict[str, Any]:
    """{origin, size, root (hex), verified, pending, detail}: the whole log recomputed from its entries.

    `verified` only if that root is the one in the newest checkpoint and the log's key signed it.
    """
    with opened(where) as store:
        store.db.execute("BEGIN")  # one snapshot, while a collector goes on writing
        try:
            return _log_status(store)
        finally:
            store.db.execute("ROLLBACK")


def device_summary(where: Where, tenant: str | None = None) -> list[dict[str, Any]]:
    """Each device with its segments, runs, erased bodies, forks and quarantine by reason."""
    with opened(where) as store:
        rows = store.db.execute(
            "SELECT s.tenant, s.device, count(*), count(DISTINCT s.run), sum(s.fork), max(s.received_ms),"
            " sum(b.data IS NULL), sum(b.size) FROM segments s JOIN bodies b ON b.hash=s.hash"
            " WHERE ?1 IS NULL OR s.tenant=?1 GROUP BY s.tenant, s.device ORDER BY s.tenant, s.device",
            (tenant,),
        ).fetchall()
        return [
            {
                "tenant": row[0], "device": row[1], "segments": row[2], "runs": row[3], "forks": row[4],
                "last_received_ms": row[5], "erased": row[6], "bytes": row[7],
                "quarantined": _quarantined(store, row[0], row[1]),
            }
            for row in rows
        ]  # fmt: skip


def alarms(where: Where, tenant: str) -> list[dict[str, Any]]:
    """The collector's own alarms (forks, failed projections), oldest first."""
    with opened(where) as store:
        rows = store.db.execute(
            "SELECT device, kind, raised_ms, detail FROM alarms WHERE tenant=? ORDER BY id", (tenant,)
        )
        return [{"device": d, "kind": k, "raised_ms": at, "detail": text} for d, k, at, text in rows]


def quarantine(where: Where, tenant: str) -> list[dict[str, Any]]:
    """What was refused of `tenant`, newest last, without the bytes."""
    with opened(where) as store:
        rows = store.db.execute(
            "SELECT device, reason, detail, topic, size, first_ms, last_ms, seen FROM quarantine"
            " WHERE tenant=? ORDER BY id",
            (tenant,),
        )
        names = ("device", "reason", "detail", "topic", "size", "first_ms", "last_ms", "seen")
        return [dict(zip(names, row, strict=True)) for row in rows]


def incidents(where: Where, tenant: str) -> list[dict[str, Any]]:
    """The incidents of `tenant` by the time of their opening."""
    with opened(where) as store:
        return projector.list_incidents(store.db, tenant)


def titles(where: Where, tenant: str) -> list[dict[str, Any]]:
    """The titles of `tenant` in the order of minting."""
    with opened(where) as store:
        return title_state.list_titles(store.db, tenant)


def _log_status(store: Store) -> dict[str, Any]:
    origin, key, note = store.meta("origin"), store.meta("log_key"), store.latest_note()
    size, root = root_of_entries(
        row[0] for row in store.db.execute("SELECT hash FROM entries ORDER BY log_index")
    )
    gaps = store.size() != size
    verified, detail = False, ""
    if note is None:
        verified, detail = size == 0 and root == EMPTY_ROOT, "empty" if size == 0 else "never signed"
    elif origin is not None and key is not None:
        try:
            checkpoint = verify_checkpoint(note, origin.decode(), key)
            verified = not gaps and (checkpoint.size, checkpoint.root) == (size, root)
            detail = "" if verified else f"the checkpoint is of size {checkpoint.size} or has another root"
        except NoteError as error:
            detail = str(error)
    pending = store.db.execute("SELECT count(*) FROM pending").fetchone()[0]
    return {
        "origin": None if origin is None else origin.decode(), "size": size, "root": root.hex(),
        "verified": verified, "pending": pending, "detail": detail,
    }  # fmt: skip


def _quarantined(store: Store, tenant: str, device: str) -> dict[str, int]:
    rows = store.db.execute(
        "SELECT reason, sum(seen) FROM quarantine WHERE tenant=? AND device=? GROUP BY reason",
        (tenant, device),
    )
    return {str(Reason(reason)): int(seen) for reason, seen in rows}
