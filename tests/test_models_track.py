from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.reading import FixQuality, Position
from models.geo import Place, distance_m
from models.limits import Limits
from models.track import Track, Trust

S = 1_000_000_000
LAT, LON, M = 48.0, 11.0, 1 / 111_195


def fix(
    t_s: float, north_m: float, speed: float | None = 0.0, quality: FixQuality = FixQuality.AUTONOMOUS
) -> Position:
    return Position(round(t_s * S), "gnss", LAT + north_m * M, LON, quality, speed)


def test_a_drive_is_trusted_and_its_road_adds_up() -> None:
    track = Track(Limits())
    for t in range(100):
        assert track.fix(fix(t, 20.0 * t, 20.0)) is Trust.TRUSTED
    assert track.odometer_m == pytest.approx(1980)
    assert track.suspects == 0


@pytest.mark.parametrize("length", [1, 2, 5, 60, 250])
def test_an_excursion_that_doppler_denies_is_suspect_and_moves_nothing(length: int) -> None:
    track = Track(Limits())
    for t in range(10):
        track.fix(fix(t, 0, 0.01))
    for t in range(10, 10 + length):
        assert track.fix(fix(t, 200, 0.01)) is Trust.SUSPECT
    assert track.fix(fix(10 + length, 0.5, 0.01)) is Trust.TRUSTED
    assert track.suspects == length
    assert track.odometer_m == 0
    assert track.place == Place(LAT + 0.5 * M, LON)


def test_a_place_that_stays_is_accepted_at_last_but_is_no_road() -> None:
    track = Track(Limits())
    track.fix(fix(0, 0))
    trusts = [track.fix(fix(t, 200)) for t in range(1, 400)]
    assert Trust.TRUSTED in trusts
    assert trusts.index(Trust.TRUSTED) == 300
    assert track.odometer_m == 0


def test_after_a_gap_a_new_place_counts_once_it_persists() -> None:
    track = Track(Limits())
    track.fix(fix(0, 0))
    trusts = [track.fix(fix(600 + t, 5000)) for t in range(60)]
    assert trusts[0] is Trust.UNPROVEN
    assert trusts.index(Trust.TRUSTED) == 30
    assert track.odometer_m == pytest.approx(5000, rel=0.01)
    assert track.suspects == 0


def test_a_single_far_fix_in_a_burst_after_a_gap_is_not_a_place() -> None:
    track = Track(Limits())
    track.fix(fix(0, 0))
    for minute in range(1, 30):
        assert track.fix(fix(60 * minute, 400 if minute % 3 == 0 else 0)) in (Trust.UNPROVEN, Trust.TRUSTED)
    assert track.place == Place(LAT, LON)
    assert track.odometer_m == 0


def test_a_wrong_first_fix_is_left_as_soon_as_the_others_drive() -> None:
    track = Track(Limits())
    track.fix(fix(0, 9000, 0.0))
    trusts = [track.fix(fix(t, 15.0 * t, 15.0)) for t in range(1, 20)]
    assert Trust.TRUSTED in trusts[:7]


def test_estimated_fixes_never_move_the_place() -> None:
    track = Track(Limits())
    track.fix(fix(0, 0))
    for t in range(1, 500):
        assert track.fix(fix(t, 30.0 * t, 30.0, FixQuality.ESTIMATED)) is Trust.ESTIMATED
    assert track.place == Place(LAT, LON)
    assert track.estimated == 499


def test_sentences_read_at_one_moment_keep_their_own_time() -> None:
    track = Track(Limits())
    for t in range(100):
        late = Position(
            t // 5 * 5 * S, "g", LAT + 40.0 * t * M, LON, FixQuality.AUTONOMOUS, 40.0, utc_ns=t * S
        )
        assert track.fix(late) is Trust.TRUSTED
    assert track.odometer_m == pytest.approx(3960)


@pytest.mark.parametrize("jump_s", [-(10**9), 0, 10**9])
def test_a_receiver_whose_date_jumps_is_timed_by_arrival(jump_s: int) -> None:
    track = Track(Limits())
    for t in range(20):
        utc = (10**9 + t + (jump_s if t >= 10 else 0)) * S if t != 15 else 0
        at = Position(t * S, "g", LAT + 20.0 * t * M, LON, FixQuality.AUTONOMOUS, 20.0, utc_ns=utc)
        assert track.fix(at) is Trust.TRUSTED
    assert track.odometer_m == pytest.approx(380)


def test_a_receiver_without_speed_is_still_followed() -> None:
    track = Track(Limits())
    for t in range(50):
        assert track.fix(fix(t, 20.0 * t, None)) is Trust.TRUSTED
    assert track.odometer_m == pytest.approx(980, rel=0.01)


@given(
    st.lists(
        st.tuples(st.floats(0.1, 300), st.floats(-5000, 5000), st.one_of(st.none(), st.floats(0, 80))),
        max_size=60,
    )
)
def test_the_road_never_shrinks_and_the_place_is_one_of_the_fixes(
    steps: list[tuple[float, float, float | None]],
) -> None:
    track, t, road = Track(Limits()), 0.0, 0.0
    seen: list[Place] = []
    for dt, north, speed in steps:
        t += dt
        seen.append(Place(fix(t, north).lat_deg, LON))
        track.fix(fix(t, north, speed))
        assert track.odometer_m >= road
        road = track.odometer_m
        assert track.place is not None
        assert min(distance_m(track.place, place) for place in seen) == 0
