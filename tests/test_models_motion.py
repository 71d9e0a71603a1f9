from __future__ import annotations

import math

from firmware_bridge.reading import Vibration
from models.limits import Limits
from models.motion import Motion

S = 1_000_000_000


def window(t_s: float, *, rms: float = 0.02, peak: float = 0.1, tilt: float = 0.0) -> Vibration:
    down = (9.8 * math.sin(math.radians(tilt)), 0.0, 9.8 * math.cos(math.radians(tilt)))
    return Vibration(round(t_s * S), "board", 1.0, 1000.0, (0.0, 0.0, rms), peak, down)


def test_tilt_must_hold_and_is_remembered() -> None:
    motion = Motion(Limits())
    motion.parked()
    for t in range(5):
        motion.take(window(t))
    for t in range(5, 12):
        motion.take(window(t, tilt=6))
    motion.take(window(12))
    assert motion.tilted_ns is None
    for t in range(13, 25):
        motion.take(window(t, tilt=6))
    assert motion.tilted_ns == 13 * S
    assert 5.9 < motion.tilt_max_deg < 6.1
    assert not motion.steep_now()
    motion.take(window(26, tilt=9))
    assert motion.steep_now()
    motion.take(window(27))
    assert not motion.steep_now() and motion.tilted_ns == 13 * S
    assert motion.tilted_within(100 * S, 80) and not motion.tilted_within(200 * S, 80)
    motion.parked()
    assert motion.tilted_ns is None


def test_a_slope_is_level_for_the_car_that_parks_on_it() -> None:
    motion = Motion(Limits())
    motion.parked()
    for t in range(100):
        motion.take(window(t, tilt=12))
    assert motion.tilted_ns is None and motion.tilt_deg < 0.01


def test_braking_is_no_tilt_while_driving() -> None:
    motion = Motion(Limits())
    for t in range(100):
        motion.take(window(t, tilt=20, rms=0.5))
    assert motion.tilt_deg == 0


def test_the_level_is_learned_from_a_calm_window_with_gravity() -> None:
    motion = Motion(Limits())
    motion.parked()
    motion.take(Vibration(0, "board", 1.0, 1000.0, (0, 0, 0), 0.0, (0, 0, 0)))
    motion.take(window(1, rms=0.5, tilt=30))
    for t in range(2, 60):
        motion.take(window(t))
    assert motion.tilted_ns is None


def test_shocks_count_within_their_minute() -> None:
    motion = Motion(Limits())
    for t in (0, 50, 100):
        motion.take(window(t, peak=4))
    assert not motion.struck(100 * S)
    for t in (101, 102):
        motion.take(window(t, peak=5))
    assert motion.struck(102 * S) and motion.shock_peak_mps2 == 5
    assert not motion.struck(200 * S)


def test_shaking_spans_traffic_lights_and_ends_with_silence() -> None:
    motion = Motion(Limits())
    for t in range(100):
        motion.take(window(t, rms=0.02 if 40 <= t < 60 else 0.5))
    assert motion.shaken_for_s(99 * S) == 99
    assert motion.busy > 0.8
    assert motion.calm_for_s(109 * S) == 10
    motion.take(window(300, rms=0.5))
    assert motion.shaken_for_s(300 * S) == 0
    assert motion.alive(300 * S) and not motion.alive(500 * S)


def test_work_in_bursts_is_not_busy() -> None:
    motion = Motion(Limits())
    for t in range(300):
        motion.take(window(t, rms=0.5 if t % 10 < 5 else 0.02))
        assert motion.busy < 0.8
