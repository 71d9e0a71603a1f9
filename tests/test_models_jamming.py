from __future__ import annotations

import pytest
from models_world import BLIND, SEE, World

from firmware_bridge.reading import PortCondition
from models.verdict import Cause

JAMMED = Cause.JAMMED
FADING = [
    (True, 9, 38.0),
    (True, 7, 33.5),
    (True, 5, 28.0),
    (True, 4, 24.0),
    (False, 2, 21.0),
    (False, 1, 16.0),
]
S = 1_000_000_000


def fade(world: World) -> World:
    """A portal: signals go one after another."""
    for world.sky in FADING:
        world.run(1)
    world.sky = BLIND
    return world


def test_the_receivers_own_indicator_is_believed_after_twenty_seconds() -> None:
    world = World().drive(200)
    begin = world.t_s
    world.sky, world.jamming = BLIND, True
    world.run(60)
    assert world.opened() == [JAMMED]
    assert 20 <= world.first(JAMMED).t_ns / S - begin <= 23
    assert "indicator" in world.first(JAMMED).sentence


def test_the_indicator_counts_without_a_board() -> None:
    world = World(tyres=None, expects_board=False)
    world.board = False
    world.drive(60)
    world.sky, world.jamming = BLIND, True
    world.run(40)
    assert world.opened() == [JAMMED]


def test_an_indicator_while_positions_come_is_no_incident() -> None:
    world = World().drive(60)
    world.jamming = True
    world.run(600)
    assert world.verdicts == []


@pytest.mark.parametrize("length", [15, 60, 90, 140])
def test_a_tunnel_stays_quiet(length: int) -> None:
    world = fade(World().drive(200))
    world.run(length)
    world.sky = SEE
    world.run(300)
    assert world.verdicts == []


@pytest.mark.parametrize("length", [30, 140])
def test_a_short_tunnel_that_begins_at_once_stays_quiet(length: int) -> None:
    world = World().drive(200)
    world.sky = BLIND
    world.run(length)
    world.sky = SEE
    world.run(300)
    assert world.verdicts == []


def test_signals_gone_at_one_blow_while_driving() -> None:
    world = World().drive(200)
    world.sky = BLIND
    world.run(200)
    assert world.opened() == [JAMMED]
    assert world.first(JAMMED).confidence < 0.7
    world.sky = SEE
    world.run(30)
    assert world.closed() == [JAMMED]


def test_faded_signals_need_five_minutes() -> None:
    world = fade(World().drive(200))
    world.run(280)
    assert world.opened() == []
    world.run(40)
    assert world.opened() == [JAMMED]


def test_parked_in_a_garage_for_a_night_stays_quiet() -> None:
    world = fade(World().drive(200))
    world.run(60)
    world.volts, world.rms, world.speed = 12.5, 0.02, 0.0
    world.run(3 * 3600)
    assert world.verdicts == []


def test_a_car_wash_stays_quiet() -> None:
    world = World().parked()
    world.sky, world.rms = BLIND, 0.3
    world.run(420)
    world.sky = SEE
    world.run(60)
    assert world.verdicts == []


def test_an_open_sky_that_goes_while_standing_for_long() -> None:
    world = World().parked()
    world.sky = BLIND
    world.run(700)
    assert world.opened() == [JAMMED]


def test_handled_and_deaf_is_found_sooner() -> None:
    world = World().parked()
    world.sky, world.tilt_deg = BLIND, 5.0
    world.run(90)
    assert world.opened() == [JAMMED]


def test_without_a_vibration_sensor_dead_signals_prove_nothing() -> None:
    world = World(tyres=None, expects_board=False)
    world.board = False
    world.drive(100)
    world.sky = BLIND
    world.run(3000)
    assert world.verdicts == []


def test_weak_signals_are_not_none() -> None:
    world = World().drive(200)
    world.sky = (False, 3, 24.0)
    world.run(1200)
    assert world.verdicts == []


def test_a_cold_receiver_has_lost_nothing() -> None:
    world = World()
    world.sky = BLIND
    world.drive(1200)
    assert JAMMED not in world.opened()


def test_the_wrong_speed_is_no_jammer() -> None:
    world = World().drive(100)
    world.gnss = False
    world.port("gnss", PortCondition.NO_SENTENCE)
    world.run(3600)
    assert world.verdicts == []
