"""The durable queue of messages to people and machines, in serve.db.

A message is enqueued in the transaction that also writes down what it was derived from, and leaves `waiting`
only after its target took it, refused it for good, or failed for longer than its patience. Nothing is marked
while it is under way: a process that dies sends again under the same id. So: at least once.

A *lane* is one target (a webhook, an address). One message of a lane is under way at a time, and a lane that
fails is left alone for a while; other lanes do not notice. Times are milliseconds since 1970, real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from cloud_sync.errors import BadRequest, NotFound, StoreError
from cloud_sync.runtime.kinds import serve_say as say

WEBHOOK: Final = "webhook"
EMAIL: Final = "email"
SLOTS: Final = {WEBHOOK: 12, EMAIL: 4}
"""Messages under way at once, 16 in all. Mail has its own, as all of it goes to one server."""
FIRST_DELAY_S: Final = 5.0
MAX_DELAY_S: Final = 3600.0
"""A target that was down for a day is tried again within an hour of coming back."""
JITTER: Final = 0.2
"""A delay is up to so much shorter or longer, so that many lanes do not come back at once."""
PATIENCE_MS: Final = {WEBHOOK: 24 * 3_600_000, EMAIL: 48 * 3_600_000}
"""After this a message that still fails is dead: machines are mended in a day, mail servers on a Monday."""
KEEP_MS: Final = 30 * 24 * 3_600_000
"""Messages that were delivered are listed for 30 days."""
KEEP_DEAD_MS: Final = 365 * 24 * 3_600_000
MAX_ERROR_CHARS: Final = 300
MAX_BUSY_S: Final = 60.0
"""How long a lane rests whose outcome could not be written down (disk full)."""

T = TypeVar("T")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS webhooks(
  id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, name TEXT NOT NULL, url TEXT NOT NULL,
  secret TEXT NOT NULL, made_ms INTEGER NOT NULL, disabled_ms INTEGER, last_error TEXT);
CREATE TABLE IF NOT EXISTS deliveries(
  id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, lane TEXT NOT NULL, channel TEXT NOT NULL,
  webhook INTEGER, target TEXT NOT NULL, message TEXT NOT NULL, subject TEXT NOT NULL, body TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0, made_ms INTEGER NOT NULL,
  next_ms INTEGER NOT NULL, expire_ms INTEGER NOT NULL, done_ms INTEGER, error TEXT,
  UNIQUE(tenant, lane, message));
CREATE INDEX IF NOT EXISTS deliveries_lane ON deliveries(tenant, lane, state, next_ms, id);
CREATE INDEX IF NOT EXISTS deliveries_state ON deliveries(tenant, state, id);
CREATE TABLE IF NOT EXISTS lanes(
  tenant TEXT NOT NULL, lane TEXT NOT NULL, channel TEXT NOT NULL, failures INTEGER NOT NULL DEFAULT 0,
  open_ms INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(tenant, lane)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks(
  tenant TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY(tenant, name)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message to one target, before it is enqueued."""

    tenant: str
    channel: str
    target: str
    """Address, or name of the webhook, as shown."""
    message: str
    """Its id: the same message is enqueued once a target, and keeps its id over every attempt."""
    subject: str
    body: str
    """Text of the mail, or the CloudEvents JSON exactly as it is signed."""
    webhook: int | None = None

    @property
    def lane(self) -> str:
        """The key of its target within the tenant."""
        return f"{WEBHOOK}:{self.webhook}" if self.channel == WEBHOOK else f"{EMAIL}:{self.target.lower()}"


