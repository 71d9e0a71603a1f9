"""`holdfast outbox peek | fsck | export`: what lies in an outbox, without changing it.

The tools open the file read-only and may run beside the edge. A file that was set aside as damaged can be
read too, as far as it can.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlite_utils
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edge import chain
from edge import segment as seg
from edge.errors import ConfigError, FormatError, StoreError
from edge.event import Key
from edge.segment import Lost, Previous, Sealed
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cose
from firmware_bridge.wire.signals import SIGNALS, Sig, physical


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the file that is not as it must be."""

    what: str
    text: str


def open_outbox(path: Path) -> sqlite_utils.Database:
    """The outbox at `path`, read-only. Raises ConfigError without one, StoreError when it is damaged."""
    if not path.is_file():
        raise ConfigError(f"there is no outbox at {path}: name the state folder, or outbox.db itself")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        # A damaged row may hold text where bytes belong: it must be reported, not end the walk.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        db = sqlite_utils.Database(connection)
        if "segments" not in db.table_names():
            raise StoreError(f"{path} is no outbox: it has no table `segments`")
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error
    return db


def _rows(db: sqlite_utils.Database) -> Iterator[dict[str, Any]]:
    yield from db["segments"].rows_where(order_by="run, number")


def peek(db: sqlite_utils.Database, limit: int) -> list[dict[str, Any]]:
    """The newest `limit` segments in words, oldest of them first. Raises StoreError."""
    try:
        rows = list(db["segments"].rows_where(order_by="id desc", limit=limit))
        return [_words(row) for row in reversed(rows)]
    except sqlite3.Error as error:
        raise StoreError(str(error)) from error


def _words(row: dict[str, Any]) -> dict[str, Any]:
    content = seg.peek(row["body"]).segment
    return {
        "id": row["id"],
        "lane": "alarm" if row["lane"] == 0 else "telemetry",
        "run": content.run.hex(),
        "number": content.number,
        "hash": bytes(row["hash"]).hex(),
        "bytes": len(row["body"]),
        "clock": content.clock.name.lower(),
        "before": _before(content.previous),
        "events": [
            {
                "seq": event.seq,
                "kind": event.kind.name.lower(),
                "wall_ms": None if event.stamp.wall_ns is None else event.stamp.wall_ns // 1_000_000,
                "body": {_name(key): _plain(key, value) for key, value in event.body.items()},
            }
            for event in content.events
        ],
        "tombstones": [
            {
                "reason": Lost(t.reason).name.lower(),
                "run": t.run.hex(),
                "first": t.first,
                "last": t.last,
                "events": t.count,
            }
            for t in content.tombstones
        ],
    }


def _before(previous: bytes | Previous | str) -> str:
    if isinstance(previous, Previous):
        return f"{previous.run.hex()}/{previous.number} {previous.hash.hex()}"
    return previous.hex() if isinstance(previous, bytes) else previous


def _name(key: int) -> str:
    if key in Sig._value2member_map_:
        return SIGNALS[Sig(key)].vss
    return Key(key).name.lower() if key in Key._value2member_map_ else str(key)


def _plain(key: int, value: object) -> object:
    if key in Sig._value2member_map_ and isinstance(value, int):
        return round(physical(Sig(key), value), 6)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(-1, item) for item in value]
    return value


def event_key(path: Path) -> cose.Resolve:
    """Checks with the event certificate at `path`. Raises ConfigError."""
    try:
        key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the event certificate {path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path} does not certify a P-256 key")
    kid = cose.key_id(key)
    return lambda asked: key if asked == kid else None


def fsck(db: sqlite_utils.Database, resolve: cose.Resolve | None) -> tuple[chain.ChainReport, list[Finding]]:
    """Check structure, hashes, columns, signatures (with `resolve`) and the chain. Never raises on damage."""
    findings: list[Finding] = []
    sealed: list[Sealed] = []
    try:
        verdict = next(iter(db.query("PRAGMA integrity_check")))["integrity_check"]
        if verdict != "ok":
            findings.append(Finding("structure", str(verdict)))
        for row in _rows(db):
            one = _check_row(row, resolve, findings)
            if one is not None:
                sealed.append(one)
    except sqlite3.Error as error:
        findings.append(Finding("structure", str(error)))
    report = chain.check(sealed)
    # Segments leave an outbox on receipts, alarms first: what is missing here is in the collector's chain.
    findings += [
        Finding("fork", f"segment {f.number} of run {f.run.hex()} is there more than once")
        for f in report.forks
    ]
    findings += [
        Finding("chain", f"segment {b.number} of run {b.run.hex()}: {b.text}") for b in report.breaks
    ]
    return report, findings


def _check_row(row: dict[str, Any], resolve: cose.Resolve | None, findings: list[Finding]) -> Sealed | None:
    name = f"row {row['id']}"
    body, digest = row["body"], row["hash"]
    if not isinstance(body, bytes) or seg.segment_hash(body) != digest:
        findings.append(Finding("hash", f"{name}: the body is not what its hash says"))
        return None
    try:
        one = seg.peek(body) if resolve is None else seg.verify(body, resolve)
    except (FormatError, WireError) as error:
        findings.append(Finding("segment", f"{name}: {error}"))
        return None
    content = one.segment
    told = (row["run"], row["number"], row["events"], row["tombstones"])
    if told != (content.run, content.number, len(content.events), len(content.tombstones)):
        findings.append(Finding("columns", f"{name}: the columns do not say what the signed body says"))
    return one


def export(db: sqlite_utils.Database, folder: Path) -> int:
    """Write each readable segment as `<run>-<number>.cose` with an index.json into `folder`; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, Any]] = []
    try:
        for row in _rows(db):
            body = row["body"]
            if not isinstance(body, bytes) or seg.segment_hash(body) != row["hash"]:
                continue
            name = f"{bytes(row['run']).hex()}-{row['number']:08d}.cose"
            (folder / name).write_bytes(body)
            index.append({"file": name, "sha256": bytes(row["hash"]).hex(), "lane": row["lane"]})
    except sqlite3.Error as error:
        if not index:
            raise StoreError(str(error)) from error
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return len(index)
