"""What being told reads from the collector's store, and the one thing that it writes there."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cloud_sync.access import READ_FLEET, READ_INCIDENTS, Principal
from cloud_sync.errors import CloudError, NotFound
from cloud_sync.notices import OVERDUE, OVERDUE_SEVERITY, Matter, Row
from cloud_sync.runtime import case_reads, cases, fleet_reads
from cloud_sync.runtime.fleet_rows import ALIVE
from cloud_sync.runtime.kinds import serve_say as say
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.places_file import places_of
from cloud_sync.runtime.serve.rule_store import overdue_key, overdue_of

FEED_LIMIT: Final = 100
"""Lines of the feed in one transaction: with a hundred rules serve.db is held for about a second."""

OVERDUE_STEPS: Final[tuple[tuple[str, Mapping[str, Any]], ...]] = (
    ("notice.overdue.look", {}),
    ("story.next.call_silent", {}),
    ("story.next.technician", {}),
)
"""What to do about a vehicle that is overdue."""


@dataclass(frozen=True, slots=True)
class News:
    """What the feed says."""

    incidents: Mapping[str, int]
    """Id -> number of its newest line."""
    upto: int
    """The mark after this."""
    anew: bool = False
    """Lines in between are gone, or the store is another one: `incidents` are all that are not closed."""


class Source(Protocol):
    """The collector's store, as far as being told needs it. All calls block."""

    def newest(self, tenant: str) -> int:
        """Number of the newest line of the feed."""
        ...

    def news(self, tenant: str, after: int) -> News:
        """What happened after line `after`; everything that is open, where lines in between are gone."""
        ...

    def row(self, tenant: str, incident: str) -> Row | None:
        """An incident as it is now; None when it was erased."""
        ...

    def steps(self, tenant: str, incident: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """What to do next about it."""
        ...

    def overdue(self, tenant: str) -> Sequence[Matter]:
        """Vehicles that are overdue now and have no open incident, the longest silent first."""
        ...

    def overdue_rows(self, tenant: str, keys: Sequence[str]) -> Mapping[str, Row]:
        """The rows of those of `keys` that are still as overdue as they were."""
        ...

    def due(self, tenant: str) -> frozenset[str]:
        """Keys of all vehicles that are due at some time, past or to come."""
        ...

    def escalate(self, tenant: str, incident: str, rule: str, version: int) -> bool:
        """Escalate it when nobody has acted since `version`. Raises NotFound, StoreBusy."""
        ...


class StoreSource:
    """The real collector's store."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def newest(self, tenant: str) -> int:
        """See Source."""
        with self._context.stores.reading() as db:
            return _end(db)

    def news(self, tenant: str, after: int) -> News:
        """See Source."""
        with self._context.stores.reading() as db:
            first, _ = fleet_reads.feed_bounds(db, tenant)
            end = _end(db)
            if after > end or after < first - 1:
                found = db.execute(
                    "SELECT device, lower(hex(run)), incident FROM cases WHERE tenant=? AND state<>'closed'",
                    (tenant,),
                )
                return News({f"{device}.{run}.{number}": end for device, run, number in found}, end, True)
            rows = fleet_reads.feed_after(db, tenant, after, FEED_LIMIT)
        lines = {str(row["ref"]): int(row["id"]) for row in rows if row["kind"] in ("incident", "case")}
        return News(lines, int(rows[-1]["id"]) if rows else after)

    def row(self, tenant: str, incident: str) -> Row | None:
        try:
            with self._context.stores.reading() as db:
                return case_reads.row(db, tenant, incident, near=places_of(self._context).nearest)
        except NotFound:
            return None

    def steps(self, tenant: str, incident: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
        if overdue_of(incident) is not None:
            return OVERDUE_STEPS
        try:
            with self._context.stores.reading() as db:
                story = case_reads.story(
                    db,
                    _reader(tenant),
                    incident,
                    now_ms=self._context.now_ms(),
                    near=places_of(self._context).nearest,
                )
        except CloudError as error:
            say("no_next_steps", error=error)
            return []
        return [(str(said["code"]), said.get("params", {})) for said in story["next"]]

    def overdue(self, tenant: str) -> Sequence[Matter]:
        """See Source."""
        with self._context.stores.reading() as db:
            found = db.execute(
                "SELECT v.device, v.due_ms, c.branch FROM vehicles v LEFT JOIN cards c ON c.tenant=v.tenant"
                " AND c.device=v.device WHERE v.tenant=?1 AND v.due_ms<?2 AND v.device NOT IN (SELECT device"
                f" FROM cases WHERE tenant=?1 AND state IN ({ALIVE})) ORDER BY v.due_ms, v.device",
                (tenant, self._context.now_ms()),
            ).fetchall()
        return [
            Matter(overdue_key(device, due_ms), branch, OVERDUE, OVERDUE, OVERDUE_SEVERITY)
            for device, due_ms, branch in found
        ]

    def overdue_rows(self, tenant: str, keys: Sequence[str]) -> Mapping[str, Row]:
        """See Source."""
        wanted = {found[0]: key for key in keys if (found := overdue_of(key)) is not None}
        if not wanted:
            return {}
        context = self._context
        with context.stores.reading() as db:
            rows = fleet_reads.rows_of(db, _reader(tenant), list(wanted), context.now_ms())
            due = {str(row[0]): row[1] for row in db.execute(_DUE, (tenant,))}
        places_of(context).name_all(row["place"] for row in rows)
        return {
            key: _overdue_row(row, key)
            for row in rows
            if row["state"] == OVERDUE
            and (key := wanted[row["device"]]) == overdue_key(row["device"], due[row["device"]])
        }

    def due(self, tenant: str) -> frozenset[str]:
        """See Source."""
        with self._context.stores.reading() as db:
            return frozenset(overdue_key(*row) for row in db.execute(_DUE, (tenant,)))

    def escalate(self, tenant: str, incident: str, rule: str, version: int) -> bool:
        context = self._context
        with context.stores.writing() as store:
            return cases.escalate_by_rule(
                store, tenant, incident, rule=rule, version=version, key=context.ledger_key,
                wall_ms=context.now_ms(),
            )  # fmt: skip


_DUE: Final = "SELECT device, due_ms FROM vehicles WHERE tenant=? AND due_ms IS NOT NULL"


def _reader(tenant: str) -> Principal:
    return Principal(tenant, 0, "rule", "auditor", frozenset({READ_FLEET, READ_INCIDENTS}), frozenset())


def _overdue_row(row: Mapping[str, Any], key: str) -> Row:
    """A vehicle's row, with what messages read of an incident's."""
    moment = {"at": row["next_due"], "unc_ms": None, "source": "received"}
    return {
        **row, "id": key, "cause": OVERDUE, "severity": OVERDUE_SEVERITY, "version": 0, "opened": moment,
        "updated_at": row["next_due"],
    }  # fmt: skip


def _end(db: sqlite3.Connection) -> int:
    """The largest number that a line of the feed ever had, in this store."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name='feed'").fetchone()
    return 0 if row is None else int(row[0])
