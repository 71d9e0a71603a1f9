"""Incidents and their cases as the API tells them: lists, verdicts as labels, an exact place.

`row` (case_rows) and `story` (case_story) belong to it too.

Reads take a connection to the collector's store, for reading, and a principal; they see the principal's
tenant and branches and nothing else. Positions are coarse (0.01 degrees) except in `exact_place`, which
writes the audit first and answers then.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from cloud_sync import casework
from cloud_sync.access import READ_EXACT, Principal
from cloud_sync.casework import OVER, Ref, State
from cloud_sync.errors import BadRequest, Denied, NotFound
from cloud_sync.incidents import iso_utc
from cloud_sync.runtime import audit, cases, cursors
from cloud_sync.runtime.case_rows import CLOCKS, COLUMNS, FROM, Json, Nearest, placed, row, told
from cloud_sync.runtime.case_story import story_of as story
from cloud_sync.runtime.store import Store
from firmware_bridge.wire import cose
from models.verdict import CAUSE_NAMES, Cause

MAX_PAGE: Final = 500
MAX_QUERY_CHARS: Final = 80
"""A search text; names of devices and cars are shorter."""
MAX_FILTERS: Final = 20
"""Repetitions of one filter: there are seven states."""
MAX_WALL_MS: Final = 253_402_300_799_999
"""The end of year 9999; ISO 8601 writes no later time with four digits."""
EXACT_DECIMALS: Final = 4
SORTS: Final = ("worst", "newest", "oldest")
CAUSES: Final = {name: int(cause) for cause, name in CAUSE_NAMES.items()}

_OVER: Final = ", ".join(f"'{state}'" for state in sorted(OVER))
_ORDER: Final[dict[str, tuple[str, ...]]] = {
    "worst": (f"(k.state IN ({_OVER}))", "-k.severity", "-i.opened_ms"),
    "newest": ("-i.opened_ms",),
    "oldest": ("i.opened_ms",),
}
"""Columns before the incident's own key. Worst first: what is refuted or closed comes last."""
_KEY: Final = ("k.device", "k.run", "k.incident")


def incidents(
    db: sqlite3.Connection,
    principal: Principal,
    *,
    state: Sequence[str] = (),
    cause: str | None = None,
    branch: str | None = None,
    device: str | None = None,
    assignee: str | None = None,
    q: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    clock: str | None = None,
    sort: str = "worst",
    limit: int = 50,
    cursor: str | None = None,
    now_ms: int,
    near: Nearest | None = None,
) -> Json:
    """A page of incidents (IncidentList). `assignee` 'me' means the principal; `q` searches device, name,
    sentence; `from_ms` <= opening < `to_ms`. Raises BadRequest for a filter that cannot be meant, BadCursor.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise BadRequest(f"limit is 1 .. {MAX_PAGE}")
    _one_of("sort", sort, SORTS)
    states = _states(state)
    where, args = _seen(principal)
    _filter(where, args, "i.cause = ?", None if cause is None else CAUSES[_one_of("cause", cause, CAUSES)])
    _filter(where, args, "c.branch = ?", _text("branch", branch))
    _filter(where, args, "k.device = ?", _text("device", device))
    _filter(
        where, args, "k.assignee = ?", principal.name if assignee == "me" else _text("assignee", assignee)
    )
    _filter(where, args, "i.opened_ms >= ?", _wall("from", from_ms))
    _filter(where, args, "i.opened_ms < ?", _wall("to", to_ms))
    if from_ms is not None and to_ms is not None and from_ms > to_ms:
        raise BadRequest("'from' is later than 'to'")
    if clock is not None:
        names = {name: int(kind) for kind, name in CLOCKS.items()}
        _filter(where, args, "s.clock = ?", names[_one_of("clock", clock, names)])
    if q:
        words = (_text("q", q) or "").lower()
        where.append(
            "instr(lower(k.device || char(10) || coalesce(c.name, '') || char(10) || i.sentence), ?)"
        )
        args.append(words)
    condition = " WHERE " + " AND ".join(where)
    counts = dict.fromkeys((str(name) for name in State), 0)
    counts.update(db.execute(f"SELECT k.state, count(*){FROM}{condition} GROUP BY k.state", args).fetchall())
    rows, following = _page(db, condition, args, states, sort=sort, limit=limit, cursor=cursor)
    return {
        "items": [told(db, principal.tenant, row, principal, near) for row in rows],
        "next": following,
        "total": sum(n for name, n in counts.items() if not states or name in states),
        "counts": counts,
        "now": iso_utc(now_ms),
    }


def labels(
    db: sqlite3.Connection,
    principal: Principal,
    *,
    cause: str | None = None,
    branch: str | None = None,
    device: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    cursor: str | None,
    limit: int,
) -> Json:
    """A page of verdicts (LabelList), oldest first: of each incident the one that stands now.

    A verdict that was revised is not told any more, nor one of an incident that was reopened since.
    `from_ms` <= verdict < `to_ms`.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise BadRequest(f"limit is 1 .. {MAX_PAGE}")
    secret = cursors.secret(db)
    where, args = _seen(principal)
    _filter(where, args, "i.cause = ?", None if cause is None else CAUSES[_one_of("cause", cause, CAUSES)])
    _filter(where, args, "c.branch = ?", _text("branch", branch))
    _filter(where, args, "k.device = ?", _text("device", device))
    _filter(where, args, "a.at_ms >= ?", _wall("from", from_ms))
    _filter(where, args, "a.at_ms < ?", _wall("to", to_ms))
    order = ("a.at_ms", *_KEY)
    kind = json.dumps(["labels", where, args])
    if cursor is not None:
        after = cursors.decode(kind, cursor, secret)
        where.append(f"({', '.join(order)}) > ({', '.join('?' * len(order))})")
        args += _unpacked(after, order)
    found = db.execute(
        "SELECT a.at_ms, k.device, k.run, k.incident, i.cause, k.verdict, a.author, i.opened_ms,"
        f" i.confidence, i.segment_hash, a.statement_hash{FROM}"
        " JOIN case_acts a ON a.tenant = k.tenant AND a.device = k.device AND a.run = k.run"
        " AND a.incident = k.incident AND a.number = (SELECT max(number) FROM case_acts b"
        " WHERE b.tenant = k.tenant AND b.device = k.device AND b.run = k.run AND b.incident = k.incident"
        " AND b.action IN ('confirm', 'refute'))"
        f" WHERE k.verdict IS NOT NULL AND {' AND '.join(where)} ORDER BY {', '.join(order)} LIMIT ?",
        (*args, limit + 1),
    ).fetchall()
    following = None
    if len(found) > limit:
        following = cursors.encode(kind, _packed(found[limit - 1][:4]), secret)
    return {
        "items": [
            {
                "incident": str(Ref(device, run, number)), "cause": CAUSE_NAMES[Cause(cause)],
                "true": bool(verdict), "at": iso_utc(at), "author": author, "opened_at": iso_utc(opened),
                "confidence": sure, "segment": segment.hex(), "statement": statement.hex(),
            }
            for at, device, run, number, cause, verdict, author, opened, sure, segment, statement
            in found[:limit]
        ],
        "next": following,
    }  # fmt: skip


