"""Titles, the log and the collector's alarms as the API tells them. Quick whatever the log's size.

Nothing here walks the log: a page of entries is one index range, a proof reads a few tiles, and the root is
the one of the newest signed checkpoint. Who doubts it computes it: that is what the proof is for.

What belongs to another tenant shows as an index and a hash. A principal that is confined to branches sees
the titles and alarms of its vehicles, and of the log's entries of others no more than their kind.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from cloud_sync.access import Principal
from cloud_sync.collector import REMEDIES, Reason
from cloud_sync.errors import BadRequest, NotFound
from cloud_sync.incidents import iso_utc
from cloud_sync.ledger.contract import LOCKED_STATES, Role, State
from cloud_sync.ledger.errors import Refused
from cloud_sync.log import tiles
from cloud_sync.runtime import cursors, fleet_rows, title_state
from cloud_sync.runtime.store import KIND_SEGMENT
from cloud_sync.statement import BINDING, TITLE, Statement, peek_statement
from edge.errors import EdgeError
from edge.note import parse_checkpoint, parse_note
from firmware_bridge.errors import WireError

Json = dict[str, Any]

MAX_PAGE: Final = 500
MAX_QUERY_CHARS: Final = 80
LISTED: Final = 200
"""Groups of alarms, and of refused messages: names in a topic may be invented by the thousand."""
WORDS_ROLES: Final = frozenset({"operator", "auditor"})
"""Who reads the words behind a title's keyed hashes: its owner and its loan."""
RANKS: Final[dict[str, int]] = {
    State.DISPOSAL: 0, State.DEFAULT: 1, State.ALERT: 2, State.PLEDGED: 3, State.PROPOSED: 4, State.FREE: 5,
}  # fmt: skip
"""The order of titles: what is gravest first."""
ALARM_REMEDIES: Final = {
    "chain_fork": "two devices use this identity, or one was restored from a copy: take the vehicle's device "
    "out, enrol it anew, and keep both chains as evidence",
    "projection_failed": "the segment is stored and logged, but not shown: report it with this detail, and "
    "start the collector again after an update",
}
"""What an operator does about the collector's own alarms."""

_TOKEN = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TITLES: Final = (
    "SELECT substr(t.key, 7), json_extract(CAST(t.value AS TEXT), '$.state', '$.since_ms') FROM title_state t"
    " WHERE t.tenant = ? AND t.key >= 'title/' AND t.key < 'title0'"
)
_BOUND: Final = (
    "EXISTS (SELECT 1 FROM title_devices d WHERE d.tenant = t.tenant AND d.token = substr(t.key, 7) AND "
)
_MAX_INDEX: Final = (1 << 63) - 1


def titles(
    db: sqlite3.Connection,
    principal: Principal,
    *,
    state: Sequence[str] = (),
    branch: str | None = None,
    q: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
    now_ms: int,
) -> Json:
    """A page of titles (TitleList), the gravest first. `branch`: of one of its vehicles. `q`: the beginning
    of a token, or part of a device's name. Raises BadRequest, BadCursor."""
    _limit(limit)
    states = _states(state)
    sql, args = _TITLES, [principal.tenant, *_branch_args(principal)]
    if principal.branches:
        sql += f" AND {_BOUND}{_in_branches('t.tenant', 'd.device', principal)})"
    if branch is not None:
        fleet_rows.check_branch(db, principal, branch)
        sql += (
            f" AND {_BOUND}EXISTS (SELECT 1 FROM cards b WHERE b.tenant = d.tenant AND b.device = d.device"
            " AND b.branch = ?))"
        )
        args.append(branch)
    if q:
        if len(q) > MAX_QUERY_CHARS or not q.isprintable():
            raise BadRequest(f"q is at most {MAX_QUERY_CHARS} printable characters")
        sql += f" AND (instr(t.key, 'title/' || ?) = 1 OR {_BOUND}instr(d.device, ?)))"
        args += [q.lower(), q.lower()]
    secret, kind = cursors.secret(db), json.dumps(["titles", sql, args, states])
    after = () if cursor is None else cursors.decode(kind, cursor, secret)
    counts = dict.fromkeys((str(name) for name in State), 0)
    found: list[tuple[int, int, str]] = []
    rows = db.execute(sql, args).fetchall()
    told = json.loads(f"[{','.join(text for _, text in rows)}]")  # at once: ten thousand are quick then
    for (token, _), (name, since) in zip(rows, told, strict=True):
        counts[name] += 1
        if not states or name in states:
            found.append((RANKS[name], -since, token))
    items = sorted(one for one in found if one > after)
    return {
        "items": [_title_row(db, principal, token) for _, _, token in items[:limit]],
        "next": cursors.encode(kind, items[limit - 1], secret) if len(items) > limit else None,
        "total": len(found),
        "counts": counts,
        "now": iso_utc(now_ms),
    }


