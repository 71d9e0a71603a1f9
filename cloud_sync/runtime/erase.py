"""Erase a vehicle-month: the content goes, every proof stays.

The log's leaves are hashes of signed bytes; the bytes lie in `bodies` and nowhere else. Erasing sets them to
NULL, deletes what was projected and quarantined from them, and logs a signed statement that says which
device, month, how many and why: a hole that somebody made on purpose must not look like one that a thief
made. A segment that spans midnight at the end of the month belongs to both months and goes with either.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cloud_sync.errors import ConfigError, NotFound, StoreBusy
from cloud_sync.incidents import iso_utc
from cloud_sync.runtime import fleet, projector
from cloud_sync.runtime.store import Store, log_statement
from cloud_sync.statement import ERASURE, make_statement
from firmware_bridge.wire import cbor, cose
from models.verdict import CAUSE_NAMES, Cause

MAX_REASON_CHARS: Final = 200
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.ASCII)
_SIZES: Final = (
    "SELECT count(*), coalesce(sum(size), 0) FROM bodies"
    " WHERE tenant=? AND device=? AND month<=? AND month_last>=? AND data IS NOT NULL"
)
_KNOWN: Final = tuple(
    f"SELECT EXISTS(SELECT 1 FROM {table} WHERE tenant=? AND device=?)"
    for table in ("devices", "segments", "quarantine", "incidents", "sightings", "device_tyres")
)
"""All that names a device to erase: one whose tracker never spoke may have been seen by others."""
_OPEN: Final = (
    "SELECT i.incident, i.opened_ms, i.cause FROM incidents i WHERE i.tenant=? AND i.device=? AND i.open"
    " AND (i.opened_ms>=? AND i.opened_ms<? OR EXISTS(SELECT 1 FROM incident_changes c"
    " JOIN bodies b ON b.hash=c.segment_hash WHERE c.tenant=i.tenant AND c.device=i.device AND c.run=i.run"
    " AND c.incident=i.incident AND b.tenant=? AND b.device=? AND b.month<=? AND b.month_last>=?"
    " AND b.data IS NOT NULL)) ORDER BY i.opened_ms, i.run, i.incident"
)

Sign = Callable[[str, str, dict[int, cbor.Value]], bytes]
"""(type, tenant, body) -> a signed statement."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did."""

    segments: int
    size: int
    """Bytes of the signed segments that are gone."""
    rows: int
    """Rows of projections and quarantine that went with them."""
    statement: bytes | None
    """The signed statement, queued for the log; None where there was nothing to erase."""


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An incident that is not closed and that an erasure would take the words from."""

    incident: int
    opened_at: str
    """ISO 8601, UTC."""
    cause: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What an erasure would do."""

    segments: int
    size: int
    """Bytes of the signed segments that would go."""
    open_incidents: tuple[OpenIncident, ...]
    """By time of opening."""


def signer(key: cose.PrivateKey, wall_ms: int) -> Sign:
    """Signs statements with the collector's ledger key, dated `wall_ms`."""
    return lambda type_, tenant, body: make_statement(type_, tenant, wall_ms, body, key)


def preview_month(store: Store, tenant: str, device: str, month: str, reason: str) -> Preview:
    """What `erase_month` with the same arguments would erase. Writes nothing; `store` may be read-only.

    Raises NotFound for a device that the store has never heard of, and what `erase_month` raises for its
    arguments.
    """
    begin_ms, end_ms = _meant(store, month, reason)
    if not any(store.db.execute(query, (tenant, device)).fetchone()[0] for query in _KNOWN):
        raise NotFound(
            f"the store knows no device {device!r:.80} of tenant {tenant!r:.80}: nothing is erased; "
            "`holdfast log` lists the devices"
        )
    scope = (tenant, device, month, month)
    count, size = store.db.execute(_SIZES, scope).fetchone()
    rows = store.db.execute(_OPEN, (tenant, device, begin_ms, end_ms, *scope)).fetchall()
    return Preview(
        count,
        size,
        tuple(OpenIncident(number, iso_utc(ms), CAUSE_NAMES[Cause(cause)]) for number, ms, cause in rows),
    )


def erase_month(
    store: Store, tenant: str, device: str, month: str, reason: str, *, sign: Sign, wall_ms: int
) -> Erased:
    """Erase what `device` told in `month` ('YYYY-MM', UTC). Durable on return, also in the file's free pages.

    The statement is logged by the collector's next step. A second call finds nothing and says so with
    zeros. Raises ConfigError for a month or reason that cannot be meant, NotFound for a store that no
    collector has written yet, StoreBusy when the store cannot be written now, or a reader keeps the old
    pages in the write-ahead log (erased then, and cleaned up by the next call).
    """
    begin_ms, end_ms = _meant(store, month, reason)
    scope = (tenant, device, month, month)
    with store.transaction() as db:
        count, size = db.execute(_SIZES, scope).fetchone()
        db.execute(
            "UPDATE bodies SET data=NULL, erased_ms=?, reason=?"
            " WHERE tenant=? AND device=? AND month<=? AND month_last>=? AND data IS NOT NULL",
            (wall_ms, reason, *scope),
        )
        rows = projector.erase(db, tenant, device, begin_ms, end_ms, wall_ms=wall_ms, reason=reason)
        rows += fleet.erase(db, tenant, device, month)
        rows += db.execute(
            "DELETE FROM quarantine WHERE tenant=? AND device=? AND last_ms>=? AND first_ms<?",
            (tenant, device, begin_ms, end_ms),
        ).rowcount
        statement = None
        if count or rows:
            statement = sign(ERASURE, tenant, {1: device, 2: month, 3: count, 4: size, 5: reason})
            log_statement(db, tenant, statement)
    _forget_wal(store)
    return Erased(count, size, rows, statement)


def _forget_wal(store: Store) -> None:
    """Move the write-ahead log into the store and cut it: old pages in it still held what was erased."""
    busy = store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise StoreBusy("erased, but another process still reads old pages: call it again when it has ended")


def _meant(store: Store, month: str, reason: str) -> tuple[int, int]:
    """The month in milliseconds. Raises ConfigError, NotFound."""
    begin_ms, end_ms = _range(month)
    if not 0 < len(reason) <= MAX_REASON_CHARS or not reason.isprintable():
        raise ConfigError(
            f"the reason is 1 .. {MAX_REASON_CHARS} printable characters: it is signed and logged"
        )
    if store.meta("origin") is None:
        raise NotFound(f"no collector has run with {store.path} yet: there is nothing to erase")
    return begin_ms, end_ms


def _range(month: str) -> tuple[int, int]:
    """The month in milliseconds since 1970, end excluded."""
    match = _MONTH.fullmatch(month)
    if match is None or match[1] == "0000":
        raise ConfigError(f"{month!r:.20} is not a month of the form YYYY-MM")
    year, number = int(match[1]), int(match[2])
    begin = datetime(year, number, 1, tzinfo=UTC)
    if (year, number) == (9999, 12):
        raise ConfigError("the last month of the calendar cannot be erased")
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(begin.timestamp() * 1000), int(end.timestamp() * 1000)
