"""Titles, the transparency log with its proofs and tiles, the audit, alarms."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Final, Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from cloud_sync.access import READ_AUDIT, READ_LOG, READ_TITLES, Principal
from cloud_sync.errors import NotFound
from cloud_sync.log.tiles import HEIGHT, WIDTH
from cloud_sync.runtime import audit, desk_reads
from cloud_sync.runtime.serve.asked import Cursor, KnownQuery, Limit, Text, Time, wall_ms
from cloud_sync.runtime.serve.deps import Context, Ctx, Reader, require
from cloud_sync.runtime.serve.schemas import (
    AlarmList,
    AuditList,
    DeviceName,
    LogEntries,
    LogProof,
    LogState,
    Model,
    TitleDetail,
    TitleList,
)
from edge.merkle import HASH_BYTES
from edge.note import parse_checkpoint, parse_note
from firmware_bridge.wire import cose

CHECKPOINT_TYPE: Final = "text/plain; charset=utf-8"
TILE_TYPE: Final = "application/octet-stream"
TILE_AGE: Final = "private, max-age=31536000, immutable"
"""A tile never changes, and who may not read the log must not get it from somebody else's cache."""
MAX_INDEX: Final = (1 << 53) - 1
"""Largest number that a browser's JSON holds exactly."""

_TILE: Final = re.compile(
    r"(0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)
_TEXT_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}
_TILE_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {TILE_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}


class TrustFile(Model):
    """What `holdfast verify --trust` takes: the keys that an auditor believes, of this log."""

    origin: str
    log_key: str
    receipt_keys: list[str]
    ledger_keys: list[str]
    device_ca: str


router = APIRouter(dependencies=[KnownQuery])
_api = APIRouter(prefix="/api/v1", tags=["records"])

Titles = Annotated[Principal, Depends(require(READ_TITLES))]
Log = Annotated[Principal, Depends(require(READ_LOG))]
Token = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
TitleState = Literal["FREE", "PROPOSED", "PLEDGED", "ALERT", "DEFAULT", "DISPOSAL"]


