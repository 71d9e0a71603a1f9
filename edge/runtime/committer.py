"""From drafts to durable events: numbers, commits in one worker thread, and a store that may fail.

The event loop owns everything here but the outbox's methods, which run in the worker thread, one at a time
and in the order in which they were asked for. So a slow card never keeps a port from being read, and seq
order is commit order.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from edge.config import EdgeLimits
from edge.errors import FormatError, StoreError, StoreFull
from edge.facts import FactsError
from edge.intake import Batch, Draft, Intake
from edge.runtime.acceptance import Acceptance
from edge.runtime.log import Log
from edge.runtime.outbox import Outbox
from edge.runtime.store import StoreDamaged
from edge.sealer import Signer
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS, ClockKind

RETRY_S: Final = 1.0
"""Real time between attempts at a store that failed."""
STALL_S: Final = 2.0
"""A scenario's clock that stood still for so long has ended: what is in hand is sealed."""

T = TypeVar("T")


class Committer:
    """Accepts drafts. `begin_run` gives the first draft of a run that a damaged store makes necessary."""

    def __init__(
        self,
        outbox: Outbox,
        limits: EdgeLimits,
        log: Log,
        *,
        kind: ClockKind,
        now: Callable[[], Now],
        trusted_wall_ns: Callable[[Now], int],
        begin_run: Callable[[Now, str], Draft],
    ) -> None:
        self.outbox = outbox
        self.intake = Intake(outbox.run)
        self.acceptance = Acceptance(limits.acceptance_socket)
        self.wake = asyncio.Event()
        """Set when a commit may be due."""
        self.faults: Counter[str] = Counter()
        """Errors that were survived, by where they were caught."""
        self.store_state = "not opened yet"
        """"ok", or what is the matter with the store."""
        self.events = 0
        """Accepted since the start."""
        self.segments = 0
        """Sealed since the start."""
        self._limits = limits
        self._log = log
        self._kind = kind
        self._now = now
        self._trusted_wall_ns = trusted_wall_ns
        self._begin_run = begin_run
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._committing = asyncio.Lock()
        """Held from taking a batch to knowing what became of it."""
        self._working: set[asyncio.Task[bool]] = set()
        self._waiters: dict[int, asyncio.Future[int]] = {}
        """Facts in hand: seq -> who waits for its commit."""
        self._retry_at = 0.0
        self._pending_since: float | None = None
        self._unsealed_since: float | None = None
        self._clock_moved = (0, time.monotonic())

    def accept(self, draft: Draft) -> int | None:
        """Number `draft`; its seq, or None where it is no possible event. It is not accepted yet."""
        try:
            item = self.intake.add(draft)
        except FormatError as error:
            self.fault("event", error)
            return None
        if self.outbox.high_water is not None:
            self.outbox.high_water.given_out(self.intake.next_seq, item.event.stamp.mono_ns)
        if self._pending_since is None:
            self._pending_since = time.monotonic()
        if draft.urgent:
            self.wake.set()
        return item.event.seq

    async def accept_durably(self, draft: Draft, timeout_s: float) -> int:
        """Accept `draft` and return its seq when it is committed. Raises FactsError when that fails."""
        seq = self.accept(draft)
        if seq is None:
            raise FactsError("this cannot be an event")
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters[seq] = waiter
        try:
            async with asyncio.timeout(timeout_s):
                await self.commit()
                return await asyncio.shield(waiter)
        except TimeoutError as error:
            raise FactsError(f"not accepted within {timeout_s:.0f} s: {self.store_state}") from error
        finally:
            self._waiters = {at: one for at, one in self._waiters.items() if one is not waiter}

    def reconfigure(self, limits: EdgeLimits) -> None:
        """Commit and seal by other intervals from now on."""
        self._limits = limits

    async def rekey(self, signer: Signer) -> bool:
        """Accept and seal what is in hand under the old key, then go on in a new run under `signer`'s.

        False when the store would not: the old run goes on, and nothing is lost.
        """

        async def work() -> bool:
            async with self._committing:
                if not await self._try(self.intake.take(), flush=True, clean=False):
                    return False
                try:
                    await self.in_store(self.outbox.rekey, signer, self._trusted_wall_ns(self._now()))
                except StoreError as error:
                    self.failed(error)
                    return False
                self._renumber()
            self.wake.set()
            return True

        return await self._whole(work())

    def _renumber(self) -> None:
        """What came while the new run was begun on disk gets its numbers there."""
        now = self._now()
        moved = self.intake.restart(self.outbox.run, self._begin_run(now, self.outbox.opening))
        if self.outbox.high_water is not None:
            self.outbox.high_water.begin(self.outbox.run)
            self.outbox.high_water.given_out(self.intake.next_seq, now.mono_ns)
        self._waiters = {moved[seq]: waiter for seq, waiter in self._waiters.items() if seq in moved}
        if self._pending_since is None:
            self._pending_since = time.monotonic()

    def fault(self, task: str, error: BaseException) -> None:
        """Count and say an error that is survived."""
        self.faults[task] += 1
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self._log.say("fault", task=task, error=f"{type(error).__name__}: {error}", where=where)

    def due(self, now_ns: int) -> tuple[bool, bool]:
        """(commit now, and seal everything): by the Clock, or by real time where the Clock is slow."""
        real = time.monotonic()
        if real < self._retry_at:
            return False, False
        last_ns, moved_at = self._clock_moved
        if now_ns != last_ns:
            moved_at = real
            self._clock_moved = (now_ns, real)
        in_hand = len(self.intake) > 0 or self._unsealed_since is not None
        stalled = self._kind is not ClockKind.LIVE and in_hand and real - moved_at >= STALL_S
        old = self._unsealed_since is not None and real - self._unsealed_since >= self._limits.seal_interval_s
        waited = (
            self._pending_since is not None and real - self._pending_since >= self._limits.commit_interval_s
        )
        flush = stalled or old
        by_clock = self.intake.due(now_ns, round(self._limits.commit_interval_s * NS))
        return by_clock or waited or flush or self.outbox.seal_due(now_ns), flush

    async def in_store(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a method of the outbox in its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, lambda: work(*args, **kwargs))

    async def commit(self, *, flush: bool = False, clean: bool = False) -> bool:
        """Accept what is in hand. False when the store would not; everything then waits for the next time."""

        async def work() -> bool:
            async with self._committing:
                return await self._try(self.intake.take(), flush=flush, clean=clean)

        return await self._whole(work())

    async def _whole(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run `work` to its end, also where who waits for it gives up or is cancelled.

        The store's thread cannot be stopped: a commit that nobody settles would leave its batch in flight for
        ever, and nothing could be accepted after it.
        """
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return await asyncio.shield(task)

    async def _try(self, batch: Batch, *, flush: bool, clean: bool, alarms_only: bool = False) -> bool:
        now = self._now()
        wall = self._trusted_wall_ns(now)
        try:
            done = await self.in_store(
                self.outbox.commit, batch, now_ns=now.mono_ns, wall_ns=wall, flush=flush, clean=clean
            )
        except StoreDamaged as error:
            self.intake.put_back()
            self.failed(error)
            self._new_run()
            return False
        except StoreFull as error:
            self.intake.put_back()
            self.failed(error)
            return not alarms_only and await self._alarms_on_full_disk(flush=flush)
        except StoreError as error:
            self.intake.put_back()
            self.failed(error)
            return False
        self.intake.done()
        if not alarms_only:
            self.store_state = "ok"
        self.events += len(done.events)
        self.segments += len(done.sealed)
        self._settle(batch)
        return True

    async def _alarms_on_full_disk(self, *, flush: bool) -> bool:
        """No space: the reserve is for alarms; telemetry before one is given up, and says so in its place."""
        if not self.intake.shed():
            return False
        if await self.in_store(self.outbox.release_reserve):
            self._log.say("reserve_released", level="warning")
        return await self._try(self.intake.take_alarms(), flush=flush, clean=False, alarms_only=True)

    def failed(self, error: StoreError) -> None:
        """The store would not: say so, and leave it alone for RETRY_S."""
        self.store_state = str(error)
        self._retry_at = time.monotonic() + RETRY_S
        self.faults["store"] += 1
        self._log.say("store_failed", level="error", error=str(error), pending=len(self.intake))

    def _new_run(self) -> None:
        """The store was set aside: what waits is numbered anew in the new run."""
        now = self._now()
        self.intake.restart(self.outbox.run, self._begin_run(now, self.outbox.opening))
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(FactsError("the outbox was damaged and set aside; say it again"))
        self._waiters.clear()
        if self.outbox.high_water is not None:
            self.outbox.high_water.given_out(self.intake.next_seq, now.mono_ns)
        self._retry_at = 0.0

    def _settle(self, batch: Batch) -> None:
        """After a commit: tell who wants to know."""
        real = time.monotonic()
        self._pending_since = real if len(self.intake) else None
        if self.outbox.figures.unsealed == 0:
            self._unsealed_since = None
        elif self._unsealed_since is None:
            self._unsealed_since = real
        self.acceptance.tell(self.intake.run, batch.items)
        for item in batch.items:
            waiter = self._waiters.pop(item.event.seq, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(item.event.seq)

    async def close(self) -> None:
        """Close the outbox and end its thread; what is committed stays."""
        self.acceptance.close()
        await self.in_store(self.outbox.close)
        self._disk.shutdown()