@dataclass(frozen=True, slots=True)
class Due:
    """A parcel whose time has come."""

    id: int
    parcel: Parcel
    lane: str
    made_ms: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The target has it."""


@dataclass(frozen=True, slots=True)
class Later:
    """It did not work, and may work later."""

    error: str
    retry_after_s: float | None = None
    """As the target asked."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The target will never take this message."""

    error: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The target wants nothing any more (HTTP 410)."""

    error: str


Outcome = Delivered | Later | Refused | Gone
Send = Callable[[Due], Awaitable[Outcome]]


class Work(Protocol):
    """Runs functions on serve.db in a worker thread."""

    async def read(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """What `step` returned."""
        ...

    async def write(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """What `step` returned, committed."""
        ...


def migrate(db: sqlite3.Connection) -> None:
    """Create the tables of this module where they are missing."""
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)


def enqueue(db: sqlite3.Connection, parcel: Parcel, now_ms: int) -> int | None:
    """Add `parcel` inside the caller's transaction; None when this target has this message already."""
    db.execute(
        "INSERT OR IGNORE INTO lanes(tenant, lane, channel) VALUES(?,?,?)",
        (parcel.tenant, parcel.lane, parcel.channel),
    )
    added = db.execute(
        "INSERT OR IGNORE INTO deliveries(tenant, lane, channel, webhook, target, message, subject, body,"
        " made_ms, next_ms, expire_ms) VALUES(?,?,?,?,?,?,?,?,?,?,?)",
        (
            parcel.tenant, parcel.lane, parcel.channel, parcel.webhook, parcel.target, parcel.message,
            parcel.subject, parcel.body, now_ms, now_ms, now_ms + PATIENCE_MS[parcel.channel],
        ),
    )  # fmt: skip
    return added.lastrowid if added.rowcount else None


def due(db: sqlite3.Connection, now_ms: int, busy: frozenset[tuple[str, str]]) -> list[Due]:
    """The next message of every lane that may be tried now and is not `busy` (tenant, lane), the longest
    waiting first."""
    rows = db.execute(
        "SELECT l.tenant, l.lane, (SELECT d.id FROM deliveries d"
        " WHERE d.tenant = l.tenant AND d.lane = l.lane AND d.state = 'waiting' AND d.next_ms <= ?1"
        " ORDER BY d.next_ms, d.id LIMIT 1) FROM lanes l WHERE l.open_ms <= ?1",
        (now_ms,),
    ).fetchall()
    numbers = [first for tenant, lane, first in rows if first is not None and (tenant, lane) not in busy]
    found = []
    for number in numbers:
        row = db.execute(
            "SELECT tenant, channel, target, message, subject, body, webhook, lane, made_ms, next_ms"
            " FROM deliveries WHERE id = ?",
            (number,),
        ).fetchone()
        found.append((int(row[9]), Due(number, Parcel(*row[:7]), row[7], row[8])))
    return [item for _, item in sorted(found, key=lambda pair: (pair[0], pair[1].id))]


def settle(db: sqlite3.Connection, item: Due, outcome: Outcome, now_ms: int, chance: float) -> None:
    """Write down what became of `item`. `chance` (0 .. 1) spreads the delay before the next attempt."""
    if isinstance(outcome, Delivered):
        _finish(db, item, "delivered", None, now_ms)
        _lane(db, item, 0, 0, None)
    elif isinstance(outcome, Refused):
        _finish(db, item, "dead", _short(outcome.error), now_ms)
        _webhook_error(db, item, _short(outcome.error))
    elif isinstance(outcome, Gone):
        error = _short(outcome.error)
        db.execute(
            "UPDATE webhooks SET disabled_ms=?, last_error=? WHERE tenant=? AND id=?",
            (now_ms, error, item.parcel.tenant, item.parcel.webhook),
        )
        bury(db, item.parcel.tenant, item.lane, error, now_ms)
    else:
        _postpone(db, item, outcome, now_ms, chance)


def delay_s(failures: int, chance: float) -> float:
    """Seconds before the next attempt after `failures` (at least 1) in a row: 5 s doubled each time, at most
    an hour, give or take a fifth by `chance` (0 .. 1)."""
    plain = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 20))
    return plain * (1 - JITTER + 2 * JITTER * chance)


