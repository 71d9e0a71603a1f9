"""From bytes to drafts, with the real decoders and a scripted or the real detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edge_kit import EPOCH_NS, NODE, TYRES, at, config

from edge import event as ev
from edge.event import Event, Key, Kind
from edge.intake import Draft
from edge.pipeline import OutboxFigures, Pipeline
from edge.runtime.edged import make_detector
from firmware_bridge.reading import PortCondition, Reading
from firmware_bridge.sensors.board import encode_data
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS, TimeSource
from models.verdict import Action, Cause, Verdict

PORTS = """
[[port]]
name = "gnss"
path = "/dev/a"
protocol = "nmea"
[[port]]
name = "board"
path = "/dev/b"
protocol = "board"
"""


class Script:
    """A detector that opens an incident at its third reading and closes it at a tick."""

    def __init__(self) -> None:
        self.seen: list[Reading] = []

    def observe(self, reading: Reading) -> list[Verdict]:
        self.seen.append(reading)
        return [self._verdict(reading.t_ns, Action.OPENED)] if len(self.seen) == 3 else []

    def tick(self, t_ns: int) -> list[Verdict]:
        return [self._verdict(t_ns, Action.CLOSED)] if t_ns >= 50 * NS else []

    @staticmethod
    def _verdict(t_ns: int, action: Action) -> Verdict:
        return Verdict(t_ns, t_ns, 1, Cause.LEFT_REGION, action, 1.0, "left", ())


def sentence(body: str) -> bytes:
    """A sentence with its check sum."""
    check = 0
    for byte in body.encode():
        check ^= byte
    return f"${body}*{check:02X}\r\n".encode()


def rmc(second: int, date: str = "010130", hour: int = 10) -> bytes:
    return sentence(
        f"GPRMC,{hour:02d}{second // 60:02d}{second % 60:02d}.00,A,"
        f"4730.0000,N,00830.0000,E,20.0,90.0,{date},,,A"
    )


def pipeline(detector: Script | None = None, text: str = NODE + TYRES + PORTS) -> Pipeline:
    return Pipeline(config(text), detector, software="holdfast test")


def kinds(drafts: list[Draft]) -> list[Kind]:
    return [draft.kind for draft in drafts]


def test_bytes_become_drafts() -> None:
    node = pipeline()
    drafts = [d for s in range(5) for d in node.feed("gnss", rmc(s), at(s))]
    assert kinds(drafts)[0] is Kind.PORT
    assert kinds(drafts)[1:].count(Kind.POSITION) >= 4
    assert node.continuity.position_valid >= 4 and node.bytes == 5 * len(rmc(0))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_same_bytes_in_any_pieces_give_the_same_drafts(size: int) -> None:
    def drafts(step: int) -> list[tuple[Kind, object]]:
        node = pipeline()
        data = b"garbage" + b"".join(rmc(s) for s in range(4)) + b"$GPRMC,bad*00\r\n"
        made = [d for n in range(0, len(data), step) for d in node.feed("gnss", data[n : n + step], at(1))]
        return [(d.kind, d.body) for d in [*made, *node.stop(at(2))] if d.kind is not Kind.HEARTBEAT]

    assert drafts(size) == drafts(1 << 20)


def test_verdicts_become_urgent_events_and_open_incidents() -> None:
    script = Script()
    node = pipeline(script)
    drafts = [d for s in range(6) for d in node.feed("gnss", rmc(s), at(s))]
    alarms = [d for d in drafts if d.urgent]
    assert kinds(alarms) == [Kind.INCIDENT] and list(node.open_incidents) == [1]
    assert kinds([d for d in node.tick(at(50)) if d.urgent]) == [Kind.INCIDENT]
    assert node.open_incidents == {}


def test_board_frames_reach_the_detector() -> None:
    from firmware_bridge.framing import frame

    script = Script()
    node = pipeline(script)
    data = encode_data(5, tyres=[(bytes.fromhex("a1b2c3d4"), 230, 20, 3)], power=(12_400, 0, 0, 60))
    node.feed("board", frame(2, 0, data), at(1))
    assert {type(reading).__name__ for reading in script.seen} >= {"Tyre", "Power"}


def test_ticks_work_once_a_second_and_heartbeats_promise() -> None:
    node = pipeline(text=NODE + PORTS + "[telemetry]\nheartbeat_s = 60")
    start = node.start(at(0), "first start")
    assert start.urgent and start.body[Key.NEXT_HEARTBEAT_S] == 60 and start.body[Key.LOSS_WINDOW_MS] == 5000
    node.outbox = OutboxFigures(3, 4096, 2)
    beats = [d for n in range(1000) for d in node.tick(at(n / 5))]
    assert kinds(beats) == [Kind.HEARTBEAT] * 3
    body = beats[0].body
    assert body[Key.OUTBOX_BYTES] == 4096 and body[Key.OUTBOX_SEGMENTS] == 3
    assert ["refused_full", 2] in body[Key.COUNTS]  # type: ignore[operator]
    (end,) = node.stop(at(300))
    assert Key.NEXT_HEARTBEAT_S not in end.body and end.body[Key.TEXT] == "stopped"


def test_a_gnss_date_sets_the_time_of_events() -> None:
    node = pipeline()
    late = Now(0, 0, False, 0)  # a host that believes in 1970
    first = node.start(late, "first start")
    assert first.stamp.source <= TimeSource.HOST
    for s in range(4):
        node.feed("gnss", rmc(s), Now(s * NS, s * NS, False, 0))
    drafts = node.feed("gnss", rmc(5), Now(5 * NS, 5 * NS, False, 0))
    assert drafts[-1].stamp.source is TimeSource.GNSS
    assert abs((drafts[-1].stamp.wall_ns or 0) - 1_893_492_005 * NS) < 5 * NS


def test_a_future_date_never_becomes_the_time_of_an_event() -> None:
    node = pipeline()
    for s in range(10):
        for draft in node.feed("gnss", rmc(s, date="060180"), at(s)):
            assert draft.stamp.wall_ns == EPOCH_NS + s * NS


def test_a_fact_and_every_draft_is_an_event() -> None:
    node = pipeline(Script())
    drafts = [node.start(at(0), "x" * 5000), node.fact("uplink" * 50, "é" * 5000, at(1))]
    drafts += [d for s in range(100) for d in (*node.feed("gnss", rmc(s), at(s)), *node.tick(at(s)))]
    drafts += node.stop(at(101))
    assert len(drafts) > 100
    for seq, draft in enumerate(drafts):
        event = Event(seq, draft.kind, draft.stamp, draft.body)
        assert ev.decode(ev.encode(event)) == event


def test_noise_costs_counts_and_nothing_else() -> None:
    node = pipeline()
    noise = bytes(n * 7 % 256 for n in range(50_000))
    for port in ("gnss", "board"):
        node.feed(port, noise, at(1))
    assert node.continuity.refused.total() > 0
    assert all(d.kind is not Kind.POSITION for d in node.tick(at(100)))


def test_f15_a_wrong_speed_is_said(shared_data: Callable[[str], Path]) -> None:
    data = shared_data("field/F15.bin").read_bytes()
    node = pipeline(text=NODE + PORTS)
    ports = []
    for s in range(40):
        piece = data[s * len(data) // 40 : (s + 1) * len(data) // 40]
        made = [*node.feed("gnss", piece, at(s)), *node.take(node.links["gnss"].tick(at(s)), at(s))]
        ports += [d for d in made if d.kind is Kind.PORT]
    assert [d.body[Key.CONDITION] for d in ports] == [str(PortCondition.NO_SENTENCE)]
    assert "speed" in str(ports[0].body[Key.TEXT])
    good = shared_data("field/F15.good.nmea").read_bytes()
    drafts = node.feed("gnss", good, at(41))
    assert drafts[0].body[Key.CONDITION] == "ok"


def test_the_swiss_drive(shared_data: Callable[[str], Path]) -> None:
    """The reference drive through decoder, detector and recorder; its figures are known."""
    data = shared_data("gps/20100403_Z205_Switzerland.txt").read_bytes()
    parsed = config(NODE + PORTS.split('[[port]]\nname = "board"')[0])
    node = Pipeline(parsed, make_detector(parsed), software="test")
    drafts: list[Draft] = []
    second = 0
    for line in data.splitlines(keepends=True):
        second += line[3:6] == b"RMC"
        wall = 1_270_252_800 * NS
        now = Now(second * NS, wall + second * NS, True, 0)
        drafts += node.feed("gnss", line, now)
        drafts += node.tick(now)
    continuity = node.continuity
    assert (continuity.position_valid, continuity.position_estimated, continuity.position_void) == (
        10327,
        89,
        85,
    )
    assert continuity.gaps_s == [12, 207]
    assert continuity.fix_gaps_s == [2, 35, 12, 208, 4, 35, 13]
    assert not [d for d in drafts if d.kind is Kind.INCIDENT]
    positions = [d for d in drafts if d.kind is Kind.POSITION]
    assert all(d.body[1] % 100 == 0 and d.body[2] % 100 == 0 for d in positions)  # type: ignore[operator]


def test_the_last_fact_of_each_source_is_kept_and_no_more_than_sixteen() -> None:
    node = pipeline()
    for number in range(40):
        node.fact(f"source-{number % 20}", f"text {number}", at(number))
    assert list(node.facts) == [f"source-{n}" for n in range(4, 20)]
    assert node.facts["source-19"][0] == "text 39"
    node.fact("source-4", "again", at(50))
    node.fact("new", "n" * 5000, at(51))
    assert len(node.facts) == 16 and "source-5" not in node.facts
    text, when = node.facts["source-4"]
    assert text == "again" and when.wall_ns is not None and when.wall_ns == EPOCH_NS + 50 * NS
    assert len(node.facts["new"][0].encode()) <= 2048