def title(db: sqlite3.Connection, principal: Principal, token: str) -> Json:
    """One title with its transitions (TitleDetail); owner and loan for WORDS_ROLES alone. Raises NotFound."""
    if not _TOKEN.fullmatch(token):
        raise NotFound("there is no such title: a token has 64 hexadecimal digits")
    try:
        told = title_state.describe(db, principal.tenant, token)
    except Refused as error:
        raise NotFound("there is no such title") from error
    devices = _visible_devices(db, principal, token)
    if principal.branches and not devices:
        raise NotFound("there is no such title")
    words = principal.role in WORDS_ROLES
    indices = dict(
        db.execute(
            "SELECT e.statement_hash, s.log_index FROM title_events e JOIN statements s"
            " ON s.hash = e.statement_hash WHERE e.tenant = ? AND e.token = ?",
            (principal.tenant, token),
        ).fetchall()
    )
    return {
        "title": _shown(told | {"devices": devices}),
        "owner": told["owner"] if words else None,
        "loan": told["loan"] if words else None,
        "uri": told["uri"],
        "evidence": [str(digest) for digest in told["evidence"]],
        "steps": [
            step | {"log_index": indices.get(bytes.fromhex(step["statement"]))}
            for step in told["transitions"]
        ],
    }


def log_state(db: sqlite3.Connection, now_ms: int) -> Json:
    """The log as its newest signed checkpoint says it (LogState); size 0 before the first."""
    row = _checkpoint(db)
    origin, key = _meta(db, "origin"), _meta(db, "log_key")
    pending = int(db.execute("SELECT count(*) FROM pending").fetchone()[0])
    size, root, note, made_ms = (0, b"", b"", None) if row is None else row
    name = None if origin is None else origin.decode()
    signers = () if row is None else parse_note(note).signatures
    return {
        "origin": name, "size": size, "root": root.hex(), "checkpoint": note.decode(),
        "made_at": None if made_ms is None else iso_utc(made_ms), "pending": pending,
        "log_key": "" if key is None else base64.b64encode(key).decode(),
        "cosigners": sorted({signature.name for signature in signers if signature.name != name}),
        "now": iso_utc(now_ms),
    }  # fmt: skip


def log_entries(
    db: sqlite3.Connection,
    principal: Principal,
    *,
    device: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
    now_ms: int,
) -> Json:
    """A page of the log, newest first (LogEntries). `device`: its segments, what people did about its
    incidents, and audited readings of it. Raises BadRequest, BadCursor."""
    _limit(limit)
    kind = ["log", principal.tenant, *([] if device is None else [device, *_branch_args(principal)])]
    secret, log_kind = cursors.secret(db), json.dumps(kind)
    if device is not None and _if_seen(db, principal, device) is None:
        return {"items": [], "next": None, "now": iso_utc(now_ms)}
    before = _MAX_INDEX if cursor is None else int(cursors.decode(log_kind, cursor, secret)[0])
    of_device = () if device is None else (principal.tenant, device) * 3
    found = db.execute(
        "SELECT e.log_index, e.hash, e.tenant, e.kind, g.device, g.received_ms, s.type, s.wall_ms,"
        " b.data IS NULL, CASE WHEN e.kind = ? THEN NULL ELSE b.data END FROM entries e"
        " LEFT JOIN segments g ON e.kind = ? AND g.hash = e.hash LEFT JOIN statements s ON s.hash = e.hash"
        f" LEFT JOIN bodies b ON b.hash = e.hash WHERE e.log_index < ?{'' if device is None else _OF_DEVICE}"
        " ORDER BY e.log_index DESC LIMIT ?",
        (KIND_SEGMENT, KIND_SEGMENT, before, *of_device, limit + 1),
    ).fetchall()
    more = len(found) > limit
    return {
        "items": [_entry(db, principal, row) for row in found[:limit]],
        "next": cursors.encode(log_kind, (found[limit - 1][0],), secret) if more else None,
        "now": iso_utc(now_ms),
    }


