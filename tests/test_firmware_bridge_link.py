"""A port's states, told once each, with a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.framing import FrameType, frame
from firmware_bridge.link import Link
from firmware_bridge.reading import PortCondition, PortState, Position, Reading, Refusal
from firmware_bridge.sensors.board import BoardDecoder, encode_data
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS

RMC = b"$GNRMC,120010.00,A,4807.88400,N,01132.98200,E,0.05,,201126,,,A*52\r\n"


def at(seconds: float) -> Now:
    return Now(round(seconds * NS), 0, False, 0)


def link(**options: int) -> Link:
    return Link("gnss", NmeaDecoder("gnss"), baud=9600, **options)


def conditions(items: list[Reading | Refusal]) -> list[PortCondition]:
    return [item.condition for item in items if isinstance(item, PortState)]


def test_good_port_is_told_once_and_before_its_first_reading() -> None:
    port = link()
    assert port.condition is PortCondition.ABSENT
    assert port.opened(at(0)) == []
    first = port.received(RMC, at(1))
    assert [type(item) for item in first] == [PortState, Position]
    assert conditions(first) == [PortCondition.OK]
    assert conditions(port.received(RMC.replace(b"10.00", b"11.00").replace(b"*52", b"*53"), at(2))) == []
    assert port.bytes == 2 * len(RMC)


def test_f15_wrong_speed_is_named_and_recovers_at_once(shared_data: Callable[[str], Path]) -> None:
    noise = shared_data("field/F15.bin").read_bytes()
    good = shared_data("field/F15.good.nmea").read_bytes()
    decoder = NmeaDecoder("gnss")
    port = Link("gnss", decoder, baud=9600)
    port.opened(at(0))
    told: list[tuple[float, PortState]] = []
    step = 0.25
    size = len(noise) // 24
    for n in range(240):
        chunk = (noise + noise)[n % 24 * size : n % 24 * size + size]
        now = at(n * step)
        for item in port.received(chunk, now) + port.tick(now):
            if isinstance(item, PortState):
                told.append((n * step, item))
            else:
                assert isinstance(item, Refusal)
        assert decoder.held <= 258
    ((when, state),) = told
    assert when <= 30
    assert state.condition is PortCondition.NO_SENTENCE
    assert "speed" in state.detail
    assert "9600" in state.detail
    after = port.received(b"\r\n" + good, at(61))
    assert conditions(after) == [PortCondition.OK]
    assert sum(isinstance(item, Position) for item in after) == 3


def test_f15_first_fix_from_the_first_good_sentence_even_in_the_middle_of_noise(
    shared_data: Callable[[str], Path],
) -> None:
    noise = shared_data("field/F15.bin").read_bytes()
    good = shared_data("field/F15.good.nmea").read_bytes()
    port = link()
    port.opened(at(0))
    port.received(noise, at(1))
    items = port.received(good, at(2))
    assert sum(isinstance(item, Position) for item in items) == 3


def test_speed_wrong_from_the_start_is_told_even_without_ticks() -> None:
    port = link()
    port.opened(at(0))
    items = [item for n in range(40) for item in port.received(b"\xe0\x1c\x8e" * 20, at(n))]
    assert conditions(items) == [PortCondition.NO_SENTENCE]


def test_a_few_stray_bytes_are_no_wrong_speed() -> None:
    port = link()
    port.opened(at(0))
    port.received(RMC, at(1))
    port.received(b"\xff\xfe", at(2))
    assert [item for n in range(3, 100) for item in port.tick(at(n))] == []


def test_intact_sentences_without_a_position_prove_the_speed() -> None:
    port = link()
    port.opened(at(0))
    items = [item for n in range(60) for item in port.received(b"$PSRF154,107*3D\r\n" * 8, at(n))]
    assert conditions(items) == [PortCondition.OK]


def test_silence_is_told_after_the_longest_pause_of_a_parked_vehicle() -> None:
    port = link(silence_s=180)
    port.opened(at(0))
    assert port.tick(at(179)) == []
    (state,) = port.tick(at(180))
    assert isinstance(state, PortState)
    assert state.condition is PortCondition.NO_BYTES
    assert "no byte yet" in state.detail
    assert port.tick(at(500)) == []
    assert conditions(port.received(RMC, at(501))) == [PortCondition.OK]
    (again,) = port.tick(at(501 + 180))
    assert isinstance(again, PortState)
    assert "no byte any more" in again.detail


def test_lost_port_backs_off_and_is_told_once() -> None:
    port = link()
    waits = []
    told = 0
    for _ in range(9):
        told += len(port.lost(at(1), "unplugged"))
        waits.append(port.backoff_s)
    assert told == 1
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert conditions(port.lost(at(2), "no permission")) == [PortCondition.ABSENT]
    assert port.detail == "no permission"
    assert port.tick(at(1000)) == []
    port.opened(at(1001))
    port.received(RMC, at(1002))
    assert port.backoff_s == 0.0
    port.lost(at(1003), "unplugged")
    assert port.backoff_s == 0.5


def test_port_that_opens_and_dies_at_once_is_not_hammered() -> None:
    port = link()
    for n in range(10):
        port.opened(at(n))
        port.lost(at(n), "gone")
    assert port.backoff_s == 30.0


def test_reopened_port_does_not_join_halves_of_two_sentences() -> None:
    port = link()
    port.opened(at(0))
    port.received(RMC[:20], at(1))
    port.lost(at(2), "gone")
    port.opened(at(3))
    items = port.received(RMC[20:], at(4))
    assert not any(isinstance(item, Position) for item in items)


def test_board_link_speaks_of_frames() -> None:
    port = Link("board", BoardDecoder("board"), expects="frame", baud=115_200)
    port.opened(at(0))
    items = [item for n in range(40) for item in port.received(b"\x55" * 40, at(n))]
    (state,) = [item for item in items if isinstance(item, PortState)]
    assert "frame" in state.detail
    assert "115200" in state.detail
    wire = b"\x00" + frame(FrameType.DATA, 0, encode_data(1, power=(12_000, 0, 0, 1)))
    assert conditions(port.received(wire, at(41))) == [PortCondition.OK]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("received"), st.sampled_from([b"", RMC, RMC[:9], b"\xff" * 80, b"\n"])),
        st.tuples(st.sampled_from(["opened", "lost", "tick"]), st.just(b"")),
    ),
    max_size=40,
)


@given(steps, st.integers(0, 60))
def test_a_state_is_never_told_twice_in_a_row(story: list[tuple[str, bytes]], pace_s: int) -> None:
    port = link()
    told: list[tuple[PortCondition, str]] = []
    for n, (what, data) in enumerate(story):
        now = at(n * pace_s)
        items = {
            "received": lambda now=now, data=data: port.received(data, now),
            "opened": lambda now=now: port.opened(now),
            "lost": lambda now=now: port.lost(now, "gone"),
            "tick": lambda now=now: port.tick(now),
        }[what]()
        told += [(item.condition, item.detail) for item in items if isinstance(item, PortState)]
    assert all(a != b for a, b in pairwise(told))
    if told:
        assert (port.condition, port.detail) == told[-1]


def test_empty_read_is_nothing() -> None:
    assert link().received(b"", at(0)) == []


@pytest.mark.parametrize("portion", [1, 7, 64])
def test_portions_do_not_change_what_is_told(portion: int) -> None:
    port = link()
    port.opened(at(0))
    data = RMC * 3
    items = [
        item for n in range(0, len(data), portion) for item in port.received(data[n : n + portion], at(1))
    ]
    assert conditions(items) == [PortCondition.OK]
