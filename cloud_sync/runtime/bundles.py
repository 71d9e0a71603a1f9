"""Export evidence from the collector's store: a whole device, or one incident with its context."""

from __future__ import annotations

import functools
import os
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from cloud_sync.errors import BundleError, NotFound
from cloud_sync.evidence.bundle import (
    SCOPE_DEVICE,
    SCOPE_INCIDENT,
    Bundle,
    ClaimedKeys,
    SegmentEntry,
    StatementEntry,
    TimeEntry,
    encode,
)  # fmt: skip
from cloud_sync.evidence.chain import Link, contiguous
from cloud_sync.log import tiles
from cloud_sync.runtime.store import Store
from cloud_sync.statement import peek_statement
from edge import segment as sg
from edge.errors import EdgeError
from edge.note import parse_checkpoint, parse_note
from firmware_bridge.errors import WireError

INCIDENT_SEGMENTS: Final = 200
"""Most segments in an incident's bundle: at one a minute, 100 minutes to each side of it."""
REVOCATIONS: Final = Path("devices", "device_ca.crl")
"""Where `holdfast ca` lays the revocation list of event certificates, in the collector's folder."""
MAX_QUIET_CRL_BYTES: Final = 64 * 1024
"""Of a list that says nothing about the device: about 1,500 lines of others."""
_TILES_CACHED: Final = 64
"""Tiles of 8 KiB kept while proofs are computed: proofs of neighbours share almost all of them."""

Where = Store | Path
"""An open store, or the path of a store.db or of the collector.toml beside it."""


