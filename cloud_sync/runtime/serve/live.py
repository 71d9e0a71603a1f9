"""GET /api/v1/live: what changes, as server-sent events with resume (WHATWG HTML, section 9.2).

The hub (`live_hub`) puts pieces into a viewer's queue; here they are written to the connection, a comment
where there is silence, until the viewer hangs up, its login ends, the server ends, or it does not read.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Annotated, Final

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cloud_sync.errors import BadRequest
from cloud_sync.runtime import fleet_reads
from cloud_sync.runtime.serve import live_events, sessions, tokens
from cloud_sync.runtime.serve.asked import KnownQuery
from cloud_sync.runtime.serve.deps import Context, Ctx, LoggedIn, Login
from cloud_sync.runtime.serve.live_hub import END, MAX_BEHIND, Viewer, feed_row, hub_of, together
from cloud_sync.runtime.serve.places_file import places_of

KEEP_ALIVE_S: Final = 15.0
"""A comment after so much silence: proxies end a connection of 30 to 60 s without a byte."""
CHECK_S: Final = 5.0
"""How often it is checked that the login still holds: a session that ended stops seeing within twice that."""
AWAY_MS: Final = 10 * 60 * 1000
"""Vehicles that became overdue so shortly before a resume are told again: no line of the feed says it."""
MAX_FEED: Final = (1 << 63) - 1
"""Largest number of a row in SQLite."""

router = APIRouter(prefix="/api/v1", tags=["live"], dependencies=[KnownQuery])


class _Stream(Response):
    """The answer: tells `viewer` what the hub gives it until either side ends."""

    media_type = "text/event-stream"

    def __init__(self, context: Context, login: Login, bearer: str, after: int | None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._context = context
        self._login = login
        self._bearer = bearer
        self._after = after
        self._hub = hub_of(context)
        self._viewer = Viewer(login.principal)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        position = await self._hub.attach(self._viewer)
        try:
            first = await to_thread.run_sync(self._first, position)
            pump = asyncio.create_task(self._pump(first, send))
            gone = asyncio.create_task(_gone(receive))
            self._viewer.cut = pump.cancel
            try:
                await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                cut = not pump.done() or pump.cancelled()
                pump.cancel()
                gone.cancel()
                await asyncio.gather(pump, gone, return_exceptions=True)
        finally:
            self._hub.detach(self._viewer)
        transport = scope.get("state", {}).get("transport")
        if cut and isinstance(transport, asyncio.Transport):
            transport.abort()  # what the viewer did not read is not kept for it
            await _gone(receive)  # at once: only then is the answer over, though it was not completed

    async def _pump(self, first: bytes, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        piece = first
        told_s = time.monotonic()
        checked_s = told_s - random.uniform(0, CHECK_S)  # viewers that came together are not looked at so
        while True:
            if piece == END:
                break
            if piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                told_s = time.monotonic()
            if time.monotonic() - checked_s >= CHECK_S:
                if not await self._still_valid():
                    break
                checked_s = time.monotonic()
            piece = await self._next()
            if not piece and time.monotonic() - told_s >= KEEP_ALIVE_S:
                piece = b":\n\n"
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _still_valid(self) -> bool:
        return await to_thread.run_sync(
            still_valid, self._context, self._login, self._bearer, limiter=self._hub.checks
        )

    async def _next(self) -> bytes:
        """The next piece; nothing when it is time to look at the login."""
        try:
            async with asyncio.timeout(CHECK_S):
                return await self._viewer.queue.get()
        except TimeoutError:
            return b""

    def _first(self, position: int) -> bytes:
        """What a new or returning viewer is told before anything else."""
        context, sight = self._context, live_events.sight_of(self._viewer.principal)
        hello = live_events.event("hello", {"feed": position, "now": context.now()}, position)
        if self._after is None:
            return hello
        with context.stores.reading() as db:
            oldest, newest = fleet_reads.feed_bounds(db, sight.tenant)
            if not oldest - 1 <= self._after <= newest:
                return hello + live_events.event("reset", {}, position)
            rows = fleet_reads.feed_after(db, sight.tenant, self._after, MAX_BEHIND + 1)
            if len(rows) > MAX_BEHIND:
                return hello + live_events.event("reset", {}, position)
            batch = live_events.batch_of([feed_row(row) for row in rows], position)
            missed = live_events.incident_events(db, sight, batch.incidents, places_of(context))
            now_ms = context.now_ms()
            late = live_events.overdue(db, sight.tenant, now_ms - AWAY_MS, now_ms)
            missed += together(db, context, sight, batch.vehicles | late, batch.titles)
        return hello + live_events.encoded(missed, position)


async def _gone(receive: Receive) -> None:
    """Returns when the viewer has hung up."""
    while (await receive())["type"] != "http.disconnect":
        continue


def still_valid(context: Context, login: Login, bearer: str) -> bool:
    """Whether the login of a stream still holds, with the same rights. Notes no use: a window that nobody
    looks at must not keep a session alive."""
    now_ms = context.real_ms()
    with context.db.reading() as db:
        if login.session is None:
            by_token = tokens.find_token(db, bearer, now_ms)
            now = None if by_token is None else by_token[1]
        else:
            found = sessions.find_session(db, login.session, context.config.session, now_ms)
            now = None if found is None else found[0].principal()
    return now is not None and live_events.sight_of(now) == live_events.sight_of(login.principal)


@router.get(
    "/live",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def live(
    request: Request,
    ctx: Ctx,
    login: LoggedIn,
    after: Annotated[int | None, Query(ge=0, le=MAX_FEED)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """What changes, as server-sent events: `hello` LiveHello, `incident` IncidentRow, `vehicles`
    {items: [VehicleRow]}, `title` {token}, `log` {size}, `reset` {}: read the lists anew. Goes on after
    Last-Event-ID (or `after`)."""
    if last_event_id is not None and last_event_id != "":
        if not last_event_id.isascii() or not last_event_id.isdigit() or int(last_event_id) > MAX_FEED:
            raise BadRequest("Last-Event-ID is the id of an event of this stream: a number")
        after = int(last_event_id)
    hub_of(ctx).admit(login.principal)
    bearer = request.headers.get("authorization", "").partition(" ")[2].strip()
    return _Stream(ctx, login, bearer, after)
