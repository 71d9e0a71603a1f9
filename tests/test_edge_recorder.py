"""The telemetry policy: coarse and seldom outside incidents, and nothing of strangers."""

from __future__ import annotations

import math

import pytest
from edge_kit import NODE, TYRES, at, config
from hypothesis import given
from hypothesis import strategies as st

from edge import event as ev
from edge.event import Event, Key, Kind
from edge.intake import Draft
from edge.recorder import MAX_REASONS, MAX_SIGHTED, Recorder, angle_deg, clip, coarse, incident_body
from firmware_bridge.reading import (
    BoardHello,
    FixQuality,
    PortCondition,
    PortState,
    Position,
    PositionVoid,
    Power,
    PowerState,
    Reading,
    Refusal,
    Relay,
    SkyView,
    Tyre,
    Vibration,
    VoidReason,
)
from firmware_bridge.timekeeper import TimeKeeper
from firmware_bridge.wire.signals import Sig
from firmware_bridge.wire.stamp import NS
from models.verdict import Action, Cause, Evidence, Verdict


def recorder(text: str = NODE + TYRES) -> Recorder:
    return Recorder(config(text), TimeKeeper())


def run(node: Recorder, readings: list[tuple[float, Reading]], until: float) -> list[Draft]:
    """Feed readings at their seconds, with a tick each second."""
    drafts: list[Draft] = []
    left = list(readings)
    for second in range(int(until) + 1):
        while left and left[0][0] <= second:
            when, reading = left.pop(0)
            drafts += node.reading(reading, at(when))
        drafts += node.tick(at(second))
    return drafts


def fix(second: float, speed: float | None = 15.0, lat: float = 47.51234, lon: float = -8.56789) -> Position:
    return Position(round(second * NS), "gnss", lat, lon, FixQuality.AUTONOMOUS, speed)


def tyre(
    second: float, sensor: str = "a1b2c3d4", kpa: float = 230, degc: float = 20, rolling: bool | None = True
) -> Tyre:
    return Tyre(round(second * NS), "board", sensor, kpa, degc, rolling)


def still(
    second: float, gravity: tuple[float, float, float] = (0, 0, 9.81), window: float = 1.0
) -> Vibration:
    return Vibration(round(second * NS), "board", window, 1000, (0.1, 0.2, 0.3), 0.9, gravity)


def power(
    second: float, volts: float = 12.4, case: bool = False, state: PowerState = PowerState.DRIVING
) -> Power:
    return Power(round(second * NS), "board", volts, state, case, 60)


def kinds(drafts: list[Draft]) -> list[Kind]:
    return [draft.kind for draft in drafts]


def test_a_moving_car_writes_each_second_and_a_parked_one_each_minute() -> None:
    node = recorder()
    moving = run(node, [(s, fix(s)) for s in range(60)], 60)
    assert kinds(moving) == [Kind.POSITION] * 60
    parked = run(node, [(s, fix(s, speed=0.1)) for s in range(100, 700)], 700)
    assert len(parked) == 10


def test_a_ten_hertz_receiver_writes_once_a_second() -> None:
    drafts = run(recorder(), [(s / 10, fix(s / 10)) for s in range(1000)], 100)
    assert len(drafts) == 101


def test_positions_are_coarse() -> None:
    (draft,) = run(recorder(), [(0, fix(0))], 0)
    assert draft.body[Sig.LATITUDE] == 475100 and draft.body[Sig.LONGITUDE] == -85700
    assert draft.body[Sig.SPEED] == 540 and draft.body[Sig.FIX_TYPE] == 1


@given(st.floats(-90, 90), st.sampled_from([0.01, 0.05, 0.001]))
def test_coarse_is_on_the_grid_and_near(degrees: float, grid: float) -> None:
    wire = coarse(degrees, grid, Sig.LATITUDE)
    assert wire % round(grid / 1e-4) == 0 and abs(wire * 1e-4 - degrees) <= grid / 2 + 1e-9


def test_estimated_positions_are_marked() -> None:
    estimated = Position(0, "gnss", 47.0, 8.0, FixQuality.ESTIMATED, 5.0)
    (draft,) = run(recorder(), [(0, estimated)], 0)
    assert draft.body[Sig.FIX_TYPE] == FixQuality.ESTIMATED


