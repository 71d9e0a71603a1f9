"""The hub of the live view: what the collector committed reaches every open stream within a second.

One task looks at store.db ten times a second (`PRAGMA data_version`: no lock, no read), and reads the feed
when somebody has committed. Each event is made once for all viewers with the same rights and put into a
bounded queue of each. A viewer that does not read is cut off; it comes back with Last-Event-ID and misses
nothing. The `id` of an event is the feed's number up to which everything has been told, so what waits to be
told together (vehicles, titles, the log's size: once a second) is told again after a resume.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter

from cloud_sync.access import READ_LOG, Principal
from cloud_sync.errors import CloudError
from cloud_sync.runtime import fleet_reads
from cloud_sync.runtime.kinds import serve_say as say
from cloud_sync.runtime.serve import live_events
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.live_events import Batch, FeedRow
from cloud_sync.runtime.serve.places_file import places_of
from cloud_sync.runtime.serve.problems import ApiProblem
from cloud_sync.runtime.store import Store

POLL_S: Final = 0.1
"""How often the store is asked whether somebody committed: a tenth of what an incident may take."""
TOGETHER_S: Final = 1.0
"""Vehicles, titles and the log's size are told at most so often."""
QUEUE: Final = 64
"""Pieces that wait for one viewer: a minute of a busy fleet; who is behind more does not read."""
MAX_STREAMS: Final = 20
"""Of one account: as many windows as somebody may have open, and not a whole server's worth."""
CHECKS_AT_ONCE: Final = 2
"""200 viewers that came back together must not ask for 200 connections to serve.db together."""
DUE_S: Final = 2.0
"""How often it is looked for vehicles that have just become overdue."""
MAX_BEHIND: Final = 1000
"""Lines of the feed that are told again after a resume; for more the page reads its lists anew."""

END: Final = b":end\n\n"
"""The last piece of a stream: a comment, after which it ends as an answer should."""
END_S: Final = 1.0
"""A viewer that has not taken the last piece by then is cut off: the server ends."""
_RETRY_S: Final = 1.0
"""Pause after the store could not be read."""
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Viewer:
    """One open stream."""

    principal: Principal
    queue: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    cut: Callable[[], object] = lambda: None
    """Ends the stream at once, whatever it is waiting for."""


@dataclass(slots=True, eq=False)
class _Group:
    """All viewers with the same rights, and what waits to be told to them together."""

    sight: Principal
    safe: int
    """Everything up to this line of the feed has been told."""
    viewers: set[Viewer] = field(default_factory=set)
    vehicles: set[str] = field(default_factory=set)
    titles: set[tuple[str, str]] = field(default_factory=set)
    log_size: int | None = None
    told_size: int = 0
    told_s: float = 0.0

    @property
    def waiting(self) -> bool:
        return bool(self.vehicles or self.titles or self.log_size is not None)


@dataclass(frozen=True, slots=True)
class _News:
    """What one look at the store found of a tenant."""

    batch: Batch
    urgent: dict[Principal, list[tuple[str, Any]]]
    """Events of incidents for each sight."""
    log_size: int


