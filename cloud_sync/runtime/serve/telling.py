"""Being told: follows the feed of the collector's store, applies the rules, and sends.

One loop derives messages from what happened (`Teller.step`, in a worker thread), another one delivers them.
Both only ever go on from what is written down: the feed's mark, the notices and the queue are one transaction
of serve.db, so an end at any moment loses nothing and tells nothing twice; only sending may happen twice.

Ages of incidents, quiet hours and digests go by the collector's clock; attempts and patience by real time.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from cloud_sync import notices
from cloud_sync.errors import CloudError, NotFound
from cloud_sync.notices import Item, Message, Notice, Row, Rule
from cloud_sync.runtime.kinds import serve_say as say
from cloud_sync.runtime.serve import outbound, rule_store
from cloud_sync.runtime.serve.db import ServeDb
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.mail import MailSender
from cloud_sync.runtime.serve.outbound import Deliverer, Due, Later, Outcome, Parcel
from cloud_sync.runtime.serve.telling_source import Source, StoreSource
from cloud_sync.runtime.serve.webhooks import Target, WebhookSender
from cloud_sync.words import Words

POLL_S: Final = 0.5
"""Between looks at the feed and at the queue: an alert is on its way within a second."""
PRUNE_EVERY_S: Final = 3600.0
LATE_AT_ONCE: Final = 100
"""Overdue vehicles decided upon in one transaction, as lines of the feed are."""
MARK: Final = "feed"
_PREPARED: Final = "telling.prepared"
_PREPARING: Final = threading.Lock()

T = TypeVar("T")


class Teller:
    """Derives messages. Every method blocks."""

    def __init__(
        self,
        source: Source,
        db: ServeDb,
        words: Mapping[str, Words],
        base_url: Callable[[], str],
        now_ms: Callable[[], int],
        real_ms: Callable[[], int],
    ) -> None:
        self._source = source
        self._db = db
        self._words = words
        self._base_url = base_url
        self._now_ms = now_ms
        self._real_ms = real_ms

    def step(self) -> None:
        """What is to be done now, for every tenant. Raises the first error once all had their turn."""
        with self._db.reading() as db:
            tenants = rule_store.tenants(db)
        errors: list[Exception] = []
        for tenant in tenants:
            for part in (self.follow_all, self.late, self.release, self.escalate):
                try:
                    part(tenant)
                except Exception as error:  # noqa: BLE001 - one tenant's trouble must not silence the others
                    errors.append(error)
        if errors:
            raise errors[0]

    def follow_all(self, tenant: str) -> None:
        """Apply the rules to the feed up to its end."""
        while self.follow(tenant):
            pass

    def follow(self, tenant: str) -> bool:
        """Apply the rules to the next lines of the feed; whether there were any."""
        with self._db.reading() as db:
            mark = outbound.mark(db, tenant, MARK) or 0
            first = min((rule.since_feed for rule in rule_store.rules(db, tenant)), default=mark)
        start = max(mark, first)
        news = self._source.news(tenant, start)
        if news.upto == mark:
            return False
        rows = {incident: self._source.row(tenant, incident) for incident in news.incidents}
        with self._db.transaction() as db:
            if news.anew:
                rule_store.begin_anew(db, tenant, news.upto)
            for rule in rule_store.rules(db, tenant):
                for incident, line in news.incidents.items():
                    self._apply(db, rule, incident, rows[incident], line)
            outbound.set_mark(db, tenant, MARK, news.upto)
        return bool(news.incidents) and news.upto > start

    def late(self, tenant: str) -> None:
        """Tell of vehicles that are overdue, each once for each time at which it was due."""
        with self._db.reading() as db:
            rules = [rule for rule in rule_store.rules(db, tenant) if rule.overdue and rule.enabled]
            known = {rule.id: rule_store.overdue_known(db, tenant, rule.id) for rule in rules}
        found = self._source.overdue(tenant) if rules else ()
        for rule in rules:
            fresh = [one for one in found if one.id not in known[rule.id] and notices.belongs(rule, one)]
            for start in range(0, len(fresh), LATE_AT_ONCE):
                part = fresh[start : start + LATE_AT_ONCE]
                rows = self._source.overdue_rows(tenant, [one.id for one in part])
                with self._db.transaction() as db:
                    for one in part:
                        if one.id in rows:
                            self._decide(db, rule, rows[one.id])

    def release(self, tenant: str) -> None:
        """Send what was held back and is due, each rule's as one message."""
        now_ms = self._now_ms()
        with self._db.reading() as db:
            ready = [
                (rule, found)
                for rule in rule_store.rules(db, tenant)
                if (found := notices.due(rule, rule_store.held(db, tenant, rule.id), now_ms, _offset(rule)))
            ]
        for rule, found in ready:
            late = [notice for notice in found if rule_store.overdue_of(notice.incident) is not None]
            rest = [notice for notice in found if rule_store.overdue_of(notice.incident) is None]
            rows: dict[str, Row | None] = {
                notice.incident: self._source.row(tenant, notice.incident) for notice in rest
            }
            rows |= self._source.overdue_rows(tenant, [notice.incident for notice in late])
            with self._db.transaction() as db:
                for part in (rest, late):
                    self._release(db, rule, part, rows, now_ms)

    def escalate(self, tenant: str) -> None:
        """Escalate what nobody acknowledged in time; its message comes with the feed."""
        now_ms = self._now_ms()
        with self._db.reading() as db:
            late = [
                (rule, notice)
                for rule in rule_store.rules(db, tenant)
                if rule.escalate_after_s is not None
                for notice in notices.escalations(
                    rule, rule_store.waiting(db, tenant, rule.id), now_ms, _offset(rule)
                )
            ]
        for rule, incident in late:
            row = self._source.row(tenant, incident)
            try:
                if (
                    row is not None
                    and row["state"] == "open"
                    and notices.belongs(rule, notices.matter_of(row))
                ):
                    self._source.escalate(tenant, incident, notices.clean(rule.name, 80), int(row["version"]))
            except NotFound:
                row = None
            if row is None:
                with self._db.transaction() as db:
                    self._forget(db, rule, incident)

    def prune(self) -> None:
        """Forget what is long over."""
        with self._db.reading() as db:
            tenants = rule_store.tenants(db)
        current = {tenant: self._source.due(tenant) for tenant in tenants}
        with self._db.transaction() as db:
            outbound.prune(db, self._real_ms())
            rule_store.prune(db, self._now_ms())
            for tenant, keys in current.items():
                rule_store.prune_overdue(db, tenant, keys)

    def _apply(self, db: sqlite3.Connection, rule: Rule, incident: str, row: Row | None, line: int) -> None:
        if line <= rule.since_feed:
            return
        if row is None:
            self._forget(db, rule, incident)
            return
        self._decide(db, rule, row)

    def _decide(self, db: sqlite3.Connection, rule: Rule, row: Row) -> None:
        matter, incident = notices.matter_of(row), str(row["id"])
        if not notices.belongs(rule, matter):
            return
        now_ms = self._now_ms()
        known = rule_store.notice(db, rule.tenant, rule.id, incident)
        recent = rule_store.recent(db, rule, now_ms)
        decision = notices.decide(rule, matter, known, recent, now_ms, _offset(rule))
        if decision.notice is not None:
            rule_store.save(db, rule.tenant, rule.id, [decision.notice])
        if decision.kind is None:
            return
        emails: tuple[str, ...] = ()
        if decision.kind == "alert":
            emails = notices.addressees(rule, known, str(row["state"]))
            rule_store.note_telling(db, rule, now_ms)
        self._send(db, rule, {target: [row] for target in self._targets(db, rule, emails)}, now_ms)

    def _release(
        self,
        db: sqlite3.Connection,
        rule: Rule,
        found: Sequence[Notice],
        rows: Mapping[str, Row | None],
        now_ms: int,
    ) -> None:
        audience: dict[tuple[str, str, int | None], list[Row]] = {}
        done: list[Notice] = []
        for notice in found:
            row = rows.get(notice.incident)
            if row is None or not notices.belongs(rule, notices.matter_of(row)):
                self._forget(db, rule, notice.incident)
            elif notices.matter_of(row).alerts:
                emails = notices.addressees(rule, notice, str(row["state"]))
                for target in self._targets(db, rule, emails):
                    audience.setdefault(target, []).append(row)
                done.append(notices.told(replace(notice, state=str(row["state"])), now_ms))
            # Somebody has acted since: the feed's next line says so, and the notice is dropped with it.
        rule_store.save(db, rule.tenant, rule.id, done)
        if done:
            rule_store.note_telling(db, rule, now_ms)
        self._send(db, rule, audience, now_ms)

    def _send(
        self,
        db: sqlite3.Connection,
        rule: Rule,
        audience: Mapping[tuple[str, str, int | None], Sequence[Row]],
        now_ms: int,
    ) -> None:
        made: dict[tuple[str, ...], tuple[Message, list[Item]]] = {}
        for (channel, name, number), rows in audience.items():
            key = tuple(str(row["id"]) for row in rows)
            if key not in made:
                made[key] = self._compose(rule, rows, now_ms)
            message, items = made[key]
            target = f"{channel}:{number if number is not None else name.lower()}"
            kind = "digest" if len(items) > 1 else "alert"
            identity = notices.message_id(rule.tenant, target, items, kind)
            body = message.text
            if channel == outbound.WEBHOOK:
                body = json.dumps(
                    notices.cloud_event(message, identity), ensure_ascii=False, separators=(",", ":")
                )
            parcel = Parcel(rule.tenant, channel, name, identity, message.subject, body, number)
            outbound.enqueue(db, parcel, self._real_ms())

    def _compose(self, rule: Rule, rows: Sequence[Row], now_ms: int) -> tuple[Message, list[Item]]:
        words, url, offset = self._words[rule.language], self._base_url(), _offset(rule)
        if len(rows) == 1:
            steps = self._source.steps(rule.tenant, str(rows[0]["id"]))
            item = Item(rows[0], steps)
            return notices.compose(rule, item, words, url, offset), [item]
        items = [Item(row) for row in rows]
        return notices.compose_digest(rule, items, words, url, now_ms, offset), items

    def _targets(
        self, db: sqlite3.Connection, rule: Rule, emails: Sequence[str]
    ) -> list[tuple[str, str, int | None]]:
        names = rule_store.webhook_names(db, rule.tenant)
        hooks = [(outbound.WEBHOOK, names[number], number) for number in rule.webhooks if number in names]
        return [*((outbound.EMAIL, email, None) for email in emails), *hooks]

    def _forget(self, db: sqlite3.Connection, rule: Rule, incident: str) -> None:
        known = rule_store.notice(db, rule.tenant, rule.id, incident)
        if known is not None:
            gone = replace(known, status="dropped", state="closed", why="", due_ms=None, told_ms=None)
            rule_store.save(db, rule.tenant, rule.id, [gone])