@_api.get("/titles", response_model=TitleList)
def list_titles(
    ctx: Ctx,
    who: Titles,
    db: Reader,
    state: Annotated[list[TitleState] | None, Query(max_length=6)] = None,
    branch: Text = None,
    q: Text = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Titles, the gravest first."""
    return desk_reads.titles(
        db, who, state=state or (), branch=branch, q=q, limit=limit, cursor=cursor, now_ms=ctx.now_ms()
    )


@_api.get("/titles/{token}", response_model=TitleDetail)
def one_title(who: Titles, db: Reader, token: Token) -> dict[str, Any]:
    """One title with its transitions and their statements."""
    return desk_reads.title(db, who, token)


@_api.get("/log", response_model=LogState)
def log_state(ctx: Ctx, who: Log, db: Reader) -> dict[str, Any]:
    """The log as its newest signed checkpoint says it."""
    return desk_reads.log_state(db, ctx.now_ms())


@_api.get("/log/entries", response_model=LogEntries)
def log_entries(
    ctx: Ctx,
    who: Log,
    db: Reader,
    device: Annotated[DeviceName | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """The log, newest first. Of other tenants' entries stand index and hash alone. `device`: its segments,
    what people did about its incidents, and audited readings of it."""
    return desk_reads.log_entries(db, who, device=device, cursor=cursor, limit=limit, now_ms=ctx.now_ms())


@_api.get("/log/proof", response_model=LogProof)
def log_proof(who: Log, db: Reader, index: Annotated[int, Query(ge=0, le=MAX_INDEX)]) -> dict[str, Any]:
    """The inclusion proof (RFC 9162) of an entry under the newest signed checkpoint."""
    return desk_reads.log_proof(db, index)


@_api.get("/log/checkpoint", response_class=Response, responses=_TEXT_ANSWER)
def api_checkpoint(who: Log, db: Reader) -> Response:
    """The newest signed checkpoint (C2SP tlog-checkpoint)."""
    return Response(_note(db), media_type=CHECKPOINT_TYPE)


@_api.get("/log/trust", response_model=TrustFile)
def log_trust(ctx: Ctx, who: Log, response: Response) -> dict[str, Any]:
    """The trust.json of this log, for `holdfast verify --trust`. Compare it with a copy that came another
    way: a server that lies would lie here too."""
    response.headers["Content-Disposition"] = 'attachment; filename="trust.json"'
    return trust(ctx)


def trust(ctx: Context) -> dict[str, Any]:
    """What an auditor must be given beforehand (`edge.trust`): public keys alone."""
    keys = ctx.keys
    log_key = keys.log.public_key().public_bytes_raw()
    return {
        "origin": ctx.collector.origin,
        "log_key": base64.b64encode(log_key).decode(),
        "receipt_keys": [_pem(keys.receipt)],
        "ledger_keys": [_pem(keys.ledger)],
        "device_ca": keys.device_ca.public_bytes(Encoding.PEM).decode(),
    }


def _pem(key: cose.PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@_api.get("/audit", response_model=AuditList)
def list_audit(
    ctx: Ctx,
    who: Annotated[Principal, Depends(require(READ_AUDIT))],
    db: Reader,
    account: Text = None,
    action: Text = None,
    device: Annotated[DeviceName | None, Query()] = None,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Who read or changed what, newest first."""
    return audit.rows(
        db, who, cursor, limit, account=account, action=action, device=device,
        from_ms=wall_ms("from", start), to_ms=wall_ms("to", end), now_ms=ctx.now_ms(),
    )  # fmt: skip


@_api.get("/alarms", response_model=AlarmList)
def list_alarms(
    ctx: Ctx, who: Log, db: Reader, limit: Limit = desk_reads.LISTED, cursor: Cursor = None
) -> dict[str, Any]:
    """The collector's own alarms, and what it refused, in groups, newest first: `limit` of each."""
    return desk_reads.alarms(db, who, ctx.now_ms(), limit=limit, cursor=cursor)


router.include_router(_api)


@router.get("/log/checkpoint", response_class=Response, responses=_TEXT_ANSWER, tags=["records"])
def checkpoint(who: Log, db: Reader) -> Response:
    """The newest signed checkpoint, at the address that C2SP tlog-tiles names below the log's prefix."""
    return Response(_note(db), media_type=CHECKPOINT_TYPE, headers={"Cache-Control": "no-store"})


@router.get("/log/tile/{path:path}", response_class=Response, responses=_TILE_ANSWER, tags=["records"])
def tile(who: Log, db: Reader, path: Annotated[str, Path(max_length=40)]) -> Response:
    """A tile of the log (C2SP tlog-tiles): `<level>/<number>`, numbers above 999 as `x001/234`, and
    `.p/<width>` for one that is not full. Entry bundles are not served: their bytes belong to tenants."""
    match = _TILE.fullmatch(path)
    if match is None:
        raise NotFound("a tile's address is tile/<level>/<number> or tile/<level>/<number>.p/<width>")
    level, number = int(match[1]), int(match[2].replace("x", "").replace("/", ""))
    if match[2] != _tile_number(number):
        raise NotFound(f"tile {number} has the address {_tile_number(number)}")
    width = WIDTH if match[3] is None else int(match[3])
    size = parse_checkpoint(parse_note(_note(db)).text).size
    there = min(WIDTH, (size >> (HEIGHT * level)) - number * WIDTH)
    if not 0 < width <= there or (match[3] is not None and width == WIDTH):
        raise NotFound(f"tile {path} is not there: level {level} has {size >> (HEIGHT * level)} hashes")
    row = db.execute("SELECT data FROM tiles WHERE level=? AND number=?", (level, number)).fetchone()
    if row is None:
        raise NotFound(f"tile {path} is not there")
    return Response(
        bytes(row[0])[: width * HASH_BYTES], media_type=TILE_TYPE, headers={"Cache-Control": TILE_AGE}
    )


def _tile_number(number: int) -> str:
    parts = [f"{number % 1000:03d}"]
    while number := number // 1000:
        parts.insert(0, f"x{number % 1000:03d}")
    return "/".join(parts)


def _note(db: Reader) -> bytes:
    row = db.execute(
        "SELECT note FROM checkpoints WHERE note IS NOT NULL ORDER BY size DESC LIMIT 1"
    ).fetchone()
    if row is None:
        raise NotFound("the log has no signed checkpoint yet: let the collector run")
    return bytes(row[0])
