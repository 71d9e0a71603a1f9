"""What is written down: readings and verdicts in, drafts of events out, under the policy of `Telemetry`.

Outside incidents a position is coarse and rare; an incident carries the fine one. Nothing here decides
whether something is wrong; that is the detector's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from edge.config import Config
from edge.event import Body, Key, Kind, stamp_value
from edge.intake import Draft
from firmware_bridge.reading import (
    BoardHello,
    PortState,
    Position,
    PositionVoid,
    Power,
    Reading,
    Refusal,
    Relay,
    SkyView,
    Tyre,
    Vibration,
    Wheel,
)
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire import cbor
from firmware_bridge.wire.signals import SIGNALS, Sig, quantise
from firmware_bridge.wire.stamp import NS, Stamp
from models.verdict import Verdict

PARKED_AFTER_S: Final = 30.0
"""Without motion for so long the vehicle counts as parked: longer than a red light's noise-free stop."""
TYRES_TOGETHER_S: Final = 2.0
"""Sensors of one car speak within this time of each other; their changes make one event."""
SLACK_NS: Final = NS // 10
"""Jitter of senders and of our reading them."""
MAX_REASONS: Final = 32
"""Reasons of refusal counted apart between two events; the rest is counted as `other`."""
MAX_SIGHTED: Final = 4096
"""Tyre ids a roadside node remembers for its rate limit: a busy road's traffic of ten minutes."""
MAX_TEXT_BYTES: Final = 600
"""A sentence, or a port's detail; an event has 4096 bytes."""
MAX_CLAUSE_BYTES: Final = 200
MAX_EVIDENCE: Final = 10
"""Observations in one incident event."""
MAX_PAYLOAD: Final = 256
"""Bytes of a relayed LoRaWAN payload: the protocol allows 242."""
_GRAVITY_MIN: Final = 1.0
"""m/s^2; a mean acceleration below it says nothing about which way is down."""


class Stamps(Protocol):
    """What the recorder needs of the timekeeper."""

    def stamp(self, now: Now) -> Stamp:
        """The stamp of `now`."""
        ...


