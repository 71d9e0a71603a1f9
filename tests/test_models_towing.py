from __future__ import annotations

import pytest
from models_world import BLIND, TYRES, World

from firmware_bridge.reading import FixQuality, Wheel
from models.verdict import Action, Cause

TOW = Cause.MOVED_WITHOUT_WHEELS
S = 1_000_000_000


def winch(world: World, seconds: float = 120, tilt_deg: float = 10.0) -> World:
    """Hauled up a ramp: steep, shaken, a jerk every third second; the place hardly changes."""
    world.rms, world.tilt_deg = 0.2, tilt_deg
    for second in range(round(seconds)):
        world.peak = 4.0 if second % 3 == 0 else 0.3
        world.run(1)
    world.peak, world.tilt_deg = 0.4, 0.8
    return world


def carry(world: World, seconds: float, speed: float = 13.0) -> World:
    """On a flatbed: moves, sways, no engine, no wheel."""
    world.rms, world.speed = 0.5, speed
    return world.run(seconds)


def test_a_winch_and_a_flatbed_are_one_incident_found_on_the_ramp() -> None:
    world = winch(World().parked())
    begin = world.t_s - 120
    assert world.opened() == [TOW]
    told = world.first(TOW)
    assert told.t_ns / S - begin <= 60
    assert {e.sensor for e in told.evidence} >= {"tyres", "vibration", "supply"}
    assert "flatbed" in told.sentence and "12.5 V" in told.sentence
    carry(world, 600)
    assert world.opened() == [TOW] and world.closed() == []
    last = world.detector.open_incidents()[0]
    assert "km" in last.sentence and {e.sensor for e in last.evidence} >= {"position", "tyres"}
    assert last.confidence > told.confidence


def test_updates_are_few() -> None:
    world = carry(winch(World().parked()), 3600)
    assert sum(v.action is Action.UPDATED for v in world.verdicts) <= 20


def test_lifted_gently_and_driven_off_it_is_found_within_two_minutes() -> None:
    world = World().parked()
    begin = world.t_s
    carry(world, 150)
    assert world.opened() == [TOW]
    assert 100 <= world.first(TOW).t_ns / S - begin <= 120
    assert world.first(TOW).evidence[0].sensor == "tyres"


def test_after_a_ramp_thirty_metres_suffice() -> None:
    world = World().parked()
    world.tilt_deg, world.rms = 6.0, 0.2
    world.run(60)
    world.tilt_deg = 1.0
    assert world.opened() == []
    carry(world, 10)
    assert world.opened() == [TOW]


@pytest.mark.parametrize("speed", [3.0, 8.0, 14.0, 30.0])
def test_an_ordinary_start_stays_quiet_although_tyres_report_late(speed: float) -> None:
    world = World().parked().drive(600, speed).park(900).drive(600, speed)
    assert world.verdicts == []


def test_a_start_up_a_steep_garage_ramp_stays_quiet() -> None:
    world = World().parked()
    world.volts, world.rms, world.tilt_deg, world.speed = 14.2, 0.8, 9.0, 2.0
    world.run(30)
    world.tilt_deg = 0.0
    world.drive(300)
    assert world.verdicts == []


def test_a_battery_charged_before_the_start_is_an_engine() -> None:
    """A clever alternator rests at 12.6 V while cruising, but charges right after cranking."""
    world = World().parked()
    world.volts = 14.4
    world.run(11)
    world.volts, world.rms, world.speed, world.rolling = 12.6, 0.8, 14.0, False
    world.run(120)
    world.rolling = True
    world.run(300)
    assert world.verdicts == []


def test_a_jack_for_a_flat_tyre_stays_quiet() -> None:
    world = World().parked()
    world.tilt_deg, world.rms = 4.5, 0.15
    for second in range(900):
        world.peak = 4.0 if second % 3 == 0 else 0.3
        world.run(1)
    world.tilt_deg = 0.0
    world.park(300).drive(600)
    assert world.verdicts == []


