"""`holdfast uplink`: drains the outbox to the broker, and brings receipts to the edge.

The outbox is opened read-only; deleting is the edge's, on a receipt that it has verified itself. This process
verifies too, so that it never sends again what is in the log while the edge cannot delete.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiomqtt

from edge import topics
from edge.config import Config
from edge.errors import ConfigError, EdgeError, ReceiptError, StoreError
from edge.receipt import verify_receipt
from edge.reconnect import Reconnects
from edge.runtime import facts_client
from edge.runtime.kinds import uplink_say as say
from edge.runtime.load import load_config
from edge.runtime.mqtt_client import Client, explained
from edge.runtime.mqtt_tls import client_context
from edge.runtime.notify import Notify
from edge.runtime.outbox_reader import OutboxReader
from edge.runtime.uplink_state import EVERY_S, UplinkState
from edge.trust import Trust
from edge.uplink import Row, Window
from firmware_bridge.runtime import journal
from provisioning.identity import Identity

EXIT_OK, EXIT_CONFIG = 0, 2
POLL_S: Final = 0.1
"""How often the outbox is asked for news: little work, and a twentieth of the 2 s an alarm has."""
LOOK_S: Final = 0.05
"""While receipts pour in, the outbox changes with each: it is read no more often than this."""
KEEPALIVE_S: Final = 60
"""A ping a minute costs a mobile contract 0.2 MB a day."""
CALL_TIMEOUT_S: Final = 10.0
"""For CONNACK and SUBACK."""
STALL_S: Final = 60.0
"""A broker that owes a PUBACK so long is not there, though its connection is."""
STOP_S: Final = 3.0
"""After SIGTERM: time for the PUBACKs, then for the receipts."""
MAX_RECEIPTS: Final = 256
"""Receipts kept for an edge that is away; then only alarms are sent. Memory stays bounded: the edge, which is
away, makes no more of them."""
REPORT_EVERY_S: Final = 300.0
"""Facts to the edge: each becomes a signed event, so only when something is wrong or right again."""


class ConnectionEnded(Exception):
    """The broker did what ends a connection, and says so here."""


class Receipts:
    """Receipts on their way to the edge. They stay in memory until the edge has answered for them."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._waiting: dict[bytes, None] = {}
        self._news = asyncio.Event()
        self.delivered = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes) -> None:
        """A verified receipt; one that is waiting already is not kept twice."""
        self._waiting[data] = None
        self._news.set()

    async def deliver(self) -> None:
        """Hand them over one by one, oldest first, until cancelled."""
        failures = 0
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                data = next(iter(self._waiting))
                try:
                    await facts_client.call_async(self._socket, "receipt", {1: data})
                except EdgeError as error:
                    failures += 1
                    say("edge_away", receipts=len(self), error=error)
                    self._waiting[data] = self._waiting.pop(
                        data
                    )  # one that is refused must not block the others
                    await asyncio.sleep(min(0.2 * 2 ** min(failures, 8), 10.0))
                else:
                    failures = 0
                    self.delivered += 1
                    self._waiting.pop(data, None)