_OF_DEVICE: Final = (
    " AND e.hash IN (SELECT hash FROM segments WHERE tenant = ? AND device = ? UNION ALL"
    " SELECT statement_hash FROM case_acts WHERE tenant = ? AND device = ? UNION ALL"
    " SELECT statement_hash FROM audit WHERE tenant = ? AND device = ? AND statement_hash IS NOT NULL)"
)


def log_proof(db: sqlite3.Connection, index: int) -> Json:
    """The inclusion proof of an entry under the newest signed checkpoint (LogProof). Raises NotFound.

    Of any tenant's entry: a hash among hashes tells nothing.
    """
    row = _checkpoint(db)
    if row is None:
        raise NotFound("the log has no signed checkpoint yet: let the collector run")
    size, root, note, _ = row
    if not 0 <= index < size:
        raise NotFound(f"the log's newest checkpoint has {size} entries: the last is {size - 1}")
    entry = db.execute("SELECT hash FROM entries WHERE log_index = ?", (index,)).fetchone()

    def read(level: int, number: int) -> bytes:
        tile = db.execute("SELECT data FROM tiles WHERE level = ? AND number = ?", (level, number)).fetchone()
        return b"" if tile is None else bytes(tile[0])

    proof = tiles.inclusion_proof(index, size, read)
    return {
        "index": index, "size": size, "entry": entry[0].hex(), "proof": [node.hex() for node in proof],
        "root": root.hex(), "checkpoint": note.decode(),
    }  # fmt: skip


def alarms(
    db: sqlite3.Connection,
    principal: Principal,
    now_ms: int,
    *,
    limit: int = LISTED,
    cursor: str | None = None,
) -> Json:
    """A page of the collector's own alarms by device and kind, and of what it refused by device and reason,
    newest first (AlarmList): at most `limit` of each. Raises BadRequest, BadCursor."""
    _limit(limit)
    secret, page = cursors.secret(db), json.dumps(["alarms", principal.tenant, _branch_args(principal)])
    after = (_FIRST, _FIRST) if cursor is None else cursors.decode(page, cursor, secret)
    args = [principal.tenant, *_branch_args(principal)]
    inside = f" AND {_in_branches('a.tenant', 'a.device', principal)}" if principal.branches else ""
    raised = db.execute(
        "SELECT a.device, a.kind, count(*), max(a.raised_ms), a.detail FROM alarms a WHERE a.tenant = ?1"
        f"{inside} GROUP BY a.device, a.kind ORDER BY 4 DESC, 1, 2",
        args,
    ).fetchall()
    refused = db.execute(
        "SELECT a.device, a.reason, sum(a.seen), max(a.last_ms), a.detail FROM quarantine a"
        f" WHERE a.tenant = ?1{inside} GROUP BY a.device, a.reason ORDER BY 4 DESC, 1, 2",
        args,
    ).fetchall()
    raised, refused = _after(raised, after[0]), _after(refused, after[1])
    left_out = max(0, len(raised) - limit) + max(0, len(refused) - limit)
    last = [_place(rows[:limit], key) for rows, key in zip((raised, refused), after, strict=True)]
    return {
        "alarms": [_alarm(row, ALARM_REMEDIES.get(row[1], "")) for row in raised[:limit]],
        "quarantine": [_alarm(row, REMEDIES[Reason(row[1])]) for row in refused[:limit]],
        "next": cursors.encode(page, last, secret) if left_out else None,
        "left_out": left_out,
        "now": iso_utc(now_ms),
    }


_FIRST: Final = ""
"""Before every place: JSON of [-last_ms, device, kind] begins with a bracket."""


def _after(rows: Sequence[tuple[Any, ...]], place: str) -> list[tuple[Any, ...]]:
    """Those of `rows`, newest first, that come after `place`."""
    if place == _FIRST:
        return list(rows)
    key = tuple(json.loads(place))
    return [row for row in rows if (-row[3], row[0], row[1]) > key]


def _place(rows: Sequence[tuple[Any, ...]], before: str) -> str:
    """Where a page that ends with `rows` ends; `before` where it has none."""
    return json.dumps([-rows[-1][3], rows[-1][0], rows[-1][1]]) if rows else before


