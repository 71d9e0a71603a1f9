"""Events and their grammar: each kind by itself, and what a node writes, is what segment.cddl allows."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import cbor2
import pytest
import zcbor
from edge_kit import NODE, SIGNER, at, config, stamp
from hypothesis import given
from hypothesis import strategies as st
from test_edge_pipeline import PORTS

from edge import event as ev
from edge import segment as seg
from edge.errors import FormatError
from edge.event import MAX_EVENT_BYTES, Event, Key, Kind
from edge.intake import Draft
from edge.pipeline import OutboxFigures, Pipeline
from edge.runtime.edged import make_detector
from edge.sealer import Accepted, ChainState, Group
from edge.segment import Lost, Previous, Tombstone
from firmware_bridge.sim.scenario import scenario
from firmware_bridge.wire import cbor, cose
from firmware_bridge.wire.signals import Sig
from firmware_bridge.wire.stamp import NS, Stamp, TimeSource


@cache
def grammar() -> Any:
    """The rule `segment` of segment.cddl."""
    text = files("edge").joinpath("segment.cddl").read_text("utf-8")
    return zcbor.DataTranslator.from_cddl(text, 100_000).my_types["segment"]


BODIES: dict[Kind, ev.Body] = {
    Kind.RUN_START: {Key.SOFTWARE: "holdfast 0", Key.LOSS_WINDOW_MS: 5000, Key.NEXT_HEARTBEAT_S: 900,
                     Key.TEXT: "first start", Key.CONFIG_HASH: bytes(32)},
    Kind.HEARTBEAT: {Key.COUNTS: [["bytes", 1]], Key.SOFTWARE: "h", Key.LOSS_WINDOW_MS: 1,
                     Key.NEXT_HEARTBEAT_S: 1, Key.OUTBOX_BYTES: 0, Key.OUTBOX_SEGMENTS: 0,
                     Key.CONFIG_HASH: bytes(32)},
    Kind.POSITION: {Sig.LATITUDE: 475000, Sig.LONGITUDE: -85000, Sig.SPEED: 500, Sig.FIX_TYPE: 1},
    Kind.TYRES: {Sig.TYRE_PRESSURE_FL: 230, Sig.TYRE_TEMPERATURE_FL: -5, Sig.TYRE_ROLLING: 15},
    Kind.VIBRATION: {Sig.VIBRATION_RMS_X: 1, Sig.VIBRATION_RMS_Y: 2, Sig.VIBRATION_RMS_Z: 3,
                     Sig.VIBRATION_PEAK: 9, Sig.TILT: 20},
    Kind.POWER: {Sig.SUPPLY_VOLTAGE: 1240, Sig.CASE_OPEN: 0, Sig.POWER_STATE: 1, Key.NEXT_HEARTBEAT_S: 60},
    Kind.INCIDENT: {Key.INCIDENT: 1, Key.CAUSE: 1, Key.ACTION: 1, Key.CONFIDENCE_PERMILLE: 900,
                    Key.SENTENCE: "s", Key.EVIDENCE: [["tyres", "cold"]], Key.SINCE: [5, None, 0, 0]},
    Kind.FACT: {Key.TEXT: "t", Key.SOURCE: "uplink"},
    Kind.REFUSED: {Key.COUNTS: [["bad_checksum", 3]]},
    Kind.RELAY: {Key.DEV_EUI: "00", Key.F_CNT: 1, Key.F_PORT: 2, Key.PAYLOAD: b"x", Key.RSSI_DBM: -90},
    Kind.SIGHTING: {Key.PORT: "radio", Key.SENSOR_ID: "a1b2c3d4"},
    Kind.PORT: {Key.PORT: "gnss", Key.CONDITION: "ok", Key.TEXT: "sentences arrive"},
    Kind.NO_POSITION: {Key.PORT: "gnss", Key.TEXT: "status"},
}  # fmt: skip


def sealed(*events: Event, tombstones: tuple[Tombstone, ...] = ()) -> bytes:
    """The signed payload of a segment of `events`."""
    group = Group(1, tuple(Accepted(event, ev.encode(event), False) for event in events))
    _, rows, _ = SIGNER.seal(ChainState(bytes(16), 0, "first start"), [group], tombstones)
    return cose.peek(rows[0].sealed.data).payload


def test_every_kind_has_a_body_here() -> None:
    assert set(BODIES) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_fits_the_grammar_and_comes_back(kind: Kind) -> None:
    event = Event(7, kind, stamp(3), BODIES[kind])
    assert ev.decode(ev.encode(event)) == event
    grammar().validate_str(sealed(event))


@pytest.mark.parametrize("kind", Kind)
def test_a_body_with_an_unknown_key_is_not_in_the_grammar(kind: Kind) -> None:
    payload = sealed(Event(7, kind, stamp(3), {**BODIES[kind], 999: 1}))
    with pytest.raises(zcbor.CddlValidationError):
        grammar().validate_str(payload)


def test_all_kinds_and_tombstones_in_one_segment() -> None:
    events = [Event(n, kind, stamp(n), body) for n, (kind, body) in enumerate(BODIES.items())]
    tombstones = (
        Tombstone(Lost.THINNED, bytes(16), 1, 3, 150, 5, 6, bytes(32), bytes(32)),
        Tombstone(Lost.CRASH, bytes(16), 9, 9, 1, 5, 6, b"", b""),
    )
    payload = sealed(*events, tombstones=tombstones)
    grammar().validate_str(payload)
    parsed = seg.parse(payload)
    assert parsed.events == tuple(events) and parsed.tombstones == tombstones


def written(name: str) -> tuple[Pipeline, list[Draft]]:
    """A scenario, through the real decoders, detector and recorder: all that the node writes down."""
    script = scenario(name)
    tyres = "\n".join(f'{wheel} = "{sensor}"' for wheel, sensor in (script.tyres or {}).items())
    parsed = config(NODE + PORTS + f"[telemetry]\nheartbeat_s = 120\n[vehicle.tyres]\n{tyres}\n")
    node = Pipeline(parsed, make_detector(parsed), software="test")
    node.outbox = OutboxFigures(7, 12_345, 2)
    drafts = [node.start(at(0), "first start"), node.fact("uplink", "x", at(0))]
    for chunk in script.play():
        if chunk.port in node.links:
            now = at(chunk.t_ns / NS)
            drafts += [*node.tick(now), *node.feed(chunk.port, chunk.data, now)]
    drafts += node.feed("gnss", b"$GNRMC,x*00\r\n", at(9e4))
    return node, [*drafts, *node.stop(at(9e4))]


@pytest.mark.parametrize("name", ["tow", "pulled"])
def test_what_the_node_really_writes_is_in_the_grammar(name: str) -> None:
    node, drafts = written(name)
    seen: dict[Kind, int] = {}
    for seq, draft in enumerate(drafts):
        seen[draft.kind] = seen.get(draft.kind, 0) + 1
        if seen[draft.kind] <= 20:
            grammar().validate_str(sealed(Event(seq, draft.kind, draft.stamp, draft.body)))
    assert {Kind.RUN_START, Kind.HEARTBEAT, Kind.FACT, Kind.REFUSED, Kind.INCIDENT} <= set(seen)
    assert {Kind.POSITION, Kind.TYRES, Kind.VIBRATION, Kind.POWER} <= set(seen)

    digest = config(NODE + PORTS).hash  # of another configuration
    *beats, last = [draft.body for draft in drafts if draft.kind is Kind.HEARTBEAT]
    assert beats, "none between start and end"
    for body in (*beats, last):
        assert body[Key.LOSS_WINDOW_MS] == 5000 and body[Key.SOFTWARE] == "test"
        assert isinstance(body[Key.CONFIG_HASH], bytes) and len(body[Key.CONFIG_HASH]) == 32
        assert body[Key.CONFIG_HASH] == drafts[0].body[Key.CONFIG_HASH] != digest
        assert (body[Key.OUTBOX_SEGMENTS], body[Key.OUTBOX_BYTES]) == (7, 12_345)
        counted = body[Key.COUNTS]
        assert isinstance(counted, list)
        figures = {str(pair[0]): pair[1] for pair in counted if isinstance(pair, list)}
        assert {"bytes", "position_valid", "position_void", "refused", "refused_full"} <= set(figures)
        assert figures["refused_full"] == 2
    assert figures["bytes"] == node.bytes > 0 and figures["position_valid"] == node.continuity.position_valid
    assert all(body[Key.NEXT_HEARTBEAT_S] == 120 for body in (drafts[0].body, *beats))
    assert Key.NEXT_HEARTBEAT_S not in last, "an orderly end promises nothing"


@pytest.mark.parametrize("previous", [bytes(32), Previous(bytes(16), 4, bytes(32)), "store was damaged"])
def test_each_form_of_previous(previous: bytes | Previous | str) -> None:
    number = 3 if isinstance(previous, bytes) else 0
    group = Group(1, (Accepted(Event(0, Kind.FACT, stamp(0), BODIES[Kind.FACT]), b"", False),))
    _, rows, _ = SIGNER.seal(ChainState(bytes(16), number, previous), [group], ())
    payload = cose.peek(rows[0].sealed.data).payload
    grammar().validate_str(payload)
    assert seg.parse(payload).previous == previous


def test_wall_time_may_be_unknown_or_before_1970() -> None:
    for wall in (None, -5_000_000):
        event = Event(0, Kind.FACT, Stamp(0, wall, TimeSource.NONE, 0), BODIES[Kind.FACT])
        assert ev.decode(ev.encode(event)).stamp.wall_ns == wall
        grammar().validate_str(sealed(event))


@pytest.mark.parametrize(
    "change",
    [
        {1: 99}, {1: "3"}, {0: -1}, {2: [1, 2, 3]}, {2: [-1, None, 0, 0]}, {2: [1, None, 9, 0]},
        {2: [1, None, 0, -1]}, {3: []}, {4: 1},
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(change: dict[int, object]) -> None:
    good = {0: 1, 1: 3, 2: [1, None, 0, 0], 3: {1: 1}}
    with pytest.raises(FormatError):
        ev.decode(cbor2.dumps({**good, **change}, canonical=True))


def test_trailing_bytes_and_every_cut_are_refused() -> None:
    data = ev.encode(Event(1, Kind.FACT, stamp(0), BODIES[Kind.FACT]))
    for size in range(len(data)):
        with pytest.raises(FormatError):
            ev.decode(data[:size])
    with pytest.raises(FormatError):
        ev.decode(data + b"\0")


def test_an_event_is_bounded() -> None:
    with pytest.raises(FormatError, match=str(MAX_EVENT_BYTES)):
        ev.encode(Event(0, Kind.FACT, stamp(0), {Key.TEXT: "x" * MAX_EVENT_BYTES}))
    with pytest.raises(FormatError):
        ev.decode(cbor.encode({0: 0, 1: 8, 2: [0, None, 0, 0], 3: {115: "x" * MAX_EVENT_BYTES}}))


@given(st.binary(max_size=200))
def test_noise_never_raises_anything_else(data: bytes) -> None:
    try:
        event = ev.decode(data)
    except FormatError:
        return
    assert ev.encode(event) == data
