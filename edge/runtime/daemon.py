"""`holdfast edge` and `holdfast roadside`: ports -> pipeline -> outbox, and facts.sock beside it.

Tasks, all in one event loop: one a port, a ticker, a committer, the server of facts.sock, and LoRaWAN
where it is configured. The disk is touched in one worker thread only, so that a slow card never keeps a
port from being read. Network: none.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from edge import facts, status
from edge.config import Config
from edge.errors import ConfigError, EdgeError, FormatError, ReceiptError, StoreError, StoreFull
from edge.facts import FactIn, FactsError, Fields, ReceiptIn, Request, SealIn
from edge.intake import Batch, Draft, Intake
from edge.pipeline import OutboxFigures, Pipeline
from edge.receipt import verify_receipt
from edge.runtime.acceptance import Acceptance
from edge.runtime.facts_server import FactsServer
from edge.runtime.log import Log
from edge.runtime.notify import Notify
from edge.runtime.outbox import Outbox
from edge.runtime.store import StoreDamaged
from edge.trust import Trust
from firmware_bridge.reading import Reading, Refusal
from firmware_bridge.runtime.clock import Clock
from firmware_bridge.runtime.serial_port import run_port
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS, ClockKind, TimeSource

TICK_S: Final = 0.05
"""Real time between looks at the clock: an alarm waits at most so long for its commit."""
RETRY_S: Final = 1.0
"""Real time between attempts at a store that failed."""
READY_S: Final = 3.0
"""Ports that were not even tried after this long do not hold up "ready"."""
STALL_S: Final = 2.0
"""A scenario's clock that stood still for so long has ended: what is in hand is sealed."""
FACT_S: Final = 10.0
"""Longest that a fact waits for its commit; then its giver is told, and it may still be accepted."""
AGE_EVERY_NS: Final = 3600 * NS
"""Age is a matter of days; looking each hour is enough."""

T = TypeVar("T")
Deliver = Callable[[list[Reading | Refusal]], None]


class Busy(EdgeError):
    """Another edge already works in this state folder."""


