"""A batch of messages into the store: verify, then one transaction; afterwards the receipts it has earned.

Order of one batch: `commit` (durable on return) -> the caller acknowledges to the broker -> `finish` (the
sequencer's step, then one receipt per device). Whatever fails after `commit` loses nothing: the device
sends again on its receipt timer, finds a duplicate here, and gets its receipt then.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cloud_sync.collector import (
    Accepted,
    Duplicate,
    Message,
    Policy,
    Quarantined,
    Reason,
    Registry,
    classify,
    examine,
    months,
    previous_hash,
)  # fmt: skip
from cloud_sync.runtime import quarantine
from cloud_sync.runtime.kinds import collect_say as say
from cloud_sync.runtime.sequencer import Sequencer
from cloud_sync.runtime.store import KIND_SEGMENT, Store, log_statement, may_try_again
from edge.receipt import MAX_ITEMS, ReceiptItem, make_receipt
from edge.segment import Sealed
from edge.topics import receipt_topic
from firmware_bridge.wire import cose

RESCAN_S: Final = 2.0
"""Least time between two looks at the devices folder, so that an unknown key cannot make us read all day."""
CHAIN_FORK: Final = "chain_fork"
PROJECTION_FAILED: Final = "projection_failed"
"""Kinds of alarm; they stand in the store."""


class ProjectorLike(Protocol):
    """What the ledger does with an accepted segment inside the intake's transaction."""

    def on_segment(self, db: sqlite3.Connection, sealed: Sealed, received_wall_ms: int) -> list[bytes]:
        """Project `sealed`; the signed statements to be logged with it."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for the broker."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm of the collector's own, as it stands in the store."""

    tenant: str
    device: str
    kind: str
    detail: str


@dataclass(slots=True)
class Outcome:
    """What became of a batch."""

    accepted: int = 0
    duplicates: int = 0
    forks: int = 0
    quarantined: dict[Reason, int] = field(default_factory=dict)
    refused: dict[tuple[str, str, Reason], str] = field(default_factory=dict)
    """(tenant, device, reason) -> the detail of the last message that was refused for it."""
    alarms: list[Alarm] = field(default_factory=list)
    owed: dict[tuple[str, str], dict[bytes, Sealed]] = field(default_factory=dict)
    """(tenant, device) -> the segments whose receipts are due, by hash."""

    def owe(self, sealed: Sealed, digest: bytes) -> None:
        """A receipt is due for `sealed`."""
        self.owed.setdefault((sealed.segment.tenant, sealed.segment.device), {})[digest] = sealed


