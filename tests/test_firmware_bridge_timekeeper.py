"""Which wall time is believed: F07's receiver, dead host clocks, steps, and the floor under all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.reading import Position, Refusal
from firmware_bridge.runtime.clock import BUILD_FLOOR_NS
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import DAY_NS, MAX_AFTER_FLOOR_NS, YEAR_NS, Now, TimeKeeper, plausible
from firmware_bridge.wire.stamp import NS, Stamp, TimeSource

FLOOR = BUILD_FLOOR_NS
FIX = FLOOR + 2 * DAY_NS


def unset(mono_ns: int, host: int = 0) -> Now:
    return Now(mono_ns, host, False, FLOOR)


def year(stamp: Stamp) -> int | None:
    return None if stamp.wall_ns is None else datetime.fromtimestamp(stamp.wall_ns / 1e9, UTC).year


def test_dead_host_clock_gives_the_floor_and_says_so() -> None:
    stamp = TimeKeeper().stamp(unset(5))
    assert stamp == Stamp(5, FLOOR, TimeSource.FLOOR, stamp.uncertainty_ms)
    assert stamp.uncertainty_ms >= 19 * 365 * 86_400_000


def test_no_floor_and_no_time_gives_no_wall_time() -> None:
    assert TimeKeeper().stamp(Now(5, 0, False, 0)) == Stamp(5, None, TimeSource.NONE, 0)


def test_host_clock_is_used_as_far_as_it_is_trusted() -> None:
    keeper = TimeKeeper()
    assert keeper.stamp(Now(5, FIX, True, FLOOR)).source is TimeSource.HOST_SYNCED
    loose = keeper.stamp(Now(5, FIX, False, FLOOR))
    assert (loose.wall_ns, loose.source) == (FIX, TimeSource.HOST)
    far = keeper.stamp(Now(5, FLOOR + 30 * YEAR_NS, False, FLOOR))
    assert (far.wall_ns, far.source) == (FLOOR, TimeSource.FLOOR)


def test_first_trusted_fix_sets_the_time_at_once_and_it_runs_on() -> None:
    keeper = TimeKeeper()
    keeper.observe(FIX, 10 * NS)
    later = keeper.stamp(unset(70 * NS))
    assert (later.wall_ns, later.source) == (FIX + 60 * NS, TimeSource.GNSS)
    much_later = keeper.stamp(unset(10 * NS + 36_000 * NS))
    assert much_later.uncertainty_ms == 1000 + 3600


def test_a_step_must_be_confirmed() -> None:
    keeper = TimeKeeper()
    keeper.observe(FIX, 0)
    wrong = FIX + 3 * DAY_NS
    keeper.observe(wrong + NS, NS)
    keeper.observe(FIX + 2 * NS, 2 * NS)  # the receiver thought better of it
    keeper.observe(wrong + 3 * NS, 3 * NS)
    keeper.observe(wrong + 4 * NS, 4 * NS)
    assert keeper.stamp(unset(5 * NS)).wall_ns == FIX + 5 * NS
    keeper.observe(wrong + 5 * NS, 5 * NS)
    assert keeper.stamp(unset(6 * NS)).wall_ns == wrong + 6 * NS


def test_steps_that_disagree_with_each_other_are_never_followed() -> None:
    keeper = TimeKeeper()
    keeper.observe(FIX, 0)
    for n in range(1, 20):
        keeper.observe(FIX + n * DAY_NS, n * NS)
    assert keeper.stamp(unset(20 * NS)).wall_ns == FIX + 20 * NS


def test_gnss_before_the_floor_or_ahead_of_a_synced_host_is_not_used() -> None:
    early = TimeKeeper()
    early.observe(FLOOR - YEAR_NS, 0)
    assert early.stamp(unset(NS)).source is TimeSource.FLOOR
    ahead = TimeKeeper()
    ahead.observe(FIX + 3 * DAY_NS, 0)
    stamp = ahead.stamp(Now(NS, FIX, True, FLOOR))
    assert (stamp.wall_ns, stamp.source) == (FIX, TimeSource.HOST_SYNCED)


@pytest.mark.parametrize(
    ("utc_ns", "now", "true"),
    [
        (FLOOR - 1, unset(0), False),
        (FLOOR, unset(0), True),
        (FLOOR + MAX_AFTER_FLOOR_NS, unset(0), True),
        (FLOOR + MAX_AFTER_FLOOR_NS + 1, unset(0), False),
        (FIX + DAY_NS, Now(0, FIX, True, FLOOR), True),
        (FIX + DAY_NS + 1, Now(0, FIX, True, FLOOR), False),
        (FIX - DAY_NS - 1, Now(0, FIX, True, FLOOR), False),
        (315_964_800 * NS, Now(0, 0, False, 0), False),  # 1980-01-06
        (1_270_293_745 * NS, Now(0, 0, False, 0), True),  # a drive of 2010, replayed without a floor
    ],
)
def test_plausible(utc_ns: int, now: Now, true: bool) -> None:
    assert plausible(utc_ns, now) is true


moments = st.integers(0, 4 * 10**18)


@given(st.lists(st.tuples(moments, moments), max_size=8), moments, moments, st.booleans())
def test_never_before_the_floor_never_from_the_future(
    seen: list[tuple[int, int]], mono: int, host: int, synced: bool
) -> None:
    keeper = TimeKeeper()
    for utc_ns, mono_ns in seen:
        keeper.observe(utc_ns, mono_ns)
    stamp = keeper.stamp(Now(mono, host, synced, FLOOR))
    assert stamp.mono_ns == mono
    assert stamp.uncertainty_ms >= 0
    assert stamp.wall_ns is not None
    assert stamp.wall_ns >= FLOOR
    if synced and host >= FLOOR:
        assert stamp.wall_ns <= host + DAY_NS


@pytest.mark.parametrize("host_ns", [0, FLOOR, FLOOR - YEAR_NS])
def test_f07_cold_start_never_becomes_1980_or_2080(shared_data: Callable[[str], Path], host_ns: int) -> None:
    keeper = TimeKeeper()
    decoder = NmeaDecoder("gnss")
    trusted: list[str] = []
    positions = 0
    for n, line in enumerate(shared_data("field/F07.nmea").read_bytes().splitlines(keepends=True)):
        now = unset(n * NS, host_ns + n * NS)
        for item in decoder.feed(line, now):
            if isinstance(item, Refusal):
                assert item.reason == "date_distrusted"
            elif isinstance(item, Position):
                positions += 1
                if item.utc_ns is not None:
                    keeper.observe(item.utc_ns, item.t_ns)
                    trusted.append(datetime.fromtimestamp(item.utc_ns / 1e9, UTC).isoformat())
        assert year(keeper.stamp(now)) == 2026
    assert positions == 2
    assert trusted == ["2026-11-20T10:38:47+00:00"]
    assert keeper.stamp(unset(20 * NS)).source is TimeSource.GNSS


def test_f07_with_a_set_host_clock(shared_data: Callable[[str], Path]) -> None:
    host = int(datetime(2026, 11, 20, 10, 38, 50, tzinfo=UTC).timestamp()) * NS
    now = Now(0, host, True, FLOOR)
    items = NmeaDecoder("gnss").feed(shared_data("field/F07.nmea").read_bytes(), now)
    dated = [item.utc_ns for item in items if isinstance(item, Position)]
    assert dated == [None, host - 3 * NS]