class Hub:
    """Fans the feed out to all open streams. Belongs to one event loop; `run` is started by the first."""

    def __init__(self, context: Context) -> None:
        self.dropped = 0
        """Viewers that were cut off because they did not read."""
        self._context = context
        self._groups: dict[Principal, _Group] = {}
        self._positions: dict[str, int] = {}
        self.checks = CapacityLimiter(CHECKS_AT_ONCE)
        """Lets few viewers at a time look whether their login still holds."""
        self._accounts: Counter[tuple[str, int]] = Counter()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "live")
        self._store: Store | None = None
        self._version = -1
        self._due_s = 0.0
        self._due_ms = context.now_ms()
        self.stopped = False
        """Its server has ended; another one makes another hub."""
        context.at_stop.append(self.stop)

    @property
    def viewers(self) -> int:
        """Open streams."""
        return sum(len(group.viewers) for group in self._groups.values())

    def admit(self, who: Principal) -> None:
        """Raise ApiProblem when the account has as many streams as it may."""
        if self._accounts[who.tenant, who.account] >= MAX_STREAMS:
            raise ApiProblem(
                "too_often", f"This account has {MAX_STREAMS} live views open, which is the most.",
                "Close some of them.", {"Retry-After": "30"},
            )  # fmt: skip

    async def attach(self, viewer: Viewer) -> int:
        """Begin to give events to `viewer`; the feed's number after which they begin. Raises StoreError."""
        who = viewer.principal
        async with self._lock:
            newest, size = await self._in_thread(self._begin, who.tenant)
            position = self._positions.setdefault(who.tenant, newest)
            sight = live_events.sight_of(who)
            group = self._groups.setdefault(sight, _Group(sight, position, told_size=size))
            group.viewers.add(viewer)
            self._accounts[who.tenant, who.account] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self.run())
        return position

    def detach(self, viewer: Viewer) -> None:
        """Give nothing more to `viewer`. A second call does nothing."""
        who = viewer.principal
        sight = live_events.sight_of(who)
        group = self._groups.get(sight)
        if group is None or viewer not in group.viewers:
            return
        group.viewers.remove(viewer)
        self._accounts[who.tenant, who.account] -= 1
        if not group.viewers:
            del self._groups[sight]
        if not any(each.tenant == who.tenant for each in self._groups):
            self._positions.pop(who.tenant, None)

    def stop(self) -> None:
        """End every stream and the task: the server ends."""
        self.stopped = True
        if self.stop in self._context.at_stop:
            self._context.at_stop.remove(self.stop)
        loop = asyncio.get_running_loop()
        for group in list(self._groups.values()):
            for viewer in list(group.viewers):
                try:
                    viewer.queue.put_nowait(END)
                except asyncio.QueueFull:
                    viewer.cut()
                else:
                    loop.call_later(END_S, viewer.cut)

    async def run(self) -> None:
        """Until the server ends, or nobody watches."""
        failing = False
        while not self.stopped and self._groups:
            began = time.monotonic()
            try:
                async with self._lock:
                    await self._tick()
                failing = False
            except (CloudError, sqlite3.Error) as error:
                if not failing:
                    say("live_store_busy", error=error)
                failing = True
                await self._in_thread(self._close)
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(max(0.0, began + POLL_S - time.monotonic()))
        await self._in_thread(self._close)

    async def _tick(self) -> None:
        sights: dict[str, list[Principal]] = {tenant: [] for tenant in self._positions}
        for sight in self._groups:
            sights[sight.tenant].append(sight)
        for tenant, news in (await self._in_thread(self._look, dict(self._positions), sights)).items():
            if tenant in self._positions:
                self._positions[tenant] = news.batch.position
            for sight in sights[tenant]:
                group = self._groups.get(sight)
                if group is not None:
                    self._take(group, news)
        now_s = time.monotonic()
        if now_s - self._due_s >= DUE_S:
            self._due_s = now_s
            for tenant, devices in (await self._in_thread(self._overdue, list(self._positions))).items():
                for group in self._groups.values():
                    if group.sight.tenant == tenant:
                        group.vehicles |= devices
        for group in list(self._groups.values()):
            if group.waiting and now_s - group.told_s >= TOGETHER_S:
                group.told_s = now_s
                await self._tell_together(group)

    def _take(self, group: _Group, news: _News) -> None:
        group.vehicles |= news.batch.vehicles
        group.titles |= news.batch.titles
        if news.log_size != group.told_size and group.sight.may(READ_LOG):
            group.log_size = news.log_size
        if not group.waiting:
            group.safe = news.batch.position
        urgent = news.urgent.get(group.sight)
        if urgent:
            self._give(group, live_events.encoded(urgent, group.safe))

    async def _tell_together(self, group: _Group) -> None:
        position = self._positions[group.sight.tenant]
        vehicles, group.vehicles = group.vehicles, set()
        titles, group.titles = group.titles, set()
        log_size, group.log_size = group.log_size, None
        group.safe = position
        events = await self._in_thread(self._together, group.sight, vehicles, titles)
        if log_size is not None:
            group.told_size = log_size
            events.append(("log", {"size": log_size}))
        if events:
            self._give(group, live_events.encoded(events, position))

    def _give(self, group: _Group, piece: bytes) -> None:
        for viewer in list(group.viewers):
            try:
                viewer.queue.put_nowait(piece)
            except asyncio.QueueFull:
                self.dropped += 1
                say("viewer_cut", count=self.dropped)
                self.detach(viewer)
                viewer.cut()

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run one of the methods below; always the same thread, which owns the connection."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    # --- in the hub's thread -----------------------------------------------------------------------------

    def _db(self) -> sqlite3.Connection:
        if self._store is None:
            self._store, self._version = Store(self._context.stores.path, read_only=True), -1
        return self._store.db

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _begin(self, tenant: str) -> tuple[int, int]:
        db = self._db()
        return fleet_reads.feed_bounds(db, tenant)[1], log_size(db)

    def _look(self, positions: dict[str, int], sights: dict[str, list[Principal]]) -> dict[str, _News]:
        """News of each tenant since its position; nothing where nobody committed."""
        db = self._db()
        version = db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return {}
        found: dict[str, _News] = {}
        full = False
        places = places_of(self._context)
        db.execute("BEGIN")  # one snapshot for all
        try:
            size = log_size(db)
            for tenant, position in positions.items():
                rows = feed_rows(db, tenant, position)
                full = full or len(rows) == MAX_BEHIND
                batch = live_events.batch_of(rows, position)
                urgent = {
                    sight: live_events.incident_events(db, sight, batch.incidents, places)
                    for sight in sights[tenant]
                    if batch.incidents
                }
                found[tenant] = _News(batch, urgent, size)
        finally:
            db.execute("ROLLBACK")
        self._version = -1 if full else version
        return found

    def _overdue(self, tenants: list[str]) -> dict[str, frozenset[str]]:
        since_ms, self._due_ms = self._due_ms, self._context.now_ms()
        db = self._db()
        return {name: live_events.overdue(db, name, since_ms, self._due_ms) for name in tenants}

    def _together(
        self, sight: Principal, vehicles: set[str], titles: set[tuple[str, str]]
    ) -> list[tuple[str, Any]]:
        return together(self._db(), self._context, sight, vehicles, titles)