class Intake:
    """One a process, with the store's only writing connection. Not for use from several threads."""

    def __init__(
        self,
        store: Store,
        sequencer: Sequencer,
        receipt_key: cose.PrivateKey,
        policy: Policy,
        wall_ms: Callable[[], int],
        load: Callable[[], Registry],
        projector: ProjectorLike | None = None,
    ) -> None:
        """`load` reads the known devices anew; it is called now and when an unknown key shows up."""
        self._store = store
        self._sequencer = sequencer
        self._receipt_key = receipt_key
        self._policy = policy
        self._wall_ms = wall_ms
        self._load = load
        self._projector = projector
        self._registry = load()
        self._loaded_s = time.monotonic()

    def process(self, messages: Sequence[Message]) -> tuple[Outcome, list[Outgoing]]:
        """`commit` and `finish` in one: for whoever has no broker between them."""
        outcome = self.commit(messages)
        return outcome, self.finish(outcome)

    def commit(self, messages: Sequence[Message]) -> Outcome:
        """Verify `messages` and store what they are. Durable on return.

        Raises StoreBusy when the store cannot be written now: nothing was stored, call again with the same.
        """
        now_ms = self._wall_ms()
        verdicts = [self._examine(message, now_ms) for message in messages]
        outcome = Outcome()
        with self._store.transaction() as db:
            for verdict in verdicts:
                if isinstance(verdict, Quarantined):
                    quarantine.keep(db, verdict, now_ms)
                    outcome.quarantined[verdict.reason] = outcome.quarantined.get(verdict.reason, 0) + 1
                    outcome.refused[verdict.tenant, verdict.device, verdict.reason] = verdict.detail
                else:
                    self._store_segment(db, verdict, now_ms, outcome)
        return outcome

    def finish(self, outcome: Outcome) -> list[Outgoing]:
        """Log what is pending and make the receipts of `outcome`, at most MAX_ITEMS segments in each.

        Raises StoreBusy or OSError (repeat it, or let the device send again), Fenced (this process must end).
        """
        self._sequencer.step()
        note = self._sequencer.note
        if note is None:
            return []
        out: list[Outgoing] = []
        for (tenant, device), owed in outcome.owed.items():
            items = [
                item for digest, sealed in owed.items() if (item := self._item(sealed, digest)) is not None
            ]
            for at in range(0, len(items), MAX_ITEMS):
                part = items[at : at + MAX_ITEMS]
                data = make_receipt(tenant, device, self._sequencer.origin, note, part, self._receipt_key)
                out.append(Outgoing(receipt_topic(tenant, device), data))
        if out:
            with self._store.transaction() as db:
                db.executemany(
                    "INSERT INTO receipts(tenant, device, size, items, made_ms) VALUES(?,?,?,?,?)",
                    [
                        (t, d, self._sequencer.size, len(o), self._wall_ms())
                        for (t, d), o in outcome.owed.items()
                    ],
                )
        return out

    def _item(self, sealed: Sealed, digest: bytes) -> ReceiptItem | None:
        row = self._store.db.execute("SELECT log_index FROM segments WHERE hash=?", (digest,)).fetchone()
        if row is None or row[0] is None:
            return None
        return ReceiptItem(sealed.segment.run, sealed.segment.number, digest, int(row[0]))

    def _examine(self, message: Message, now_ms: int) -> Sealed | Quarantined:
        verdict = examine(message, self._registry, self._policy, now_ms)
        unknown = isinstance(verdict, Quarantined) and verdict.reason in (
            Reason.UNKNOWN_DEVICE,
            Reason.WRONG_KEY,
        )
        if unknown and time.monotonic() - self._loaded_s >= RESCAN_S:
            self._registry, self._loaded_s = self._load(), time.monotonic()
            verdict = examine(message, self._registry, self._policy, now_ms)
        return verdict

    def _store_segment(self, db: sqlite3.Connection, sealed: Sealed, now_ms: int, outcome: Outcome) -> None:
        segment, previous = sealed.segment, previous_hash(sealed.segment)
        who = (segment.tenant, segment.device)
        same_number = db.execute(
            "SELECT hash FROM segments WHERE tenant=? AND device=? AND run=? AND number=?",
            (*who, segment.run, segment.number),
        ).fetchall()
        same_previous = db.execute(
            "SELECT hash FROM segments WHERE tenant=? AND device=? AND previous=?", (*who, previous)
        ).fetchall()
        match classify(sealed, (row[0] for row in same_number), (row[0] for row in same_previous)):
            case Duplicate():
                outcome.duplicates += 1
                outcome.owe(sealed, sealed.hash)
            case Accepted(forks=forks):
                digest = sealed.hash
                self._insert(db, sealed, digest, previous, now_ms, bool(forks))
                if forks:
                    outcome.forks += 1
                    outcome.alarms.append(_keep_fork(db, sealed, digest, forks, now_ms))
                outcome.accepted += 1
                outcome.owe(sealed, digest)
                if not any(row[0] != digest for row in same_number):
                    self._project(db, sealed, now_ms, outcome)

    def _insert(
        self,
        db: sqlite3.Connection,
        sealed: Sealed,
        digest: bytes,
        previous: bytes | None,
        now_ms: int,
        fork: bool,
    ) -> None:
        segment = sealed.segment
        certificate = self._registry.get(sealed.kid)
        if certificate is not None:
            db.execute(
                "INSERT OR IGNORE INTO devices VALUES(?,?,?,?,?)",
                (segment.tenant, segment.device, sealed.kid, certificate.der, now_ms),
            )
        seqs = [event.seq for event in segment.events]
        db.execute(
            "INSERT INTO segments(tenant, device, run, number, hash, previous, kid, received_ms, first_seq,"
            " last_seq, clock, fork) VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                segment.tenant, segment.device, segment.run, segment.number, digest, previous, sealed.kid,
                now_ms, min(seqs, default=None), max(seqs, default=None), int(segment.clock), int(fork),
            ),
        )  # fmt: skip
        db.execute(
            "INSERT INTO bodies(hash, tenant, device, month, month_last, size, data) VALUES(?,?,?,?,?,?,?)",
            (digest, segment.tenant, segment.device, *months(segment, now_ms), len(sealed.data), sealed.data),
        )
        db.execute(
            "INSERT INTO pending(tenant, kind, hash) VALUES(?,?,?)", (segment.tenant, KIND_SEGMENT, digest)
        )

    def _project(self, db: sqlite3.Connection, sealed: Sealed, now_ms: int, outcome: Outcome) -> None:
        if self._projector is None:
            return
        db.execute("SAVEPOINT projection")
        try:
            for data in self._projector.on_segment(db, sealed, now_ms):
                log_statement(db, sealed.segment.tenant, data)
        # A well-signed segment that the projection cannot digest must neither stop the log nor be lost: it is
        # stored and logged, what was projected of it undone, and an alarm says so.
        except Exception as error:
            if isinstance(error, sqlite3.Error) and may_try_again(error):
                raise  # full or locked: the whole batch is repeated
            say("projection_fault", error=repr(error), exc_info=error)
            db.execute("ROLLBACK TO projection")
            alarm = Alarm(
                sealed.segment.tenant, sealed.segment.device, PROJECTION_FAILED,
                f"segment {sealed.hash.hex()} is logged, but the incidents in it are not shown; that is a "
                f"fault of the collector, report it: {type(error).__name__}: {error}"[:500],
            )  # fmt: skip
            add_alarm(db, alarm, now_ms)
            outcome.alarms.append(alarm)
        db.execute("RELEASE projection")


def add_alarm(db: sqlite3.Connection, alarm: Alarm, wall_ms: int) -> None:
    """Store `alarm`, inside a transaction."""
    db.execute(
        "INSERT INTO alarms(tenant, device, kind, raised_ms, detail) VALUES(?,?,?,?,?)",
        (alarm.tenant, alarm.device, alarm.kind, wall_ms, alarm.detail),
    )


def _keep_fork(
    db: sqlite3.Connection, sealed: Sealed, digest: bytes, others: Sequence[bytes], now_ms: int
) -> Alarm:
    segment = sealed.segment
    for other in others:
        db.execute(
            "INSERT OR IGNORE INTO forks(tenant, device, hash, other_hash, seen_ms) VALUES(?,?,?,?,?)",
            (segment.tenant, segment.device, digest, other, now_ms),
        )
    alarm = Alarm(
        segment.tenant, segment.device, CHAIN_FORK,
        f"two devices use the identity of {segment.device}: segment {segment.number} of run "
        f"{segment.run.hex()} and {others[0].hex()[:16]} claim one place in its chain; both are kept. "
        "Find the copy and revoke its key",
    )  # fmt: skip
    add_alarm(db, alarm, now_ms)
    return alarm