def exact_place(
    store: Store,
    principal: Principal,
    incident_id: str,
    *,
    purpose: str,
    key: cose.PrivateKey,
    wall_ms: int,
) -> Json:
    """The position as the incident tells it (ExactPlace), once the audit holds who asked and why.

    Raises Denied without the scope, NotFound for an incident that is not theirs or has no position,
    BadRequest without a purpose, StoreBusy: then nothing was told.
    """
    if not principal.may(READ_EXACT):
        raise Denied("this account may not read exact positions")
    ref = casework.parse_id(incident_id)
    with store.transaction() as db:
        cases.check_seen(db, principal, ref)
        at = placed(db, principal.tenant, ref)
        if at is None:
            raise NotFound("no position came with this incident")
        what = f"exact position of incident {ref}"
        number = audit.note_in(db, principal, audit.EXACT_POSITION, ref.device, what, purpose, key, wall_ms)
    return {
        "lat": round(at[0], EXACT_DECIMALS), "lon": round(at[1], EXACT_DECIMALS), "at": at[2],
        "audit": number,
    }  # fmt: skip


def _page(
    db: sqlite3.Connection,
    condition: str,
    args: list[Any],
    states: Sequence[str],
    *,
    sort: str,
    limit: int,
    cursor: str | None,
) -> tuple[list[tuple[Any, ...]], str | None]:
    """At most `limit` rows after `cursor`, and the cursor that follows."""
    secret = cursors.secret(db)
    kind, order = json.dumps(["incidents", sort, condition, args, states]), (*_ORDER[sort], *_KEY)
    args = list(args)
    if states:
        condition += f" AND k.state IN ({', '.join('?' * len(states))})"
        args += states
    if cursor is not None:
        condition += f" AND ({', '.join(order)}) > ({', '.join('?' * len(order))})"
        args += _unpacked(cursors.decode(kind, cursor, secret), order)
    found = db.execute(
        f"SELECT {COLUMNS}, {', '.join(order)}{FROM}{condition} ORDER BY {', '.join(order)} LIMIT ?",
        (*args, limit + 1),
    ).fetchall()
    width = len(found[0]) - len(order) if found else 0
    following = None
    if len(found) > limit:
        following = cursors.encode(kind, _packed(found[limit - 1][width:]), secret)
    return [line[:width] for line in found[:limit]], following


def _packed(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(value.hex() if isinstance(value, bytes) else value for value in values)


def _unpacked(values: Sequence[Any], order: Sequence[str]) -> list[Any]:
    """The values of a cursor of this list (its signature was checked): the run is bytes again."""
    return [
        bytes.fromhex(str(value)) if column == "k.run" else value
        for value, column in zip(values, order, strict=True)
    ]


def _seen(principal: Principal) -> tuple[list[str], list[Any]]:
    """Conditions that keep a query within the principal's tenant and branches."""
    where, args = ["k.tenant = ?"], [principal.tenant]
    if principal.branches:
        where.append(f"c.branch IN ({', '.join('?' * len(principal.branches))})")
        args += sorted(principal.branches)
    return where, list(args)


def _filter(where: list[str], args: list[Any], condition: str, value: Any) -> None:
    if value is not None:
        where.append(condition)
        args.append(value)


def _states(state: Sequence[str]) -> list[str]:
    if len(state) > MAX_FILTERS:
        raise BadRequest(f"state was given {len(state)} times; there are {len(State)} states")
    names = [str(name) for name in State]
    return sorted({_one_of("state", name, names) for name in state})


def _one_of(name: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise BadRequest(f"{name} is one of {', '.join(known)}, not {value!r:.40}")
    return value


def _text(name: str, value: str | None) -> str | None:
    if value is not None and (len(value) > MAX_QUERY_CHARS or not value.isprintable()):
        raise BadRequest(f"{name} is at most {MAX_QUERY_CHARS} printable characters")
    return value


def _wall(name: str, value: int | None) -> int | None:
    if value is not None and not 0 <= value <= MAX_WALL_MS:
        raise BadRequest(f"{name} is not a time between 1970 and 9999")
    return value


__all__ = ["exact_place", "incidents", "labels", "row", "story"]