class Daemon:
    """One node. Everything but the store's own methods runs in the event loop."""

    def __init__(self, config: Config, clock: Clock, pipeline: Pipeline, outbox: Outbox, log: Log) -> None:
        self._config = config
        self._clock = clock
        self._pipeline = pipeline
        self._outbox = outbox
        self._log = log
        self._intake = Intake(outbox.run)
        self._acceptance = Acceptance(config.edge.acceptance_socket)
        self._notify = Notify()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._committing = asyncio.Lock()
        """Held from taking a batch to knowing what became of it."""
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._waiters: dict[int, asyncio.Future[int]] = {}
        """Facts in hand: seq -> who waits for its commit."""
        self._faults: Counter[str] = Counter()
        self._store_state = "not opened yet"
        self._events = self._segments = self._receipts = 0
        self._retry_at = 0.0
        self._pending_since: float | None = None
        self._unsealed_since: float | None = None
        self._clock_moved = (0, time.monotonic())
        self._aged_ns: int | None = None
        self._trust: tuple[int, Trust] | None = None

    # ---- time ----------------------------------------------------------------------------------

    def now(self) -> Now:
        """The one Clock, as the pure parts take it."""
        clock = self._clock
        return Now(clock.mono_ns(), clock.wall_ns(), clock.synced, clock.floor_ns)

    def _wall_ns(self, now: Now) -> int:
        """Wall time where it can be trusted, else 0."""
        stamp = self._pipeline.timekeeper.stamp(now)
        return stamp.wall_ns if stamp.wall_ns is not None and stamp.source >= TimeSource.HOST_SYNCED else 0

    # ---- in ------------------------------------------------------------------------------------

    def deliver(self, items: list[Reading | Refusal]) -> None:
        """What a port gave. Never raises: a fault in the path costs these readings, not the port."""
        now = self.now()
        self._add("pipeline", lambda: self._pipeline.take(items, now))

    def _add(self, task: str, make: Callable[[], Iterable[Draft]]) -> None:
        # The top of the path: whatever the pure parts raise is a fault of ours, is counted, and must not
        # end the node, which is the only witness.
        try:
            for draft in make():
                self._accept(draft)
        except Exception as error:  # noqa: BLE001
            self._fault(task, error)

    def _accept(self, draft: Draft) -> int | None:
        """Number `draft`; its seq, or None where it is no possible event."""
        try:
            item = self._intake.add(draft)
        except FormatError as error:
            self._fault("event", error)
            return None
        if self._outbox.high_water is not None:
            self._outbox.high_water.given_out(self._intake.next_seq, item.event.stamp.mono_ns)
        if self._pending_since is None:
            self._pending_since = time.monotonic()
        if draft.urgent:
            self._wake.set()
        return item.event.seq

    def _fault(self, task: str, error: BaseException) -> None:
        self._faults[task] += 1
        self._log.say(f"fault_{task}", level="error", error=f"{type(error).__name__}: {error}")

    # ---- commit --------------------------------------------------------------------------------

    def _due(self, now_ns: int) -> tuple[bool, bool]:
        """(commit now, and seal everything): by the Clock, or by real time where the Clock is slow."""
        real = time.monotonic()
        if real < self._retry_at:
            return False, False
        limits = self._config.edge
        last_ns, moved_at = self._clock_moved
        if now_ns != last_ns:
            self._clock_moved = (now_ns, real)
        stalled = self._clock.kind is not ClockKind.LIVE and real - moved_at >= STALL_S and now_ns == last_ns
        in_hand = len(self._intake) > 0 or self._unsealed_since is not None
        old = self._unsealed_since is not None and real - self._unsealed_since >= limits.seal_interval_s
        flush = (stalled and in_hand) or old
        waited = self._pending_since is not None and real - self._pending_since >= limits.commit_interval_s
        due = self._intake.due(now_ns, round(limits.commit_interval_s * NS))
        return due or waited or flush or self._outbox.seal_due(now_ns), flush

    async def _in_store(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, lambda: work(*args, **kwargs))

    async def commit(self, *, flush: bool = False, clean: bool = False) -> bool:
        """Accept what is in hand. False when the store would not; everything then waits for the next time."""
        async with self._committing:
            batch = self._intake.take()
            return await self._try(batch, flush=flush, clean=clean)

    async def _try(self, batch: Batch, *, flush: bool, clean: bool, alarms_only: bool = False) -> bool:
        now = self.now()
        try:
            done = await self._in_store(
                self._outbox.commit,
                batch,
                now_ns=now.mono_ns,
                wall_ns=self._wall_ns(now),
                flush=flush,
                clean=clean,
            )
        except StoreDamaged as error:
            self._intake.put_back()
            self._failed(error)
            self._new_run()
            self._retry_at = 0.0
            return False
        except StoreFull as error:
            self._intake.put_back()
            self._failed(error)
            if alarms_only:
                return False
            return await self._alarms_on_full_disk(flush=flush)
        except StoreError as error:
            self._intake.put_back()
            self._failed(error)
            return False
        self._intake.done()
        self._store_state = "ok"
        self._events += len(done.events)
        self._segments += len(done.sealed)
        self._settle(batch)
        return True

    async def _alarms_on_full_disk(self, *, flush: bool) -> bool:
        """No space: the reserve is for alarms; telemetry before one is given up, and says so in its place."""
        if not self._intake.shed():
            return False
        if await self._in_store(self._outbox.release_reserve):
            self._log.say("reserve_released", level="warning")
        return await self._try(self._intake.take_alarms(), flush=flush, clean=False, alarms_only=True)

    def _failed(self, error: StoreError) -> None:
        self._store_state = str(error)
        self._retry_at = time.monotonic() + RETRY_S
        self._faults["store"] += 1
        self._log.say("store_failed", level="error", error=str(error), pending=len(self._intake))

    def _new_run(self) -> None:
        """The store was set aside: what waits is numbered anew in the new run."""
        now = self.now()
        self._intake.restart(self._outbox.run, self._pipeline.start(now, self._outbox.opening))
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(FactsError("the outbox was damaged and set aside; say it again"))
        self._waiters.clear()
        if self._outbox.high_water is not None:
            self._outbox.high_water.given_out(self._intake.next_seq, now.mono_ns)

    def _settle(self, batch: Batch) -> None:
        """After a commit: tell who wants to know."""
        real = time.monotonic()
        self._pending_since = real if len(self._intake) else None
        figures = self._outbox.figures
        if figures.unsealed == 0:
            self._unsealed_since = None
        elif self._unsealed_since is None:
            self._unsealed_since = real
        self._pipeline.outbox = OutboxFigures(figures.segments, figures.bytes, self._intake.refused)
        self._acceptance.tell(self._intake.run, batch.items)
        for item in batch.items:
            waiter = self._waiters.pop(item.event.seq, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(item.event.seq)

    # ---- facts.sock ----------------------------------------------------------------------------

    async def handle(self, request: Request) -> Fields:
        """One request of another process of this node; the answer, after the commit where there is one."""
        match request:
            case ReceiptIn(data):
                return await self._receipt(data)
            case FactIn(source, text):
                return facts.ok(await self._fact(source, text))
            case SealIn():
                if not await self.commit(flush=True):
                    raise FactsError(self._store_state)
                return facts.ok(0)
            case _:
                return facts.ok(self._status())

    async def _fact(self, source: str, text: str) -> int:
        seq = self._accept(self._pipeline.fact(source, text, self.now()))
        if seq is None:
            raise FactsError("this cannot be an event")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[seq] = waiter
        try:
            async with asyncio.timeout(FACT_S):
                await self.commit()
                return await asyncio.shield(waiter)
        except TimeoutError as error:
            raise FactsError(f"not accepted within {FACT_S:.0f} s: {self._store_state}") from error
        finally:
            self._waiters.pop(seq, None)

    async def _receipt(self, data: bytes) -> Fields:
        node = self._config.node
        try:
            receipt = verify_receipt(data, self._trusted(), tenant=node.tenant, device=node.device)
        except (ReceiptError, ConfigError) as error:
            self._log.say("receipt_refused", level="warning", error=str(error))
            raise FactsError(str(error)) from error
        entries = [(item.run, item.number, item.hash) for item in receipt.items]
        wall = self._wall_ns(self.now())
        try:
            wrong = await self._in_store(self._outbox.conflicting, entries, wall)
        except StoreError:
            wrong = []  # a delete asks for the hash too, so nothing else can go
        if wrong:
            names = ", ".join(f"{run.hex()[:8]}/{number}" for run, number in wrong[:5])
            self._log.say("receipt_of_other_bytes", level="error", segments=names)
            raise FactsError(
                f"the receipt names other bytes than ours for {names}: a copy of this node exists"
            )
        gone, remembered = await self._in_store(self._outbox.forget, entries, wall)
        self._receipts += 1
        figures = self._outbox.figures
        self._pipeline.outbox = OutboxFigures(figures.segments, figures.bytes, self._intake.refused)
        return facts.ok(gone, remembered)

    def _trusted(self) -> Trust:
        """The trust file; read again when it changed. Raises ConfigError."""
        path = Path(self._config.path("trust.json"))
        try:
            changed = path.stat().st_mtime_ns
            if self._trust is None or self._trust[0] != changed:
                self._trust = (changed, Trust.from_json(path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read {path} ({error}): no receipt can be believed without it"
            ) from error
        return self._trust[1]

    def _status(self) -> str:
        figures, node = self._outbox.figures, self._config.node
        work = status.Work(
            run=self._intake.run.hex(),
            events=self._events,
            segments=self._segments,
            receipts=self._receipts,
            pending=len(self._intake),
            unsealed=figures.unsealed,
            outbox_segments=figures.segments,
            outbox_bytes=figures.bytes,
            refused_full=self._intake.refused,
            thinned=self._outbox.dropped_events,
            remembered=len(self._outbox.remembered),
            store=self._store_state,
            rss_mb=rss_mb(),
            faults=self._faults,
        )
        names = {"tenant": node.tenant, "device": node.device, "kind": node.kind}
        return status.as_json(names, self._pipeline, work, round(self._config.edge.commit_interval_s * 1000))

    # ---- tasks ---------------------------------------------------------------------------------

    async def _tick(self) -> None:
        last_sign = 0.0
        while True:
            now = self.now()
            self._add("tick", lambda now=now: self._pipeline.tick(now))  # type: ignore[misc]
            self._acceptance.flush()
            if any(self._due(now.mono_ns)):
                self._wake.set()
            interval = self._notify.interval_s
            if interval is not None and time.monotonic() - last_sign >= interval:
                self._notify.tell("WATCHDOG=1")
                last_sign = time.monotonic()
            await asyncio.sleep(TICK_S)

    async def _commits(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, flush = self._due(self._clock.mono_ns())
            if due:
                await self.commit(flush=flush)
                await self._age()

    async def _age(self) -> None:
        now = self.now()
        wall = self._wall_ns(now)
        if wall and (self._aged_ns is None or now.mono_ns - self._aged_ns >= AGE_EVERY_NS):
            self._aged_ns = now.mono_ns
            try:
                await self._in_store(self._outbox.age, wall)
            except StoreError as error:
                self._failed(error)

    async def _guard(self, task: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` for ever: the top loop of every task."""
        while True:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            # A task that dies would silence a part of the node: count, say, and begin it again.
            except Exception as error:  # noqa: BLE001
                self._fault(task, error)
            await asyncio.sleep(RETRY_S)

    def _tasks(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        def port_task(name: str, path: str, baud: int) -> Coroutine[Any, Any, None]:
            link = self._pipeline.links[name]
            return self._guard(f"port_{name}", lambda: run_port(path, baud, link, self.now, self.deliver))

        sources = [port_task(port.name, port.path, port.baud) for port in self._config.ports]
        if self._config.chirpstack is not None:
            from edge.runtime import chirpstack  # only nodes that have one pay for the MQTT client

            sources.append(self._guard("chirpstack", lambda: chirpstack.run(self._config, self.deliver)))
        sources += [self._guard("tick", self._tick), self._guard("commit", self._commits)]
        return [group.create_task(source) for source in sources]

    async def run(self) -> int:
        """Work until SIGTERM or SIGINT; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        server = FactsServer(Path(self._config.path("facts.sock")), self.handle, self._log)
        await self._begin()
        await server.start()
        async with asyncio.TaskGroup() as group:
            tasks = self._tasks(group)
            ready = group.create_task(self._ready())
            await self._stop.wait()
            self._notify.tell("STOPPING=1")
            for task in (*tasks, ready):
                task.cancel()
        await self._end(server)
        return 0

    async def _begin(self) -> None:
        try:
            await self._in_store(self._outbox.ensure, self._wall_ns(self.now()))
            opening = self._outbox.opening
        except StoreError as error:
            self._failed(error)
            opening = f"the outbox could not be opened at the start: {error}"
        self._accept(self._pipeline.start(self.now(), opening))
        await self.commit()

    async def _ready(self) -> None:
        """One line on stdout once the ports were tried; the first commit is behind us then."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end and not all(link.tried for link in self._pipeline.links.values()):
            await asyncio.sleep(TICK_S)
        self._notify.tell("READY=1")
        node = self._config.node
        line = {
            "ready": True,
            "device": node.device,
            "run": self._intake.run.hex(),
            "store": self._store_state,
        }
        with contextlib.suppress(OSError):
            print(json.dumps(line), flush=True)

    async def _end(self, server: FactsServer) -> None:
        """Accept and seal what is in hand, so that the next start has nothing to tell."""
        self._add("stop", lambda: self._pipeline.stop(self.now()))
        for _ in range(3):
            if await self.commit(flush=True, clean=True):
                break
            await asyncio.sleep(RETRY_S / 2)
        else:
            self._log.say("not_accepted_at_the_end", level="error", events=len(self._intake))
        await server.stop()
        self._acceptance.close()
        await self._in_store(self._outbox.close)
        self._disk.shutdown()


def rss_mb() -> float:
    """Resident memory of this process in MB (10^6 bytes)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


@contextlib.contextmanager
def only_one(folder: Path) -> Any:
    """Hold the lock of a state folder. Raises Busy, or OSError when the folder cannot be written."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another edge works in {folder}: stop it first") from error
        yield
    finally:
        os.close(descriptor)


Start = Callable[[], Awaitable[int]]


def fail(code: int, text: str) -> int:
    """Say on stderr why the daemon does not start; the exit code."""
    print(json.dumps({"level": "error", "kind": "not_started", "error": text}), file=sys.stderr, flush=True)
    return code