def test_pushed_across_the_yard_stays_quiet() -> None:
    world = World().parked()
    world.rms, world.speed = 0.15, 1.6
    world.run(15)
    world.park(1800)
    assert world.verdicts == []


def test_a_place_that_wanders_while_standing_stays_quiet() -> None:
    world = World().parked()
    for second in range(1800):
        world.east_m = 60 * (second % 300) / 300
        world.run(1)
    assert world.verdicts == []


@pytest.mark.parametrize("missing", ["tyres", "supply and rolling", "radio"])
def test_one_sensor_alone_never_opens(missing: str) -> None:
    world = World(tyres=None) if missing == "tyres" else World()
    if missing == "radio":
        world.tyre_radio = False
    if missing == "supply and rolling":
        world.run(700)
        world.board = False
        world.speed, world.rms = 13.0, 0.5
        world.run(110)
    else:
        carry(winch(world.parked()), 400)
    assert TOW not in world.opened()


def test_estimated_fixes_alone_never_open() -> None:
    world = World().parked()
    world.quality = FixQuality.ESTIMATED
    carry(world, 900)
    assert world.opened() == []


def test_charging_on_the_flatbed_is_overruled_by_proven_sensors() -> None:
    """An electric vehicle's converter charges while it is carried: slower, on the tyres' own word."""
    world = World().parked()
    world.volts, world.tyre_every_s = 14.0, 50
    carry(world, 400)
    assert world.opened() == [TOW]
    assert world.first(TOW).t_ns / S - (world.t_s - 400) >= 180
    assert any("said 'standing'" in e.text for e in world.first(TOW).evidence)


def test_sensors_whose_switch_never_worked_prove_nothing() -> None:
    world = World()
    for _ in range(2):
        world.volts, world.rms, world.speed = 14.2, 0.8, 14.0
        world.run(900)
        world.park(900)
    assert world.verdicts == []


def test_a_tyre_that_warms_has_rolled() -> None:
    world = World().parked()
    world.speed, world.rms, world.rolling = 14.0, 0.8, False
    for second in range(400):
        world.degc = 6.0 + second / 10
        world.kpa = 230.0 + second / 8
        world.run(1)
    assert world.verdicts == []


def test_a_neighbours_sensor_ends_nothing() -> None:
    world = winch(World().parked())
    for _ in range(20):
        world.see(world.tyre(Wheel.FRONT_LEFT, sensor_id="deadbeef", rolling=True))
        world.run(1)
    assert world.closed() == []


def test_driven_off_by_itself_closes_it() -> None:
    world = carry(winch(World().parked()), 300)
    world.park(300).drive(300)
    assert world.closed() == [TOW]
    assert "roll" in world.verdicts[-1].sentence
    assert world.detector.open_incidents() == []
    world.park(900).drive(300)
    assert world.opened() == [TOW]


def test_set_down_where_it_stood_closes_it() -> None:
    world = winch(World().parked())
    world.park(800)
    assert world.closed() == [TOW]
    assert "at its place again" in world.verdicts[-1].sentence
    world.drive(600)
    assert world.opened() == [TOW]


def test_leaving_its_region_on_the_flatbed_is_the_same_incident() -> None:
    from models.fence import Fence

    place = World().parked()
    world = World(fence=Fence(place.fix().lat_deg, place.fix().lon_deg, 1000.0)).parked()
    carry(winch(world), 300)
    assert world.opened() == [TOW]
    assert any("beyond the edge" in e.text for e in world.detector.open_incidents()[0].evidence)


def test_losing_its_position_in_a_closed_lorry_is_the_same_incident() -> None:
    world = carry(winch(World().parked()), 60)
    world.sky = BLIND
    world.run(900)
    assert world.opened() == [TOW]
    assert any(e.sensor == "radio" for e in world.detector.open_incidents()[0].evidence)


def test_ids_are_compared_without_regard_to_case() -> None:
    upper = {wheel: name.upper() for wheel, name in TYRES.items()}
    world = winch(World(tyres=upper).parked())
    assert world.opened() == [TOW]
