"""Incidents: lists, stories, acts of people, exact positions, evidence, verdicts as labels."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from cloud_sync import casework
from cloud_sync.access import READ_EVIDENCE, READ_EXACT, READ_INCIDENTS, WRITE_INCIDENTS, Principal
from cloud_sync.errors import NotFound
from cloud_sync.runtime import case_reads, cases
from cloud_sync.runtime.serve import accounts, exports
from cloud_sync.runtime.serve.asked import Cursor, IncidentId, KnownQuery, Limit, Text, Time, wall_ms
from cloud_sync.runtime.serve.deps import Context, Ctx, Reader, Writer, require
from cloud_sync.runtime.serve.places_file import places_of
from cloud_sync.runtime.serve.routes_fleet import timeline
from cloud_sync.runtime.serve.schemas import (
    ActRequest,
    CaseState,
    Cause,
    ClockKind,
    DeviceName,
    ExactPlace,
    IncidentList,
    LabelList,
    PurposeRequest,
    Story,
    Timeline,
)

BEFORE_MS: Final = 30 * 60 * 1000
AFTER_MS: Final = 60 * 60 * 1000
"""The window of an incident's time line: what led to it, and the hour in which somebody can still act."""

router = APIRouter(prefix="/api/v1", tags=["incidents"], dependencies=[KnownQuery])

Reads = Annotated[Principal, Depends(require(READ_INCIDENTS))]


@router.get("/incidents", response_model=IncidentList)
def list_incidents(
    ctx: Ctx,
    who: Reads,
    db: Reader,
    state: Annotated[list[CaseState] | None, Query(max_length=7)] = None,
    cause: Cause | None = None,
    branch: Text = None,
    device: Annotated[DeviceName | None, Query()] = None,
    assignee: Annotated[Text, Query(description="Name of an account, or `me`")] = None,
    q: Text = None,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
    clock: ClockKind | None = None,
    sort: Literal["worst", "newest", "oldest"] = "worst",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Incidents, the worst first. `counts` are by state within the other filters."""
    return case_reads.incidents(
        db, who, state=state or (), cause=cause, branch=branch, device=device, assignee=assignee, q=q,
        from_ms=wall_ms("from", start), to_ms=wall_ms("to", end), clock=clock, sort=sort, limit=limit,
        cursor=cursor, now_ms=ctx.now_ms(), near=places_of(ctx).nearest,
    )  # fmt: skip


@router.get("/incidents/{id}", response_model=Story)
def story(ctx: Ctx, who: Reads, db: Reader, id: IncidentId) -> dict[str, Any]:
    """One incident: what happened, how it is known, what is not known, what to do, who did what."""
    return _story(ctx, who, db, id)


def _story(ctx: Context, who: Principal, db: Reader, id_: str) -> dict[str, Any]:
    found = case_reads.story(db, who, id_, now_ms=ctx.now_ms(), near=places_of(ctx).nearest)
    names = _assignable(ctx, who, db, id_) if who.may(WRITE_INCIDENTS) else ()
    return found | {"assignable": sorted(names)}


@router.get("/incidents/{id}/timeline", response_model=Timeline)
def incident_timeline(ctx: Ctx, who: Reads, db: Reader, id: IncidentId) -> dict[str, Any]:
    """What the sensors said from half an hour before the incident until an hour after it began."""
    ref = casework.parse_id(id)
    cases.check_seen(db, who, ref)
    row = db.execute(
        "SELECT since_ms FROM incidents WHERE tenant=? AND device=? AND run=? AND incident=?",
        (who.tenant, ref.device, ref.run, ref.incident),
    ).fetchone()
    if row is None:
        raise NotFound(cases.NO_SUCH)
    return timeline(ctx, who, db, ref.device, max(0, row[0] - BEFORE_MS), row[0] + AFTER_MS)


@router.post("/incidents/{id}/acts", response_model=Story)
def act(
    ctx: Ctx,
    who: Annotated[Principal, Depends(require(READ_INCIDENTS, WRITE_INCIDENTS))],
    store: Writer,
    id: IncidentId,
    body: ActRequest,
) -> dict[str, Any]:
    """Acknowledge, assign, escalate, note, confirm, refute, close or reopen; signed and logged. 409 when
    somebody else acted since `version`."""
    cases.act(
        store, who, id, action=body.action, version=body.version, note=body.note, assignee=body.assignee,
        accounts=_assignable(ctx, who, store.db, id) if body.assignee is not None else (),
        key=ctx.ledger_key, wall_ms=ctx.now_ms(),
    )  # fmt: skip
    with ctx.stores.reading() as db:
        return _story(ctx, who, db, id)


def _assignable(ctx: Context, who: Principal, db: Reader, id_: str) -> frozenset[str]:
    """Names of accounts that may work on this incident: they act upon incidents and see its branch."""
    ref = casework.parse_id(id_)
    row = db.execute(
        "SELECT branch FROM cards WHERE tenant=? AND device=?", (who.tenant, ref.device)
    ).fetchone()
    branch = None if row is None else row[0]
    with ctx.db.reading() as own:
        rows = accounts.all_of(own, who.tenant)
    others = [(row.name, row.principal()) for row in rows if not row.disabled]
    return frozenset(name for name, one in others if one.may(WRITE_INCIDENTS) and one.sees(branch))


@router.post("/incidents/{id}/exact", response_model=ExactPlace)
def exact(
    ctx: Ctx,
    who: Annotated[Principal, Depends(require(READ_INCIDENTS, READ_EXACT))],
    store: Writer,
    id: IncidentId,
    body: PurposeRequest,
) -> dict[str, Any]:
    """The position as the incident tells it, once the audit holds who asked and why."""
    return case_reads.exact_place(
        store, who, id, purpose=body.purpose, key=ctx.ledger_key, wall_ms=ctx.now_ms()
    )


@router.post("/incidents/{id}/evidence", response_class=Response, responses=exports.ANSWERS, tags=["records"])
def incident_evidence(
    ctx: Ctx,
    who: Annotated[Principal, Depends(require(READ_INCIDENTS, READ_EVIDENCE))],
    id: IncidentId,
    body: PurposeRequest,
) -> Response:
    """The evidence bundle of an incident (.hfb), once the audit holds who asked and why."""
    return exports.of_incident(ctx, who, id, body.purpose)


@router.get("/labels", response_model=LabelList)
def list_labels(
    who: Reads,
    db: Reader,
    cause: Cause | None = None,
    branch: Text = None,
    device: Annotated[DeviceName | None, Query()] = None,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
    limit: Limit = 200,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Verdicts of people, oldest first: what the models learn from."""
    return case_reads.labels(
        db, who, cause=cause, branch=branch, device=device, from_ms=wall_ms("from", start),
        to_ms=wall_ms("to", end), cursor=cursor, limit=limit,
    )  # fmt: skip
