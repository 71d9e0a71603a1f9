from __future__ import annotations

import pytest
from models_world import World

from firmware_bridge.reading import PortCondition
from models.verdict import Cause

SILENT = Cause.SILENT
S = 1_000_000_000


def test_a_board_that_misses_its_report_is_an_incident() -> None:
    world = World().parked()
    begin = world.t_s
    world.board = False
    world.run(130)
    assert world.opened() == []
    world.run(20)
    assert world.opened() == [SILENT]
    told = world.first(SILENT)
    assert abs(told.since_ns / S - begin) <= 2
    assert "15 s were announced" in told.sentence
    world.board = True
    world.run(5)
    assert world.closed() == [SILENT]


def test_announced_sleep_is_no_silence() -> None:
    world = World().parked()
    world.next_report_s = 3600
    world.see(world.power())
    world.board = False
    world.run(3600)
    assert world.verdicts == []


@pytest.mark.parametrize("fault", [PortCondition.ABSENT, PortCondition.NO_SENTENCE])
@pytest.mark.parametrize("port", ["board", "gnss"])
def test_a_fault_of_a_port_is_a_technicians_matter(port: str, fault: PortCondition) -> None:
    world = World().drive(100)
    world.port(port, fault)
    if port == "board":
        world.board = False
    else:
        world.gnss = False
    world.run(3600)
    assert world.verdicts == []


def test_no_bytes_is_silence_and_not_a_fault() -> None:
    world = World().parked()
    world.board = False
    world.run(100)
    world.port("board", PortCondition.NO_BYTES)
    world.run(100)
    assert world.opened() == [SILENT]


@pytest.mark.parametrize("gap", [12, 207, 500])
def test_gaps_of_a_receiver_while_driving_stay_quiet(gap: int) -> None:
    world = World().drive(100)
    world.gnss = False
    world.run(gap)
    world.gnss = True
    world.run(100)
    assert world.verdicts == []


def test_a_receiver_silent_for_ten_minutes_of_driving() -> None:
    world = World().drive(100)
    world.gnss = False
    world.run(620)
    assert world.opened() == [SILENT]


def test_a_receiver_that_sleeps_while_parked_stays_quiet() -> None:
    world = World().parked()
    world.gnss = False
    world.run(8 * 3600, step_s=10)
    assert world.verdicts == []


def test_a_lonely_receiver_may_stop() -> None:
    world = World(tyres=None, expects_board=False)
    world.board = False
    world.drive(300)
    world.gnss = False
    world.run(7200)
    assert world.verdicts == []


def test_a_board_that_never_spoke_in_a_long_drive() -> None:
    world = World()
    world.board = False
    world.drive(700)
    assert world.opened() == [SILENT]


def test_a_board_that_is_not_expected_may_be_absent() -> None:
    world = World(expects_board=False)
    world.board = False
    world.drive(2000)
    assert world.verdicts == []


def test_a_suspended_host_has_heard_no_silence() -> None:
    world = World().parked()
    for _ in range(5):
        world.t_s += 8 * 3600
        world.take(world.detector.tick(world.now))
        world.run(30)
    assert world.verdicts == []


def test_what_happened_while_suspended_is_judged_when_awake() -> None:
    world = World().parked()
    world.t_s += 8 * 3600
    world.board = False
    world.run(200)
    assert world.opened() == [SILENT]
