"""The whole path of a node on one screen: bytes -> readings -> verdicts -> drafts of events.

    link (one a port)  bytes become readings and refusals
    continuity         everything is counted
    timekeeper         a trusted GNSS date sets the wall time
    detector           decides; its verdicts become INCIDENT events, accepted and sealed at once
    recorder           writes down the rest, coarse and seldom

Pure: bytes and `Now` in, drafts out. The daemon numbers, commits and seals them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from edge.config import Config
from edge.config import Port as PortConfig
from edge.event import Body, Key, Kind
from edge.intake import Draft
from edge.recorder import Recorder, clip, counts
from firmware_bridge.continuity import Continuity
from firmware_bridge.link import Link
from firmware_bridge.reading import PortState, Position, Reading, Refusal
from firmware_bridge.sensors.board import BoardDecoder
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import Now, TimeKeeper
from firmware_bridge.wire.stamp import NS, Stamp
from models.verdict import Action, Verdict

MAX_SOURCES: Final = 16
"""Sources whose last fact is kept for `status`: a node has a handful of processes; 32 kB at most."""
RATE_NS: Final = 10 * NS
"""Readings of a port are counted over so long for its rate: a receiver at 1 Hz gives ten."""
MAX_PORT_REASONS: Final = 32
"""Reasons of refusal counted apart on one port."""
MAX_DECIDED: Final = 5
"""Verdicts kept for `status`: what a person reads at a glance."""
TICK_NS: Final = NS
"""Rules of time are asked this often: dwell and silence are matters of many seconds."""


class Decides(Protocol):
    """The detector, as far as the pipeline knows it."""

    def observe(self, reading: Reading) -> list[Verdict]:
        """What this reading changes."""
        ...

    def tick(self, t_ns: int) -> list[Verdict]:
        """What time alone changes."""
        ...

    def configured(self, ports: Collection[str], *, expects_board: bool) -> None:
        """The node's ports are now these."""
        ...


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """What a heartbeat says of the outbox."""

    segments: int = 0
    bytes: int = 0
    refused_events: int = 0
    """Could not be stored, since the start."""


@dataclass(slots=True)
class PortFigures:
    """What came in on one port, for a person who stands beside it."""

    readings: int = 0
    last_ns: int | None = None
    """Monotonic time of the last reading."""
    refused: Counter[str] = field(default_factory=Counter)
    _since_ns: int = 0
    _count: int = 0
    _rate: float = 0.0

    def reading(self, t_ns: int) -> None:
        """One reading came."""
        if self.last_ns is None:
            self._since_ns = t_ns
        self.readings, self.last_ns, self._count = self.readings + 1, t_ns, self._count + 1
        if t_ns - self._since_ns >= RATE_NS:
            self._rate = (self._count - 1) * NS / (t_ns - self._since_ns)
            self._since_ns, self._count = t_ns, 1

    def refusal(self, reason: str) -> None:
        """Something that is no reading came."""
        known = reason in self.refused or len(self.refused) < MAX_PORT_REASONS
        self.refused[reason if known else "other"] += 1

    def per_second(self, now_ns: int) -> float:
        """Readings a second over the last seconds; 0 when it fell silent."""
        if self.last_ns is None or now_ns - self.last_ns > 2 * RATE_NS:
            return 0.0
        if self._rate:
            return self._rate
        return self._count * NS / max(now_ns - self._since_ns, NS)


class NodeLink(Link):
    """A link that remembers whether its port was tried at all: a node is ready when each was."""

    tried = False

    def opened(self, now: Now) -> list[Reading | Refusal]:
        """See Link."""
        self.tried = True
        return super().opened(now)

    def lost(self, now: Now, why: str) -> list[Reading | Refusal]:
        """See Link."""
        self.tried = True
        return super().lost(now, why)


