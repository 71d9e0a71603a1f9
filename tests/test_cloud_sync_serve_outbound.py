"""The queue of messages: never lost, each target on its own, dead ones listed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from cloud_sync.errors import BadRequest, NotFound, StoreBusy
from cloud_sync.runtime.serve import outbound, rule_store
from cloud_sync.runtime.serve.db import ServeDb
from cloud_sync.runtime.serve.outbound import (
    EMAIL,
    WEBHOOK,
    Delivered,
    Deliverer,
    Due,
    Gone,
    Later,
    Outcome,
    Parcel,
    Refused,
)

NOW = 1_796_100_000_000
HOUR = 3_600_000
T = TypeVar("T")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServeDb]:
    found = ServeDb(tmp_path / "serve.db")
    with found.transaction() as db:
        rule_store.migrate(db)
    yield found
    found.close()


@pytest.fixture
def db(serve: ServeDb) -> Iterator[sqlite3.Connection]:
    with serve.reading() as found:
        yield found


class Here:
    """Does the work at once, in this thread."""

    def __init__(self, serve: ServeDb) -> None:
        self.serve = serve
        self.fails = 0

    async def read(self, step: Callable[[sqlite3.Connection], T]) -> T:
        with self.serve.reading() as db:
            return step(db)

    async def write(self, step: Callable[[sqlite3.Connection], T]) -> T:
        if self.fails:
            self.fails -= 1
            raise StoreBusy("full")
        with self.serve.transaction() as db:
            return step(db)


class Target:
    """A sender that answers as it is told."""

    def __init__(self, *answers: Outcome) -> None:
        self.answers = list(answers)
        self.seen: list[str] = []
        self.gate: dict[str, asyncio.Event] = {}
        self.now = self.most = 0

    async def __call__(self, item: Due) -> Outcome:
        self.seen.append(item.parcel.message)
        self.now += 1
        self.most = max(self.most, self.now)
        if gate := self.gate.get(item.lane):
            await gate.wait()
        else:
            await asyncio.sleep(0)
        self.now -= 1
        return self.answers.pop(0) if self.answers else Delivered()


class Clock:
    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms


def parcel(message: str = "msg_1", webhook: int | None = 1, tenant: str = "fund") -> Parcel:
    if webhook is None:
        return Parcel(tenant, EMAIL, "a@fund.example", message, "s", "b")
    return Parcel(tenant, WEBHOOK, f"hook {webhook}", message, "s", "{}", webhook)


def put(serve: ServeDb, *parcels: Parcel) -> list[int | None]:
    with serve.transaction() as db:
        return [outbound.enqueue(db, one, NOW) for one in parcels]


def hook(serve: ServeDb, tenant: str = "fund") -> int:
    with serve.transaction() as db:
        return rule_store.add_webhook(db, tenant, "hook", "https://hook.example/", "whsec_", NOW)


def states(serve: ServeDb, tenant: str = "fund") -> dict[str, int]:
    with serve.reading() as db:
        found = db.execute("SELECT state, count(*) FROM deliveries WHERE tenant=? GROUP BY state", (tenant,))
        return dict(found.fetchall())


async def drain(deliverer: Deliverer) -> None:
    while await deliverer.step():
        await deliverer.settle_all()


def make(serve: ServeDb, target: Target, clock: Clock) -> Deliverer:
    return Deliverer(Here(serve), {WEBHOOK: target, EMAIL: target}, clock, lambda: 0.5)


# --- the queue ---------------------------------------------------------------------------------------


def test_the_same_message_is_enqueued_once_a_target(serve: ServeDb) -> None:
    added = put(serve, parcel(), parcel(), parcel(webhook=2), parcel(tenant="other"), parcel(webhook=None))
    assert [number is not None for number in added] == [True, False, True, True, True]


def test_a_message_and_what_it_was_derived_from_are_one(serve: ServeDb) -> None:
    with pytest.raises(RuntimeError, match="power cut"), serve.transaction() as db:
        outbound.enqueue(db, parcel(), NOW)
        outbound.set_mark(db, "fund", "feed", 7)
        raise RuntimeError("power cut")
    with serve.reading() as db:
        assert outbound.mark(db, "fund", "feed") is None
    assert states(serve) == {}


def test_each_lane_gives_its_longest_waiting_message(serve: ServeDb, db: sqlite3.Connection) -> None:
    put(serve, parcel("a"), parcel("b"), parcel("c", webhook=2))
    assert [item.parcel.message for item in outbound.due(db, NOW, frozenset())] == ["a", "c"]
    assert [item.parcel.message for item in outbound.due(db, NOW, frozenset({("fund", "webhook:1")}))] == [
        "c"
    ]
    assert outbound.due(db, NOW - 1, frozenset()) == []


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 5), (2, 10), (3, 20), (10, 2560), (11, 3600), (10_000, 3600)]
)
def test_delays_double_up_to_an_hour(failures: int, seconds: float) -> None:
    assert outbound.delay_s(failures, 0.5) == seconds
    assert outbound.delay_s(failures, 0.0) == pytest.approx(seconds * 0.8)
    assert outbound.delay_s(failures, 1.0) == pytest.approx(seconds * 1.2)


def test_a_failure_waits_and_says_why(serve: ServeDb) -> None:
    number = hook(serve)
    put(serve, parcel(webhook=number))
    clock = Clock()
    target = Target(Later("it answered 500"), Later("it answered 500", retry_after_s=120), Delivered())
    deliverer = make(serve, target, clock)

    async def play() -> None:
        await drain(deliverer)
        assert len(target.seen) == 1
        clock.ms += 4999
        await drain(deliverer)
        assert len(target.seen) == 1
        with serve.reading() as db:
            assert rule_store.webhooks(db, "fund")[0].last_error == "it answered 500"
        clock.ms += 1
        await drain(deliverer)
        assert len(target.seen) == 2
        clock.ms += 119_999  # as it asked, although ten seconds would have been due
        await drain(deliverer)
        assert len(target.seen) == 2
        clock.ms += 1
        await drain(deliverer)

    asyncio.run(play())
    assert target.seen == ["msg_1"] * 3
    with serve.reading() as db:
        row = outbound.rows(db, "fund", None, None, 5)[0]
        assert (row["state"], row["attempts"], row["error"]) == ("delivered", 3, None)
        assert rule_store.webhooks(db, "fund")[0].last_error is None


@pytest.mark.parametrize(("webhook", "hours"), [(1, 24), (None, 48)])
def test_what_fails_for_its_whole_patience_is_dead_and_can_be_tried_by_hand(
    serve: ServeDb, webhook: int | None, hours: int
) -> None:
    if webhook:
        hook(serve)
    put(serve, parcel("first", webhook), parcel("second", webhook))
    clock, down = Clock(), Target()
    deliverer = make(serve, down, clock)

    async def play() -> None:
        while clock.ms < NOW + hours * HOUR + 2 * HOUR:
            down.answers = [Later("connection failed")]
            await deliverer.step()
            await deliverer.settle_all()
            if clock.ms < NOW + hours * HOUR:
                assert states(serve) == {"waiting": 2}
            clock.ms += 60_000

    asyncio.run(play())
    assert states(serve) == {"dead": 2}
    assert len(down.seen) < hours + 30  # a target that is down is not hammered
    assert {"first", "second"} == set(down.seen)
    with serve.reading() as db:
        row = outbound.rows(db, "fund", "dead", None, 5)[0]
    assert row["error"] == f"given up after {hours} h: connection failed"
    with serve.transaction() as db:
        outbound.retry(db, "fund", row["id"], clock.ms)
    down.answers = []
    asyncio.run(drain(deliverer))
    assert states(serve) == {"dead": 1, "delivered": 1}


def test_a_server_that_was_off_for_days_still_tries_once(serve: ServeDb) -> None:
    put(serve, parcel())
    clock, target = Clock(), Target()
    clock.ms += 100 * HOUR
    asyncio.run(drain(make(serve, target, clock)))
    assert states(serve) == {"delivered": 1}


def test_one_message_that_never_passes_does_not_stop_the_others(serve: ServeDb) -> None:
    put(serve, *(parcel(f"m{n}") for n in range(5)))
    clock, seen = Clock(), []

    async def picky(item: Due) -> Outcome:
        seen.append(item.parcel.message)
        return Later("400") if item.parcel.message == "m0" else Delivered()

    async def play() -> None:
        deliverer = Deliverer(Here(serve), {WEBHOOK: picky}, clock, lambda: 0.5)
        for _ in range(60):
            await drain(deliverer)
            clock.ms += 1000

    asyncio.run(play())
    assert states(serve) == {"waiting": 1, "delivered": 4}
    assert seen[0] == "m0"
    assert 2 <= seen.count("m0") <= 5  # after 5, 10, 20 and 40 seconds


def test_what_is_refused_for_good_is_dead_at_once(serve: ServeDb) -> None:
    put(serve, parcel("a", None), parcel("b", None))
    target = Target(Refused("550 no such user"), Delivered())
    asyncio.run(drain(make(serve, target, Clock())))
    assert states(serve) == {"dead": 1, "delivered": 1}


def test_a_target_that_is_gone_is_disabled_with_all_that_waits(serve: ServeDb) -> None:
    number = hook(serve)
    put(serve, parcel("a", number), parcel("b", number))
    clock = Clock()
    deliverer = make(serve, Target(Gone("410 Gone")), clock)
    asyncio.run(drain(deliverer))
    assert states(serve) == {"dead": 2}
    with serve.reading() as db:
        assert rule_store.webhook_target(db, "fund", number) is None
        assert rule_store.webhook_names(db, "fund") == {}
        dead = outbound.rows(db, "fund", "dead", None, 5)[0]["id"]
    with serve.transaction() as db:
        outbound.retry(db, "fund", dead, clock.ms)  # somebody mended it
        assert rule_store.webhook_target(db, "fund", number) is not None


def test_retry_says_what_cannot_be_retried(serve: ServeDb) -> None:
    put(serve, parcel("a", 9), parcel("b", None))
    asyncio.run(drain(make(serve, Target(Refused("no"), Delivered()), Clock())))
    with serve.transaction() as db:
        numbers = {row["state"]: row["id"] for row in outbound.rows(db, "fund", None, None, 5)}
        with pytest.raises(BadRequest, match="was delivered"):
            outbound.retry(db, "fund", numbers["delivered"], NOW)
        with pytest.raises(BadRequest, match="webhook was removed"):
            outbound.retry(db, "fund", numbers["dead"], NOW)
        with pytest.raises(NotFound):
            outbound.retry(db, "other", numbers["dead"], NOW)
        with pytest.raises(NotFound):
            outbound.retry(db, "fund", 999, NOW)


def test_rows_come_newest_first_by_state_and_tenant(serve: ServeDb, db: sqlite3.Connection) -> None:
    put(serve, parcel("a"), parcel("b", None), parcel("c", tenant="other"), parcel("d"))
    rows = outbound.rows(db, "fund", None, None, 2)
    assert [row["target"] for row in rows] == ["hook 1", "a@fund.example"]
    assert [row["target"] for row in outbound.rows(db, "fund", None, rows[-1]["id"], 5)] == ["hook 1"]
    assert outbound.rows(db, "fund", "dead", None, 5) == []
    assert len(outbound.rows(db, "other", "waiting", None, 5)) == 1


def test_what_is_long_over_is_forgotten(serve: ServeDb) -> None:
    put(serve, parcel("a"), parcel("b", webhook=2), parcel("c", webhook=3))
    clock, target = Clock(), Target(Delivered(), Refused("no"), Later("down"))
    asyncio.run(drain(make(serve, target, clock)))
    with serve.transaction() as db:
        outbound.prune(db, NOW + outbound.KEEP_MS)
        assert states(serve) == {"delivered": 1, "dead": 1, "waiting": 1}
    with serve.transaction() as db:
        outbound.prune(db, NOW + outbound.KEEP_MS + 1)
    assert states(serve) == {"dead": 1, "waiting": 1}
    with serve.transaction() as db:
        outbound.prune(db, NOW + outbound.KEEP_DEAD_MS + 1)
    assert states(serve) == {"waiting": 1}


# --- the deliverer -------------------------------------------------------------------------------------


def test_one_target_that_hangs_delays_no_other_and_nothing_exceeds_its_slots(serve: ServeDb) -> None:
    put(serve, *(parcel(f"{hook}-{n}", webhook=hook) for hook in range(1, 31) for n in range(3)))
    put(serve, Parcel("fund", EMAIL, "a@fund.example", "mail", "s", "b"))
    target, clock = Target(), Clock()
    deliverer = make(serve, target, clock)

    async def play() -> None:
        hung = target.gate["webhook:1"] = asyncio.Event()
        while len(target.seen) < 29 * 3 + 1 + 1:
            await deliverer.step()
            await asyncio.sleep(0)
        assert target.seen.count("1-0") == 1  # one at a time, and the others of its lane wait
        assert "1-1" not in target.seen
        assert "mail" in target.seen
        hung.set()
        await deliverer.settle_all()
        await drain(deliverer)

    asyncio.run(play())
    assert states(serve) == {"delivered": 91}
    assert sorted(target.seen) == sorted(set(target.seen))
    assert 2 <= target.most <= 16


def test_mail_that_hangs_leaves_the_slots_of_webhooks(serve: ServeDb) -> None:
    put(serve, *(Parcel("fund", EMAIL, f"a{n}@fund.example", f"m{n}", "s", "b") for n in range(40)))
    put(serve, parcel("hook"))
    target = Target()
    deliverer = make(serve, target, Clock())

    async def play() -> None:
        gate = asyncio.Event()
        target.gate = {f"email:a{n}@fund.example": gate for n in range(40)}
        await deliverer.step()
        await asyncio.sleep(0)
        assert target.seen.count("hook") == 1
        assert len(target.seen) == outbound.SLOTS[EMAIL] + 1
        gate.set()
        await deliverer.settle_all()

    asyncio.run(play())


def test_a_sender_that_breaks_is_a_failure_like_any_other(
    serve: ServeDb, caplog: pytest.LogCaptureFixture
) -> None:
    put(serve, parcel())

    async def broken(item: Due) -> Outcome:
        raise ZeroDivisionError("secret")

    async def play() -> None:
        deliverer = Deliverer(Here(serve), {WEBHOOK: broken}, Clock(), lambda: 0.5)
        await drain(deliverer)

    asyncio.run(play())
    with serve.reading() as db:
        row = outbound.rows(db, "fund", None, None, 1)[0]
    assert (row["state"], row["error"]) == ("waiting", "sending failed: ZeroDivisionError")
    assert "could not be sent" in caplog.text


def test_an_outcome_that_cannot_be_written_is_sent_again_but_not_at_once(
    serve: ServeDb, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(serve, parcel())
    target = Target()
    work = Here(serve)
    work.fails = 1
    naps: list[float] = []
    sleep = asyncio.sleep

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await sleep(0)

    monkeypatch.setattr(outbound.asyncio, "sleep", nap)
    asyncio.run(drain(Deliverer(work, {WEBHOOK: target}, Clock(), lambda: 0.5)))
    assert target.seen == ["msg_1", "msg_1"]  # at least once, under the same id
    assert outbound.MAX_BUSY_S in naps
    assert states(serve) == {"delivered": 1}


def test_what_is_under_way_at_the_end_is_sent_again(serve: ServeDb) -> None:
    put(serve, parcel())
    target = Target()

    async def play() -> None:
        deliverer = make(serve, target, Clock())
        target.gate["webhook:1"] = asyncio.Event()
        await deliverer.step()
        await asyncio.sleep(0)
        await deliverer.stop()

    asyncio.run(play())
    assert states(serve) == {"waiting": 1}
    target.gate.clear()
    asyncio.run(drain(make(serve, target, Clock())))
    assert target.seen == ["msg_1", "msg_1"]
