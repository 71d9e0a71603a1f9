from __future__ import annotations

import pytest
from models_world import World

from firmware_bridge.reading import PortCondition, Wheel
from models.verdict import Cause

REMOVED = Cause.REMOVED_OR_OPENED
S = 1_000_000_000


def test_an_opened_case_is_an_incident_within_seconds() -> None:
    world = World().parked()
    begin = world.t_s
    world.case_open = True
    world.run(5)
    assert world.opened() == [REMOVED]
    assert world.first(REMOVED).t_ns / S - begin <= 4
    assert world.first(REMOVED).confidence < 0.8


def test_one_report_and_then_nothing_is_enough() -> None:
    world = World().parked()
    world.case_open = True
    world.see(world.power())
    world.board = world.gnss = False
    world.run(5)
    assert world.opened() == [REMOVED]


def test_a_bouncing_switch_is_none() -> None:
    world = World().parked()
    for _ in range(50):
        world.case_open = True
        world.see(world.power())
        world.case_open = False
        world.see(world.power())
        world.run(5)
    assert world.verdicts == []


def test_pulled_out_is_one_incident_and_its_silence_no_other() -> None:
    world = World().parked()
    world.case_open = True
    world.run(3)
    world.volts = 0.0
    world.see(world.power())
    world.board = world.gnss = False
    world.run(3600)
    assert world.opened() == [REMOVED]
    last = world.detector.open_incidents()[0]
    assert {e.sensor for e in last.evidence} >= {"case", "supply", "radio", "position"}
    assert "case was opened" in last.sentence and "0.0 V" in last.sentence and "silent" in last.sentence
    assert last.confidence >= 0.9
    assert len(world.verdicts) <= 6


def test_a_disconnected_battery_alone_is_no_incident() -> None:
    world = World().parked()
    world.volts = 0.0
    world.run(1200)
    world.volts = 12.6
    world.run(60)
    assert world.verdicts == []


def test_a_cut_supply_and_then_nothing_is_one() -> None:
    world = World().parked()
    world.volts = 1.0
    world.see(world.power())
    world.board = False
    world.run(120)
    assert world.opened() == [REMOVED]


def test_a_fault_of_the_port_is_no_removal() -> None:
    world = World().parked()
    world.port("board", PortCondition.ABSENT)
    world.board = False
    world.run(3600)
    assert world.verdicts == []


def test_closed_and_supplied_again_closes_it() -> None:
    world = World().parked()
    world.case_open = True
    world.run(30)
    world.case_open = False
    world.run(50)
    assert world.closed() == []
    world.run(60)
    assert world.closed() == [REMOVED]


def test_closed_again_but_away_from_its_tyres_stays_open() -> None:
    world = World().parked()
    world.case_open = True
    world.run(30)
    world.case_open, world.tyre_radio = False, False
    world.run(600)
    assert world.closed() == []
    world.tyre_radio = True
    world.run(60)
    assert world.closed() == [REMOVED]


def test_a_drive_without_any_of_its_tyres_is_another_vehicle() -> None:
    world = World().parked()
    world.tyre_radio = False
    world.drive(900)
    assert world.opened() == [REMOVED]
    told = world.first(REMOVED)
    assert "none of its 4 tyre sensors" in told.sentence
    assert {e.sensor for e in told.evidence} == {"tyres", "position"}


@pytest.mark.parametrize("known", [True, False])
def test_tyres_that_fall_silent_within_a_drive_are_a_fault(known: bool) -> None:
    world = World()
    world.tyre_radio = known
    world.drive(300)
    world.tyre_radio = False
    world.drive(1800)
    assert world.verdicts == []


def test_one_tyre_heard_is_enough_to_stay_quiet() -> None:
    world = World().parked()
    world.tyre_radio = False
    world.drive(300)
    world.see(world.tyre(Wheel.REAR_LEFT, rolling=True))
    world.drive(900)
    assert world.verdicts == []


def test_a_roadside_board_can_be_opened_too() -> None:
    world = World(tyres=None)
    world.gnss = False
    world.run(60)
    world.case_open = True
    world.run(5)
    assert world.opened() == [REMOVED]
