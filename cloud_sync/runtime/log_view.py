"""`holdfast log`: the log, each device's completeness, alarms and quarantine. Read-only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cloud_sync.collector import REMEDIES, Reason
from cloud_sync.errors import BundleError
from cloud_sync.evidence.bundle import SegmentEntry
from cloud_sync.evidence.chain import Link, check_runs
from cloud_sync.incidents import iso_utc
from cloud_sync.runtime import queries
from cloud_sync.runtime.bundles import Where, opened
from cloud_sync.runtime.said import printable
from cloud_sync.runtime.store import Store
from edge import segment as sg
from edge.errors import EdgeError
from firmware_bridge.errors import WireError

LISTED: Final = 200
"""Groups of alarms, and of refused messages, listed newest first: names in a topic may be invented."""
SHOWN_GAPS: Final = 5
"""Sentences on what is missing of one device."""

_LOOSE: Final = (
    "SELECT count(*) FROM segments s WHERE s.tenant=? AND s.device=? AND ("
    " (s.previous IS NULL AND s.number>0) OR (s.previous IS NOT NULL AND NOT EXISTS ("
    "SELECT 1 FROM segments p WHERE p.hash=s.previous AND p.tenant=s.tenant AND p.device=s.device"
    " AND ((s.number>0 AND p.run=s.run AND p.number=s.number-1) OR (s.number=0 AND p.run<>s.run)))))"
)
"""Segments that do not stand directly on the one before them: only then must contents be read."""


def view(where: Where, tenant: str | None = None) -> dict[str, Any]:
    """{log, devices, alarms, quarantine, left_out}, of `tenant` or of all; `log` is always the whole one.

    Alarms are grouped by device and kind, refused messages by device and reason, with the newest detail of
    each. Raises NotFound, StoreError, BundleError (a stored segment cannot be read any more).
    """
    with opened(where) as store:
        alarms, more_alarms = _alarms(store, tenant)
        refused, more_refused = _quarantine(store, tenant)
        return {
            "log": queries.log_status(store),
            "devices": [_device(store, row) for row in queries.device_summary(store, tenant)],
            "alarms": alarms,
            "quarantine": refused,
            "left_out": {"alarms": more_alarms, "quarantine": more_refused},
        }


def _device(store: Store, row: dict[str, Any]) -> dict[str, Any]:
    who = (row["tenant"], row["device"])
    last = store.db.execute(
        "SELECT run, number, received_ms, log_index FROM segments WHERE tenant=?1 AND device=?2 AND run="
        "(SELECT run FROM segments WHERE tenant=?1 AND device=?2 ORDER BY id DESC LIMIT 1)"
        " ORDER BY number DESC LIMIT 1",
        who,
    ).fetchone()
    missing = _missing(store, row)
    return row | {
        "complete": not missing,
        "missing": missing[:SHOWN_GAPS],
        "missing_more": max(0, len(missing) - SHOWN_GAPS),
        "last_segment": {
            "run": last[0].hex(), "number": last[1], "received_ms": last[2], "log_index": last[3],
        },
    }  # fmt: skip


def _missing(store: Store, row: dict[str, Any]) -> list[str]:
    """Why the record is not complete up to its last segment: sentences, none where it is.

    The links between segments are followed; events inside them are the business of `holdfast verify`.
    """
    who = (row["tenant"], row["device"])
    found: list[str] = []
    if row["forks"]:
        found.append(f"{row['forks']} segments fork the chain: two devices use this identity, see the alarms")
    if row["erased"]:
        found.append(f"{row['erased']} segments were erased; hashes and proofs are still there")
    if not found and not store.db.execute(_LOOSE, who).fetchone()[0]:
        return []
    for run in check_runs(_links(store, who)):
        name = run.run.hex()[:8]
        found += [f"run {name}: {sentence}" for sentence in (*run.broken, *run.gaps)]
        if not run.rooted:
            found.append(f"run {name} begins at segment {run.first}; before it: {run.before}, not here")
    return found


def _links(store: Store, who: tuple[str, str]) -> list[Link]:
    """The device's chain, by run in order of arrival; events are dropped, a year would not fit."""
    rows = store.db.execute(
        "SELECT s.run, s.number, s.hash, s.id, b.data FROM segments s JOIN bodies b ON b.hash=s.hash"
        " WHERE s.tenant=? AND s.device=? ORDER BY s.id",
        who,
    )
    return [
        Link(SegmentEntry(run, number, digest, at, (), None), None if data is None else _bare(data))
        for run, number, digest, at, data in rows
    ]