class ThreadWork:
    """serve.db for the deliverer, in threads of its own: those of others may be held up by a name server."""

    def __init__(self, db: ServeDb) -> None:
        self._db = db
        self._threads = ThreadPoolExecutor(2, "serve-db")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, step: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with self._db.reading() as db:
                return step(db)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def write(self, step: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with self._db.transaction() as db:
                return step(db)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)


def serve_db(context: Context) -> ServeDb:
    """serve.db with the tables of being told. Raises StoreError."""
    with _PREPARING:
        if not context.extras.get(_PREPARED):
            with context.db.transaction() as db:
                rule_store.migrate(db)
            context.extras[_PREPARED] = True
    return context.db


async def run(context: Context) -> None:
    """Tell until the server ends. Raises StoreError when serve.db cannot be prepared."""
    db = await asyncio.to_thread(serve_db, context)
    work = ThreadWork(db)
    teller = Teller(
        StoreSource(context), db, context.words, lambda: context.base_url, context.now_ms, context.real_ms
    )
    hooks = webhook_sender(context, work)
    deliverer = Deliverer(
        work, {outbound.WEBHOOK: hooks, outbound.EMAIL: mail_sender(context)}, context.real_ms, random.random
    )
    stopping = context.stopping
    try:
        await asyncio.gather(
            every(stopping, "deriving messages", partial(asyncio.to_thread, teller.step)),
            every(stopping, "delivering messages", deliverer.step, rest=deliverer.rest),
            every(stopping, "pruning messages", partial(asyncio.to_thread, teller.prune), PRUNE_EVERY_S),
        )
    finally:
        await deliverer.stop()
        await hooks.close()
        work.close()


