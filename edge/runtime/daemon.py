"""`holdfast edge` and `holdfast roadside`: ports -> pipeline -> outbox, and facts.sock beside it.

Tasks, all in one event loop: one a port, a ticker, a committer, the server of facts.sock, and LoRaWAN
where it is configured. The disk is touched in one worker thread only (committer.py). Network: none. SIGHUP
reads the configuration and the event key again (reload.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from edge import facts, status
from edge.config import Config, Port
from edge.errors import ConfigError, ReceiptError, StoreError
from edge.facts import FactIn, FactsError, Fields, ReceiptIn, Request, SealIn
from edge.intake import Draft
from edge.pipeline import OutboxFigures, Pipeline
from edge.receipt import verify_receipt
from edge.runtime.committer import RETRY_S, Committer
from edge.runtime.facts_server import FactsServer
from edge.runtime.log import Log
from edge.runtime.notify import Notify, Pulses
from edge.runtime.outbox import Outbox
from edge.runtime.process import rss_mb
from edge.runtime.reload import Fresh, read
from edge.sealer import Signer
from edge.trust import Trust
from firmware_bridge.reading import Reading, Refusal
from firmware_bridge.runtime.clock import Clock
from firmware_bridge.runtime.serial_port import run_port
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS, TimeSource

TICK_S: Final = 0.05
"""Real time between looks at the clock: an alarm waits at most so long for its commit."""
LORA: Final = ""
"""Its place among the sources; no port has an empty name."""
READY_S: Final = 3.0
"""Ports that were not even tried after this long do not hold up "ready"."""
PORT_BUDGET_S: Final = 15.0
"""A port's task looks up each second, or after its wait for a lost port; one that is not seen for so much
longer hangs (a driver that never answers), and only a restart frees the port."""
FACT_S: Final = 10.0
"""Longest that a fact waits for its commit; then its giver is told, and it may still be accepted."""
KEY_RETRY_S: Final = 10.0
"""A new event key that the store would not take is tried again after this long."""
AGE_EVERY_NS: Final = 3600 * NS
"""Age is a matter of days; looking each hour is enough."""


class Daemon:
    """One node."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        pipeline: Pipeline,
        outbox: Outbox,
        log: Log,
        *,
        path: Path | None = None,
        signer: Signer | None = None,
    ) -> None:
        """`path` and `signer` are what a reload reads and compares with; without them there is none."""
        self.committer = Committer(
            outbox,
            config.edge,
            log,
            kind=clock.kind,
            now=self.now,
            trusted_wall_ns=self._wall_ns,
            begin_run=pipeline.start,
        )
        self._config = config
        self._clock = clock
        self._pipeline = pipeline
        self._outbox = outbox
        self._log = log
        self._notify = Notify()
        self._pulses = Pulses()
        self._late: list[str] = []
        self._stop = asyncio.Event()
        self._path = path
        self._signer = signer
        self._asked = asyncio.Event()
        """A reload is wanted."""
        self._group: asyncio.TaskGroup | None = None
        self._sources: dict[str, asyncio.Task[None]] = {}
        """What is read: a task for each port by its name, and LoRaWAN."""
        self._reload_told: dict[str, object] | None = None
        self._reloads_done = 0
        self._receipts = 0
        self._receipt_ns: int | None = None
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
                self.committer.accept(draft)
        except Exception as error:  # noqa: BLE001
            self.committer.fault(task, error)

    # ---- facts.sock ----------------------------------------------------------------------------

    async def handle(self, request: Request) -> Fields:
        """One request of another process of this node; the answer, after the commit where there is one."""
        match request:
            case ReceiptIn(data):
                return await self._receipt(data)
            case FactIn(source, text):
                draft = self._pipeline.fact(source, text, self.now())
                return facts.ok(await self.committer.accept_durably(draft, FACT_S))
            case SealIn():
                if not await self.committer.commit(flush=True):
                    raise FactsError(self.committer.store_state)
                return facts.ok(0)
            case _:
                return facts.ok(self._status())

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
            wrong = await self.committer.in_store(self._outbox.conflicting, entries, wall)
        except StoreError:
            wrong = []  # a delete asks for the hash too, so nothing else can go
        if wrong:
            names = ", ".join(f"{run.hex()[:8]}/{number}" for run, number in wrong[:5])
            self._log.say("receipt_of_other_bytes", level="error", segments=names)
            raise FactsError(
                f"the receipt names other bytes than ours for {names}: a copy of this node exists"
            )
        gone, remembered = await self.committer.in_store(self._outbox.forget, entries, wall)
        self._receipts += 1
        self._receipt_ns = self._clock.mono_ns()
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
        figures, node, committer = self._outbox.figures, self._config.node, self.committer
        work = status.Work(
            run=committer.intake.run.hex(),
            events=committer.events,
            segments=committer.segments,
            receipts=self._receipts,
            pending=len(committer.intake),
            unsealed=figures.unsealed,
            outbox_segments=figures.segments,
            outbox_bytes=figures.bytes,
            refused_full=committer.intake.refused,
            thinned=self._outbox.dropped_events,
            remembered=len(self._outbox.remembered),
            store=committer.store_state,
            rss_mb=rss_mb(),
            faults=committer.faults,
            now_ns=self._clock.mono_ns(),
            last_receipt_ns=self._receipt_ns,
        )
        names = {"tenant": node.tenant, "device": node.device, "kind": node.kind}
        stamp = self._pipeline.timekeeper.stamp(self.now())
        told = {
            "config": {"file": str(self._path or ""), "sha256": self._config.hash.hex()},
            "event_key": "" if self._signer is None else self._signer.kid.hex(),
            "reload": self._reload_told,
            "port_config": status.ports_of(self._config),
            "time": {"source": stamp.source.name.lower(), "uncertainty_ms": stamp.uncertainty_ms},
        }
        window_ms = round(self._config.edge.commit_interval_s * 1000)
        return status.as_json(names, self._pipeline, work, window_ms, told)

    # ---- tasks ---------------------------------------------------------------------------------

    async def _tick(self) -> None:
        last_sign = 0.0
        while True:
            self._tick_once()
            interval = self._notify.interval_s
            if interval is not None and time.monotonic() - last_sign >= interval and self._ports_live():
                self._notify.tell("WATCHDOG=1")
                last_sign = time.monotonic()
            await asyncio.sleep(TICK_S)

    def _ports_live(self) -> bool:
        """Whether every port's task keeps its budget; the manager ends a node whose ports hang."""
        links = self._pipeline.links
        late = self._pulses.late({name: link.backoff_s + PORT_BUDGET_S for name, link in links.items()})
        if late != self._late:
            self._late = late
            if late:
                self._log.say("port_task_hangs", level="error", ports=", ".join(late))
        return not late

    def _seen(self, name: str) -> Now:
        """The time, asked by a port's task: it lives."""
        self._pulses.beat(name)
        return self.now()

    def _tick_once(self) -> None:
        now, figures = self.now(), self._outbox.figures
        refused = self.committer.intake.refused
        self._pipeline.outbox = OutboxFigures(figures.segments, figures.bytes, refused)
        self._add("tick", lambda: self._pipeline.tick(now))
        self.committer.acceptance.flush()
        if any(self.committer.due(now.mono_ns)):
            self.committer.wake.set()

    async def _commits(self) -> None:
        while True:
            await self.committer.wake.wait()
            self.committer.wake.clear()
            due, flush = self.committer.due(self._clock.mono_ns())
            if due:
                await self.committer.commit(flush=flush)
                await self._age()

    async def _age(self) -> None:
        now = self.now()
        wall = self._wall_ns(now)
        if wall and (self._aged_ns is None or now.mono_ns - self._aged_ns >= AGE_EVERY_NS):
            self._aged_ns = now.mono_ns
            try:
                await self.committer.in_store(self._outbox.age, wall)
            except StoreError as error:
                self.committer.failed(error)

    async def _guard(self, task: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` for ever: the top loop of every task."""
        while True:
            try:
                await work()
            # A task that dies would silence a part of the node: count, say, and begin it again.
            except Exception as error:  # noqa: BLE001
                self.committer.fault(task, error)
            await asyncio.sleep(RETRY_S)

    def _start_port(self, port: Port) -> None:
        assert self._group is not None
        link, now = self._pipeline.links[port.name], partial(self._seen, port.name)
        work = self._guard(
            f"port_{port.name}", lambda: run_port(port.path, port.baud, link, now, self.deliver)
        )
        self._sources[port.name] = self._group.create_task(work)

    def _start_lora(self) -> None:
        if self._config.chirpstack is None:
            return
        from edge.runtime import chirpstack  # only nodes that have one pay for the MQTT client

        assert self._group is not None
        work = self._guard("chirpstack", lambda: chirpstack.run(self._config, self.deliver))
        self._sources[LORA] = self._group.create_task(work)

    async def _end_sources(self, names: Iterable[str]) -> None:
        ended = [self._sources.pop(name) for name in names if name in self._sources]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    # ---- reload --------------------------------------------------------------------------------

    async def _reloads(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._notify.reloading()
            try:
                await self._reload()
            finally:
                self._notify.tell("READY=1")

    async def _reload(self) -> None:
        """Take what can be taken; whatever is wrong is said, and the node works on as it did."""
        if self._path is None or self._signer is None:
            return
        try:
            fresh = await asyncio.to_thread(read, self._path, self._config, self._signer)
        except ConfigError as error:
            self._log.say("reload_refused", error=str(error))
            self._tell_reload(False, f"refused, the old configuration stays: {error}")
            return
        await self._apply(fresh)
        if fresh.key_error:
            self._log.say("reload_refused", error=fresh.key_error)
        self._log.say("reloaded", detail=fresh.words)
        self._tell_reload(not fresh.key_error, fresh.words)
        changed = fresh.taken or fresh.later or fresh.signer is not None
        if changed and self._pipeline.facts.get("config", ("",))[0] != fresh.words:
            self._add("reload", lambda: [self._pipeline.fact("config", fresh.words, self.now())])
        if fresh.signer is not None:
            await self._rekey(fresh.signer)

    def _tell_reload(self, ok: bool, text: str) -> None:
        self._reloads_done += 1
        self._reload_told = {"count": self._reloads_done, "ok": ok, "text": text}

    async def _apply(self, fresh: Fresh) -> None:
        """Exchange what differs; the task and the link of a port that is the same are not touched."""
        before, after = self._config, fresh.config
        lora = before.chirpstack != after.chirpstack
        await self._end_sources([port.name for port in before.ports if port not in after.ports])
        if lora:
            await self._end_sources([LORA])
        self._pipeline.reconfigure(after)
        self._config = after
        for port in after.ports:
            if port not in before.ports:
                self._start_port(port)
        if lora:
            self._start_lora()
        self.committer.reconfigure(after.edge)
        self._outbox.reconfigure(after.outbox, seal_interval_ns=round(after.edge.seal_interval_s * NS))
        if before.edge.log_level != after.edge.log_level:
            self._log.set_level(after.edge.log_level)

    async def _rekey(self, signer: Signer) -> None:
        if await self.committer.rekey(signer):
            self._signer = signer
            return
        self._tell_reload(False, f"the new event key waits for the store: {self.committer.store_state}")
        asyncio.get_running_loop().call_later(KEY_RETRY_S, self._asked.set)

    async def run(self, asked: Sequence[int] = ()) -> int:
        """Work until SIGTERM or SIGINT; the exit code. `asked` holds SIGHUPs that came before we listened."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        if asked:
            self._asked.set()
        server = FactsServer(Path(self._config.path("facts.sock")), self.handle, self._log)
        await self.begin()
        async with asyncio.TaskGroup() as group:
            self._group = group
            for port in self._config.ports:
                self._start_port(port)
            self._start_lora()
            works = (("facts", server.serve), ("tick", self._tick), ("commit", self._commits))
            tasks = [group.create_task(self._guard(name, work)) for name, work in works]
            tasks.append(group.create_task(self._ready(server)))
            reloads = group.create_task(self._guard("reload", self._reloads))
            await self._stop.wait()
            self._notify.tell("STOPPING=1")
            reloads.cancel()
            await asyncio.wait((reloads,))  # it may have begun a source a moment ago
            for task in (*tasks, *self._sources.values()):
                task.cancel()
        await self._end(server)
        return 0

    async def begin(self) -> None:
        """Open the outbox, where that is possible, and accept the event that begins the run."""
        committer = self.committer
        try:
            await committer.in_store(self._outbox.ensure, self._wall_ns(self.now()))
            opening = self._outbox.opening
        except StoreError as error:
            committer.failed(error)
            opening = f"the outbox could not be opened at the start: {error}"
        committer.accept(self._pipeline.start(self.now(), opening))
        await committer.commit()

    async def _ready(self, server: FactsServer) -> None:
        """One line on stdout once the ports were tried; the first commit is behind us then."""
        end = time.monotonic() + READY_S
        links = self._pipeline.links.values()
        while time.monotonic() < end and not (server.listening and all(link.tried for link in links)):
            await asyncio.sleep(TICK_S)
        self._notify.tell("READY=1")
        node, committer = self._config.node, self.committer
        line = {
            "ready": True,
            "device": node.device,
            "run": committer.intake.run.hex(),
            "store": committer.store_state,
        }
        with contextlib.suppress(OSError):
            print(json.dumps(line), flush=True)

    async def _end(self, server: FactsServer) -> None:
        """Accept and seal what is in hand, so that the next start has nothing to tell."""
        self._add("stop", lambda: self._pipeline.stop(self.now()))
        for _ in range(3):
            if await self.committer.commit(flush=True, clean=True):
                break
            await asyncio.sleep(RETRY_S / 2)
        else:
            self._log.say("not_accepted_at_the_end", level="error", events=len(self.committer.intake))
        await server.stop()
        await self.committer.close()