class Uplink:
    """One node's uplink: window, outbox, receipts, and one connection after another."""

    def __init__(
        self, config: Config, trust: Trust, *, window: Window | None = None, rng: random.Random | None = None
    ) -> None:
        if config.uplink is None:
            raise ConfigError("[uplink] is missing: say host and port of the broker")
        self.config = config
        self.server = config.uplink
        self.identity = Identity(config.node.tenant, config.node.device)
        self._topic = topics.seg_topic(self.identity.tenant, self.identity.device)
        self.trust = trust
        self.window = window or Window()
        self.reconnects = Reconnects()
        self.outbox = OutboxReader(Path(config.path("outbox.db")))
        self.receipts = Receipts(Path(config.path("facts.sock")))
        self.stop = asyncio.Event()
        self.connected = False
        self.hanging = False
        """`stop` left a thread behind that waits for the network; see `_main`."""
        self.sent = 0
        self.connects = 0
        self._rng = rng or random.Random()
        self._wake = asyncio.Event()
        self._listed = 0
        self._looked_s = -math.inf
        self._publishing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Connect, drain, and connect again, until `stop` is set."""
        works = (self.receipts.deliver(), self._report(), self._state())
        helpers = [asyncio.create_task(work) for work in works]
        try:
            while not self.stop.is_set():
                delay = await self._attempt()
                await _within(self.stop.wait(), delay)
        finally:
            await _within(_until(lambda: not self.receipts), 1.0)
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self.outbox.close()

    async def _attempt(self) -> float:
        """As `_connection`; one that has not come about ends at once when `stop` is set."""
        connection = asyncio.create_task(self._connection())

        async def interrupt() -> None:
            await self.stop.wait()
            if not self.connected:
                connection.cancel()

        watch = asyncio.create_task(interrupt())
        try:
            await asyncio.wait((connection,))
            return 0.0 if connection.cancelled() else connection.result()
        finally:
            connection.cancel()
            watch.cancel()
            await asyncio.gather(connection, watch, return_exceptions=True)

    def _client(self) -> Client:
        five = self.server.mqtt == "5"
        client = Client(
            self.server.host, self.server.port, identifier=self.identity.client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if five else aiomqtt.ProtocolVersion.V311,
            clean_session=None if five else True, keepalive=KEEPALIVE_S, timeout=CALL_TIMEOUT_S,
            tls_context=client_context(Path(self.config.path("keys")), self.server.server_name),
            max_inflight_messages=self.window.limits.window + self.window.limits.alarms,
        )  # fmt: skip
        client.pending_calls_threshold = 1000  # a window of calls is what is meant here
        return client

    async def _connection(self) -> float:
        """One connection from beginning to end; how long to wait before the next, in seconds."""
        began: float | None = None
        client: Client | None = None
        try:
            client = self._client()
            async with client:
                began = time.monotonic()
                self.window.announced(client.max_packet, client.receive_max, len(self._topic))
                await self._session(client)
        except (aiomqtt.MqttError, ConnectionEnded, ConfigError, OSError) as error:
            return self._lost(error, began, ours=client is None or not client.ended_by_peer)
        except asyncio.CancelledError:
            self.hanging = client is not None and client.blocked
            raise
        return 0.0

    def _lost(self, error: Exception, began: float | None, *, ours: bool) -> float:
        now, jitter = time.monotonic(), self._rng.random()
        self.connected = False
        if began is None:
            broker = f"{self.server.host}:{self.server.port}"
            say("uplink_away", broker=broker, error=explained(error))
            return self.reconnects.refused(jitter)
        blamed = self.window.disconnected(now, jitter)
        delay = self.reconnects.ended(now - began, jitter, blamed=blamed, ours=ours)
        if self.reconnects.conflict:
            say("uplink_conflict", client=self.identity.urn)
        else:
            say("uplink_lost", spent_ms=round((now - began) * 1000), error=explained(error))
        return delay

    async def _session(self, client: Client) -> None:
        listening = asyncio.create_task(self._listen(client))
        sending = asyncio.create_task(self._send(client))
        try:
            await asyncio.wait((listening, sending), return_when=asyncio.FIRST_COMPLETED)
            for task in (listening, sending):
                if task.done():
                    task.result()
        finally:
            tasks = [listening, sending, *self._publishing]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._publishing.clear()

    async def _subscribe(self, client: Client) -> None:
        topic = topics.receipt_topic(self.identity.tenant, self.identity.device)
        (granted,) = await client.subscribe(topic, qos=1)
        if getattr(granted, "is_failure", False):
            raise ConnectionEnded(
                f"the broker refuses to let us hear receipts on {topic}; check its access rules"
            )
        self.connected = True
        self.connects += 1
        say("uplink_connected", broker=f"{self.server.host}:{self.server.port}")

    async def _listen(self, client: Client) -> None:
        async for message in client.messages:
            data = message.payload
            if not isinstance(data, bytes):
                continue
            try:
                receipt = verify_receipt(
                    data, self.trust, tenant=self.identity.tenant, device=self.identity.device
                )
            except ReceiptError as error:
                say("uplink_receipt_refused", error=error)
                continue
            self.window.receipted([item.hash for item in receipt.items], time.monotonic())
            self.receipts.add(data)
            self._wake.set()

    async def _send(self, client: Client) -> None:
        await self._subscribe(client)
        began = time.monotonic()
        while not self.stop.is_set():
            self._wake.clear()
            self.reconnects.lives(time.monotonic() - began)
            try:
                self._look()
                self._fill(client)
            except StoreError as error:
                say("outbox_unreadable", error=error)
            if self.window.stalled_s(time.monotonic()) > STALL_S:
                raise ConnectionEnded(f"no PUBACK for {STALL_S:.0f} s")
            await _within(self._wake.wait(), POLL_S)
        await _within(_until(lambda: not self.window.on_wire), STOP_S)

    def _look(self) -> None:
        """Read the heads of the lanes anew, if anything has changed or more of them is wanted."""
        now, wanted = time.monotonic(), self.window.listing
        if now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        if self.outbox.changed() or wanted > self._listed:
            self.window.listed(self.outbox.rows(wanted))
            self._listed = wanted

    def _fill(self, client: Client) -> None:
        while True:
            full = len(self.receipts) >= MAX_RECEIPTS
            row = self.window.next(time.monotonic(), self._rng.random(), alarms_only=full)
            if row is None:
                return
            body = self.outbox.body(row)
            if body is None:
                self.window.gone(row.hash)
                continue
            task = asyncio.create_task(self._publish(client, row, body))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _publish(self, client: Client, row: Row, body: bytes) -> None:
        try:
            await client.publish(self._topic, body, qos=1, timeout=math.inf)
        except aiomqtt.MqttError:
            return  # the connection is gone; `_listen` says so, and the window forgets that this was sent
        self.sent += 1
        self.window.acked(row.hash, time.monotonic())
        self._wake.set()

    def troubles(self) -> str:
        """What a person should know, one sentence a trouble; empty while all is well."""
        texts = [str(trouble) for trouble in self.window.troubles()[:5]]
        if self.reconnects.conflict:
            texts.insert(0, "another client uses this identity")
        return "; ".join(texts)

    def state(self, *, ended: bool = False) -> UplinkState:
        """What uplink.json says of us now."""
        troubles = len(self.window.troubles()) + self.reconnects.conflict
        return UplinkState(self.connected, self.connects, self.sent, self.receipts.delivered, troubles, ended)

    async def _state(self) -> None:
        """Write uplink.json when the connection or the troubles changed, and once a minute."""
        folder, told, told_s = Path(self.config.state_dir), self.state(), -math.inf
        while True:
            now, at_s = self.state(), time.monotonic()
            changed = (now.connected, now.troubles) != (told.connected, told.troubles)
            if changed or at_s - told_s >= EVERY_S:
                told, told_s = now, at_s
                await asyncio.to_thread(now.write, folder)
            await asyncio.sleep(1.0)

    async def _report(self) -> None:
        """Tell the edge, as a fact, when something is wrong or right again."""
        told = ""
        while True:
            text = self.troubles()
            if text == told:
                await asyncio.sleep(1.0)
                continue
            if text:
                say("uplink_trouble", detail=text)
            else:
                say("uplink_well")
            try:
                await facts_client.call_async(
                    Path(self.config.path("facts.sock")), "fact", {1: "uplink", 2: text or "all well again"}
                )
                told = text
            except EdgeError as error:
                say("edge_away", receipts=len(self.receipts), error=error)
            await asyncio.sleep(REPORT_EVERY_S)


async def _within(waiting: Awaitable[object], seconds: float) -> None:
    """Wait, but no longer than `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0.0)):
            await waiting


async def _until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(0.02)


def load_trust(config: Config) -> Trust:
    """The node's trust.json. Raises ConfigError."""
    path = Path(config.path("trust.json"))
    try:
        return Trust.from_json(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}): enrol this node first") from error


def run(config_path: Path) -> int:
    """Run until SIGTERM; the exit code.

    Prints `{"ready": true}` before the first connect, because being ready needs no network.
    """
    journal.open_journal("holdfast-uplink")
    try:
        config = load_config(config_path)
        journal.set_level(config.edge.log_level)
        journal.about(tenant=config.node.tenant, device=config.node.device)
        logging.getLogger("mqtt").setLevel(logging.CRITICAL)  # aiomqtt repeats what is raised
        trust = load_trust(config)
        client_context(Path(config.path("keys")), None)
        return asyncio.run(_main(config, trust))
    except EdgeError as error:
        say("uplink_not_started", error=error)
        return EXIT_CONFIG


async def _live(notify: Notify) -> None:
    """Signs of life, from the loop that does all the work."""
    while notify.interval_s is not None:
        notify.tell("WATCHDOG=1")
        await asyncio.sleep(notify.interval_s)


async def _main(config: Config, trust: Trust) -> int:
    uplink, notify = Uplink(config, trust), Notify()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, uplink.stop.set)
    print(json.dumps({"ready": True}), flush=True)
    notify.tell("READY=1")
    living = asyncio.create_task(_live(notify))
    await uplink.run()
    living.cancel()
    notify.tell("STOPPING=1")
    uplink.state(ended=True).write(Path(config.state_dir))
    say("uplink_stopped", segments=uplink.sent, receipts=uplink.receipts.delivered)
    if uplink.hanging:
        os._exit(EXIT_OK)  # the loop's end would wait for that thread; nothing here is left to be written
    return EXIT_OK