def _alarm(row: Sequence[Any], remedy: str) -> Json:
    device, kind, count, last_ms, detail = row
    return {
        "device": device, "kind": kind, "count": count, "last_at": iso_utc(last_ms), "detail": detail,
        "remedy": remedy,
    }  # fmt: skip


def _title_row(db: sqlite3.Connection, principal: Principal, token: str) -> Json:
    value, _ = title_state.SqliteState(db, principal.tenant).read(f"title/{token}")
    told = json.loads(value or b"{}")
    lien = told["lien"] or {}
    return _shown(
        {
            "token": token, "state": told["state"], "locked": told["state"] in LOCKED_STATES,
            "since": iso_utc(told["since_ms"]), "registry": told["registry"], "lender": lien.get("lender"),
            "guarantor": lien.get("consents", {}).get(Role.GUARANTOR),
            "devices": _visible_devices(db, principal, token),
        }
    )  # fmt: skip


def _shown(told: Json) -> Json:
    names = ("token", "state", "locked", "since", "registry", "lender", "guarantor", "devices")
    return {name: told[name] for name in names}


def _visible_devices(db: sqlite3.Connection, principal: Principal, token: str) -> list[str]:
    rows = db.execute(
        "SELECT d.device, c.branch FROM title_devices d LEFT JOIN cards c ON c.tenant = d.tenant"
        " AND c.device = d.device WHERE d.tenant = ? AND d.token = ? ORDER BY d.device",
        (principal.tenant, token),
    )
    return [device for device, branch in rows if principal.sees(branch)]


def _entry(db: sqlite3.Connection, principal: Principal, row: Sequence[Any]) -> Json:
    index, digest, tenant, kind, device, received_ms, type_, wall_ms, erased, data = row
    shown: Json = {"index": index, "hash": digest.hex(), "type": None, "device": None, "at": None}
    if tenant != principal.tenant:
        return shown | {"kind": "other tenant", "erased": False}
    shown["erased"] = bool(erased)
    if kind == KIND_SEGMENT:
        at = None if received_ms is None else iso_utc(received_ms)
        return shown | {"kind": "segment", "at": at, "device": _if_seen(db, principal, device)}
    return shown | {
        "kind": "statement", "type": type_, "at": None if wall_ms is None else iso_utc(wall_ms),
        "device": _if_seen(db, principal, _named(data)),
    }  # fmt: skip


def _if_seen(db: sqlite3.Connection, principal: Principal, device: str | None) -> str | None:
    if device is None or not principal.branches:
        return device
    row = db.execute(
        "SELECT branch FROM cards WHERE tenant = ? AND device = ?", (principal.tenant, device)
    ).fetchone()
    return device if row is not None and principal.sees(row[0]) else None


def _named(data: bytes | None) -> str | None:
    """The device that a statement names; a title's names none."""
    if data is None:
        return None
    try:
        made: Statement = peek_statement(data)  # the store holds what this log's owner signed
    except (EdgeError, WireError):
        return None
    if made.type == TITLE:
        return None
    value = made.body.get(2 if made.type == BINDING else 1)
    return value if isinstance(value, str) else None


def _checkpoint(db: sqlite3.Connection) -> tuple[int, bytes, bytes, int] | None:
    """(size, root, note, made_ms) of the newest signed checkpoint."""
    row = db.execute(
        "SELECT note, made_ms FROM checkpoints WHERE note IS NOT NULL ORDER BY size DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    head = parse_checkpoint(parse_note(row[0]).text)
    return head.size, head.root, bytes(row[0]), int(row[1])


def _meta(db: sqlite3.Connection, key: str) -> bytes | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else bytes(row[0])


def _in_branches(tenant: str, device: str, principal: Principal) -> str:
    """A condition with the principal's branches as ?2, ?3, ..."""
    marks = ", ".join(f"?{number + 2}" for number in range(len(principal.branches)))
    return (
        f"EXISTS (SELECT 1 FROM cards c WHERE c.tenant = {tenant} AND c.device = {device}"
        f" AND c.branch IN ({marks}))"
    )


def _branch_args(principal: Principal) -> list[str]:
    return sorted(principal.branches)


def _states(state: Sequence[str]) -> list[str]:
    for name in state:
        if name not in State._value2member_map_:
            raise BadRequest(f"state is one of {', '.join(State)}, not {name!r:.40}")
    return sorted(set(state))


def _limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise BadRequest(f"limit is 1 .. {MAX_PAGE}")
