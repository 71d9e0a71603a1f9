"""The one table of signals: COVESA VSS name, unit and scale behind each small integer on the wire.

Names are VSS 6.0 where VSS has them; what it lacks lives under `Vehicle.Private.Collateral`. A value on
the wire is `round(physical / scale)`. Numbers are never reused; a removed signal leaves its number empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final


@unique
class Sig(IntEnum):
    """Signal numbers as they stand in events."""

    LATITUDE = 1
    LONGITUDE = 2
    ALTITUDE = 3
    SPEED = 4
    HEADING = 5
    FIX_TYPE = 6
    HORIZONTAL_ACCURACY = 7
    SATELLITES = 8
    TYRE_PRESSURE_FL = 16
    TYRE_PRESSURE_FR = 17
    TYRE_PRESSURE_RL = 18
    TYRE_PRESSURE_RR = 19
    TYRE_TEMPERATURE_FL = 20
    TYRE_TEMPERATURE_FR = 21
    TYRE_TEMPERATURE_RL = 22
    TYRE_TEMPERATURE_RR = 23
    TYRE_ROLLING = 24
    VIBRATION_RMS_X = 32
    VIBRATION_RMS_Y = 33
    VIBRATION_RMS_Z = 34
    VIBRATION_PEAK = 35
    TILT = 36
    SUPPLY_VOLTAGE = 48
    CASE_OPEN = 49
    POWER_STATE = 50


@dataclass(frozen=True, slots=True)
class Signal:
    """What a signal number means."""

    vss: str
    """COVESA VSS path, or one below Vehicle.Private.Collateral."""
    unit: str
    scale: float
    """Physical value of one step on the wire, in `unit`."""
    note: str = ""


_WHEEL = "Vehicle.Chassis.Axle.Row{}.Wheel.{}.Tire.{}"
_OURS = "Vehicle.Private.Collateral."
_GAUGE = "gauge pressure, as tyre sensors report it"

SIGNALS: Final[dict[Sig, Signal]] = {
    Sig.LATITUDE: Signal("Vehicle.CurrentLocation.Latitude", "degrees", 1e-4, "WGS-84; coarse by policy"),
    Sig.LONGITUDE: Signal("Vehicle.CurrentLocation.Longitude", "degrees", 1e-4, "WGS-84; coarse by policy"),
    Sig.ALTITUDE: Signal("Vehicle.CurrentLocation.Altitude", "m", 1.0),
    Sig.SPEED: Signal("Vehicle.Speed", "km/h", 0.1, "over ground, from the receiver's Doppler"),
    Sig.HEADING: Signal("Vehicle.CurrentLocation.Heading", "degrees", 1.0),
    Sig.FIX_TYPE: Signal("Vehicle.CurrentLocation.GNSSReceiver.FixType", "", 1, "reading.FixQuality"),
    Sig.HORIZONTAL_ACCURACY: Signal("Vehicle.CurrentLocation.HorizontalAccuracy", "m", 0.1),
    Sig.SATELLITES: Signal(_OURS + "Gnss.SatellitesUsed", "", 1),
    **{
        Sig(base + n): Signal(_WHEEL.format(row, side, name), unit, scale, note)
        for base, name, unit, scale, note in (
            (16, "Pressure", "kPa", 1.0, _GAUGE),
            (20, "AirTemperature", "celsius", 1.0, ""),
        )
        for n, (row, side) in enumerate(((1, "Left"), (1, "Right"), (2, "Left"), (2, "Right")))
    },
    Sig.TYRE_ROLLING: Signal(_OURS + "Tyre.Rolling", "", 1, "bit n: sensor n (FL, FR, RL, RR) says it rolls"),
    Sig.VIBRATION_RMS_X: Signal(_OURS + "Vibration.RmsX", "m/s^2", 0.001, "gravity removed"),
    Sig.VIBRATION_RMS_Y: Signal(_OURS + "Vibration.RmsY", "m/s^2", 0.001, "gravity removed"),
    Sig.VIBRATION_RMS_Z: Signal(_OURS + "Vibration.RmsZ", "m/s^2", 0.001, "gravity removed"),
    Sig.VIBRATION_PEAK: Signal(
        _OURS + "Vibration.Peak", "m/s^2", 0.001, "largest magnitude, gravity removed"
    ),
    Sig.TILT: Signal(_OURS + "Tilt", "degrees", 0.1, "angle between gravity now and gravity at rest"),
    Sig.SUPPLY_VOLTAGE: Signal("Vehicle.LowVoltageBattery.CurrentVoltage", "V", 0.01),
    Sig.CASE_OPEN: Signal(_OURS + "Device.CaseOpen", "", 1, "1 while the tamper switch is open"),
    Sig.POWER_STATE: Signal("Vehicle.LowVoltageSystemState", "", 1, "reading.PowerState"),
}


def quantise(signal: Sig, physical: float) -> int:
    """`physical` in the signal's unit as the integer that goes on the wire."""
    return round(physical / SIGNALS[signal].scale)


def physical(signal: Sig, wire: int) -> float:
    """The value of a wire integer in the signal's unit."""
    return wire * SIGNALS[signal].scale
