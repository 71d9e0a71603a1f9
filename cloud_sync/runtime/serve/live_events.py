"""What the live stream says: rows of the feed become server-sent events, as one sight may see them.

A sight is a principal without its name: all viewers of one tenant, role, scopes and branches see the same, so
that each event is read and put into JSON once for all of them. Nothing here knows a connection or a task.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cloud_sync.access import READ_FLEET, READ_INCIDENTS, READ_LOG, READ_TITLES, Principal
from cloud_sync.errors import NotFound
from cloud_sync.runtime import case_rows, fleet_reads
from cloud_sync.runtime.serve.places_file import PlacesFile

MAX_VEHICLES: Final = 500
"""Vehicles in one event, about 300 kB; of more the page reads its lists again."""
MAX_TITLES: Final = 100
"""Titles told at once; of more the page reads its list again."""

_SCOPES: Final = frozenset({READ_FLEET, READ_INCIDENTS, READ_TITLES, READ_LOG})


@dataclass(frozen=True, slots=True)
class FeedRow:
    """A line of the feed."""

    id: int
    kind: str
    device: str
    ref: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What some lines of the feed mean, each thing once."""

    position: int
    """Number of the last line."""
    incidents: tuple[str, ...] = ()
    """Ids, in the order of their last change."""
    vehicles: frozenset[str] = frozenset()
    titles: frozenset[tuple[str, str]] = frozenset()
    """(token, device)."""


def sight_of(principal: Principal) -> Principal:
    """What all viewers with the same rights have in common."""
    scopes = principal.scopes & _SCOPES
    return replace(principal, account=0, name="", language="en", token=None, scopes=scopes)


def batch_of(rows: Sequence[FeedRow], position: int) -> Batch:
    """The rows, oldest first, as a batch; `position` where there are none."""
    incidents: dict[str, None] = {}
    vehicles: set[str] = set()
    titles: set[tuple[str, str]] = set()
    for row in rows:
        position = row.id
        if row.kind in ("incident", "case"):
            incidents.pop(row.ref, None)
            incidents[row.ref] = None
        if row.kind == "title":
            titles.add((row.ref, row.device))
        if row.device and row.kind != "log":
            vehicles.add(row.device)
    return Batch(position, tuple(incidents), frozenset(vehicles), frozenset(titles))


def event(name: str, data: Any, id_: int | None = None) -> bytes:
    """One event of text/event-stream (WHATWG HTML, section 9.2). JSON has no line breaks of its own."""
    head = "" if id_ is None else f"id: {id_}\n"
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\n{head}data: {text}\n\n".encode()


def incident_events(
    db: sqlite3.Connection, sight: Principal, ids: Sequence[str], places: PlacesFile
) -> list[tuple[str, Any]]:
    """The rows of incidents that `sight` may see."""
    if not sight.may(READ_INCIDENTS):
        return []
    found = []
    for id_ in ids:
        try:
            row = case_rows.row(db, sight.tenant, id_, principal=sight, near=places.nearest)
        except NotFound:  # of another branch, or erased since
            continue
        found.append(("incident", row))
    return found


def vehicle_events(
    db: sqlite3.Connection, sight: Principal, devices: Collection[str], now_ms: int, places: PlacesFile
) -> list[tuple[str, Any]]:
    """The rows of vehicles that `sight` may see as one event, or `reset` where they are too many."""
    if not sight.may(READ_FLEET) or not devices:
        return []
    if len(devices) > MAX_VEHICLES:
        return [("reset", {})]
    rows = fleet_reads.rows_of(db, sight, sorted(devices), now_ms)
    places.name_all(row["place"] for row in rows)
    return [("vehicles", {"items": rows})] if rows else []


def overdue(db: sqlite3.Connection, tenant: str, from_ms: int, to_ms: int) -> frozenset[str]:
    """Devices whose announced heartbeat was due in [`from_ms`, `to_ms`): nobody commits that one is late."""
    rows = db.execute(
        "SELECT device FROM vehicles WHERE tenant=? AND due_ms>=? AND due_ms<?", (tenant, from_ms, to_ms)
    )
    return frozenset(row[0] for row in rows)


def title_events(
    db: sqlite3.Connection, sight: Principal, titles: Collection[tuple[str, str]]
) -> list[tuple[str, Any]]:
    """Which titles changed that `sight` may see, or `reset` where they are too many."""
    if not sight.may(READ_TITLES) or not titles:
        return []
    if len(titles) > MAX_TITLES:
        return [("reset", {})]
    seen = {token for token, device in titles if sight.sees(_branch(db, sight.tenant, device))}
    return [("title", {"token": token}) for token in sorted(seen)]


def _branch(db: sqlite3.Connection, tenant: str, device: str) -> str | None:
    row = db.execute("SELECT branch FROM cards WHERE tenant=? AND device=?", (tenant, device)).fetchone()
    return None if row is None else row[0]


def encoded(events: Sequence[tuple[str, Any]], position: int | None) -> bytes:
    """Events as one piece of the stream, one `reset` instead of all where there is one; each carries
    `position`, after which a viewer that lost the line goes on."""
    if any(name == "reset" for name, _ in events):
        return event("reset", {}, position)
    return b"".join(event(name, data, position) for name, data in events)