def bury(db: sqlite3.Connection, tenant: str, lane: str, error: str, now_ms: int) -> None:
    """Everything that waits in a lane is dead: the target was removed or wants nothing any more."""
    db.execute(
        "UPDATE deliveries SET state='dead', done_ms=?, error=?"
        " WHERE tenant=? AND lane=? AND state='waiting'",
        (now_ms, error, tenant, lane),
    )


def retry(db: sqlite3.Connection, tenant: str, number: int, now_ms: int) -> None:
    """Let a dead message wait again, with its whole patience; a webhook that was gone is taken up again.

    Raises NotFound when there is none, BadRequest when it is delivered or its webhook was removed.
    """
    row = db.execute(
        "SELECT state, channel, webhook, lane FROM deliveries WHERE tenant=? AND id=?", (tenant, number)
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no message {number}")
    state, channel, webhook, lane = row
    if state == "delivered":
        raise BadRequest("this message was delivered: it is not sent again")
    if (
        channel == WEBHOOK
        and not db.execute(
            "UPDATE webhooks SET disabled_ms=NULL WHERE tenant=? AND id=?", (tenant, webhook)
        ).rowcount
    ):
        raise BadRequest("its webhook was removed: make a new one, and test that")
    db.execute(
        "UPDATE deliveries SET state='waiting', next_ms=?, expire_ms=?, done_ms=NULL WHERE id=?",
        (now_ms, now_ms + PATIENCE_MS[channel], number),
    )
    db.execute("UPDATE lanes SET open_ms=0 WHERE tenant=? AND lane=?", (tenant, lane))


def rows(
    db: sqlite3.Connection, tenant: str, state: str | None, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """Messages of a tenant as rows of the table, newest first, of `state` alone where it is given and older
    than number `before`."""
    cursor = db.execute(
        "SELECT id, channel, target, subject, state, attempts, made_ms, next_ms, done_ms, error"
        " FROM deliveries WHERE tenant = ?1 AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR id < ?3)"
        " ORDER BY id DESC LIMIT ?4",
        (tenant, state, before, limit),
    )
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def prune(db: sqlite3.Connection, now_ms: int) -> None:
    """Forget what was delivered or given up long ago."""
    db.execute("DELETE FROM deliveries WHERE state='delivered' AND done_ms < ?", (now_ms - KEEP_MS,))
    db.execute("DELETE FROM deliveries WHERE state='dead' AND done_ms < ?", (now_ms - KEEP_DEAD_MS,))


def mark(db: sqlite3.Connection, tenant: str, name: str) -> int | None:
    """How far messages were derived, None at the first start."""
    row = db.execute("SELECT value FROM marks WHERE tenant=? AND name=?", (tenant, name)).fetchone()
    return None if row is None else int(row[0])


def set_mark(db: sqlite3.Connection, tenant: str, name: str, value: int) -> None:
    """Remember it, in the transaction that enqueues."""
    db.execute("INSERT OR REPLACE INTO marks(tenant, name, value) VALUES(?,?,?)", (tenant, name, value))


class Deliverer:
    """Sends what is due, each lane on its own."""

    def __init__(
        self,
        work: Work,
        senders: Mapping[str, Send],
        wall_ms: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self._work = work
        self._senders = senders
        self._wall_ms = wall_ms
        self._chance = chance
        self._tasks: dict[tuple[str, str], tuple[str, asyncio.Task[None]]] = {}
        self._freed = asyncio.Event()

    async def step(self) -> int:
        """Start what is due and fits; returns how many were started. Does not wait for their end."""
        self._freed.clear()
        free = {
            channel: SLOTS[channel] - sum(used == channel for used, _ in self._tasks.values())
            for channel in self._senders
        }
        if not any(free.values()):
            return 0
        now_ms, busy = self._wall_ms(), frozenset(self._tasks)
        started = 0
        for item in await self._work.read(lambda db: due(db, now_ms, busy)):
            channel = item.parcel.channel
            if free.get(channel, 0) <= 0:
                continue
            free[channel] -= 1
            started += 1
            key = (item.parcel.tenant, item.lane)
            task = asyncio.create_task(self._deliver(item), name=f"deliver-{item.id}")
            self._tasks[key] = (channel, task)
            task.add_done_callback(partial(self._ended, key))
        return started

    async def rest(self, seconds: float) -> None:
        """Wait until something that was under way has ended since the last step, for `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._freed.wait(), seconds)

    def _ended(self, key: tuple[str, str], _: asyncio.Task[None]) -> None:
        self._tasks.pop(key, None)
        self._freed.set()

    async def settle_all(self) -> None:
        """Wait until nothing is under way any more."""
        while tasks := [task for _, task in self._tasks.values()]:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Give up what is under way; it is sent again by the next start."""
        tasks = [task for _, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self, item: Due) -> None:
        try:
            outcome = await self._senders[item.parcel.channel](item)
        except Exception as error:  # noqa: BLE001 - a message that breaks a sender must not end the others
            lane = item.lane.split(":")[0]
            say("message_broken", number=item.id, task=lane, error=repr(error), exc_info=error)
            outcome = Later(f"sending failed: {type(error).__name__}")
        now_ms, chance = self._wall_ms(), self._chance()
        try:
            await self._work.write(lambda db: settle(db, item, outcome, now_ms, chance))
        except StoreError as error:
            # The message stays waiting and is sent again: not at once, or its target would be flooded.
            say("message_not_settled", number=item.id, error=error)
            await asyncio.sleep(MAX_BUSY_S)


def _finish(db: sqlite3.Connection, item: Due, state: str, error: str | None, now_ms: int) -> None:
    db.execute(
        "UPDATE deliveries SET state=?, attempts=attempts+1, done_ms=?, error=? WHERE id=?",
        (state, now_ms, error, item.id),
    )


def _postpone(db: sqlite3.Connection, item: Due, outcome: Later, now_ms: int, chance: float) -> None:
    tenant, error = item.parcel.tenant, _short(outcome.error)
    row = db.execute("SELECT attempts FROM deliveries WHERE id=?", (item.id,)).fetchone()
    failures = db.execute(
        "SELECT failures FROM lanes WHERE tenant=? AND lane=?", (tenant, item.lane)
    ).fetchone()
    attempts, failed = (row[0] if row else 0) + 1, (failures[0] if failures else 0) + 1
    asked_s = min(outcome.retry_after_s or 0.0, MAX_DELAY_S)
    next_ms = now_ms + int(max(asked_s, delay_s(attempts, chance)) * 1000)
    open_ms = now_ms + int(max(asked_s, delay_s(failed, chance)) * 1000)
    db.execute(
        "UPDATE deliveries SET attempts=?, next_ms=?, error=? WHERE id=? AND state='waiting'",
        (attempts, next_ms, error, item.id),
    )
    _lane(db, item, failed, open_ms, error)
    hours = PATIENCE_MS[item.parcel.channel] // 3_600_000
    db.execute(
        "UPDATE deliveries SET state='dead', done_ms=?1, error=?2"
        " WHERE tenant=?3 AND lane=?4 AND state='waiting' AND expire_ms <= ?1",
        (now_ms, f"given up after {hours} h: {error}", tenant, item.lane),
    )


def _lane(db: sqlite3.Connection, item: Due, failures: int, open_ms: int, error: str | None) -> None:
    db.execute(
        "UPDATE lanes SET failures=?, open_ms=? WHERE tenant=? AND lane=?",
        (failures, open_ms, item.parcel.tenant, item.lane),
    )
    _webhook_error(db, item, error)


def _webhook_error(db: sqlite3.Connection, item: Due, error: str | None) -> None:
    if item.parcel.webhook is not None:
        db.execute(
            "UPDATE webhooks SET last_error=? WHERE tenant=? AND id=?",
            (error, item.parcel.tenant, item.parcel.webhook),
        )


def _short(error: str) -> str:
    return error if len(error) <= MAX_ERROR_CHARS else f"{error[: MAX_ERROR_CHARS - 1]}…"
