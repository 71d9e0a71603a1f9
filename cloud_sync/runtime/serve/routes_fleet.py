"""Vehicles, the map, time lines, completeness, and the operator's own places."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from cloud_sync.access import READ_EVIDENCE, READ_FLEET, READ_LOG, WRITE_FLEET, Principal
from cloud_sync.errors import BadRequest, ConfigError, Denied, NotFound
from cloud_sync.runtime import audit, fleet, fleet_reads
from cloud_sync.runtime.serve import exports
from cloud_sync.runtime.serve.asked import Cursor, Device, KnownQuery, Limit, Text, Time, require_any, wall_ms
from cloud_sync.runtime.serve.deps import Context, Ctx, Reader, Writer, require
from cloud_sync.runtime.serve.places_file import load_outline, places_of
from cloud_sync.runtime.serve.schemas import (
    Cause,
    ClockKind,
    Completeness,
    CompletenessList,
    FleetMap,
    PlaceList,
    PurposeRequest,
    Timeline,
    VehicleChange,
    VehicleDetail,
    VehicleList,
    VehicleState,
)

TIMELINE_MS: Final = 24 * 3600 * 1000
"""Shown of a vehicle unless somebody asks for another window."""
MAX_PLACES: Final = 2000
"""Places in one answer: more than a map can show apart."""

router = APIRouter(prefix="/api/v1", tags=["fleet"], dependencies=[KnownQuery])

Fleet = Annotated[Principal, Depends(require(READ_FLEET))]
FleetOrLog = Annotated[Principal, Depends(require_any(READ_FLEET, READ_LOG))]
Longitude = Annotated[float, Query(ge=-180, le=180)]
Latitude = Annotated[float, Query(ge=-90, le=90)]
Month = Annotated[str | None, Query(pattern=r"^[12][0-9]{3}-(0[1-9]|1[0-2])$", description="YYYY-MM, UTC")]


@router.get("/vehicles", response_model=VehicleList)
def list_vehicles(
    ctx: Ctx,
    who: Fleet,
    db: Reader,
    branch: Text = None,
    state: Annotated[list[VehicleState] | None, Query(max_length=4)] = None,
    cause: Cause | None = None,
    clock: ClockKind | None = None,
    q: Text = None,
    sort: Literal["worst", "name", "heard", "health"] = "worst",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Vehicles, the worst first. `counts` are by state within the other filters."""
    found = fleet_reads.vehicles(
        db, who, branch=branch, state=state or (), cause=cause, clock=clock, q=q, sort=sort, limit=limit,
        cursor=cursor, now_ms=ctx.now_ms(),
    )  # fmt: skip
    places_of(ctx).name_all(row["place"] for row in found["items"])
    return found


@router.get("/map", response_model=FleetMap)
def fleet_map(ctx: Ctx, who: Fleet, db: Reader) -> dict[str, Any]:
    """Every vehicle that has a position, compact, on a grid of 0.01 degrees."""
    return fleet_reads.fleet_map(db, who, ctx.now_ms())


@router.get("/vehicles/{device}", response_model=VehicleDetail)
def one_vehicle(ctx: Ctx, who: Fleet, db: Reader, device: Device) -> dict[str, Any]:
    """One vehicle with its newest incidents."""
    found = fleet_reads.vehicle(db, who, device, ctx.now_ms())
    places_of(ctx).name_all(row["place"] for row in (found["vehicle"], *found["incidents"]))
    return found


@router.patch("/vehicles/{device}", response_model=VehicleDetail)
def change_vehicle(
    ctx: Ctx,
    who: Annotated[Principal, Depends(require(READ_FLEET, WRITE_FLEET))],
    store: Writer,
    device: Device,
    body: VehicleChange,
) -> dict[str, Any]:
    """Write name, branch or note of a vehicle's card; what is not named stays. Stands in the audit."""
    changed = [name for name in ("name", "branch", "note") if getattr(body, name) is not None]
    if not changed:
        raise BadRequest("name, branch or note: one of them at least must be given")
    if body.name is not None and not body.name.isprintable():
        raise BadRequest("a name has no line breaks or control characters")
    if body.branch is not None and not who.sees(body.branch or None):
        raise Denied("this account is confined to branches: it cannot give a vehicle to another one")
    now_ms = ctx.now_ms()
    with store.transaction() as db:
        fleet_reads.vehicle(db, who, device, now_ms)  # NotFound for those of others
        fleet.set_card(db, who.tenant, device, body.name, body.branch, body.note)
        fleet.add_feed(db, who.tenant, "vehicle", device, device, now_ms)
        what = f"card of {device}: {', '.join(changed)}"
        audit.note_in(db, who, "card_changed", device, what, "", None, now_ms, signed=False)
    with ctx.stores.reading() as fresh:
        return one_vehicle(ctx, who, fresh, device)


