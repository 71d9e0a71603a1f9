"""What being told reads from the collector's store, and the one thing that it writes there."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cloud_sync.access import READ_FLEET, READ_INCIDENTS, Principal
from cloud_sync.errors import CloudError, NotFound
from cloud_sync.notices import Row
from cloud_sync.runtime import case_reads, cases, fleet_reads
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.places_file import places_of

FEED_LIMIT: Final = 100
"""Lines of the feed in one transaction: with a hundred rules serve.db is held for about a second."""
_log = logging.getLogger(__name__)


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
        reader = Principal(tenant, 0, "rule", "auditor", frozenset({READ_FLEET, READ_INCIDENTS}), frozenset())
        try:
            with self._context.stores.reading() as db:
                story = case_reads.story(
                    db, reader, incident, now_ms=self._context.now_ms(), near=places_of(self._context).nearest
                )
        except CloudError as error:
            _log.warning("no next steps for a message: %s", error)
            return []
        return [(str(said["code"]), said.get("params", {})) for said in story["next"]]

    def escalate(self, tenant: str, incident: str, rule: str, version: int) -> bool:
        context = self._context
        with context.stores.writing() as store:
            return cases.escalate_by_rule(
                store, tenant, incident, rule=rule, version=version, key=context.ledger_key,
                wall_ms=context.now_ms(),
            )  # fmt: skip


def _end(db: sqlite3.Connection) -> int:
    """The largest number that a line of the feed ever had, in this store."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name='feed'").fetchone()
    return 0 if row is None else int(row[0])