def test_a_lost_fix_is_said_once() -> None:
    void = [(float(s), PositionVoid(s * NS, "gnss", VoidReason.STATUS)) for s in range(5, 20)]
    drafts = run(
        recorder(),
        [*[(float(s), PositionVoid(0, "gnss", VoidReason.MODE)) for s in range(3)], (4, fix(4)), *void],
        20,
    )
    assert kinds(drafts) == [Kind.POSITION, Kind.NO_POSITION]
    again = recorder()
    assert (
        kinds(run(again, [(0, fix(0)), void[0], (7, fix(7)), (8, void[3][1])], 9)).count(Kind.NO_POSITION)
        == 2
    )


def test_tyres_are_written_on_change_and_each_five_minutes_together() -> None:
    four = ["a1b2c3d4", "a1b2c3d5", "a1b2c3d6", "a1b2c3d7"]
    heard = [(s + n / 10, tyre(s + n / 10, i)) for s in range(0, 600, 10) for n, i in enumerate(four)]
    drafts = run(recorder(), heard, 600)
    assert kinds(drafts) == [Kind.TYRES] * 2
    assert drafts[0].body == {16: 230, 17: 230, 18: 230, 19: 230, 20: 20, 21: 20, 22: 20, 23: 20, 24: 15}


@pytest.mark.parametrize(
    ("kpa", "degc", "rolling", "written"),
    [
        (225, 20, True, True),
        (226, 20, True, False),
        (230, 23, True, True),
        (230, 22, True, False),
        (230, 20, False, True),
    ],
)
def test_the_change_that_matters(kpa: float, degc: float, rolling: bool, written: bool) -> None:
    drafts = run(recorder(), [(0, tyre(0)), (10, tyre(10, kpa=kpa, degc=degc, rolling=rolling))], 20)
    assert len(drafts) == 1 + written


def test_strange_tyres_leave_no_trace_on_a_vehicle() -> None:
    assert run(recorder(), [(0, tyre(0, "ffffffff"))], 20) == []


def test_a_roadside_node_sights_each_id_once_a_minute_within_bounds() -> None:
    node = recorder(
        '[node]\ntenant = "a"\ndevice = "r"\nkind = "roadside"\n[fence]\nlat = 47\nlon = 8\nradius_m = 10'
    )
    drafts = run(node, [(s, tyre(s, "ffffffff")) for s in range(0, 180, 5)], 180)
    assert kinds(drafts) == [Kind.SIGHTING] * 3
    assert drafts[0].body == {Key.SENSOR_ID: "ffffffff", Key.PORT: "board", 1: 470000, 2: 80000}
    for n in range(MAX_SIGHTED + 100):
        assert node.reading(tyre(200, f"{n:08x}"), at(200))
    assert len(node._sighted) == MAX_SIGHTED


def test_vibration_is_summed_up() -> None:
    node = recorder()
    moving = [x for s in range(31) for x in ((s, fix(s)), (s, still(s)))]
    drafts = [d for d in run(node, moving, 30) if d.kind is Kind.VIBRATION]
    assert len(drafts) == 3
    assert drafts[0].body == {32: 100, 33: 200, 34: 300, 35: 900, Sig.TILT: 0}
    parked = [d for d in run(recorder(), [(s, still(s, window=60)) for s in range(0, 600, 60)], 600)]
    assert len(parked) == 9


def test_tilt_is_against_the_attitude_it_last_drove_in() -> None:
    node = recorder()
    winched = (0.0, 9.81 * math.sin(math.radians(20)), 9.81 * math.cos(math.radians(20)))
    run(node, [x for s in range(31) for x in ((s, fix(s)), (s, still(s)))], 31)
    drafts = run(node, [(s, still(s, winched)) for s in range(100, 300)], 300)
    assert drafts[-1].body[Sig.TILT] == 200
    assert angle_deg((0, 0, 0.5), (0, 0, 9.81)) is None
    assert angle_deg((0, 0, 9.81), (0, 0, -9.81)) == pytest.approx(180)