def webhook_sender(context: Context, work: ThreadWork) -> WebhookSender:
    """The sender of webhooks, which finds their targets in serve.db."""

    async def find(item: Due) -> Target | None:
        found = await work.read(
            lambda db: rule_store.webhook_target(db, item.parcel.tenant, item.parcel.webhook)
        )
        return None if found is None else Target(*found)

    return WebhookSender(find, context.real_ms, allow_private=context.config.webhooks_allow_private)


def mail_sender(context: Context) -> outbound.Send:
    """The sender of mail; without a mail server, one that says so."""
    smtp = context.config.smtp
    if smtp is None:

        async def none(item: Due) -> Outcome:
            return Later("there is no mail server: write [smtp] into serve.toml and restart")

        return none
    file = smtp.password_file
    password = None if file is None else lambda: context.config.secret(file)
    return MailSender(smtp, password, lambda: context.base_url, context.real_ms)


async def every(
    stopping: threading.Event,
    what: str,
    step: Callable[[], Awaitable[object]],
    every_s: float = POLL_S,
    *,
    rest: Callable[[float], Awaitable[object]] = asyncio.sleep,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Repeat `step` until the server ends, whatever it raises: `rest` after each, `pause` after a failure."""
    loop = asyncio.get_running_loop()
    next_s = loop.time()
    while not stopping.is_set():
        try:
            if loop.time() >= next_s or every_s <= POLL_S:
                next_s = loop.time() + every_s
                await step()
        except Exception as error:  # noqa: BLE001 - one step that fails must not end the telling
            trace = None if isinstance(error, CloudError) else error
            say("telling_failed", task=what, error=error, exc_info=trace)
            await pause(POLL_S)
        await rest(POLL_S)


def _offset(rule: Rule) -> notices.Offset:
    return rule_store.offset_in(rule.quiet.zone if rule.quiet else "UTC")
