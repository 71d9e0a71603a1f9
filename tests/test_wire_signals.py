"""The one table of signals: whole, without doubles, and reversible within half a step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.wire.signals import SIGNALS, Sig, physical, quantise


def test_every_number_has_one_entry_and_every_name_one_number() -> None:
    assert set(SIGNALS) == set(Sig)
    names = [signal.vss for signal in SIGNALS.values()]
    assert len(set(names)) == len(names)
    assert all(name.startswith("Vehicle.") for name in names)
    assert all(int(sig) < 100 for sig in Sig)  # event keys begin there


@pytest.mark.parametrize(
    ("sig", "name"),
    [
        (Sig.TYRE_PRESSURE_FL, "Vehicle.Chassis.Axle.Row1.Wheel.Left.Tire.Pressure"),
        (Sig.TYRE_PRESSURE_RR, "Vehicle.Chassis.Axle.Row2.Wheel.Right.Tire.Pressure"),
        (Sig.TYRE_TEMPERATURE_FR, "Vehicle.Chassis.Axle.Row1.Wheel.Right.Tire.AirTemperature"),
        (Sig.LATITUDE, "Vehicle.CurrentLocation.Latitude"),
    ],
)
def test_names_of_vss(sig: Sig, name: str) -> None:
    assert SIGNALS[sig].vss == name


@given(st.sampled_from(list(Sig)), st.floats(-1e4, 1e4))
def test_half_a_step_is_the_largest_error(sig: Sig, value: float) -> None:
    scale = SIGNALS[sig].scale
    assert abs(physical(sig, quantise(sig, value)) - value) <= scale / 2 * (1 + 1e-6)