def _bare(data: bytes) -> sg.Segment:
    try:
        return replace(sg.peek(data).segment, events=())
    except (WireError, EdgeError) as error:
        raise BundleError(
            f"a stored segment cannot be read any more: {error}; check the store's disk"
        ) from error


def _alarms(store: Store, tenant: str | None) -> tuple[list[dict[str, Any]], int]:
    rows = store.db.execute(
        "SELECT tenant, device, kind, count(*), max(raised_ms), detail FROM alarms"
        " WHERE ?1 IS NULL OR tenant=?1 GROUP BY tenant, device, kind ORDER BY max(raised_ms) DESC",
        (tenant,),
    ).fetchall()
    names = ("tenant", "device", "kind", "count", "last_ms", "detail")
    return [dict(zip(names, row, strict=True)) for row in rows[:LISTED]], max(0, len(rows) - LISTED)


def _quarantine(store: Store, tenant: str | None) -> tuple[list[dict[str, Any]], int]:
    rows = store.db.execute(
        "SELECT tenant, device, reason, sum(seen), max(last_ms), topic, detail FROM quarantine"
        " WHERE ?1 IS NULL OR tenant=?1 GROUP BY tenant, device, reason ORDER BY max(last_ms) DESC",
        (tenant,),
    ).fetchall()
    names = ("tenant", "device", "reason", "count", "last_ms", "topic", "detail")
    return [
        dict(zip(names, row, strict=True)) | {"remedy": REMEDIES[Reason(row[2])]} for row in rows[:LISTED]
    ], max(0, len(rows) - LISTED)


def screen(value: dict[str, Any]) -> None:
    """`view` for a person, on stdout; whatever a device had a hand in is made harmless."""
    console = Console(highlight=False, soft_wrap=True)
    log = value["log"]
    state = "[green]verified[/]" if log["verified"] else f"[red]NOT VERIFIED[/] {_safe(log['detail'])}"
    console.print(f"[bold]log[/] {_safe(log['origin'] or 'has no origin yet')}  {state}")
    console.print(f"  size {log['size']:,}, {log['pending']} pending, root {log['root']}")
    table = Table("device", "segments", "last segment", "record", title="Devices", title_justify="left")
    for row in value["devices"]:
        last = row["last_segment"]
        table.add_row(
            _who(row), f"{row['segments']:,}",
            f"{last['number']} of run {last['run'][:8]}\n{iso_utc(last['received_ms'])}",
            "[green]complete[/]" if row["complete"] else _missing_text(row),
        )  # fmt: skip
    console.print(table if value["devices"] else "no device has sent anything that was accepted")
    console.print("[bold]Alarms[/]" if value["alarms"] else "no alarms")
    for row in value["alarms"]:
        console.print(f"  [red]{_safe(row['kind'])}[/] {_who(row)}, {_times(row)}: {_safe(row['detail'])}")
    console.print("[bold]Quarantine[/]" if value["quarantine"] else "nothing in quarantine")
    for row in value["quarantine"]:
        place = _who(row) if row["device"] else f"topic {_safe(row['topic'])}"
        console.print(f"  [yellow]{row['reason']}[/] {place}, {_times(row)}: {_safe(row['detail'])}")
        console.print(f"    {escape(row['remedy'])}")
    for name, count in value["left_out"].items():
        if count:
            console.print(f"{count} older groups of {name} are not shown: give --tenant")


def _missing_text(row: dict[str, Any]) -> str:
    more = [f"and {row['missing_more']} more"] if row["missing_more"] else []
    return "[red]not complete[/]\n" + "\n".join([*map(_safe, row["missing"]), *more])


def _times(row: dict[str, Any]) -> str:
    return f"{row['count']} times, last {iso_utc(row['last_ms'])}"


def _who(row: dict[str, Any]) -> str:
    return _safe(f"{row['tenant']}/{row['device']}")


def _safe(text: str) -> str:
    return escape(printable(text))
