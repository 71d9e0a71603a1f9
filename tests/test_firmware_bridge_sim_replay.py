"""Real logs: bytes unchanged, time from the log's own clock, no log that crashes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.errors import DecodeError
from firmware_bridge.sim.nmea_writer import sentence
from firmware_bridge.sim.replay import UNTIMED_LINE_NS, replay
from firmware_bridge.sim.script import Script

NS = 10**9
FLOOR_NS = 1_795_000_000 * NS


def rmc(time: str, date: str = "030410", status: str = "A") -> bytes:
    return sentence(f"GPRMC,{time},{status},4719.9737,N,00749.2639,E,0.00,,{date},,,A")


def gga(time: str) -> bytes:
    return sentence(f"GPGGA,{time},4719.9737,N,00749.2639,E,1,05,2.5,400.0,M,48.0,M,,")


def played(data: bytes) -> tuple[Script, list[tuple[float, bytes]]]:
    script = replay("x.nmea", data, floor_ns=FLOOR_NS)
    chunks = [(chunk.t_ns / NS, chunk.data) for chunk in script.play()]
    assert b"".join(part for _, part in chunks) == data
    assert [at for at, _ in chunks] == sorted(at for at, _ in chunks)
    return script, chunks


def times(data: bytes) -> list[float]:
    return [at for at, _ in played(data)[1]]


def epoch(script: Script) -> datetime:
    return datetime.fromtimestamp(script.epoch_wall_ns / NS, UTC)


def test_the_pace_is_rmc_and_what_comes_before_it_goes_at_0() -> None:
    script, chunks = played(
        b"\0$PSRFTXT,x*00\r\n" + rmc("112225.844") + rmc("112226.844") + b"$GPGSA,junk\r\n"
    )
    assert [at for at, _ in chunks] == [0.0, 1.0]
    assert chunks[0][1].startswith(b"\0$PSRF")
    assert epoch(script) == datetime(2010, 4, 3, 11, 22, 25, 844_000, tzinfo=UTC)


def test_gaps_are_gaps() -> None:
    assert times(rmc("100000") + rmc("100001") + rmc("100328") + rmc("110000")) == [0.0, 1.0, 208.0, 3600.0]


def test_midnight_is_passed_with_and_without_dates() -> None:
    assert times(rmc("235958", "311210") + rmc("235959", "311210") + rmc("000001", "010111")) == [
        0.0,
        1.0,
        3.0,
    ]
    assert times(gga("235959") + gga("000001")) == [0.0, 2.0]


def test_a_time_that_repeats_or_goes_back_adds_none() -> None:
    assert times(rmc("100000") + rmc("100000") + rmc("100005") + rmc("100003") + rmc("100006")) == [
        0.0, 5.0, 6.0,
    ]  # fmt: skip


def test_a_clock_set_back_does_not_freeze_the_replay() -> None:
    assert times(rmc("100000") + rmc("090000") + rmc("090001") + rmc("090002")) == [0.0, 1.0, 2.0]


def test_a_date_jump_of_a_void_clock_counts_a_second() -> None:
    data = rmc("000002.800", "060180", "V") + rmc("103835.800", "090180") + rmc("103836.800", "201126")
    script, chunks = played(data + rmc("103837.800", "201126"))
    assert [at for at, _ in chunks] == [0.0, 1.0, 2.0, 3.0]
    assert epoch(script) == datetime(2026, 11, 20, 10, 38, 34, 800_000, tzinfo=UTC)


def test_a_pause_of_days_between_two_fixes_is_a_gap() -> None:
    assert times(rmc("100000", "030410") + rmc("100001", "050410")) == [0.0, 2 * 86400 + 1.0]


def test_dates_before_2000_are_no_epoch() -> None:
    assert replay("x", rmc("100000", "050180"), floor_ns=FLOOR_NS).epoch_wall_ns == FLOOR_NS


def test_the_first_date_a_fix_vouches_for_wins_over_a_void_one() -> None:
    script, _ = played(rmc("100000", "010116", "V") + rmc("100001", "030416"))
    assert epoch(script) == datetime(2016, 4, 3, 10, 0, 0, tzinfo=UTC)


def test_a_date_that_does_not_exist_is_no_date() -> None:
    script, _ = played(rmc("100000", "310210") + rmc("100001", "010310"))
    assert epoch(script) == datetime(2010, 3, 1, 10, 0, 0, tzinfo=UTC)


def test_sentences_before_their_rmc_do_not_run_ahead_through_a_gap() -> None:
    first, second = gga("100000") + rmc("100000"), gga("100500") + rmc("100500")
    assert played(first + second)[1] == [(0.0, first), (300.0, second)]


def test_a_bad_checksum_tells_no_time() -> None:
    broken = rmc("235900").replace(b"N", b"S", 1)
    assert times(rmc("100000") + broken + rmc("100001")) == [0.0, 1.0]


def test_other_sentences_pace_where_rmc_is_missing_or_rare() -> None:
    zda = b"".join(sentence(f"GNZDA,21371{n}.000,12,02,2026,,") for n in range(5))
    script, chunks = played(gga("213711") + zda)
    assert [at for at, _ in chunks] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert epoch(script).date().isoformat() == "2026-02-12"
    gll = b"".join(sentence(f"GPGLL,4719.9,N,00749.2,E,10000{n}.00,A,A") for n in range(4))
    assert times(gll) == [0.0, 1.0, 2.0, 3.0]
    assert times(rmc("100000") + b"".join(gga(f"10000{n}") for n in range(6)))[-1] == 5.0


def test_a_log_without_time_runs_at_ten_lines_a_second() -> None:
    script, chunks = played(b"\xb5\x62\x01\x07\n\xff\xff\n\x00\x01")
    assert [at for at, _ in chunks] == [0.0, 0.1, 0.2]
    assert script.epoch_wall_ns == FLOOR_NS
    assert UNTIMED_LINE_NS == NS // 10


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\0\0 \r\n"])
def test_an_empty_log_is_refused_with_a_way_out(data: bytes) -> None:
    with pytest.raises(DecodeError, match="empty: choose"):
        replay("x", data, floor_ns=0)


def test_a_replay_has_one_port_no_truth_and_no_simulated_part() -> None:
    script, _ = played(rmc("100000"))
    assert [spec.name for spec in script.ports] == ["gnss"]
    assert script.truths == () and script.simulated_parts == ()
    assert script.tyres is None and script.home is None


PARTS = st.sampled_from(
    [
        rmc("100000"),
        rmc("100001"),
        rmc("095900"),
        rmc("235959"),
        gga("100002"),
        b"$GPRMC,",
        b"\0",
        b"*",
        b"\n",
        b"\r\n",
    ]
)


@given(st.lists(st.one_of(PARTS, st.binary(max_size=30)), max_size=12).map(b"".join))
def test_anything_is_played_unchanged_or_refused(data: bytes) -> None:
    try:
        script = replay("x", data, floor_ns=FLOOR_NS)
    except DecodeError:
        return
    if script.simulated_parts:
        return
    chunks = list(script.play())
    assert b"".join(chunk.data for chunk in chunks) == data
    assert all(a.t_ns <= b.t_ns for a, b in pairwise(chunks))


def test_the_swiss_drive(shared_data: Callable[[str], Path]) -> None:
    data = shared_data("gps/20100403_Z205_Switzerland.txt").read_bytes()
    script, chunks = played(data)
    assert script.duration_s == pytest.approx(10_623, abs=2)
    assert epoch(script).replace(microsecond=0) == datetime(2010, 4, 3, 11, 22, 25, tzinfo=UTC)
    steps = [b[0] - a[0] for a, b in pairwise(chunks)]
    assert sorted(round(step) for step in steps if step > 1.5) == [12, 207]


def test_munich(shared_data: Callable[[str], Path]) -> None:
    script, _ = played(shared_data("gps/munich-gps.nmea").read_bytes())
    assert epoch(script) == datetime(2009, 4, 1, 12, 40, 22, tzinfo=UTC)


def test_every_receiver_of_the_zoo_is_played_unchanged(shared_data: Callable[[str], Path]) -> None:
    logs = sorted(shared_data("gps/gpsd").glob("*.log"))
    assert len(logs) > 50
    for path in logs:
        script, _ = played(path.read_bytes())
        assert script.duration_s < 3600, path.name


def test_a_cold_start_from_1980(shared_data: Callable[[str], Path]) -> None:
    script, chunks = played(shared_data("field/F07.nmea").read_bytes())
    assert epoch(script).year == 2026
    assert chunks[-1][0] < 60
