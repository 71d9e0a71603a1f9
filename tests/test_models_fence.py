from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from models_world import LAT, LON, World

from firmware_bridge.reading import FixQuality, Position
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import Now
from models.detector import Detector
from models.errors import ConfigError
from models.fence import Fence
from models.limits import Limits
from models.verdict import Action, Cause, Verdict

S = 1_000_000_000
HOME = Fence(LAT, LON, 500.0)


@pytest.mark.parametrize(
    "bad",
    [
        (91.0, 0.0, 100.0),
        (0.0, 181.0, 100.0),
        (0.0, 0.0, 5.0),
        (0.0, 0.0, 1e8),
        (float("nan"), 0.0, 100.0),
        (0.0, 0.0, float("nan")),
    ],
)
def test_a_fence_that_cannot_be_meant_is_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError):
        Fence(*bad)


def test_driving_out_opens_once_and_coming_back_closes_once() -> None:
    world = World(fence=HOME).drive(80)
    assert world.opened() == [Cause.LEFT_REGION]
    told = world.first(Cause.LEFT_REGION)
    assert 500 / 14 < told.t_ns / S < 500 / 14 + 6
    world.doppler = 14.0
    world.speed = -14.0
    world.run(80)
    assert world.closed() == [Cause.LEFT_REGION]
    assert world.opened() == [Cause.LEFT_REGION]


def test_along_the_edge_it_does_not_flap() -> None:
    world = World(fence=HOME).drive(60)
    world.doppler = 3.0
    for second in range(600):
        world.east_m = 500 + (8 if second % 20 < 10 else -8)
        world.speed = 0
        world.run(1)
    assert len(world.opened()) <= 1 and world.closed() == []


def test_glitches_of_any_shape_leave_it_quiet() -> None:
    world = World(fence=HOME)
    world.run(120)
    for length in (1, 2, 3, 10, 60):
        for _ in range(length):
            world.t_s += 1
            world.see(world.fix(north_m=900.0, speed=0.02))
        world.run(30)
    assert world.verdicts == []
    assert world.detector.suspects == 76


def test_a_slow_drift_at_no_speed_is_no_exit() -> None:
    world = World(fence=HOME)
    world.doppler = 0.05
    world.speed = 0.5
    world.run(2400)
    assert world.verdicts == []


def test_estimated_fixes_alone_never_open() -> None:
    world = World(fence=HOME)
    world.run(60)
    world.quality = FixQuality.ESTIMATED
    world.drive(300)
    assert Cause.LEFT_REGION not in world.opened()


def test_a_device_that_starts_outside_has_not_left() -> None:
    world = World(fence=Fence(LAT + 1.0, LON, 500.0)).drive(300)
    assert world.verdicts == []


def test_field_case_f27(shared_data: Callable[[str], Path]) -> None:
    """Three one-second glitches of 200 m at a claimed 2 m accuracy, then one true exit."""
    decoder = NmeaDecoder("gnss")
    detector = Detector(Limits(), tyres=None, fence=Fence(48.1314, 11.5497, 50.0), expects_board=False)
    verdicts: list[Verdict] = []
    start = 9 * 3600 + 54 * 60 + 6
    for number, line in enumerate(shared_data("field/F27.nmea").read_bytes().splitlines(keepends=True)):
        now = number // 2 * S
        for reading in decoder.feed(line, Now(now, 0, False, 0)):
            assert isinstance(reading, Position)
            verdicts += detector.observe(reading)
    assert detector.suspects == 3
    assert [v.action for v in verdicts if v.action is not Action.UPDATED] == [Action.OPENED]
    exit_s = 9 * 3600 + 58 * 60 + 5 - start
    assert exit_s <= verdicts[0].t_ns / S <= exit_s + 10