class Pipeline:
    """One node's path from bytes to drafts. `detector` is None where nothing is to be decided."""

    def __init__(self, config: Config, detector: Decides | None, *, software: str) -> None:
        self.timekeeper = TimeKeeper()
        self.continuity = Continuity()
        self.links = {port.name: self._link(port) for port in config.ports}
        self.ports = {port.name: PortFigures() for port in config.ports}
        self.decided: deque[Verdict] = deque(maxlen=MAX_DECIDED)
        """The last verdicts, oldest first."""
        self.incidents = 0
        """Opened since the start."""
        self.outbox = OutboxFigures()
        self.open_incidents: dict[int, Verdict] = {}
        self.facts: dict[str, tuple[str, Stamp]] = {}
        """Source -> its last fact and when; those of MAX_SOURCES sources, the one silent longest first."""
        self.last_fix_ns: int | None = None
        """Monotonic time of the last fix of a receiver that was not dead-reckoned."""
        self.clock = config.clock.kind
        self._config = config
        self._bytes_gone = 0
        """Bytes of links that are no more."""
        self._detector = detector
        self._recorder = Recorder(config, self.timekeeper)
        self._software = software
        self._heartbeat_ns: int | None = None
        self._tick_ns: int | None = None

    def _link(self, port: PortConfig) -> NodeLink:
        if port.protocol == "nmea":
            decoder = NmeaDecoder(port.name, on_time=self.continuity.epoch)
            return NodeLink(port.name, decoder, expects="sentence", baud=port.baud)
        return NodeLink(port.name, BoardDecoder(port.name), expects="frame", baud=port.baud)

    def reconfigure(self, config: Config) -> None:
        """Go on under another configuration: a port that is the same keeps its link, and all counts stay.

        Node, clock, tyres and region must be the same.
        """
        same = {port.name for port in config.ports if port in self._config.ports}
        gone = [link for name, link in self.links.items() if name not in same]
        self._bytes_gone += sum(link.bytes for link in gone)
        self.links = {
            port.name: self.links[port.name] if port.name in same else self._link(port)
            for port in config.ports
        }
        self.ports = {name: self.ports[name] if name in same else PortFigures() for name in self.links}
        if self._detector is not None:
            boards = any(port.protocol == "board" for port in config.ports)
            self._detector.configured(self.links.keys(), expects_board=boards)
        self._recorder.reconfigure(config)
        self._config = config

    def feed(self, port: str, data: bytes, now: Now) -> list[Draft]:
        """Bytes of one port, to drafts."""
        return self.take(self.links[port].received(data, now), now)

    def take(self, items: Iterable[Reading | Refusal], now: Now) -> list[Draft]:
        """What a link gave, to drafts."""
        items = list(items)
        self.continuity.count(items)
        drafts: list[Draft] = []
        for item in items:
            figures = self.ports.get(item.port)
            if isinstance(item, Refusal):
                if figures is not None:
                    figures.refusal(item.reason)
                self._recorder.refused(item)
                continue
            if figures is not None and not isinstance(item, PortState):
                figures.reading(item.t_ns)
            if isinstance(item, Position) and not item.estimated:
                self.last_fix_ns = item.t_ns
                if item.utc_ns is not None:
                    self.timekeeper.observe(item.utc_ns, item.t_ns)
            if self._detector is not None:
                drafts += self._incidents(self._detector.observe(item), now)
            drafts += self._recorder.reading(item, now)
        return drafts

    def tick(self, now: Now) -> list[Draft]:
        """What time alone makes due; call it often, it works once a second."""
        if self._tick_ns is not None and now.mono_ns - self._tick_ns < TICK_NS:
            return []
        self._tick_ns = now.mono_ns
        drafts: list[Draft] = []
        if self._detector is not None:
            drafts += self._incidents(self._detector.tick(now.mono_ns), now)
        drafts += self._recorder.tick(now)
        beat = self._config.telemetry.heartbeat_s * NS
        if self._heartbeat_ns is not None and now.mono_ns - self._heartbeat_ns >= beat:
            drafts.append(self._heartbeat(now))
        return drafts

    def start(self, now: Now, opening: str) -> Draft:
        """The first event of a run; `opening` says what is known of the run before."""
        self._heartbeat_ns = now.mono_ns
        body = self._promise()
        body[Key.TEXT] = clip(opening, 200)
        return Draft(Kind.RUN_START, self.timekeeper.stamp(now), body, urgent=True)

    def stop(self, now: Now) -> list[Draft]:
        """The last events of an orderly end: what was gathered, and a heartbeat with the counts."""
        return [*self._recorder.flush(now), self._heartbeat(now, last=True)]

    def fact(self, source: str, text: str, now: Now) -> Draft:
        """What another process of this node hands in."""
        source, text, stamp = clip(source, 64), clip(text, 2048), self.timekeeper.stamp(now)
        self.facts.pop(source, None)
        if len(self.facts) >= MAX_SOURCES:
            del self.facts[next(iter(self.facts))]
        self.facts[source] = text, stamp
        return Draft(Kind.FACT, stamp, {Key.SOURCE: source, Key.TEXT: text})

    def _incidents(self, verdicts: Iterable[Verdict], now: Now) -> list[Draft]:
        drafts: list[Draft] = []
        for verdict in verdicts:
            self.decided.append(verdict)
            self.incidents += verdict.action is Action.OPENED
            if verdict.action is Action.CLOSED:
                self.open_incidents.pop(verdict.incident, None)
            else:
                self.open_incidents[verdict.incident] = verdict
            drafts.append(self._recorder.verdict(verdict, now))
        return drafts

    def _heartbeat(self, now: Now, *, last: bool = False) -> Draft:
        self._heartbeat_ns = now.mono_ns
        figures = {f"reading.{name}": count for name, count in self.continuity.readings.items()}
        figures |= {
            "bytes": self.bytes,
            "position_valid": self.continuity.position_valid,
            "position_estimated": self.continuity.position_estimated,
            "position_void": self.continuity.position_void,
            "refused": self.continuity.refused.total(),
            "refused_full": self.outbox.refused_events,
        }
        body = self._promise()
        if last:
            del body[Key.NEXT_HEARTBEAT_S]  # an orderly end promises nothing
            body[Key.TEXT] = "stopped"
        body[Key.COUNTS] = counts(figures)
        body[Key.OUTBOX_BYTES] = self.outbox.bytes
        body[Key.OUTBOX_SEGMENTS] = self.outbox.segments
        return Draft(Kind.HEARTBEAT, self.timekeeper.stamp(now), body)

    def _promise(self) -> Body:
        return {
            Key.SOFTWARE: self._software,
            Key.CONFIG_HASH: self._config.hash,
            Key.LOSS_WINDOW_MS: round(self._config.edge.commit_interval_s * 1000),
            Key.NEXT_HEARTBEAT_S: round(self._config.telemetry.heartbeat_s),
        }

    @property
    def bytes(self) -> int:
        """Bytes received on all ports."""
        return self._bytes_gone + sum(link.bytes for link in self.links.values())