def test_power_on_change_or_hourly() -> None:
    steady = [(float(s), power(s)) for s in range(0, 7200, 60)]
    assert len(run(recorder(), steady, 7200)) == 2
    node = recorder()
    changes = [
        power(0),
        power(1, 12.8),
        power(2, 12.9),
        power(3, 12.9, case=True),
        power(4, 12.9, True, PowerState.PARKED_WATCH),
    ]
    drafts = [d for n, reading in enumerate(changes) for d in node.reading(reading, at(n))]
    assert [(d.body[48], d.body[49], d.body[50]) for d in drafts] == [
        (1240, 0, 0),
        (1290, 0, 0),
        (1290, 1, 0),
        (1290, 1, 1),
    ]


def test_refusals_are_counted_by_reason_within_bounds() -> None:
    node = recorder()
    for n in range(100):
        node.refused(Refusal(n, "gnss", f"reason_{n % 50}", b""))
    assert node.tick(at(59)) == []
    (draft,) = node.tick(at(61))
    counted = {name: count for name, count in draft.body[Key.COUNTS]}  # type: ignore[union-attr, misc, str-unpack]
    assert sum(counted.values()) == 100 and len(counted) == MAX_REASONS + 1 and "other" in counted
    assert node.tick(at(200)) == []
    node.refused(Refusal(0, "gnss", "x", b""))
    assert kinds(node.flush(at(201))) == [Kind.REFUSED]


def test_ports_boards_relays_and_skies() -> None:
    node = recorder()
    state = PortState(0, "gnss", PortCondition.NO_SENTENCE, "check the \x1b[31mspeed\n")
    (port,) = node.reading(state, at(0))
    assert port.body == {113: "gnss", 114: "no_sentence", 115: "check the  [31mspeed "}
    (hello,) = node.reading(BoardHello(0, "board", "00" * 8, "1.2", 3), at(0))
    assert hello.kind is Kind.FACT and "firmware 1.2" in str(hello.body[Key.TEXT])
    relay = Relay(0, "lora", "0011223344556677", 5, 10, b"y" * 300, -97, -7.25)
    (carried,) = node.reading(relay, at(0))
    assert carried.body == {117: "0011223344556677", 118: 5, 119: 10, 120: b"y" * 256, 121: -97, 122: -72}
    assert node.reading(SkyView(0, "gnss", 12, 9, 44.0), at(0)) == []


def verdict(**changes: object) -> Verdict:
    values: dict[str, object] = {
        "t_ns": 90 * NS, "since_ns": 60 * NS, "incident": 1, "cause": Cause.MOVED_WITHOUT_WHEELS,
        "action": Action.OPENED, "confidence": 0.93, "sentence": "It moves and no wheel turns.",
        "evidence": (Evidence("tyres", "cold"), Evidence("position", "300 m")),
        "lat_deg": 47.51234, "lon_deg": 8.5,
    }  # fmt: skip
    return Verdict(**{**values, **changes})  # type: ignore[arg-type]


def test_an_incident_is_urgent_and_carries_the_fine_position() -> None:
    draft = recorder().verdict(verdict(), at(90))
    assert draft.urgent and draft.kind is Kind.INCIDENT
    assert (draft.body[1], draft.body[2], draft.body[Key.CONFIDENCE_PERMILLE]) == (475123, 85000, 930)
    assert draft.body[Key.EVIDENCE] == [["tyres", "cold"], ["position", "300 m"]]
    since = ev.parse_stamp(draft.body[Key.SINCE])
    assert since.mono_ns == 60 * NS and draft.stamp.wall_ns is not None
    assert since.wall_ns == draft.stamp.wall_ns - 30 * NS


@given(st.text(), st.text(), st.integers(0, 40), st.floats(-5, 5))
def test_any_verdict_fits_into_an_event(sentence: str, clause: str, count: int, confidence: float) -> None:
    evidence = tuple(Evidence(clause * 40, clause * 100) for _ in range(count))
    body = incident_body(
        verdict(sentence=sentence * 100, evidence=evidence, confidence=confidence),
        recorder()._stamps.stamp(at(90)),
    )
    assert ev.encode(Event(1 << 40, Kind.INCIDENT, recorder()._stamps.stamp(at(90)), body))


@given(st.text(), st.integers(0, 50))
def test_clip_is_bounded_and_printable(text: str, size: int) -> None:
    clipped = clip(text, size)
    assert len(clipped.encode()) <= size and all(c.isprintable() for c in clipped)