@router.get("/vehicles/{device}/timeline", response_model=Timeline)
def vehicle_timeline(
    ctx: Ctx,
    who: Fleet,
    db: Reader,
    device: Device,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
) -> dict[str, Any]:
    """What the sensors said, thinned; the last 24 hours unless `from` and `to` say otherwise."""
    to_ms = wall_ms("to", end)
    from_ms = wall_ms("from", start)
    if to_ms is None:
        to_ms = ctx.now_ms() if from_ms is None else from_ms + TIMELINE_MS
    if from_ms is None:
        from_ms = max(0, to_ms - TIMELINE_MS)
    return timeline(ctx, who, db, device, from_ms, to_ms)


def timeline(
    ctx: Context, who: Principal, db: Reader, device: str, from_ms: int, to_ms: int
) -> dict[str, Any]:
    """A Timeline with the names of places."""
    found = fleet_reads.timeline(db, who, device, from_ms, to_ms)
    places_of(ctx).name_all(found["track"])
    return found


@router.get("/vehicles/{device}/completeness", response_model=Completeness)
def vehicle_completeness(ctx: Ctx, who: FleetOrLog, db: Reader, device: Device) -> dict[str, Any]:
    """The device's record, month by month."""
    return fleet_reads.completeness(db, who, device, ctx.now_ms())


@router.post(
    "/vehicles/{device}/evidence", response_class=Response, responses=exports.ANSWERS, tags=["records"]
)
def vehicle_evidence(
    ctx: Ctx,
    who: Annotated[Principal, Depends(require(READ_FLEET, READ_EVIDENCE))],
    device: Device,
    body: PurposeRequest,
) -> Response:
    """The evidence bundle of everything logged of a device (.hfb), once the audit holds who asked and why."""
    with ctx.stores.reading() as db:
        fleet_reads.vehicle(db, who, device, ctx.now_ms())  # NotFound for those of others
    return exports.of_device(ctx, who, device, body.purpose)


@router.get("/completeness", response_model=CompletenessList)
def list_completeness(
    ctx: Ctx,
    who: FleetOrLog,
    db: Reader,
    month: Month = None,
    branch: Text = None,
    q: Text = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """All devices in one month (the newest unless one is named), the worst first."""
    return fleet_reads.completeness_list(
        db, who, month=month, branch=branch, q=q, limit=limit, cursor=cursor, now_ms=ctx.now_ms()
    )


@router.get("/places", response_model=PlaceList)
def list_places(
    ctx: Ctx,
    who: Fleet,
    west: Longitude = -180,
    south: Latitude = -90,
    east: Longitude = 180,
    north: Latitude = 90,
    q: Text = None,
) -> dict[str, Any]:
    """Places of the operator's own list within a box; west > east crosses the antimeridian."""
    if not all(map(math.isfinite, (west, south, east, north))) or south > north:
        raise BadRequest("south must not be greater than north")
    found, more = places_of(ctx).current().within(west, south, east, north, q or "", MAX_PLACES)
    items = [
        {"name": at.name, "lat": at.lat, "lon": at.lon, "radius_m": at.radius_m, "kind": at.kind}
        for at in found
    ]
    return {"items": items, "more": more}


@router.get(
    "/outline",
    response_class=Response,
    responses={200: {"content": {"application/geo+json": {"schema": {"type": "object"}}}}},
)
def outline(ctx: Ctx, who: Fleet) -> Response:
    """The configured outline set (GeoJSON, RFC 7946). Not shown in Chinese."""
    path = ctx.config.outline
    if path is None or who.language == "zh":
        raise NotFound("there is no outline set" + ("" if path is None else " in Chinese"))
    try:
        data = load_outline(path)
    except ConfigError as error:
        raise NotFound("the outline set cannot be used: the server's log says why") from error
    return Response(data, media_type="application/geo+json")