def clip(text: str, size: int) -> str:
    """`text` in at most `size` bytes of UTF-8, without control characters."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


def incident_body(verdict: Verdict, now: Stamp) -> Body:
    """The body of an INCIDENT event; `now` is the stamp of the decision."""
    back = max(now.mono_ns - verdict.since_ns, 0)
    wall = None if now.wall_ns is None else now.wall_ns - back
    since = Stamp(max(verdict.since_ns, 0), wall, now.source, now.uncertainty_ms)
    evidence: list[cbor.Value] = [
        [clip(item.sensor, 32), clip(item.text, MAX_CLAUSE_BYTES)] for item in verdict.evidence[:MAX_EVIDENCE]
    ]
    body: Body = {
        Key.INCIDENT: verdict.incident,
        Key.CAUSE: int(verdict.cause),
        Key.ACTION: int(verdict.action),
        Key.CONFIDENCE_PERMILLE: round(min(max(verdict.confidence, 0.0), 1.0) * 1000),
        Key.SENTENCE: clip(verdict.sentence, MAX_TEXT_BYTES),
        Key.EVIDENCE: evidence,
        Key.SINCE: stamp_value(since),
    }
    if verdict.lat_deg is not None and verdict.lon_deg is not None:
        body[Sig.LATITUDE] = quantise(Sig.LATITUDE, verdict.lat_deg)
        body[Sig.LONGITUDE] = quantise(Sig.LONGITUDE, verdict.lon_deg)
    return body


def counts(values: Mapping[str, int]) -> list[cbor.Value]:
    """Counters as they stand in events: sorted by name."""
    return [[clip(name, 48), count] for name, count in sorted(values.items())]


@dataclass(slots=True)
class _TyreState:
    """One wheel: what stands in events, and what was heard since."""

    written_kpa: float = math.inf
    written_degc: float = math.inf
    written_ns: int = 0
    heard: Tyre | None = None
    dirty: bool = False


@dataclass(slots=True)
class _Window:
    """Vibration summed up until the next event."""

    since_ns: int
    seconds: float = 0.0
    square: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    peak: float = 0.0
    gravity: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Recorder:
    """The telemetry policy of one node. Pure: time comes with each call."""

    def __init__(self, config: Config, stamps: Stamps) -> None:
        self._policy = config.telemetry
        self._config = config
        self._stamps = stamps
        self._moved_ns: int | None = None
        self._had_fix: bool | None = None
        self._position_ns: int | None = None
        self._tyres: dict[Wheel, _TyreState] = {}
        self._tyres_since_ns: int | None = None
        self._window: _Window | None = None
        self._rest: tuple[float, float, float] | None = None
        self._power: Power | None = None
        self._power_ns = 0
        self._refused: dict[str, int] = {}
        self._refused_since_ns = 0
        self._sighted: dict[str, int] = {}

    def reconfigure(self, config: Config) -> None:
        """Go on under another configuration; what is gathered stays."""
        self._policy, self._config = config.telemetry, config

    def moving(self, now_ns: int) -> bool:
        """The receiver saw motion within the last PARKED_AFTER_S."""
        return self._moved_ns is not None and now_ns - self._moved_ns < PARKED_AFTER_S * NS

    def verdict(self, verdict: Verdict, now: Now) -> Draft:
        """An incident's event: accepted and sealed at once."""
        stamp = self._stamps.stamp(now)
        return Draft(Kind.INCIDENT, stamp, incident_body(verdict, stamp), urgent=True)

    def refused(self, refusal: Refusal) -> None:
        """Count what was not a reading."""
        reason = refusal.reason
        if reason not in self._refused and len(self._refused) >= MAX_REASONS:
            reason = "other"
        if not self._refused:
            self._refused_since_ns = refusal.t_ns
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def reading(self, reading: Reading, now: Now) -> list[Draft]:
        """The events that `reading` makes at once; the rest come with `tick`."""
        match reading:
            case Position():
                body = self._position(reading)
                kind = Kind.POSITION
            case PositionVoid():
                lost = self._had_fix is True
                self._had_fix = False
                body = {Key.PORT: reading.port, Key.TEXT: str(reading.reason)} if lost else None
                kind = Kind.NO_POSITION
            case Tyre() if self._config.node.kind == "roadside":
                body, kind = self._sighting(reading), Kind.SIGHTING
            case Tyre():
                self._tyre(reading)
                return []
            case Vibration():
                body, kind = self._vibration(reading), Kind.VIBRATION
            case Power():
                body, kind = self._power_event(reading), Kind.POWER
            case Relay():
                body, kind = _relay(reading), Kind.RELAY
            case PortState():
                body, kind = _port(reading), Kind.PORT
            case BoardHello():
                text = f"board {reading.board_id} firmware {reading.firmware} boot {reading.boot_count}"
                body = {Key.SOURCE: reading.port, Key.TEXT: clip(text, MAX_TEXT_BYTES)}
                kind = Kind.FACT
            case SkyView():
                return []
        return [] if body is None else [Draft(kind, self._stamps.stamp(now), body)]

    def tick(self, now: Now) -> list[Draft]:
        """What time alone makes due: gathered tyre changes, and counts of refused input."""
        drafts: list[Draft] = []
        since = self._tyres_since_ns
        if since is not None and now.mono_ns - since >= TYRES_TOGETHER_S * NS:
            drafts.append(Draft(Kind.TYRES, self._stamps.stamp(now), self._tyres_event(now.mono_ns)))
        waited = now.mono_ns - self._refused_since_ns
        if self._refused and waited >= self._policy.refused_interval_s * NS:
            drafts.append(Draft(Kind.REFUSED, self._stamps.stamp(now), self._refused_event()))
        return drafts

    def flush(self, now: Now) -> list[Draft]:
        """What is gathered, before an orderly end."""
        drafts: list[Draft] = []
        if self._tyres_since_ns is not None:
            drafts.append(Draft(Kind.TYRES, self._stamps.stamp(now), self._tyres_event(now.mono_ns)))
        if self._refused:
            drafts.append(Draft(Kind.REFUSED, self._stamps.stamp(now), self._refused_event()))
        return drafts

    def _refused_event(self) -> Body:
        body: Body = {Key.COUNTS: counts(self._refused)}
        self._refused = {}
        return body

    def _position(self, fix: Position) -> Body | None:
        self._had_fix = True
        # A receiver without Doppler: every fix counts as motion, which costs events and hides nothing.
        if fix.speed_mps is None or fix.speed_mps >= self._policy.moving_mps:
            self._moved_ns = fix.t_ns
        policy = self._policy
        interval_s = policy.position_interval_s if self.moving(fix.t_ns) else policy.position_parked_s
        anchor = due(self._position_ns, fix.t_ns, interval_s)
        if anchor is None:
            return None
        self._position_ns = anchor
        body: Body = {
            Sig.LATITUDE: coarse(fix.lat_deg, policy.coarse_deg, Sig.LATITUDE),
            Sig.LONGITUDE: coarse(fix.lon_deg, policy.coarse_deg, Sig.LONGITUDE),
            Sig.FIX_TYPE: int(fix.quality),
        }
        if fix.speed_mps is not None:
            body[Sig.SPEED] = quantise(Sig.SPEED, fix.speed_mps * 3.6)
        if fix.satellites is not None:
            body[Sig.SATELLITES] = fix.satellites
        return body

    def _tyre(self, tyre: Tyre) -> None:
        wheel = self._config.tyres.get(tyre.sensor_id)
        if wheel is None:
            return  # somebody else's: nothing is kept of it
        state = self._tyres.setdefault(wheel, _TyreState())
        rolled = state.heard.rolling if state.heard is not None else None
        state.heard = tyre
        changed = (
            abs(tyre.pressure_kpa - state.written_kpa) >= self._policy.tyre_kpa
            or abs(tyre.temperature_degc - state.written_degc) >= self._policy.tyre_degc
            or tyre.rolling is not rolled
            or tyre.t_ns - state.written_ns >= self._policy.tyre_interval_s * NS
        )
        if changed and not state.dirty:
            state.dirty = True
            if self._tyres_since_ns is None:
                self._tyres_since_ns = tyre.t_ns

    def _tyres_event(self, now_ns: int) -> Body:
        self._tyres_since_ns = None
        body: Body = {}
        bits, known = 0, False
        for wheel, state in sorted(self._tyres.items()):
            heard = state.heard
            assert heard is not None  # a state begins with what was heard
            if heard.rolling is not None:
                known = True
                bits |= heard.rolling << wheel
            if state.dirty:
                pressure, temperature = (
                    Sig(Sig.TYRE_PRESSURE_FL + wheel),
                    Sig(Sig.TYRE_TEMPERATURE_FL + wheel),
                )
                body[pressure] = quantise(pressure, heard.pressure_kpa)
                body[temperature] = quantise(temperature, heard.temperature_degc)
                state.written_kpa, state.written_degc = heard.pressure_kpa, heard.temperature_degc
                state.written_ns, state.dirty = now_ns, False
        if known:
            body[Sig.TYRE_ROLLING] = bits
        return body

    def _vibration(self, vibration: Vibration) -> Body | None:
        window = self._window
        if window is None:
            window = self._window = _Window(vibration.t_ns)
        seconds = max(vibration.window_s, 1e-3)
        window.seconds += seconds
        for axis, rms in enumerate(vibration.rms_mps2):
            window.square[axis] += rms * rms * seconds
        window.peak = max(window.peak, vibration.peak_mps2)
        window.gravity = vibration.gravity_mps2
        policy = self._policy
        moving = self.moving(vibration.t_ns)
        if moving or self._rest is None:
            # The attitude on the road is the attitude at rest; a tilt counts from where it last drove.
            self._rest = vibration.gravity_mps2
        interval_s = policy.vibration_interval_s if moving else policy.vibration_parked_s
        anchor = due(window.since_ns, vibration.t_ns, interval_s)
        if anchor is None:
            return None
        self._window = _Window(anchor)
        body: Body = {
            sig: quantise(sig, math.sqrt(square / window.seconds))
            for sig, square in zip(_RMS, window.square, strict=True)
        }
        body[Sig.VIBRATION_PEAK] = quantise(Sig.VIBRATION_PEAK, window.peak)
        tilt = angle_deg(self._rest, window.gravity)
        if tilt is not None:
            body[Sig.TILT] = quantise(Sig.TILT, tilt)
        return body

    def _power_event(self, power: Power) -> Body | None:
        last = self._power
        if last is not None and not (
            abs(power.supply_v - last.supply_v) >= self._policy.supply_v
            or power.case_open is not last.case_open
            or power.state is not last.state
            or power.t_ns - self._power_ns >= self._policy.power_interval_s * NS
        ):
            return None
        self._power, self._power_ns = power, power.t_ns
        return {
            Sig.SUPPLY_VOLTAGE: quantise(Sig.SUPPLY_VOLTAGE, power.supply_v),
            Sig.CASE_OPEN: int(power.case_open),
            Sig.POWER_STATE: int(power.state),
            Key.NEXT_HEARTBEAT_S: power.next_report_s,
        }

    def _sighting(self, tyre: Tyre) -> Body | None:
        last = self._sighted.get(tyre.sensor_id)
        anchor = due(last, tyre.t_ns, self._policy.sighting_interval_s)
        if anchor is None:
            return None
        if last is None and len(self._sighted) >= MAX_SIGHTED:
            del self._sighted[next(iter(self._sighted))]
        self._sighted.pop(tyre.sensor_id, None)  # so that the oldest stands first
        self._sighted[tyre.sensor_id] = anchor
        body: Body = {Key.SENSOR_ID: clip(tyre.sensor_id, 32), Key.PORT: tyre.port}
        if (here := self._config.fence) is not None:
            body[Sig.LATITUDE] = quantise(Sig.LATITUDE, here.lat_deg)
            body[Sig.LONGITUDE] = quantise(Sig.LONGITUDE, here.lon_deg)
        return body


