"""The chain closes over thinning, crashes, full disks and restarts, and nothing else gets by."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from edge_kit import EPOCH_NS, SIGNER, draft, opened
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import event as ev
from edge.chain import Fork, Gap, check
from edge.event import Event
from edge.intake import Batch, Intake
from edge.runtime.store import Store
from edge.sealer import Accepted, ChainState, Group, Row, decode_tombstone, encode_tombstone, plan
from edge.segment import SEAL_EVENTS, Lost, Previous, Sealed, Tombstone
from edge.thinning import choose, merge, tombstones
from firmware_bridge.wire.stamp import NS

RUN = bytes(range(16))
OTHER = bytes(range(16, 32))


def items(first: int, count: int, *, text: str = "x") -> tuple[Accepted, ...]:
    """Accepted events with these numbers."""
    made = []
    for seq in range(first, first + count):
        d = draft(seq, text=text)
        event = Event(seq, d.kind, d.stamp, d.body)
        made.append(Accepted(event, ev.encode(event), False))
    return tuple(made)


def chain(sizes: Sequence[int], run: bytes = RUN, before: Previous | str = "first start") -> list[Row]:
    """A run of segments of these sizes."""
    groups, seq = [], 0
    for size in sizes:
        groups.append(Group(1, items(seq, size)))
        seq += size
    _, rows, _ = SIGNER.seal(ChainState(run, 0, before), groups, ())
    return rows


def sealed(rows: Sequence[Row]) -> list[Sealed]:
    return [row.sealed for row in rows]


def after(rows: Sequence[Row]) -> Previous:
    last = rows[-1].sealed
    return Previous(last.segment.run, last.segment.number, last.hash)


def test_nothing_is_complete_and_empty() -> None:
    report = check([])
    assert report.complete and report.segments == 0 and report.tips == ()


def test_a_whole_chain_in_any_order_and_twice() -> None:
    first = chain([3, 50, 1])
    segments = sealed(first) + sealed(chain([2, 2], OTHER, after(first)))
    random.Random(1).shuffle(segments)
    report = check(segments + segments)
    assert report.complete and report.segments == 5 and report.events == 58
    assert [(tip.run, tip.number) for tip in report.tips] == [(OTHER, 1)]
    assert report.tips[0].wall_ms == EPOCH_NS // 1_000_000 + 3000
    assert [(head.run, head.before) for head in report.heads] == [(RUN, "first start")]


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_segment_is_a_gap(missing: int) -> None:
    rows = chain([1, 1, 1, 1, 1])
    del rows[missing]
    report = check(sealed(rows))
    assert report.gaps == (Gap(RUN, missing, missing),) and not report.complete


def test_a_missing_end_of_a_run_is_a_gap() -> None:
    first = chain([1, 1, 1, 1])
    report = check(sealed(first[:2]) + sealed(chain([1], OTHER, after(first))))
    assert report.gaps == (Gap(RUN, 2, 3),)


def test_a_missing_run_is_a_second_head() -> None:
    first = chain([1])
    second = chain([1], OTHER, after(first))
    third = chain([1], bytes(16), after(second))
    report = check(sealed(first) + sealed(third))
    assert len(report.heads) == 2 and not report.complete


def test_a_begin_in_the_middle_is_said_to_be_one() -> None:
    report = check(sealed(chain([1, 1, 1]))[1:])
    assert report.complete and report.heads[0].number == 1 and "first segment" in str(report.heads[0].before)


def test_one_number_with_two_hashes_is_a_fork() -> None:
    rows = chain([1, 1])
    other = SIGNER.seal(ChainState(RUN, 1, rows[0].hash), [Group(1, items(1, 1, text="y"))], ())[1]
    report = check(sealed(rows) + sealed(other))
    assert report.forks == (Fork(RUN, 1, tuple(sorted((rows[1].hash, other[0].hash)))),)


def test_two_runs_after_one_segment_are_a_fork() -> None:
    """A copied card: both copies go on from the same end."""
    first = chain([1, 1])
    a, b = chain([1], OTHER, after(first)), chain([2], bytes(16), after(first))
    report = check(sealed(first) + sealed(a) + sealed(b))
    assert report.forks == (Fork(RUN, 2, tuple(sorted((a[0].hash, b[0].hash)))),)


def test_a_run_that_goes_on_after_its_successor_began_is_a_fork() -> None:
    first = chain([1, 1, 1])
    report = check(sealed(first) + sealed(chain([1], OTHER, after(first[:2]))))
    assert [(fork.run, fork.number) for fork in report.forks] == [(RUN, 2)]


def test_a_wrong_hash_before_is_a_break() -> None:
    rows = chain([1, 1])
    wrong = SIGNER.seal(ChainState(RUN, 2, bytes(32)), [Group(1, items(2, 1))], ())[1]
    report = check(sealed(rows) + sealed(wrong))
    assert [b.number for b in report.breaks] == [2]
    successor = chain([1], OTHER, Previous(RUN, 1, bytes(32)))
    assert check(sealed(rows) + sealed(successor)).breaks


def test_events_that_skip_a_number_are_a_break() -> None:
    _, rows, _ = SIGNER.seal(
        ChainState(RUN, 0, "first start"), [Group(1, items(0, 2)), Group(1, items(3, 1))], ()
    )
    assert [b.number for b in check(sealed(rows)).breaks] == [1]
    _, twice, _ = SIGNER.seal(
        ChainState(RUN, 0, "first start"), [Group(1, items(0, 2)), Group(1, items(1, 1))], ()
    )
    assert [b.number for b in check(sealed(twice)).breaks] == [1]
    _, inside, _ = SIGNER.seal(
        ChainState(RUN, 0, "first start"), [Group(1, (*items(0, 1), *items(2, 1)))], ()
    )
    assert [b.number for b in check(sealed(inside)).breaks] == [0]


def test_refused_events_are_told() -> None:
    lost = Tombstone(Lost.REFUSED_FULL, RUN, 2, 4, 3, 0, 0, b"", b"")
    _, rows, _ = SIGNER.seal(
        ChainState(RUN, 0, "first start"), [Group(1, items(0, 2)), Group(1, items(5, 1))], ()
    )
    _, last, _ = SIGNER.seal(ChainState(RUN, 2, rows[1].hash), [Group(1, items(6, 1))], (lost,))
    report = check(sealed(rows) + sealed(last))
    assert report.complete and report.lost == ((Lost.REFUSED_FULL, 3),)


def test_accepted_events_that_a_crash_made_vanish_are_a_break() -> None:
    first = chain([2])
    honest = Tombstone(Lost.CRASH, RUN, 2, 5, 4, 0, 0, b"", b"")
    hiding = Tombstone(Lost.CRASH, RUN, 4, 5, 2, 0, 0, b"", b"")
    state = ChainState(OTHER, 0, after(first))
    for tombstone, complete in ((honest, True), (hiding, False)):
        _, rows, _ = SIGNER.seal(state, [Group(0, items(0, 1))], (tombstone,))
        assert check(sealed(first) + sealed(rows)).complete is complete


def test_tombstones_with_wrong_hashes_or_ranges_do_not_close_the_chain() -> None:
    rows = chain([1] * 8)
    good = Tombstone(Lost.THINNED, RUN, 2, 4, 3, 0, 0, rows[1].hash, rows[4].hash)
    left = [*rows[:2], *rows[5:]]
    for tombstone, complete in (
        (good, True),
        (Tombstone(Lost.THINNED, RUN, 2, 4, 3, 0, 0, rows[1].hash, bytes(32)), False),
        (Tombstone(Lost.THINNED, RUN, 2, 4, 3, 0, 0, bytes(32), rows[4].hash), False),
        (Tombstone(Lost.THINNED, RUN, 3, 4, 2, 0, 0, rows[2].hash, rows[4].hash), False),
        (Tombstone(Lost.THINNED, RUN, 2, 4, 2, 0, 0, rows[1].hash, rows[4].hash), False),
        (Tombstone(Lost.THINNED, OTHER, 2, 4, 3, 0, 0, rows[1].hash, rows[4].hash), False),
        (Tombstone(Lost.THINNED, RUN, 0, 4, 5, 0, 0, b"", rows[4].hash), True),
    ):
        _, end, _ = SIGNER.seal(ChainState(RUN, 8, rows[7].hash), [Group(1, items(8, 1))], (tombstone,))
        report = check(sealed(left) + sealed(end))
        if tombstone.first == 0:  # hides segments that are here: the hash before them decides
            assert not report.complete
        else:
            assert report.complete is complete, (tombstone, report)


def test_a_partly_told_hole_names_the_rest() -> None:
    rows = chain([1] * 8)
    told = Tombstone(Lost.THINNED, RUN, 4, 5, 2, 0, 0, rows[3].hash, rows[5].hash)
    _, end, _ = SIGNER.seal(ChainState(RUN, 8, rows[7].hash), [Group(1, items(8, 1))], (told,))
    report = check(sealed([*rows[:2], *rows[6:]]) + sealed(end))
    assert report.gaps == (Gap(RUN, 2, 3),)


def test_a_hostile_number_costs_nothing() -> None:
    rows = chain([1])
    _, far, _ = SIGNER.seal(ChainState(RUN, 1 << 62, bytes(32)), [Group(1, items(1, 1))], ())
    assert check(sealed(rows) + sealed(far)).gaps == (Gap(RUN, 1, (1 << 62) - 1),)


def test_tombstones_come_back_from_their_bytes() -> None:
    tombstone = Tombstone(Lost.THINNED, RUN, 2, 4, 3, 5, 6, bytes(32), b"\1" * 32)
    assert decode_tombstone(encode_tombstone(tombstone)) == tombstone


class Node:
    """A node over its whole life: a real store, and everything that a collector could have received."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "outbox.db"
        self.second = 0.0
        self.runs = 0
        self.told_lost = 0
        self.shed = 0
        """Refused, and not yet told: a crash before the next commit tells them as part of its own cost."""
        self.collected: list[Sealed] = []
        self.delivered: set[bytes] = set()
        self.begin([])

    def begin(self, lost: list[Tombstone]) -> None:
        self.runs += 1
        run = self.runs.to_bytes(16, "big")
        self.store = Store(self.path, SIGNER, seal_interval_ns=60 * NS)
        self.store.begin_run(run, reason="first start", lost=lost, wall_ns=EPOCH_NS)
        self.intake = Intake(run)
        self.intake.add(draft(self.second, urgent=True, text="run start"))
        self.commit()

    def commit(self, *, flush: bool = False) -> None:
        now = round(self.second * NS)
        self.store.commit(self.intake.take(), now_ns=now, wall_ns=EPOCH_NS + now, flush=flush)
        self.intake.done()
        self.told_lost, self.shed = self.told_lost + self.shed, 0

    def events(self, count: int, *, urgent: bool) -> None:
        for _ in range(count):
            self.second += 1
            self.intake.add(draft(self.second))
        if urgent:
            self.intake.add(draft(self.second, urgent=True))

    def full(self) -> None:
        """The disk was full: everything waiting before the alarm was refused."""
        before = self.intake.refused
        self.intake.add(draft(self.second, urgent=True))
        self.intake.shed()
        self.shed += self.intake.refused - before

    def crash(self) -> None:
        seq, run = self.store.next_seq, self.intake.run
        lost, self.shed = self.intake.next_seq - seq, 0
        self.store.close()
        tombstone = Tombstone(Lost.CRASH, run, seq, seq + lost - 1, lost, 0, 0, b"", b"")
        self.told_lost += lost
        self.begin([tombstone] if lost else [])

    def thin(self) -> None:
        candidates = self.store.candidates()
        self.store.drop(
            choose(
                candidates, live_bytes=10_000, max_bytes=5_000, keep_one_in=3, now_wall_ns=None, max_age_s=1
            )
        )

    def deliver(self, chance: random.Random) -> None:
        """The collector takes some segments; half of them are receipted and forgotten."""
        for row in self.store._db.execute("SELECT run, number, hash, body FROM segments").fetchall():
            if chance.random() < 0.5:
                if row[2] not in self.delivered:
                    self.delivered.add(row[2])
                    self.collected.append(opened(row[3]))
                if chance.random() < 0.5:
                    self.store.forget([row[:3]])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("events"), st.integers(1, 130), st.booleans()),
        st.tuples(st.just("commit")), st.tuples(st.just("crash")), st.tuples(st.just("thin")),
        st.tuples(st.just("full")), st.tuples(st.just("deliver")), st.tuples(st.just("stop")),
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 1 << 16))
def test_whatever_happens_the_chain_closes_and_every_event_is_accounted_for(
    steps: list[tuple[object, ...]], seed: int
) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        given_out = 0
        for step in steps:
            match step:
                case ("events", int(count), bool(urgent)):
                    node.events(count, urgent=urgent)
                case ("commit",):
                    node.commit()
                case ("thin",):
                    node.thin()
                case ("full",):
                    node.full()
                case ("deliver",):
                    node.deliver(chance)
                case ("crash",):
                    given_out += node.intake.next_seq
                    node.crash()
                case _:
                    node.commit(flush=True)
                    given_out += node.intake.next_seq
                    node.store.close()
                    node.begin([])
        node.events(1, urgent=False)
        node.commit(flush=True)
        while node.store.waiting:  # more tombstones than one segment carries
            node.events(1, urgent=False)
            node.commit(flush=True)
        given_out += node.intake.next_seq
        left = [opened(b) for (b,) in node.store._db.execute("SELECT body FROM segments").fetchall()]
        node.store.close()
    report = check(node.collected + left)
    assert report.complete, report
    lost = dict(report.lost)
    assert lost.get(Lost.CRASH, 0) + lost.get(Lost.REFUSED_FULL, 0) == node.told_lost
    # What was thinned may have reached the collector before: then it is there and told missing too.
    assert report.events + node.told_lost <= given_out
    assert report.events + node.told_lost + lost.get(Lost.THINNED, 0) >= given_out
    assert all(len(one.segment.events) <= SEAL_EVENTS for one in node.collected + left)


