from __future__ import annotations

import pytest

from firmware_bridge.reading import FixQuality, Position
from models.limits import Limits
from models.parking import Parking
from models.track import Track

S = 1_000_000_000
M = 1 / 111_195


class Walk:
    def __init__(self) -> None:
        self.track, self.parking = Track(Limits()), Parking(Limits())
        self.t, self.north = 0, 0.0

    def go(self, seconds: int, speed: float, *, doppler: float | None = None, keep: bool = False) -> int:
        """Seconds at a speed; how many episodes began."""
        began = 0
        for _ in range(seconds):
            self.t += 1
            self.north += speed
            said = speed if doppler is None else doppler
            self.track.fix(Position(self.t * S, "g", 47 + self.north * M, 8.0, FixQuality.AUTONOMOUS, said))
            began += self.parking.fix(self.track, keep=keep)
        return began


def test_a_long_stop_begins_an_episode_and_a_traffic_light_none() -> None:
    walk = Walk()
    walk.go(60, 14)
    assert walk.go(100, 0) == 0
    assert not walk.parking.parked
    walk.go(10, 14)
    assert walk.go(130, 0) == 1
    assert walk.parking.parked


def test_distance_counts_only_with_a_road() -> None:
    walk = Walk()
    walk.go(200, 0)
    walk.go(100, 0.4, doppler=0.0)
    assert walk.parking.distance_m > 30
    assert walk.parking.confirmed_m(walk.track) == 0
    walk = Walk()
    walk.go(200, 0)
    walk.go(10, 10)
    assert walk.parking.confirmed_m(walk.track) == pytest.approx(100, rel=0.01)
    assert walk.parking.moved_ns == 201 * S


def test_two_noisy_speeds_are_no_movement() -> None:
    walk = Walk()
    walk.go(200, 0)
    for _ in range(50):
        walk.go(2, 0, doppler=2.0)
        walk.go(1, 0, doppler=0.1)
    assert walk.parking.moved_ns is None


def test_a_stop_on_the_way_begins_anew_unless_it_is_kept() -> None:
    walk = Walk()
    walk.go(200, 0)
    walk.go(50, 10)
    assert walk.go(200, 0, keep=True) == 0
    assert walk.parking.distance_m == pytest.approx(500, rel=0.01)
    assert walk.go(1, 0) == 1
    assert walk.parking.distance_m == 0


def test_the_winch_shows_in_the_mean() -> None:
    walk = Walk()
    walk.go(400, 0)
    assert walk.parking.shift_m < 0.5
    walk.go(120, 0.07)
    assert walk.parking.shift_m > 5


def test_end_forgets() -> None:
    walk = Walk()
    walk.go(200, 0)
    walk.go(10, 10)
    walk.parking.end()
    assert not walk.parking.parked and walk.parking.moved_ns is None and walk.parking.distance_m == 0
