"""The window on a clock that the tests turn."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.uplink import Row, Why, Window, WindowLimits, packet_bytes

LIMITS = WindowLimits(window=20)


def row(number: int, *, lane: int = 1, size: int = 1000) -> Row:
    return Row(number, lane, b"r" * 16, number, hashlib.sha256(b"%d" % number).digest(), size)


def rows(count: int, *, first: int = 0, lane: int = 1, size: int = 1000) -> list[Row]:
    return [row(n, lane=lane, size=size) for n in range(first, first + count)]


def burst(window: Window, now: float, jitter: float = 0.5) -> list[Row]:
    """Everything that is sent at `now`."""
    out: list[Row] = []
    while (one := window.next(now, jitter)) is not None:
        out.append(one)
        assert len(out) < 5000, "it never stops"
    return out


def passed(window: Window, now: float, jitter: float = 0.5) -> list[Row]:
    """As `burst`, the broker acknowledging each at once."""
    out: list[Row] = []
    while (one := window.next(now, jitter)) is not None:
        out.append(one)
        window.acked(one.hash, now)
        assert len(out) < 5000, "it never stops"
    return out


def receipt(window: Window, sent: list[Row], now: float) -> int:
    return window.receipted([one.hash for one in sent], now)


def test_the_window_fills_and_moves_with_receipts_not_with_pubacks() -> None:
    window = Window(LIMITS)
    window.listed(rows(50))
    sent = passed(window, 0.0)
    assert [r.number for r in sent] == list(range(20))
    assert passed(window, 1.0) == []
    assert receipt(window, sent[:5], 1.0) == 5
    assert [r.number for r in passed(window, 1.0)] == [20, 21, 22, 23, 24]
    assert receipt(window, sent[:5], 1.0) == 0


def test_alarms_overtake_everything_even_a_full_window_and_wire() -> None:
    window = Window(LIMITS)
    window.listed(rows(50, size=60_000))
    burst(window, 0.0)
    alarm = row(999, lane=0, size=60_000)
    window.listed([*rows(50, size=60_000), alarm])
    assert burst(window, 0.1) == [alarm]


def test_the_wire_holds_no_more_telemetry_than_the_link_carries_in_a_second() -> None:
    window = Window()
    backlog = rows(5000, size=10_000)
    now, rate, worst = 0.0, 20_000, 0.0
    for _ in range(300):  # a link of 20 kB/s
        window.listed(backlog)
        sent = burst(window, now)
        for one in sent:
            now += one.size / rate
            window.acked(one.hash, now)
        receipt(window, sent, now)
        backlog = backlog[len(sent) :]
        worst = window.on_wire + sum(r.size for r in sent) / rate
        now += 0.01
    assert worst <= 1.6, f"an alarm would wait {worst:.1f} s behind telemetry"


def test_a_fast_link_gets_more_on_the_wire() -> None:
    window = Window()
    window.listed(rows(400, size=20_000))
    before = window.wire_limit
    for one in burst(window, 0.0):
        window.acked(one.hash, 0.05)
    assert window.wire_limit > before


def test_a_receipt_that_does_not_come_sends_one_probe_at_growing_intervals() -> None:
    window = Window(LIMITS)
    window.listed(rows(50))
    passed(window, 0.0)
    times: list[float] = []
    now = 0.0
    while now < 3600:
        now += 0.5
        out = passed(window, now)
        assert len(out) <= 1
        times += [now] * len(out)
    assert window.silent
    assert 4 <= times[0] <= 7
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) <= 380 and gaps[-1] >= 200
    assert len(times) < 25, "an hour of silence costs a few segments"


def test_alarms_are_sent_into_the_silence_and_everything_follows_the_first_receipt() -> None:
    window = Window(LIMITS)
    window.listed(rows(50))
    passed(window, 0.0)
    probe = passed(window, 100.0)
    alarm = row(999, lane=0)
    window.listed([*rows(50), alarm])
    assert passed(window, 101.0) == [alarm]
    receipt(window, [alarm, *probe], 101.2)
    assert not window.silent
    assert len(passed(window, 101.3)) >= 19


def test_a_slow_collector_is_not_flooded_with_repeats() -> None:
    """Receipts that need longer than the timer stretch it."""
    window = Window()
    backlog = rows(4000)
    waiting: list[tuple[float, Row]] = []
    now, repeats, seen = 0.0, 0, set()
    while backlog and now < 4000:
        now += 0.25
        window.listed(backlog)
        for one in passed(window, now):
            repeats += one.number in seen
            seen.add(one.number)
            waiting.append((now + 9.0, one))
        due = [one for at, one in waiting if at <= now]
        waiting = [(at, one) for at, one in waiting if at > now]
        receipt(window, due, now)
        done = {one.number for one in due}
        backlog = [r for r in backlog if r.number not in done]
    assert not backlog
    assert repeats < 200


def test_reconnecting_sends_again_what_was_not_receipted() -> None:
    window = Window(LIMITS)
    window.listed(rows(10))
    sent = passed(window, 0.0)
    receipt(window, sent[:4], 0.1)
    assert window.disconnected(0.2, 0.5) is False
    assert passed(window, 0.3) == sent[4:]


def test_what_is_receipted_is_not_sent_again_while_its_row_stays() -> None:
    """F21: the edge cannot delete."""
    window = Window(LIMITS)
    everything = rows(200)
    window.listed(everything[: window.listing])
    sent: list[Row] = []
    for step in range(200):
        now = step * 10.0
        window.listed(everything[: window.listing])
        out = passed(window, now)
        receipt(window, out, now)
        sent += out
        if step % 7 == 0:
            window.disconnected(now, 0.5)
    assert sent == everything
    window.listed([])
    window.listed(everything[:1])
    assert passed(window, 9000.0) == everything[:1], "forgotten when the row vanished"


def closing_broker(
    window: Window, backlog: list[Row], limit: int, until_s: float
) -> tuple[list[Row], list[float]]:
    """F17, `max_packet_size`: a larger packet ends the connection; what is behind it is lost."""
    arrived: list[Row] = []
    large: list[float] = []
    now = 0.0
    while now < until_s:
        window.listed(backlog)
        broke = False
        while not broke and (sent := burst(window, now)):
            for one in sent:
                if one.size > limit:
                    large.append(now)
                    broke = True
                    break
                window.acked(one.hash, now)
                arrived.append(one)
            receipt(window, arrived, now)
        done = {one.hash for one in arrived}
        backlog = [r for r in backlog if r.hash not in done]
        if broke:
            window.disconnected(now, 0.5)
        now += 1.0
    return arrived, large


def test_a_closing_broker_f17() -> None:
    window = Window()
    big, alarm = row(0, size=30_000), row(100, lane=0)
    arrived, large = closing_broker(window, [big, *rows(20, first=1), alarm], 2048, 3600)
    assert arrived[0] == alarm
    assert {r.number for r in arrived} == {100, *range(1, 21)}
    assert len(large) < 10, "ten times its size in an hour"
    (trouble,) = window.troubles()
    assert trouble.row == big and trouble.why is Why.BREAKS
    assert "30000 bytes" in str(trouble) and "from 1000 to 30000" in str(trouble)


def test_a_closing_broker_lets_later_segments_pass_in_seconds() -> None:
    window = Window()
    big = [row(n, size=30_000) for n in range(3)]
    arrived, _ = closing_broker(window, [*big, *rows(200, first=10)], 2048, 30)
    assert len(arrived) == 200


def test_an_alarm_over_the_limit_blocks_nothing_either() -> None:
    window = Window()
    arrived, large = closing_broker(window, [row(0, lane=0, size=9000), *rows(30, first=1)], 2048, 60)
    assert len(arrived) == 30
    assert 1 < len(large) <= 5


def test_a_swallowing_broker_f17() -> None:
    """`message_size_limit`: acknowledged and dropped."""
    window = Window()
    big, now, sent_big, others = row(0, size=30_000), 0.0, 0, 0
    serial = 1
    while now < 3600:
        fresh = row(serial)
        window.listed([big, fresh])
        for one in passed(window, now):
            if one is big or one == big:
                sent_big += 1
            else:
                others += 1
                receipt(window, [one], now)
        serial += 1
        now += 1.0
    assert others == 3600
    assert 2 < sent_big < 10
    (trouble,) = window.troubles()
    assert trouble.why is Why.PASSED_OVER
    assert "never receipted" in str(trouble)


def test_a_lost_network_accuses_nobody() -> None:
    window = Window()
    window.listed(rows(10))
    assert len(burst(window, 0.0)) == 10
    assert window.disconnected(1.0, 0.5) is False
    alone = burst(window, 2.0)
    assert len(alone) == 1, "one at a time after an unexplained end"
    for one in alone:
        window.acked(one.hash, 2.0)
    assert len(passed(window, 2.1)) == 9
    assert window.troubles() == []


def test_a_row_that_is_gone_is_forgotten() -> None:
    window = Window(LIMITS)
    window.listed(rows(3))
    first = window.next(0.0, 0.5)
    assert first is not None
    window.gone(first.hash)
    window.acked(first.hash, 0.0)
    assert window.on_wire == 0
    assert receipt(window, [first], 0.0) == 0
    assert len(passed(window, 0.1)) == 2
    window.listed([])
    assert passed(window, 99.0) == []


def test_what_is_listed_stays_bounded_by_what_is_under_way() -> None:
    window = Window()
    backlog = rows(20_000)
    for step in range(20):
        window.listed(backlog[: window.listing])
        burst(window, float(step))
    assert window.listing < 1000


def test_puback_waits_are_told() -> None:
    window = Window()
    window.listed(rows(2))
    assert window.stalled_s(5.0) == 0.0
    burst(window, 1.0)
    assert window.stalled_s(5.0) == 4.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("arlRdt"), st.integers(0, 30), st.floats(0, 1)), max_size=120))
def test_whatever_happens_everything_arrives_and_nothing_after_its_receipt(
    steps: list[tuple[str, int, float]],
) -> None:
    """Random acknowledgements, losses, receipts and disconnects, then a calm network."""
    window = Window(WindowLimits(window=8, receipt_s=2.0))
    backlog = [row(n, lane=int(n % 5 != 0)) for n in range(30)]
    receipted: set[bytes] = set()
    now = 0.0

    def send(jitter: float) -> list[Row]:
        out = []
        while (one := window.next(now, jitter)) is not None:
            assert one.hash not in receipted, "sent after its receipt"
            out.append(one)
        return out

    def settle(some: list[Row]) -> None:
        window.receipted([r.hash for r in some], now)
        receipted.update(r.hash for r in some)

    window.listed(backlog)
    for what, number, jitter in steps:
        now += number / 3
        out = send(jitter)
        if what in "ar":
            for one in out:
                window.acked(one.hash, now)
        if what == "r":
            settle(out)
        elif what == "R":
            settle(backlog[number % 30 :][:1])
        elif what == "d":
            window.disconnected(now, jitter)
        elif what == "t":
            backlog = [r for r in backlog if r.hash not in receipted]
            window.listed(backlog)
            backlog = backlog or [row(999)]
    window.disconnected(now, 0.5)
    for _ in range(20_000):
        now += 1.0
        window.listed([r for r in backlog if r.hash not in receipted])
        out = send(0.5)
        for one in out:
            window.acked(one.hash, now)
        settle(out)
        if all(r.hash in receipted for r in backlog):
            break
    assert all(r.hash in receipted for r in backlog)


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_jitter_moves_the_timer_by_a_quarter(jitter: float) -> None:
    window = Window(LIMITS)
    window.listed(rows(1))
    passed(window, 0.0, jitter)
    edge = 5.0 * (0.75 + 0.5 * jitter)
    assert passed(window, edge - 0.01, jitter) == []
    assert len(passed(window, edge, jitter)) == 1


def test_what_the_broker_has_said_it_does_not_take_is_named_and_never_sent() -> None:
    window = Window(LIMITS)
    window.announced(2048, None, 20)
    fits, large, late = row(1, size=2048 - 28), row(2, size=2048 - 27), row(3, size=10)
    alarm = row(9, lane=0, size=5000)
    window.listed([fits, large, late, alarm])
    assert passed(window, 0.0) == [fits, late], "the rest passes, also behind it"
    receipt(window, [fits, late], 0.1)
    assert passed(window, 10_000.0) == []
    assert [(t.row, t.why) for t in window.troubles()] == [(alarm, Why.TOO_LARGE), (large, Why.TOO_LARGE)]
    assert "2021 bytes" in str(window.troubles()[1]) and "known limit is 2048" in str(window.troubles()[1])
    window.disconnected(10_001.0, 0.5)
    window.announced(None, None, 20)
    assert passed(window, 10_001.0) == [alarm, large], "a broker without a limit takes them"
    assert window.troubles() == []


def test_a_suspect_that_turns_out_too_large_is_not_sent_again() -> None:
    window = Window(LIMITS)
    window.listed([row(1, size=3000), row(2)])
    assert len(burst(window, 0.0)) == 2
    window.disconnected(1.0, 0.5)
    window.announced(2048, None, 20)
    assert [r.number for r in passed(window, 1.0)] == [2]


def test_many_too_large_ones_at_the_head_hide_nothing() -> None:
    window = Window(LIMITS)
    window.announced(2048, None, 20)
    backlog = [*rows(500, size=3000), *rows(5, first=500)]
    sent: list[Row] = []
    for _ in range(20):
        window.listed(backlog[: window.listing])
        sent += passed(window, 0.0)
    assert [r.number for r in sent] == [500, 501, 502, 503, 504]


@pytest.mark.parametrize(
    ("payload", "size"), [(0, 27), (102, 129), (103, 131), (16_358, 16_386), (16_359, 16_388)]
)
def test_the_size_of_a_packet(payload: int, size: int) -> None:
    assert packet_bytes(20, payload) == size


def test_no_more_is_under_way_than_the_broker_allows() -> None:
    window = Window(LIMITS)
    window.announced(None, 3, 20)
    window.listed([*rows(10), row(99, lane=0)])
    sent = burst(window, 0.0)
    assert [r.number for r in sent] == [99, 0, 1]
    window.acked(sent[0].hash, 0.1)
    assert [r.number for r in burst(window, 0.1)] == [2]


def test_alarms_alone_are_sent_again_and_pass_suspects_of_telemetry() -> None:
    window = Window(LIMITS)
    window.listed(rows(10))
    assert len(burst(window, 0.0)) == 10
    window.disconnected(1.0, 0.5)
    alarm = row(99, lane=0)
    window.listed([*rows(10), alarm])
    assert window.next(2.0, 0.5, alarms_only=True) == alarm
    window.acked(alarm.hash, 2.1)
    assert window.next(3.0, 0.5, alarms_only=True) is None
    assert window.next(60.0, 0.5, alarms_only=True) == alarm, "not receipted: once more"
    window.acked(alarm.hash, 60.1)
    receipt(window, [alarm], 60.2)
    assert window.next(600.0, 0.5, alarms_only=True) is None
    assert window.next(600.0, 0.5) is not None
