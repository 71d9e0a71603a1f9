"""`holdfast collect`: one single-threaded process between the broker and the store.

Messages gather while the socket has more (at most BATCH_MESSAGES or BATCH_S), then: verify and commit,
acknowledge to the broker, log and sign, send the receipts. What cannot be committed is not acknowledged
and is tried again; meanwhile nothing more is read, so that the broker feels the pressure. Nothing depends
on the broker keeping anything: a lost acknowledgement or receipt is repaired by the device's resend timer.

paho is driven by this loop and not by its own thread: an exception in a callback of that thread would end
it silently, with the connection still shown as up.
"""

from __future__ import annotations

import errno
import json
import math
import signal
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from cloud_sync.collector import REMEDIES, Message, Registry
from cloud_sync.errors import CloudError, ConfigError, StoreBusy, StoreReadOnly
from cloud_sync.runtime.collect_metrics import CollectMetrics
from cloud_sync.runtime.collector_files import (
    CollectorConfig,
    CollectorKeys,
    load_config,
    load_keys,
    make_clock,
)
from cloud_sync.runtime.devices import load_devices
from cloud_sync.runtime.intake import Intake, Outcome
from cloud_sync.runtime.kinds import collect_say as say
from cloud_sync.runtime.projector import Projector
from cloud_sync.runtime.said import printable
from cloud_sync.runtime.sequencer import Published, Sequencer
from cloud_sync.runtime.store import Store
from edge.errors import ConfigError as EdgeConfigError
from edge.runtime.mqtt_tls import client_context
from edge.runtime.notify import Notify
from edge.topics import COLLECT_FILTER
from firmware_bridge.runtime.clock import Clock
from firmware_bridge.runtime.exposition import ListenError, exposed
from firmware_bridge.runtime.journal import open_journal