def together(
    db: sqlite3.Connection,
    context: Context,
    sight: Principal,
    vehicles: Collection[str],
    titles: Collection[tuple[str, str]],
) -> list[tuple[str, Any]]:
    """Events of titles and vehicles."""
    places = places_of(context)
    return [
        *live_events.title_events(db, sight, titles),
        *live_events.vehicle_events(db, sight, vehicles, context.now_ms(), places),
    ]


def feed_rows(db: sqlite3.Connection, tenant: str, after: int) -> list[FeedRow]:
    """At most MAX_BEHIND lines of the feed after number `after`."""
    return [feed_row(row) for row in fleet_reads.feed_after(db, tenant, after, MAX_BEHIND)]


def feed_row(row: dict[str, Any]) -> FeedRow:
    """A line of the feed."""
    return FeedRow(row["id"], row["kind"], row["device"], row["ref"])


def log_size(db: sqlite3.Connection) -> int:
    """Entries under the newest signed checkpoint."""
    row = db.execute("SELECT max(size) FROM checkpoints WHERE note IS NOT NULL").fetchone()
    return int(row[0] or 0)


def hub_of(context: Context) -> Hub:
    """The server's hub; made by the first stream, in the event loop."""
    found = context.extras.get("live")
    if not isinstance(found, Hub) or found.stopped:
        found = context.extras["live"] = Hub(context)
    return found