@settings(max_examples=60, deadline=None)
@given(urgent=st.lists(st.booleans(), max_size=200), waiting=st.integers(0, 60), flush=st.booleans())
def test_a_plan_keeps_every_event_in_order_and_seals_alarms_alone(
    urgent: list[bool], waiting: int, flush: bool
) -> None:
    made = items(0, waiting + len(urgent))
    old, new = made[:waiting], made[waiting:]
    new = tuple(Accepted(a.event, a.data, u) for a, u in zip(new, urgent, strict=True))
    groups, rest = plan(old, new, now_ns=0, seal_interval_ns=60 * NS, flush=flush)
    assert [a.event.seq for g in groups for a in g.items] + [a.event.seq for a in rest] == list(
        range(len(made))
    )
    assert all(len({a.urgent for a in g.items}) == 1 and len(g.items) <= SEAL_EVENTS for g in groups)
    assert all(g.lane == (0 if g.items[0].urgent else 1) for g in groups)
    assert not any(a.urgent for a in rest)
    if flush:
        assert rest == []


def test_large_events_make_smaller_segments() -> None:
    groups, rest = plan((), items(0, 50, text="x" * 4000), now_ns=0, seal_interval_ns=NS, flush=True)
    assert rest == [] and len(groups) > 1
    SIGNER.seal(ChainState(RUN, 0, "x"), groups, ())