BATCH_MESSAGES: Final = 500
"""Segments of one transaction: 25,000 events; larger ones gain nothing (SQLite is at its best from 500)."""
BATCH_S: Final = 0.05
"""Longest wait for more messages: an alarm must not stand behind a batch."""
INBOX_BYTES: Final = 32 << 20
"""Bound of what is read and not yet committed: 500 of the largest segments."""
IDLE_S: Final = 0.2
"""How often the loop looks at its timers when nothing comes."""
QUIET_STEP_S: Final = 1.0
"""How often the log is stepped when nothing comes: statements of other processes wait there."""
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits between attempts at a broker or a store that is not there."""
KEEPALIVE_S: Final = 30
CONNECT_TIMEOUT_S: Final = 5.0
EXIT_PERMISSION: Final = 13


@dataclass(slots=True)
class _Received:
    message: Message
    mid: int
    qos: int
    connection: int
    """Which connection it came on: only there can it be acknowledged."""


class Collector:
    """The loop. `stop()` may be called from a signal handler."""

    def __init__(
        self, config: CollectorConfig, intake: Intake, sequencer: Sequencer, notify: Notify | None = None
    ) -> None:
        self._config = config
        self._intake = intake
        self._sequencer = sequencer
        self._notify = notify or Notify()
        self._sign_s = -math.inf
        self._client: mqtt.Client | None = None
        self._inbox: list[_Received] = []
        self._connection = 0
        self._up = False
        self._refused = ""
        """Why the broker does not want this connection."""
        self._stop = False
        self._dial_failures = 0
        self._store_failures = 0
        self.metrics = CollectMetrics(config.store, config.keys / "tls.crt")
        self._not_before = {"dial": 0.0, "store": 0.0, "step": 0.0}

    def stop(self) -> None:
        """End the loop after the batch in hand."""
        self._stop = True

    def run(self) -> None:
        """Collect until `stop`. Raises Fenced when another collector took the store."""
        try:
            while not self._stop:
                self._gather()
                if self._inbox and time.monotonic() >= self._not_before["store"]:
                    self._work()
                self._quiet_step()
                self._lives()
        finally:
            self._hang_up()

    def _lives(self) -> None:
        """Tell the service manager, from the loop itself: a loop that hangs is ended and begun again."""
        interval = self._notify.interval_s
        if interval is not None and time.monotonic() - self._sign_s >= interval:
            self._notify.tell("WATCHDOG=1")
            self._sign_s = time.monotonic()

    def _gather(self) -> None:
        """Read what is there, for at most BATCH_S after the first message."""
        if self._inbox and time.monotonic() < self._not_before["store"]:
            time.sleep(min(IDLE_S, max(0.0, self._not_before["store"] - time.monotonic())))
            return
        if self._client is None and not self._dial():
            time.sleep(IDLE_S)
            return
        first: float | None = time.monotonic() if self._inbox else None
        while not self._stop and len(self._inbox) < BATCH_MESSAGES:
            before = len(self._inbox)
            assert self._client is not None
            rc = self._client.loop(0.0 if first is not None else IDLE_S)
            if rc != MQTTErrorCode.MQTT_ERR_SUCCESS or self._refused:
                self._lost(self._refused or f"connection ended: {mqtt.error_string(rc)}")
                return
            if len(self._inbox) == before or sum(len(r.message.payload) for r in self._inbox) > INBOX_BYTES:
                return
            first = time.monotonic() if first is None else first
            if time.monotonic() - first > BATCH_S:
                return

    def _work(self) -> None:
        """One batch through the store, the broker, the log, and back to the devices."""
        batch, began = self._inbox, time.monotonic()
        try:
            outcome = self._intake.commit([received.message for received in batch])
        except StoreBusy as error:
            self._store_wait(f"not committed, not acknowledged, tried again: {error}")
            return
        committed = time.monotonic()
        self.metrics.committed(outcome, committed - began)
        self._inbox = []
        for received in batch:
            if self._client is not None and received.connection == self._connection:
                self._client.ack(received.mid, received.qos)
        self._say(outcome)
        try:
            receipts = self._intake.finish(outcome)
        except (StoreBusy, OSError) as error:
            self._store_wait(f"stored, but no receipts yet: {error}")
            return
        self._store_failures = 0
        self.metrics.logged(len(receipts), time.monotonic() - committed)
        if self._client is not None and self._up:
            for receipt in receipts:
                self._client.publish(receipt.topic, receipt.payload, qos=1)

    def _quiet_step(self) -> None:
        now = time.monotonic()
        if now < max(self._not_before["step"], self._not_before["store"]):
            return
        self._not_before["step"] = now + QUIET_STEP_S
        try:
            self._sequencer.step()
        except (StoreBusy, OSError) as error:
            self._store_wait(f"the log cannot be stepped: {error}")

    def _store_wait(self, what: str) -> None:
        wait = BACKOFF_S[min(self._store_failures, len(BACKOFF_S) - 1)]
        self._store_failures += 1
        self.metrics.waited()
        self._not_before["store"] = time.monotonic() + wait
        say("collector_store_busy", error=what, wait_s=wait)

    def _dial(self) -> bool:
        if time.monotonic() < self._not_before["dial"]:
            return False
        config = self._config
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=config.client_id, clean_session=True,
            protocol=mqtt.MQTTv311, reconnect_on_failure=False, manual_ack=True,
        )  # fmt: skip
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_connect, client.on_message = self._on_connect, self._on_message
        client.on_subscribe = self._on_subscribe
        self._client = client
        self._connection += 1
        try:
            client.tls_set_context(_tls(config))  # read anew each time: certificates are renewed
            client.connect(config.host, config.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError, ConfigError) as error:
            self._lost(f"cannot reach the broker {config.host}:{config.port}: {error}")
            return False
        return True

    def _lost(self, why: str) -> None:
        """Forget the connection; what it delivered is still stored, but acknowledged to nobody."""
        wait = BACKOFF_S[min(self._dial_failures, len(BACKOFF_S) - 1)]
        self._dial_failures += 1
        self._not_before["dial"] = time.monotonic() + wait
        say("collector_away", error=why, wait_s=wait)
        self._hang_up()

    def _hang_up(self) -> None:
        client, self._client, self._up, self._refused = self._client, None, False, ""
        self.metrics.connected(False)
        if client is not None:
            client.disconnect()
            client.loop(0.0)

    def _on_connect(self, client: mqtt.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refused = f"the broker refuses the connection: {reason}"
            return
        client.subscribe(COLLECT_FILTER, qos=1)

    def _on_subscribe(self, client: mqtt.Client, data: Any, mid: int, reasons: Any, properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refused = f"the broker refuses {COLLECT_FILTER}: check the collector's certificate"
            return
        self._up, self._dial_failures = True, 0
        self.metrics.connected(True)
        say("collecting", broker=f"{self._config.host}:{self._config.port}")

    def _on_message(self, client: mqtt.Client, data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._inbox.append(
            _Received(Message(topic, bytes(message.payload)), message.mid, message.qos, self._connection)
        )

    def _say(self, outcome: Outcome) -> None:
        for (tenant, device, reason), detail in outcome.refused.items():
            say(
                "quarantined", tenant=tenant or "?", device=device or "a topic that is no device's",
                reason=reason.value, detail=printable(detail), remedy=REMEDIES[reason],
            )  # fmt: skip
        for alarm in outcome.alarms:
            say(
                "collector_alarm", tenant=alarm.tenant, device=alarm.device, reason=alarm.kind,
                detail=printable(alarm.detail),
            )  # fmt: skip
        say("batch", segments=outcome.accepted, count=outcome.duplicates)


def open_intake(
    config: CollectorConfig, keys: CollectorKeys, clock: Clock
) -> tuple[Store, Sequencer, Intake]:
    """The store with its log and ledger, ready to take batches. Raises CloudError.

    Also what a process needs that hands in statements of its own, as long as no collector runs.
    """
    store = Store(config.store)
    try:
        projector = Projector(keys.ledger, clock)
        with store.transaction() as db:
            projector.migrate(db)
        sequencer = Sequencer(
            store,
            config.origin,
            keys.log,
            Published(config.published),
            lambda: _ms(clock),
            clock.floor_ns // 1_000_000_000,
        )
        store.identify(_identities(keys))
        told: set[str] = set()

        def load() -> Registry:
            registry, problems = load_devices(config.devices, keys.device_ca)
            for problem in problems:
                if problem not in told:
                    say("certificate_unused", detail=problem)
            told.update(problems)
            return registry

        intake = Intake(store, sequencer, keys.receipt, config.policy, lambda: _ms(clock), load, projector)
    except BaseException:
        store.close()
        raise
    return store, sequencer, intake


def run(config_path: Path, metrics: str | None = None) -> int:
    """Collect until SIGTERM or SIGINT; `metrics` is where to serve those, HOST:PORT.

    Returns 0 after an orderly end, 2 for a configuration that cannot be meant, 13 when owner, mode or mount
    of the store's folder are in the way, 12 when the metrics' port is taken, 1 when the store or the log must
    not be used.
    """
    try:
        config = load_config(config_path)
        _log_to_stderr(config.log_level)
        keys, clock = load_keys(config), make_clock(config)
        _tls(config)  # said now, not at the first connection
        store, sequencer, intake = open_intake(config, keys, clock)
    except ConfigError as error:
        print(f"collect: {error}", file=sys.stderr)
        return 2
    except StoreReadOnly as error:
        print(f"collect: {error}", file=sys.stderr)
        return EXIT_PERMISSION
    except CloudError as error:
        print(f"collect: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # the published checkpoint
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        print(f"collect: {error}{': check owner, mode and mount' if denied else ''}", file=sys.stderr)
        return EXIT_PERMISSION if denied else 1
    notify = Notify()
    collector = Collector(config, intake, sequencer, notify)

    def stop(number: int, frame: FrameType | None) -> None:
        collector.stop()
        notify.tell("STOPPING=1")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with store, exposed(metrics, collector.metrics.registry):
            _say_ready(config, sequencer, notify)
            collector.run()
    except ListenError as error:
        print(f"collect: metrics: {error}", file=sys.stderr)
        return error.code
    except CloudError as error:
        print(f"collect: {error}", file=sys.stderr)
        return 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _say_ready(config: CollectorConfig, sequencer: Sequencer, notify: Notify) -> None:
    print(json.dumps({"ready": True, "origin": config.origin, "size": sequencer.size}), flush=True)
    notify.tell("READY=1")


def _identities(keys: CollectorKeys) -> dict[str, bytes]:
    """What a bundle must name of this collector: stored once, so that an export needs the store alone."""
    point = keys.ledger.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return {"device_ca": keys.device_ca.public_bytes(Encoding.DER), "ledger_key": point}


def _tls(config: CollectorConfig) -> ssl.SSLContext:
    try:
        return client_context(config.keys, config.server_name)
    except EdgeConfigError as error:
        raise ConfigError(str(error)) from error


def _ms(clock: Clock) -> int:
    return clock.wall_ns() // 1_000_000


def _log_to_stderr(level: str) -> None:
    if level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"log_level {level} is not one of debug, info, warning, error")
    open_journal("holdfast-collect", level)
