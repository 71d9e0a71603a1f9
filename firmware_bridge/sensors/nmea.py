"""NMEA 0183 receivers: sentences of one epoch -> one position, or the news that there is none.

Read are RMC, GGA, GLL, GSA, GST, GSV, VTG and ZDA of every talker (v4.11 section 8.3); other intact
sentences are counted as `unhandled`.

- RMC decides. Its status field says whether there is a fix, never the navigational status behind the mode.
  The position comes out when the RMC is read; GGA, GST, GSA and VTG add to it what they said by then.
- A receiver without RMC is read by its GGA or GLL. The first such sentence is held until the next epoch
  shows which kind of receiver this is.
- GGA and GLL carry no date. It comes from the receiver's last trusted date, else from a synchronised host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Final, TypeAlias

from firmware_bridge.errors import DecodeError
from firmware_bridge.reading import (
    HIGHEST_M,
    LOWEST_M,
    MAX_ACCURACY_M,
    MAX_HDOP,
    FixQuality,
    Position,
    PositionVoid,
    Reading,
    Refusal,
    VoidReason,
)
from firmware_bridge.sensors import nmea_fields as fields
from firmware_bridge.sensors.nmea_fields import DAY_MS, HALF_DAY_MS, FieldError
from firmware_bridge.sensors.nmea_lines import SentenceSplitter
from firmware_bridge.sensors.nmea_sky import Sky
from firmware_bridge.timekeeper import Now, plausible
from firmware_bridge.wire.stamp import NS

FRESH_MS: Final = 1500
"""Satellites, altitude and accuracy told up to one epoch before still hold; older ones are not used."""
RMC_GONE_MS: Final = 10_000
"""GGA without RMC for so long: the receiver was set up anew, its kind is open again."""
RMC_GONE_NS: Final = RMC_GONE_MS * 1_000_000
DATE_HOLDS_NS: Final = 12 * 3600 * NS
"""How long the last trusted date dates sentences that carry none."""
SAMPLE_BYTES: Final = 32
"""How much of a refused sentence is kept for the quarantine."""
MAX_ADDRESSES: Final = 256
"""Different sentence addresses remembered; a receiver sends some twenty."""

OnTime: TypeAlias = Callable[[str, int, int | None, bool], None]
"""Told once an epoch: port, milliseconds since midnight UTC by the receiver, its date and time in
nanoseconds since 1970 or None where not trusted, and whether the epoch gave a valid position."""
Fields: TypeAlias = list[bytes]
Give: TypeAlias = Callable[[Now], None]


class _Kind(IntEnum):
    """Which sentence gives the positions of this receiver."""

    OPEN = 0
    RMC = 1
    ALONE = 2


class NmeaDecoder:
    """Bytes of one receiver -> positions, void epochs and sky views. Never raises on input."""

    def __init__(self, port: str, *, on_time: OnTime | None = None) -> None:
        self._port = port
        self._on_time = on_time
        self._splitter = SentenceSplitter(self._refuse)
        self._out: list[Reading | Refusal] = []
        self._now = Now(0, 0, False, 0)
        self._sky = Sky(self._flush_sky)
        self._handlers: Final = {
            b"RMC,": self._rmc,
            b"GGA,": self._gga,
            b"GSV,": self._sky.add,
            b"GSA,": self._gsa,
            b"VTG,": self._vtg,
            b"GLL,": self._gll,
            b"GST,": self._gst,
            b"ZDA,": self._zda,
        }
        self._by_address: dict[bytes, Callable[[bytes], None]] = {}
        self.intact = 0
        """Sentences with a right check sum so far: says whether this port has the right speed."""
        self._forget()

    def _forget(self) -> None:
        self._kind = _Kind.OPEN
        self._pending: tuple[int, Now, Give] | None = None
        self._tod: int | None = None
        self._rmc_tod: int | None = None
        self._rmc_ns = 0
        self._rmc_talker = b""
        self._given: int | None = None
        self._timeless = 0
        self._last_gga: tuple[int | None, Fields] | None = None
        self._last_gst: tuple[int | None, Fields] | None = None
        self._last_gsa: tuple[int | None, bytes] | None = None
        self._last_vtg: tuple[int | None, bytes] | None = None
        self._date: tuple[int, int] | None = None
        self._sky.clear()

    def reset(self) -> None:
        """The port was reopened: another receiver may be there now."""
        self._splitter.reset()
        self._forget()

    @property
    def held(self) -> int:
        """Bytes held of a sentence that has begun."""
        return self._splitter.held

    def feed(self, data: bytes, now: Now) -> list[Reading | Refusal]:
        """What `data` completes, every reading stamped with `now`."""
        self._now = now
        out: list[Reading | Refusal] = []
        self._out = out
        handlers = self._by_address.get
        learn = self._learn
        intact = self.intact
        for body in self._splitter.feed(data):
            intact += 1
            handler = handlers(body[:7], learn)
            try:
                handler(body)
            except FieldError as error:
                self._refuse(error.reason, body)
        self.intact = intact
        return out

    def _learn(self, body: bytes) -> None:
        """The first sentence of an address: find its handler, and remember it for the next."""
        handler = self._handlers.get(body[3:7], self._unhandled)
        # Proprietary sentences begin with P: $PGRMC is Garmin's configuration, no fix.
        if body[:1] != b"$" or body[1:2] == b"P":
            handler = self._unhandled
        if len(self._by_address) < MAX_ADDRESSES:
            self._by_address[body[:7]] = handler
        handler(body)

    def _unhandled(self, body: bytes) -> None:
        self._refuse("unhandled", body)

    # ---- sentences -------------------------------------------------------------------------------

    def _refuse(self, reason: str, sample: bytes) -> None:
        self._out.append(Refusal(self._now.mono_ns, self._port, reason, sample[:SAMPLE_BYTES]))

    def _rmc(self, body: bytes) -> None:
        # $--RMC,hhmmss.ss,A,ddmm.mm,N,dddmm.mm,E,knots,course,ddmmyy,variation,E[,mode[,nav status]]
        f = body.split(b",")
        if len(f) < 10:
            raise FieldError("malformed")
        tod = fields.time_of_day_ms(f[1])
        self._begin(tod)
        given = self._given
        doubled = (
            tod is not None
            and tod == given
            and (self._kind is not _Kind.RMC or body[1:3] != self._rmc_talker)
        )
        self._kind = _Kind.RMC
        self._pending = None
        self._rmc_tod, self._rmc_ns, self._rmc_talker = tod, self._now.mono_ns, body[1:3]
        valid = f[2] == b"A"
        utc_ns = self._dated(tod, f[9], body if valid else None)
        if doubled:
            return
        self._given = tod
        if not valid and f[2] != b"V":
            self._tell(tod, utc_ns, False)
            raise FieldError("bad_status")
        mode = f[12] if len(f) > 12 else b""
        told = self._last_gga
        gga = told[1][6] if told is not None and tod is not None and told[0] == tod else b""
        if not valid:
            self._void(VoidReason.STATUS, tod, utc_ns, self._now)
        elif mode in fields.VOID_MODES or gga in fields.MADE_UP_QUALITIES:
            self._void(VoidReason.MODE, tod, utc_ns, self._now)
        else:
            self._fix(f[3:7], _quality(mode, gga), f[7], f[8], tod, utc_ns, self._now)

    def _gga(self, body: bytes) -> None:
        # $--GGA,hhmmss.ss,ddmm.mm,N,dddmm.mm,E,quality,satellites,hdop,altitude,M,...
        f = body.split(b",")
        if len(f) < 10:
            raise FieldError("malformed")
        tod = fields.time_of_day_ms(f[1])
        self._begin(tod)
        self._last_gga = (tod, f)
        if self._kind is not _Kind.RMC or self._rmc_gone(tod):
            self._offer(tod, partial(self._give_gga, tod, f))

    def _give_gga(self, tod: int | None, f: Fields, now: Now) -> None:
        utc_ns = self._solved(tod, now)
        quality = f[6] or fields.NO_FIX
        if quality == fields.NO_FIX:
            self._void(VoidReason.STATUS, tod, utc_ns, now)
        elif quality in fields.MADE_UP_QUALITIES:
            self._void(VoidReason.MODE, tod, utc_ns, now)
        elif quality not in fields.QUALITIES:
            raise FieldError("bad_quality")
        else:
            self._fix(f[2:6], fields.QUALITIES[quality], b"", b"", tod, utc_ns, now)

    def _gll(self, body: bytes) -> None:
        # $--GLL,ddmm.mm,N,dddmm.mm,E,hhmmss.ss,A[,mode]
        f = body.split(b",")
        if len(f) < 7:
            raise FieldError("malformed")
        tod = fields.time_of_day_ms(f[5])
        if tod is None:
            return
        self._begin(tod)
        if self._kind is not _Kind.RMC or self._rmc_gone(tod):
            self._offer(tod, partial(self._give_gll, tod, f))

    def _give_gll(self, tod: int | None, f: Fields, now: Now) -> None:
        utc_ns = self._solved(tod, now)
        mode = f[7] if len(f) > 7 else b""
        if f[6] != b"A":
            self._void(VoidReason.STATUS, tod, utc_ns, now)
        elif mode in fields.VOID_MODES:
            self._void(VoidReason.MODE, tod, utc_ns, now)
        else:
            self._fix(f[1:5], _quality(mode, b""), b"", b"", tod, utc_ns, now)

    def _flush_sky(self) -> None:
        try:
            view = self._sky.flush(self._now.mono_ns, self._port)
        except DecodeError:  # more satellites than fly
            self._refuse("bad_sky", b"GSV")
            return
        if view is not None:
            self._out.append(view)

    def _gsa(self, body: bytes) -> None:
        self._last_gsa = (self._tod, body)

    def _vtg(self, body: bytes) -> None:
        self._last_vtg = (self._tod, body)

    def _gst(self, body: bytes) -> None:
        # $--GST,hhmmss.ss,rms,major,minor,orientation,latitude,longitude,altitude; sigmas in metres
        f = body.split(b",")
        if len(f) < 8:
            raise FieldError("malformed")
        self._last_gst = (fields.time_of_day_ms(f[1]), f)

    def _zda(self, body: bytes) -> None:
        # $--ZDA,hhmmss.ss,dd,mm,yyyy,zone,zone
        f = body.split(b",")
        if len(f) < 5:
            raise FieldError("malformed")
        tod = fields.time_of_day_ms(f[1])
        if tod is None or not (f[2] or f[3] or f[4]):
            return
        if not (f[2].isdigit() and f[3].isdigit() and f[4].isdigit()):
            raise FieldError("bad_date")
        utc_ns = fields.civil_ns(int(f[4][:5]), int(f[3][:3]), int(f[2][:3])) + tod * 1_000_000
        if plausible(utc_ns, self._now):
            self._date = (utc_ns, self._now.mono_ns)

    # ---- epochs ----------------------------------------------------------------------------------

    def _begin(self, tod: int | None) -> None:
        """A sentence with a time came: where the time is new, so is the epoch."""
        if tod is not None and tod == self._tod:
            return
        self._tod = tod
        self._flush_sky()

    def _rmc_gone(self, tod: int | None) -> bool:
        """Whether a receiver that sent RMC sends none any more: GGA or GLL may count again."""
        gone = self._now.mono_ns - self._rmc_ns > RMC_GONE_NS
        if not gone and tod is not None and self._rmc_tod is not None:
            gone = RMC_GONE_MS < (tod - self._rmc_tod) % DAY_MS < HALF_DAY_MS
        if gone:
            self._kind = _Kind.OPEN
        return gone

    def _offer(self, tod: int | None, give: Give) -> None:
        """Give the fix of a receiver without RMC, once an epoch; hold the very first."""
        now = self._now
        if tod is None:  # a receiver before its first fix: every such sentence is an epoch
            self._timeless -= 1
            tod = self._timeless
        if tod == self._given:
            return
        if self._kind is _Kind.OPEN:
            pending = self._pending
            if pending is None:
                self._pending = (tod, now, give)
                return
            if pending[0] == tod:
                return
            self._kind = _Kind.ALONE
            self._pending = None
            self._give(pending[1], pending[2])
        self._given = tod
        self._give(now, give)

    def _give(self, now: Now, give: Give) -> None:
        try:
            give(now)
        except FieldError as error:
            self._refuse(error.reason, b"GGA or GLL without RMC")

    def _tell(self, tod: int | None, utc_ns: int | None, valid: bool) -> None:
        if self._on_time is not None and tod is not None:
            self._on_time(self._port, tod, utc_ns, valid)

    def _void(self, reason: VoidReason, tod: int | None, utc_ns: int | None, now: Now) -> None:
        self._out.append(PositionVoid(now.mono_ns, self._port, reason, utc_ns))
        self._tell(tod, utc_ns, False)

    def _fix(
        self,
        place: Fields,
        quality: FixQuality,
        knots: bytes,
        course: bytes,
        tod: int | None,
        utc_ns: int | None,
        now: Now,
    ) -> None:
        try:
            lat, lon = fields.coordinates(*place)
        except FieldError:
            self._tell(tod, utc_ns, False)
            raise
        altitude: float | None = None
        hdop: float | None = None
        accuracy: float | None = None
        satellites: int | None = None
        if tod is not None:
            if not knots and self._last_vtg is not None and _fresh(self._last_vtg[0], tod):
                knots, course = _vtg_fields(self._last_vtg[1])
            altitude, hdop, satellites = self._figures(tod)
            if self._last_gst is not None:
                accuracy = self._accuracy_m(tod)
        try:
            speed = fields.speed_mps(knots) if knots else None
        except FieldError as error:  # the field alone is refused, the position stays
            speed = None
            self._refuse(error.reason, knots)
        try:
            heading = fields.course_deg(course) if course else None
        except FieldError as error:
            heading = None
            self._refuse(error.reason, course)
        self._out.append(
            Position(
                now.mono_ns,
                self._port,
                lat,
                lon,
                quality,
                speed,
                heading,
                altitude,
                hdop,
                accuracy,
                satellites,
                utc_ns,
            )
        )
        self._tell(tod, utc_ns, True)

    # ---- what other sentences of the epoch said --------------------------------------------------

    def _figures(self, tod: int) -> tuple[float | None, float | None, int | None]:
        """Altitude, HDOP and satellites used, from GGA, or HDOP alone from GSA."""
        gga = self._last_gga
        if gga is not None and _fresh(gga[0], tod):
            used, hdop, altitude = gga[1][7:10]
            satellites = int(used) if used.isdigit() and len(used) <= 3 else None
            height = fields.number(altitude)
            if height is not None and not LOWEST_M <= height <= HIGHEST_M:
                height = None  # the field alone is refused, the position stays
                self._refuse("bad_altitude", altitude)
            return height, self._hdop(hdop), satellites
        gsa = self._last_gsa
        if gsa is not None and _fresh(gsa[0], tod):
            f = gsa[1].split(b",")
            return None, (self._hdop(f[16]) if len(f) > 16 else None), None
        return None, None, None

    def _hdop(self, field: bytes) -> float | None:
        hdop = fields.number(field)
        if hdop is None or 0.0 <= hdop <= MAX_HDOP:
            return hdop
        self._refuse("bad_hdop", field)
        return None

    def _accuracy_m(self, tod: int) -> float | None:
        gst = self._last_gst
        if gst is None or not _fresh(gst[0], tod):
            return None
        lat, lon = fields.number(gst[1][6]), fields.number(gst[1][7])
        if lat is None or lon is None:
            return None
        claimed = math.hypot(lat, lon)
        return claimed if claimed <= MAX_ACCURACY_M else None

    # ---- dates -----------------------------------------------------------------------------------

    def _dated(self, tod: int | None, field: bytes, body: bytes | None) -> int | None:
        """The moment of an RMC; `body` is given where a date that is not trusted is to be counted."""
        if tod is None:
            return None
        try:
            midnight = fields.day_ns(field)
        except FieldError as error:
            if body is not None:
                self._refuse(error.reason, body)
            return None
        if midnight is None:
            return self._solved(tod, self._now)
        utc_ns = midnight + tod * 1_000_000
        if not plausible(utc_ns, self._now):
            if body is not None:
                self._refuse("date_distrusted", body)
            return None
        if body is not None:
            self._date = (utc_ns, self._now.mono_ns)
        return utc_ns

    def _solved(self, tod: int | None, now: Now) -> int | None:
        """The moment of a time of day that came without a date."""
        if tod is None:
            return None
        date = self._date
        if date is not None and now.mono_ns - date[1] < DATE_HOLDS_NS:
            reference = date[0] + now.mono_ns - date[1]
        elif now.host_synced:
            reference = now.host_wall_ns
        else:
            return None
        utc_ns = fields.nearest_ns(tod, reference)
        return utc_ns if plausible(utc_ns, now) else None


def _fresh(told: int | None, tod: int) -> bool:
    return told is not None and (tod - told) % DAY_MS <= FRESH_MS


def _quality(mode: bytes, gga: bytes) -> FixQuality:
    """How the fix came about: RMC's mode, and GGA of the same epoch where it says more."""
    if mode == b"A" and gga != b"6":
        return FixQuality.AUTONOMOUS
    from_gga = fields.QUALITIES.get(gga)
    from_mode = fields.MODES.get(mode)
    if FixQuality.ESTIMATED in (from_mode, from_gga):
        return FixQuality.ESTIMATED
    if from_mode is None or (from_mode is FixQuality.DIFFERENTIAL and from_gga is not None):
        return from_gga or FixQuality.AUTONOMOUS
    return from_mode


def _vtg_fields(body: bytes) -> tuple[bytes, bytes]:
    """Knots and course of `$--VTG,course,T,course,M,knots,N,km/h,K[,mode]`."""
    f = body.split(b",")
    if len(f) < 6 or (len(f) > 9 and f[9] in fields.VOID_MODES):
        return b"", b""
    return f[5], f[1]
