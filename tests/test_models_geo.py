from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.geo import EARTH_M, Place, angle_deg, distance_m

places = st.builds(Place, st.floats(-90, 90), st.floats(-180, 180))


def test_a_minute_of_latitude_is_a_nautical_mile() -> None:
    assert distance_m(Place(47.0, 8.0), Place(47.0 + 1 / 60, 8.0)) == pytest.approx(1852, rel=0.002)


def test_the_date_line_is_no_edge() -> None:
    assert distance_m(Place(0.0, 179.9995), Place(0.0, -179.9995)) == pytest.approx(111.2, abs=0.1)


def test_at_the_pole_longitude_means_nothing() -> None:
    assert distance_m(Place(90.0, 0.0), Place(90.0, 120.0)) == pytest.approx(0.0, abs=1e-6)


@given(places, places)
def test_distance_is_symmetric_and_within_half_the_globe(a: Place, b: Place) -> None:
    assert distance_m(a, b) == pytest.approx(distance_m(b, a), abs=1e-6)
    assert 0 <= distance_m(a, b) <= 3.15 * EARTH_M


def test_angles() -> None:
    assert angle_deg((0, 0, 9.8), (0, 9.8, 0)) == pytest.approx(90)
    assert angle_deg((0, 0, 9.8), (0, 0, 3.0)) == pytest.approx(0, abs=1e-5)
    assert angle_deg((0, 0, 1), (0, 0, -1)) == pytest.approx(180)


def test_no_gravity_has_no_direction() -> None:
    assert angle_deg((0, 0, 0), (0, 0, 9.8)) is None
    assert angle_deg((1e300, 1e300, 1e300), (1e300, 0, 0)) is None