def test_many_tombstones_wait_for_more_segments() -> None:
    many = [Tombstone(Lost.THINNED, RUN, n * 2, n * 2, 1, 0, 0, bytes(32), bytes(32)) for n in range(200)]
    groups = [Group(1, items(0, 1)), Group(1, items(1, 1))]
    _, rows, left = SIGNER.seal(ChainState(RUN, 0, "x"), groups[:1], many)
    assert len(rows[0].sealed.segment.tombstones) == 128 and len(left) == 72
    _, rows, left = SIGNER.seal(ChainState(RUN, 0, "x"), groups, many)
    assert left == [] and sum(len(r.sealed.segment.tombstones) for r in rows) == 200


def test_thinning_keeps_one_in_k_and_the_newest_and_drops_by_age() -> None:
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        for _ in range(9):
            node.events(50, urgent=False)
            node.commit()
        candidates = node.store.candidates()
        size = sum(c.size for c in candidates)
        dropped = choose(
            candidates, live_bytes=size, max_bytes=size * 2 // 3, keep_one_in=3, now_wall_ns=None, max_age_s=1
        )
        assert [c.number for c in dropped] == [1, 2, 4, 5]
        told = tombstones(dropped)
        assert [(t.first, t.last, t.count) for t in told] == [(1, 2, 100), (4, 5, 100)]
        assert merge(told) == told
        everything = choose(
            candidates, live_bytes=size, max_bytes=1, keep_one_in=3, now_wall_ns=None, max_age_s=1
        )
        assert [c.number for c in candidates if c not in everything] == [9]
        old = choose(
            candidates, live_bytes=0, max_bytes=size, keep_one_in=3,
            now_wall_ns=candidates[4].created_ns + 10 * NS, max_age_s=10,
        )  # fmt: skip
        assert [c.number for c in old] == [1, 2, 3, 4]
        node.store.close()


def test_an_empty_batch_changes_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    before = node.store.state
    done = node.store.commit(Batch((), ()), now_ns=0, wall_ns=0, flush=True)
    assert done.sealed == () and node.store.state == before
    node.store.close()