_RMS: Final = (Sig.VIBRATION_RMS_X, Sig.VIBRATION_RMS_Y, Sig.VIBRATION_RMS_Z)


def due(last_ns: int | None, now_ns: int, interval_s: float) -> int | None:
    """When this event counts as written, if it is due now; None if it is not.

    A sender at 1 Hz is not exactly at 1 Hz: what comes up to SLACK_NS early is taken and counts as on time,
    so that "each second" neither becomes every other second nor more than one a second.
    """
    if last_ns is None:
        return now_ns
    interval_ns = round(interval_s * NS)
    early = last_ns + interval_ns - now_ns
    if early > SLACK_NS:
        return None
    return last_ns + interval_ns if early > -SLACK_NS else now_ns


def coarse(degrees: float, grid_deg: float, signal: Sig) -> int:
    """`degrees` rounded to the grid, as the integer that goes on the wire."""
    return quantise(signal, round(degrees / grid_deg) * max(grid_deg, SIGNALS[signal].scale))


def angle_deg(a: tuple[float, float, float], b: tuple[float, float, float]) -> float | None:
    """Angle between two mean accelerations, None where one is too small to be gravity."""
    size = math.hypot(*a), math.hypot(*b)
    if min(size) < _GRAVITY_MIN:
        return None
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (size[0] * size[1])
    return math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))


def _relay(relay: Relay) -> Body:
    body: Body = {
        Key.DEV_EUI: clip(relay.dev_eui, 16),
        Key.F_CNT: relay.f_cnt,
        Key.F_PORT: relay.f_port,
        Key.PAYLOAD: relay.payload[:MAX_PAYLOAD],
    }
    if relay.rssi_dbm is not None:
        body[Key.RSSI_DBM] = relay.rssi_dbm
    if relay.snr_db is not None and math.isfinite(relay.snr_db):
        body[Key.SNR_TENTH_DB] = round(relay.snr_db * 10)
    return body


def _port(state: PortState) -> Body:
    return {
        Key.PORT: clip(state.port, 64),
        Key.CONDITION: str(state.condition),
        Key.TEXT: clip(state.detail, MAX_TEXT_BYTES),
    }
