"""What the bridge emits: one frozen type a kind of reading, units in the names, WGS-84 positions.

A reading that cannot be true cannot be built: constructors raise DecodeError on values out of range, and
on NaN. `t_ns` is always the monotonic time of the edge's Clock when the bytes arrived.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum, unique
from typing import TypeAlias

from firmware_bridge.errors import DecodeError


@unique
class FixQuality(IntEnum):
    """How a receiver came by a position; the FAA mode indicator of NMEA 0183, in words."""

    AUTONOMOUS = 1
    DIFFERENTIAL = 2
    PRECISE = 3
    RTK_FIXED = 4
    RTK_FLOAT = 5
    ESTIMATED = 6
    """Dead reckoning: kept and marked, never enough alone to open an incident."""


@unique
class PowerState(IntEnum):
    """What the board says of the vehicle's power: it decides how often anything is heard."""

    DRIVING = 0
    PARKED_WATCH = 1
    LOW_BATTERY = 2


@unique
class Wheel(IntEnum):
    """Wheel of a tyre sensor; the order of the bits of `Tyre.Rolling`."""

    FRONT_LEFT = 0
    FRONT_RIGHT = 1
    REAR_LEFT = 2
    REAR_RIGHT = 3


@unique
class VoidReason(StrEnum):
    """Why a receiver's sentence is no position although it is intact."""

    STATUS = "status"
    """The status field says void."""
    MODE = "mode"
    """Status valid, but the mode indicator says not valid, manual or simulator."""


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN fails every comparison
        raise DecodeError(f"{name} {value!r} outside {low} .. {high}")


@dataclass(frozen=True, slots=True)
class Position:
    """One fix of a receiver."""

    t_ns: int
    port: str
    lat_deg: float
    lon_deg: float
    quality: FixQuality
    speed_mps: float | None = None
    """Over ground, from Doppler; None where the receiver does not say."""
    course_deg: float | None = None
    altitude_m: float | None = None
    hdop: float | None = None
    accuracy_m: float | None = None
    """One-sigma horizontal error the receiver claims (GST); a claim, not a fact."""
    satellites: int | None = None
    utc_ns: int | None = None
    """Receiver's date and time, None where its date is missing or distrusted."""

    def __post_init__(self) -> None:
        speed, course = self.speed_mps, self.course_deg
        if (
            -90.0 <= self.lat_deg <= 90.0
            and -180.0 <= self.lon_deg <= 180.0
            and (speed is None or 0.0 <= speed <= 1000.0)
            and (course is None or 0.0 <= course <= 360.0)
        ):
            return  # one test for every fix; which of them failed is asked only of those that did
        _within("latitude", self.lat_deg, -90.0, 90.0)
        _within("longitude", self.lon_deg, -180.0, 180.0)
        if speed is not None:
            _within("speed in m/s", speed, 0.0, 1000.0)
        if course is not None:
            _within("course", course, 0.0, 360.0)

    @property
    def estimated(self) -> bool:
        """Dead-reckoned by the receiver."""
        return self.quality is FixQuality.ESTIMATED


@dataclass(frozen=True, slots=True)
class PositionVoid:
    """The receiver is alive and says that it has no position."""

    t_ns: int
    port: str
    reason: VoidReason
    utc_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SkyView:
    """What the receiver hears: tells a jammer from a tunnel and from a dead antenna."""

    t_ns: int
    port: str
    satellites_in_view: int
    satellites_heard: int
    """Those with a signal-to-noise figure."""
    snr_max_dbhz: float | None
    jamming: bool | None = None
    """The receiver's own indicator, None where it has none."""


@dataclass(frozen=True, slots=True)
class Tyre:
    """One transmission of one tyre sensor."""

    t_ns: int
    port: str
    sensor_id: str
    """Lower-case hexadecimal, as enrolled."""
    pressure_kpa: float
    """Gauge pressure."""
    temperature_degc: float
    rolling: bool | None
    """The sensor's motion switch; None where the protocol has none."""
    battery_ok: bool | None = None

    def __post_init__(self) -> None:
        _within("pressure in kPa", self.pressure_kpa, 0.0, 1500.0)
        _within("temperature in degrees C", self.temperature_degc, -60.0, 215.0)


@dataclass(frozen=True, slots=True)
class Vibration:
    """Features of one window of a three-axis accelerometer, gravity removed."""

    t_ns: int
    port: str
    window_s: float
    rate_hz: float
    rms_mps2: tuple[float, float, float]
    peak_mps2: float
    gravity_mps2: tuple[float, float, float]
    """Mean acceleration over the window: which way is down, and so the tilt."""
    dominant_hz: float | None = None
    """Strongest frequency above 2 Hz, None where the window is still."""

    def __post_init__(self) -> None:
        for value in (*self.rms_mps2, self.peak_mps2, *self.gravity_mps2):
            if not math.isfinite(value):
                raise DecodeError("vibration feature is not a finite number")
        _within("window in seconds", self.window_s, 0.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Power:
    """Supply, tamper switch and power state of the board."""

    t_ns: int
    port: str
    supply_v: float
    state: PowerState
    case_open: bool
    next_report_s: int
    """The board will speak again within this many seconds: announced sleep is not silence."""

    def __post_init__(self) -> None:
        _within("supply in volts", self.supply_v, 0.0, 60.0)


@dataclass(frozen=True, slots=True)
class BoardHello:
    """A board introduced itself: the port now has an identity."""

    t_ns: int
    port: str
    board_id: str
    firmware: str
    boot_count: int


@dataclass(frozen=True, slots=True)
class Relay:
    """A LoRaWAN uplink of some device, heard by a gateway near us and carried on unread."""

    t_ns: int
    port: str
    dev_eui: str
    f_cnt: int
    f_port: int
    payload: bytes
    rssi_dbm: int | None
    snr_db: float | None


@unique
class PortCondition(StrEnum):
    """What is the matter with a port, in the order in which a technician would look."""

    OK = "ok"
    ABSENT = "absent"
    """The device file cannot be opened, or went away."""
    NO_BYTES = "no_bytes"
    NO_SENTENCE = "no_sentence"
    """Bytes arrive, but nothing valid in them: most likely the speed."""


@dataclass(frozen=True, slots=True)
class PortState:
    """The condition of a port changed."""

    t_ns: int
    port: str
    condition: PortCondition
    detail: str


Reading: TypeAlias = (
    Position | PositionVoid | SkyView | Tyre | Vibration | Power | BoardHello | Relay | PortState
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Bytes that were intact or not, and are not a reading: counted by reason, never silently dropped."""

    t_ns: int
    port: str
    reason: str
    """Short snake_case word, the key it is counted under."""
    sample: bytes
    """The first bytes of what was refused, at most 32, for the quarantine."""
