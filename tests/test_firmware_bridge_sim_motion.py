"""The invented vehicle: phases, physics of its tyres, what shakes it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from firmware_bridge.sim import vibration
from firmware_bridge.sim.motion import Kind, Phase, State, Vehicle, distance_m, moved
from firmware_bridge.sim.tyres import IDS, TyreSet

PHASES = (
    Phase(Kind.DRIVE, 720, "drive"),
    Phase(Kind.PARKED, 60, "park"),
    Phase(Kind.WINCHED, 300, "winch"),
    Phase(Kind.CARRIED, 900, "carry"),
)


@pytest.fixture(scope="module")
def states() -> list[State]:
    return list(Vehicle(PHASES).states())


def of(states: list[State], kind: Kind) -> list[State]:
    return [state for state in states if state.kind is kind]


def test_there_is_one_state_a_second(states: list[State]) -> None:
    assert [state.t_s for state in states] == list(range(sum(phase.duration_s for phase in PHASES)))


def test_the_place_moves_exactly_as_fast_as_the_speed_says(states: list[State]) -> None:
    for before, now in pairwise(states):
        way = distance_m(before.lat_deg, before.lon_deg, now.lat_deg, now.lon_deg)
        assert way == pytest.approx((before.speed_mps + now.speed_mps) / 2, abs=0.02)


def test_a_drive_has_stops_and_turns_and_ends_at_rest(states: list[State]) -> None:
    drive = of(states, Kind.DRIVE)
    assert max(state.speed_mps for state in drive) > 18
    assert sum(state.speed_mps == 0 for state in drive) > 30
    assert max(abs(state.yaw_rps) for state in drive) > 0.05
    assert drive[-1].speed_mps == 0
    assert all(abs(state.accel_mps2) <= 2.0 for state in drive)


def test_wheels_turn_only_when_the_vehicle_drives_itself(states: list[State]) -> None:
    assert all(state.wheels_mps == state.speed_mps for state in of(states, Kind.DRIVE))
    carried = of(states, Kind.CARRIED)
    assert max(state.speed_mps for state in carried) > 15
    assert not any(state.wheels_mps or state.engine for state in carried)


def test_the_winch_tilts_moves_some_metres_and_levels_again(states: list[State]) -> None:
    winch = of(states, Kind.WINCHED)
    assert max(state.pitch_deg for state in winch) > 10
    assert winch[-1].pitch_deg < 1.5
    way = distance_m(winch[0].lat_deg, winch[0].lon_deg, winch[-1].lat_deg, winch[-1].lon_deg)
    assert 5 < way < 12


def test_moved_and_distance_are_inverse() -> None:
    lat, lon = moved(46.4, 6.5, 300.0, -400.0)
    assert distance_m(46.4, 6.5, lat, lon) == pytest.approx(500.0, rel=1e-3)


def run_tyres(tyres: TyreSet, start_s: int, seconds: int, mps: float) -> list[tuple[float, bytes, bool]]:
    heard = []
    for t_s in range(start_s, start_s + seconds):
        heard += [(t_s + tx.at_s, tx.sensor_id, tx.rolling) for tx in tyres.step(t_s, mps, 6.0)]
    return heard


def test_rolling_tyres_warm_by_20_degrees_and_25_kpa_in_15_minutes_and_cool_overnight() -> None:
    tyres = TyreSet(1, 6.0)
    cold = {wheel: (tyres.kpa(wheel), tyres.degc(wheel)) for wheel in IDS}
    run_tyres(tyres, 0, 900, 14.0)
    for wheel, (kpa, degc) in cold.items():
        assert 17 < tyres.degc(wheel) - degc < 22
        assert 18 < tyres.kpa(wheel) - kpa < 28
    run_tyres(tyres, 900, 8 * 3600, 0.0)
    for wheel, (kpa, degc) in cold.items():
        assert tyres.degc(wheel) == pytest.approx(degc, abs=0.5)
        assert tyres.kpa(wheel) == pytest.approx(kpa, abs=1.0)


def test_sensors_speak_each_minute_rolling_and_each_quarter_hour_at_rest() -> None:
    tyres = TyreSet(2, 6.0)
    rolling = [at for at, sensor, _ in run_tyres(tyres, 0, 1800, 14.0) if sensor == IDS["FL"]]
    assert 26 <= len(rolling) <= 32
    rest = run_tyres(tyres, 1800, 3 * 3600, 0.0)
    one = [(at, flag) for at, sensor, flag in rest if sensor == IDS["FL"]]
    assert 11 <= len(one) <= 15
    assert not any(flag for at, flag in one if at > 1800 + 60)


def test_the_motion_switch_speaks_at_once_in_both_directions() -> None:
    tyres = TyreSet(3, 6.0)
    run_tyres(tyres, 0, 300, 0.0)
    first = run_tyres(tyres, 300, 9, 14.0)
    assert len({sensor for _, sensor, flag in first if flag}) >= 3  # a transmission may be lost
    stopped = run_tyres(tyres, 309, 45, 0.0)
    assert any(not flag for at, _, flag in stopped if at > 340)


def test_a_traffic_light_does_not_open_the_motion_switch() -> None:
    tyres = TyreSet(4, 6.0)
    run_tyres(tyres, 0, 120, 14.0)
    assert all(flag for _, _, flag in run_tyres(tyres, 120, 30, 0.0))


def spectrum(states: list[State], kind: Kind, speed: tuple[float, float]) -> tuple[float, float]:
    """Dominant frequency above 2 Hz and rms over z, averaged over some seconds of a kind and speed."""
    sensor = vibration.Accelerometer(5)
    some = [s for s in of(states, kind) if speed[0] <= s.speed_mps <= speed[1] and abs(s.accel_mps2) < 0.1][
        :20
    ]
    assert some
    power = np.zeros(501)
    rms = 0.0
    for state in some:
        z = sensor.second(state)[:, 2]
        z = z - z.mean()
        power += np.abs(np.fft.rfft(z)) ** 2
        rms += float(z.std()) / len(some)
    return float(np.argmax(power[3:]) + 3), rms


def test_an_idling_engine_sounds_at_25_hz(states: list[State]) -> None:
    hz, rms = spectrum(states, Kind.DRIVE, (0.0, 0.0))
    assert hz == pytest.approx(25, abs=1)
    assert 0.1 < rms < 0.3


def test_the_road_grows_with_speed(states: list[State]) -> None:
    slow = spectrum(states, Kind.DRIVE, (12.0, 14.5))[1]
    fast = spectrum(states, Kind.DRIVE, (20.0, 22.0))[1]
    assert 0.4 < slow < fast


def test_a_flatbed_sways_between_2_and_6_hz(states: list[State]) -> None:
    hz, rms = spectrum(states, Kind.CARRIED, (16.0, 22.0))
    assert 2 < hz <= 7
    assert rms > 0.3


def test_a_parked_vehicle_is_still_and_a_winch_jerks(states: list[State]) -> None:
    assert spectrum(states, Kind.PARKED, (0.0, 0.0))[1] < 0.03
    sensor = vibration.Accelerometer(6)
    peaks = []
    for state in of(states, Kind.WINCHED)[:60]:
        moving = sensor.second(state)
        moving = moving - moving.mean(axis=0)
        peaks.append(float(np.sqrt((moving**2).sum(axis=1)).max()))
    assert sum(peak > 2.5 for peak in peaks) >= 10


def test_the_wire_form_clips_at_3_g_instead_of_wrapping() -> None:
    samples = np.array([[100.0, -100.0, 9.80665]])
    x, y, z = np.frombuffer(vibration.to_wire(samples), "<i2")
    assert (x, y) == (32767, -32768)
    assert int(z) * vibration.SCALE_UM_S2 * 1e-6 == pytest.approx(9.80665, abs=0.001)
