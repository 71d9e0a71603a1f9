"""What the bridge emits: one frozen type a kind of reading, units in the names, WGS-84 positions.

A reading that cannot be true cannot be built: constructors raise DecodeError on values out of range, and
on NaN. `t_ns` is always the monotonic time of the edge's Clock when the bytes arrived.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum, unique
from typing import Final, TypeAlias

from firmware_bridge.errors import DecodeError

LOWEST_M: Final = -1000.0
"""Altitude: 430 m below the sea lies the lowest road; the rest is a receiver's error among houses."""
HIGHEST_M: Final = 20_000.0
"""Altitude: export rules stop receivers at 18 km."""
MAX_HDOP: Final = 1000.0
"""99.99 is what receivers say without a fix, 151 was seen with one."""
MAX_ACCURACY_M: Final = 100_000.0
"""A claimed error beyond it says nothing."""
MAX_SATELLITES: Final = 999
"""Three digits is the widest field for it; some 130 navigation satellites fly."""


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


@dataclass(frozen=True, slots=True, init=False)
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

    def __init__(
        self,
        t_ns: int,
        port: str,
        lat_deg: float,
        lon_deg: float,
        quality: FixQuality,
        speed_mps: float | None = None,
        course_deg: float | None = None,
        altitude_m: float | None = None,
        hdop: float | None = None,
        accuracy_m: float | None = None,
        satellites: int | None = None,
        utc_ns: int | None = None,
    ) -> None:
        # Through the slots themselves: a generated __init__ sets each field by its name, in twice the time.
        t, p, lat, lon, how, fast, to, high, dop, sigma, used, utc = _POSITION
        t(self, t_ns)
        p(self, port)
        lat(self, lat_deg)
        lon(self, lon_deg)
        how(self, quality)
        fast(self, speed_mps)
        to(self, course_deg)
        high(self, altitude_m)
        dop(self, hdop)
        sigma(self, accuracy_m)
        used(self, satellites)
        utc(self, utc_ns)
        if not (
            -90.0 <= lat_deg <= 90.0
            and -180.0 <= lon_deg <= 180.0
            and (speed_mps is None or 0.0 <= speed_mps <= 1000.0)
            and (course_deg is None or 0.0 <= course_deg <= 360.0)
            and (altitude_m is None or LOWEST_M <= altitude_m <= HIGHEST_M)
            and (hdop is None or 0.0 <= hdop <= MAX_HDOP)
            and (accuracy_m is None or 0.0 <= accuracy_m <= MAX_ACCURACY_M)
            and (satellites is None or 0 <= satellites <= MAX_SATELLITES)
        ):
            self._refuse()

    def _refuse(self) -> None:
        """Name the value that cannot be true: asked only of a fix that failed the one test above."""
        _within("latitude", self.lat_deg, -90.0, 90.0)
        _within("longitude", self.lon_deg, -180.0, 180.0)
        for name, value, low, high in (
            ("speed in m/s", self.speed_mps, 0.0, 1000.0),
            ("course", self.course_deg, 0.0, 360.0),
            ("altitude in metres", self.altitude_m, LOWEST_M, HIGHEST_M),
            ("HDOP", self.hdop, 0.0, MAX_HDOP),
            ("accuracy in metres", self.accuracy_m, 0.0, MAX_ACCURACY_M),
            ("satellites", self.satellites, 0, MAX_SATELLITES),
        ):
            if value is not None:
                _within(name, value, low, high)

    @property
    def estimated(self) -> bool:
        """Dead-reckoned by the receiver."""
        return self.quality is FixQuality.ESTIMATED


_POSITION: Final = tuple(Position.__dict__[field.name].__set__ for field in fields(Position))


@dataclass(frozen=True, slots=True)
class PositionVoid:
    """The receiver is alive and says that it has no position."""

    t_ns: int
    port: str
    reason: VoidReason
    utc_ns: int | None = None


@dataclass(frozen=True, slots=True, init=False)
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

    def __init__(
        self,
        t_ns: int,
        port: str,
        satellites_in_view: int,
        satellites_heard: int,
        snr_max_dbhz: float | None,
        jamming: bool | None = None,
    ) -> None:
        t, p, in_view, heard, strongest, jammed = _SKY_VIEW  # as in Position: one an epoch
        t(self, t_ns)
        p(self, port)
        in_view(self, satellites_in_view)
        heard(self, satellites_heard)
        strongest(self, snr_max_dbhz)
        jammed(self, jamming)
        if (
            0 <= satellites_in_view <= MAX_SATELLITES
            and 0 <= satellites_heard <= MAX_SATELLITES
            and (snr_max_dbhz is None or 0.0 <= snr_max_dbhz <= 99.0)
        ):
            return
        _within("satellites in view", self.satellites_in_view, 0, MAX_SATELLITES)
        _within("satellites heard", self.satellites_heard, 0, MAX_SATELLITES)
        if snr_max_dbhz is not None:
            _within("strongest signal in dBHz", snr_max_dbhz, 0.0, 99.0)


_SKY_VIEW: Final = tuple(SkyView.__dict__[field.name].__set__ for field in fields(SkyView))


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
        _within("rate in Hz", self.rate_hz, 0.0, 100_000.0)
        if self.dominant_hz is not None:
            _within("dominant frequency in Hz", self.dominant_hz, 0.0, self.rate_hz)


@dataclass(frozen=True, slots=True)
class Power:
    """Supply, tamper switch and power state of the board."""

    t_ns: int
    port: str
    supply_v: float
    state: PowerState
    case_open: bool
    next_report_s: int
    """The board will speak again within this many seconds: announced sleep is not silence.
    Negative counts as 0; how long a sleep may be announced is the board decoder's to limit."""

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

    def __post_init__(self) -> None:
        _within("boot count", self.boot_count, 0, 2**64 - 1)


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

    def __post_init__(self) -> None:
        _within("frame counter", self.f_cnt, 0, 2**32 - 1)
        _within("port of the frame", self.f_port, 0, 255)
        if self.rssi_dbm is not None:
            _within("RSSI in dBm", self.rssi_dbm, -200, 50)
        if self.snr_db is not None:
            _within("SNR in dB", self.snr_db, -100.0, 100.0)


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