@dataclass(frozen=True, slots=True)
class IncidentRef:
    """Names an incident by the event that opened it."""

    device: str
    run: bytes
    seq: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> IncidentRef:
        """From a row of `queries.incidents`. Raises BundleError."""
        try:
            return cls(str(row["device"]), bytes.fromhex(row["run"]), int(row["seq"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"this does not name an incident: {error!r:.80}") from error


@contextmanager
def opened(where: Where) -> Iterator[Store]:
    """The store at `where`, read-only unless it is open already. Raises NotFound, StoreError."""
    if isinstance(where, Store):
        yield where
        return
    with Store(store_path(where), read_only=True) as store:
        yield store


def store_path(where: Path) -> Path:
    """The store.db that `where` (itself, or a collector.toml) means. Raises NotFound."""
    if where.suffix != ".toml":
        return where
    try:
        name = tomllib.loads(where.read_text("utf-8")).get("collector", {}).get("store", "store.db")
    except (OSError, ValueError, AttributeError) as error:
        raise NotFound(f"{where}: {error}") from error
    return where.absolute().parent / str(name)


def export(where: Where, tenant: str, what: IncidentRef | str, out: Path) -> Path:
    """Write the bundle of an incident, or of the device named, to `out`. Raises NotFound, BundleError."""
    if isinstance(what, IncidentRef):
        return export_incident(where, tenant, what, out)
    return export_device(where, tenant, what, out)


def export_device(where: Where, tenant: str, device: str, out: Path) -> Path:
    """Write the bundle of every logged segment of `device` to `out`.

    Raises NotFound when nothing of it is logged, BundleError when it does not fit into one bundle.
    """
    with opened(where) as store:
        links = _links(store, tenant, device)
        return _write(store, tenant, device, None, links, out)


def export_incident(where: Where, tenant: str, what: IncidentRef | Mapping[str, Any], out: Path) -> Path:
    """Write the bundle of an incident to `out`: the run around its opening event, as far as the chain closes,
    at most INCIDENT_SEGMENTS segments. `what` may be a row of `queries.incidents`.

    Raises NotFound when its segment is not logged, BundleError when `what` names no incident.
    """
    ref = what if isinstance(what, IncidentRef) else IncidentRef.of(what)
    with opened(where) as store:
        links = _links(store, tenant, ref.device, ref.run, read=True)
        at = next((n for n, link in enumerate(links) if _holds(store, tenant, ref, link)), None)
        if at is None:
            raise NotFound(
                f"event {ref.seq} of run {ref.run.hex()} of {tenant}/{ref.device} is not logged (yet)"
            )
        start, stop = contiguous(links, at)
        stop = min(stop, max(start, at - INCIDENT_SEGMENTS // 2) + INCIDENT_SEGMENTS)
        start = max(start, stop - INCIDENT_SEGMENTS)
        return _write(store, tenant, ref.device, (ref.run, ref.seq), links[start:stop], out)


def _holds(store: Store, tenant: str, ref: IncidentRef, link: Link) -> bool:
    row = store.db.execute(
        "SELECT first_seq, last_seq FROM segments WHERE tenant=? AND hash=?", (tenant, link.entry.hash)
    ).fetchone()
    return row[0] is not None and row[0] <= ref.seq <= row[1]


def _links(
    store: Store, tenant: str, device: str, run: bytes | None = None, *, read: bool = False
) -> list[Link]:
    """What is logged of a device (of one run), by run in order of arrival, then by number; without proofs.

    Contents are parsed only where they are `read`.
    """
    rows = store.db.execute(
        "SELECT s.run, s.number, s.hash, s.log_index, b.data FROM segments s JOIN bodies b ON b.hash=s.hash"
        " JOIN (SELECT run, min(id) AS came FROM segments WHERE tenant=:t AND device=:d GROUP BY run) r"
        " ON r.run=s.run WHERE s.tenant=:t AND s.device=:d AND s.log_index IS NOT NULL"
        " AND (:r IS NULL OR s.run=:r) ORDER BY r.came, s.number, s.log_index",
        {"t": tenant, "d": device, "r": run},
    ).fetchall()
    if not rows:
        raise NotFound(f"nothing of {tenant}/{device} is logged" + (f" in run {run.hex()}" if run else ""))
    return [
        Link(SegmentEntry(run, n, digest, at, (), data), _content(data) if read else None)
        for run, n, digest, at, data in rows
    ]


def _content(data: bytes | None) -> sg.Segment | None:
    if data is None:
        return None
    try:
        return sg.peek(data).segment  # the store holds what was verified when it came
    except (WireError, EdgeError) as error:
        raise BundleError(
            f"a stored segment cannot be read any more: {error}; check the store's disk"
        ) from error


def _write(
    store: Store, tenant: str, device: str, incident: tuple[bytes, int] | None, links: list[Link], out: Path
) -> Path:
    note = store.latest_note()
    if note is None:
        raise NotFound("the log has no signed checkpoint yet: let the collector run")
    size = parse_checkpoint(parse_note(note).text).size
    read = functools.lru_cache(maxsize=_TILES_CACHED)(store.tile)

    def proof(index: int) -> tuple[bytes, ...]:
        return tuple(tiles.inclusion_proof(index, size, read))

    certificates = _certificates(store, tenant, device)
    bundle = Bundle(
        SCOPE_DEVICE if incident is None else SCOPE_INCIDENT,
        _meta(store, "origin").decode(), note, tenant, device, certificates, incident,
        tuple(
            SegmentEntry(e.run, e.number, e.hash, e.index, proof(e.index), e.data)
            for e in (link.entry for link in links)
            if e.index < size
        ),
        tuple(
            StatementEntry(digest, index, proof(index), data)
            for digest, index, data in _statements(store, tenant, device)
            if index < size
        ),
        ClaimedKeys(_meta(store, "log_key"), _meta(store, "device_ca"), (_meta(store, "ledger_key"),)),
        _times(store, [link.entry.index for link in links if link.entry.index < size], size, read),
        _revocations(store, certificates),
    )  # fmt: skip
    _replace(out, encode(bundle))
    return out


def _statements(store: Store, tenant: str, device: str) -> list[tuple[bytes, int, bytes | None]]:
    """Statements that concern `device`: those that name it, and those of the titles that these bind it to."""
    rows = store.db.execute(
        "SELECT s.hash, s.log_index, b.data FROM statements s JOIN bodies b ON b.hash=s.hash"
        " WHERE s.tenant=? AND s.log_index IS NOT NULL ORDER BY s.log_index",
        (tenant,),
    ).fetchall()
    made = [(row, peek_statement(row[2])) for row in rows if row[2] is not None]
    tokens = {
        value
        for _, one in made
        if device in one.body.values()
        for value in one.body.values()
        if isinstance(value, bytes)
    }
    return [
        row
        for row, one in made
        if device in one.body.values()
        or any(isinstance(value, bytes) and value in tokens for value in one.body.values())
    ]


def _certificates(store: Store, tenant: str, device: str) -> tuple[bytes, ...]:
    rows = store.db.execute(
        "SELECT certificate FROM devices WHERE tenant=? AND device=? ORDER BY first_ms, kid", (tenant, device)
    )
    return tuple(bytes(row[0]) for row in rows)


def _times(
    store: Store, indices: Sequence[int], size: int, read: Callable[[int, int], bytes]
) -> tuple[TimeEntry, ...]:
    """For each entry the first TIME statement that covers it, with its proof under the tree of `size`."""
    if not store.has_table("times"):  # a store of older software, opened to read
        return ()
    rows = store.db.execute("SELECT size, note FROM times WHERE size<=? ORDER BY size", (size,)).fetchall()
    found: dict[int, bytes] = {}
    for index in indices:
        at = bisect_right(rows, index, key=lambda row: int(row[0]))
        if at < len(rows):
            found[int(rows[at][0])] = bytes(rows[at][1])
    return tuple(
        TimeEntry(note, tuple(tiles.consistency_proof(first, size, read)))
        for first, note in sorted(found.items())
    )


def _revocations(store: Store, certificates: Sequence[bytes]) -> tuple[bytes, ...]:
    """The device CA's revocation list, as the authority laid it beside the devices' certificates.

    A long one that names none of `certificates` is left out.
    """
    try:
        data = (store.path.parent / REVOCATIONS).read_bytes()
        crl = x509.load_der_x509_crl(data)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{store.path.parent / REVOCATIONS}: {error}; remove it, or fetch it anew"
        ) from error
    serials = [x509.load_der_x509_certificate(der).serial_number for der in certificates]
    listed = any(crl.get_revoked_certificate_by_serial_number(serial) is not None for serial in serials)
    return (data,) if listed or len(data) <= MAX_QUIET_CRL_BYTES else ()


def _meta(store: Store, key: str) -> bytes:
    value = store.meta(key)
    if value is None:
        raise NotFound(f"the store does not know its {key}: let the collector run once")
    return value


def _replace(out: Path, data: bytes) -> None:
    fresh = out.with_name(out.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(out)
    except OSError as error:
        raise BundleError(f"cannot write {out}: {error.strerror}") from error
