from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_world import LAT, LON, TYRES, World

from firmware_bridge.link import Decoder
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
    Wheel,
)
from firmware_bridge.sensors.board import BoardDecoder
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.sim import genivi
from firmware_bridge.sim.replay import replay
from firmware_bridge.sim.scenario import scenario
from firmware_bridge.sim.script import Script
from firmware_bridge.timekeeper import Now
from models.detector import Detector
from models.fence import Fence
from models.limits import Limits
from models.verdict import CAUSE_NAMES, Action, Cause, Verdict

S = 1_000_000_000
WHEELS = dict(zip(("FL", "FR", "RL", "RR"), Wheel, strict=True))


def play(script: Script, *, expects_board: bool = True) -> tuple[list[Verdict], Detector]:
    """The vehicle's ports through the real decoders into a detector, with a tick a second."""
    home = script.home
    detector = Detector(
        Limits(),
        tyres=None if script.tyres is None else {WHEELS[w]: name for w, name in script.tyres.items()},
        fence=None if home is None else Fence(home.lat_deg, home.lon_deg, home.radius_m),
        expects_board=expects_board,
    )
    decoders: dict[str, Decoder] = {
        port.name: NmeaDecoder(port.name) if port.protocol == "nmea" else BoardDecoder(port.name)
        for port in script.ports
        if port.node == "vehicle"
    }
    verdicts: list[Verdict] = []
    second = 0
    for chunk in script.play():
        while (second + 1) * S <= chunk.t_ns:
            second += 1
            verdicts += detector.tick(second * S)
        if chunk.port not in decoders:
            continue
        now = Now(chunk.t_ns, script.epoch_wall_ns + chunk.t_ns, True, 0)
        for item in decoders[chunk.port].feed(chunk.data, now):
            if not isinstance(item, Refusal):
                verdicts += detector.observe(item)
    while second < script.duration_s:
        second += 1
        verdicts += detector.tick(second * S)
    return verdicts, detector


# -- simulated scenarios, against their own truth ------------------------------------------------------

WITHIN_S = {"moved_without_wheels": 120.0, "removed_or_opened": 30.0, "left_region": 10.0, "jammed": 180.0}


@pytest.mark.parametrize("name", ["quiet", "tunnel", "tow", "pulled", "left-region", "jammed", "default"])
def test_scenarios_give_exactly_their_incidents(name: str) -> None:
    script = scenario(name)
    verdicts, detector = play(script)
    opened = [v for v in verdicts if v.action is Action.OPENED]
    assert [CAUSE_NAMES[v.cause] for v in opened] == [truth.cause for truth in script.truths]
    for verdict, truth in zip(opened, script.truths, strict=True):
        assert 0 <= verdict.t_ns / S - truth.t_s <= WITHIN_S[truth.cause]
        assert abs(verdict.since_ns / S - truth.t_s) <= 60
        assert len({e.sensor for e in verdict.evidence}) >= (
            2 if truth.cause == "moved_without_wheels" else 1
        )
    assert len(verdicts) <= 20
    assert detector.suspects == 0


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["quiet", "tow"])
def test_scenarios_do_not_depend_on_their_noise(name: str, seed: int) -> None:
    script = scenario(name, seed)
    opened = [CAUSE_NAMES[v.cause] for v in play(script)[0] if v.action is Action.OPENED]
    assert opened == [truth.cause for truth in script.truths]


# -- real drives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", ["gps/munich-gps.nmea", "gps/20100403_Z205_Switzerland.txt"])
def test_real_drives_are_quiet(shared_data: Callable[[str], Path], log: str) -> None:
    path = shared_data(log)
    verdicts, detector = play(replay(path.name, path.read_bytes(), floor_ns=0), expects_board=False)
    assert verdicts == []
    assert detector.estimated == (89 if "Switzerland" in log else 0)


def test_a_real_drive_with_its_accelerometer_is_quiet(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("gps/20160209_RPi_GENIVI_Regensburg.log")
    verdicts, _ = play(genivi.script(path.name, path.read_bytes(), floor_ns=0))
    assert verdicts == []


def test_every_receiver_of_the_zoo_is_quiet(shared_data: Callable[[str], Path]) -> None:
    for path in sorted(shared_data("gps/gpsd").glob("*.log")):
        detector = Detector(Limits(), tyres=None, fence=None, expects_board=False)
        decoder = NmeaDecoder("gnss")
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
            now = number * S // 5
            for item in decoder.feed(line, Now(now, 0, False, 0)):
                if not isinstance(item, Refusal):
                    assert detector.observe(item) == [], path.name


# -- properties ----------------------------------------------------------------------------------------

times = st.integers(0, 10**15)
ports = st.sampled_from(["gnss", "board", "roadside", *(f"p{n}" for n in range(30))])
finite = st.floats(-300, 300)
readings: st.SearchStrategy[Reading] = st.one_of(
    st.builds(
        Position, times, ports, st.floats(-90, 90), st.floats(-180, 180), st.sampled_from(FixQuality),
        st.one_of(st.none(), st.floats(0, 1000)),
    ),
    st.builds(PositionVoid, times, ports, st.sampled_from(VoidReason)),
    st.builds(
        SkyView, times, ports, st.integers(0, 40), st.integers(0, 40), st.one_of(st.none(), st.floats(0, 60)),
        st.one_of(st.none(), st.booleans()),
    ),
    st.builds(
        Tyre, times, ports, st.sampled_from([*TYRES.values(), "00000000"]), st.floats(0, 1500),
        st.floats(-60, 215), st.one_of(st.none(), st.booleans()),
    ),
    st.builds(
        Vibration, times, ports, st.floats(0, 3600), st.floats(1, 4000), st.tuples(finite, finite, finite),
        finite, st.tuples(finite, finite, finite),
    ),
    st.builds(
        Power, times, ports, st.floats(0, 60), st.sampled_from(PowerState), st.booleans(),
        st.integers(-5, 90_000),
    ),
    st.builds(BoardHello, times, ports, st.just("00"), st.just("x"), st.integers(0, 9)),
    st.builds(
        Relay, times, ports, st.just("00"), st.integers(0, 9), st.integers(0, 9), st.just(b""),
        st.none(), st.none(),
    ),
    st.builds(PortState, times, ports, st.sampled_from(PortCondition), st.just("")),
)  # fmt: skip


def check_life(verdicts: list[Verdict], detector: Detector) -> None:
    """Every incident is opened once, then updated, then closed at most once; one open for each cause."""
    open_now: dict[Cause, int] = {}
    number = 0
    now = 0
    for verdict in verdicts:
        assert verdict.t_ns >= now and verdict.since_ns <= verdict.t_ns
        now = verdict.t_ns
        assert 0 < verdict.confidence < 1
        assert verdict.evidence and verdict.sentence.endswith(".") and len(verdict.sentence) < 500
        if verdict.action is Action.OPENED:
            number += 1
            assert verdict.incident == number and verdict.cause not in open_now
            open_now[verdict.cause] = number
        else:
            assert open_now[verdict.cause] == verdict.incident
            if verdict.action is Action.CLOSED:
                del open_now[verdict.cause]
    assert {v.cause: v.incident for v in detector.open_incidents()} == open_now


@given(st.lists(st.one_of(readings, times), max_size=120))
@settings(max_examples=150, deadline=None)
def test_any_stream_is_taken_and_every_incident_has_one_life(stream: list[Reading | int]) -> None:
    detector = Detector(Limits(), tyres=TYRES, fence=Fence(LAT, LON, 100.0), expects_board=True)
    verdicts: list[Verdict] = []
    for item in stream:
        verdicts += detector.tick(item) if isinstance(item, int) else detector.observe(item)
    check_life(verdicts, detector)


TURNS = ["drive", "park", "tilt", "shake", "shock", "case", "cut", "blind", "jam", "gone", "tyres"]


@given(st.lists(st.tuples(st.sampled_from(TURNS), st.integers(1, 400)), max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_story_is_taken_and_every_incident_has_one_life(story: list[tuple[str, int]]) -> None:
    world = World(fence=Fence(LAT, LON, 1500.0)).parked()
    for what, seconds in story:
        match what:
            case "drive":
                world.drive(seconds)
            case "park":
                world.park(seconds)
            case "tilt":
                world.tilt_deg = 0.0 if world.tilt_deg else 9.0
            case "shake":
                world.rms = 0.4
            case "shock":
                world.peak = 5.0
            case "case":
                world.case_open = not world.case_open
            case "cut":
                world.volts = 0.0
            case "blind":
                world.sky = (False, 0, None)
            case "jam":
                world.jamming = not world.jamming
            case "gone":
                world.board = not world.board
            case "tyres":
                world.tyre_radio = not world.tyre_radio
        world.run(seconds)
    check_life(world.verdicts, world.detector)


@given(st.lists(st.tuples(st.floats(-80, 80), st.floats(-170, 170), st.floats(0, 900)), max_size=200))
@settings(max_examples=50, deadline=None)
def test_estimated_fixes_alone_never_open_anything(fixes: list[tuple[float, float, float]]) -> None:
    detector = Detector(Limits(), tyres=TYRES, fence=Fence(LAT, LON, 100.0), expects_board=False)
    for second, (lat, lon, speed) in enumerate(fixes):
        fix = Position(second * S, "gnss", lat, lon, FixQuality.ESTIMATED, speed)
        assert detector.observe(fix) == []


def footprint(item: object, seen: set[int]) -> int:
    """Bytes of an object and all that it holds."""
    if id(item) in seen or isinstance(item, type):
        return 0
    seen.add(id(item))
    size = sys.getsizeof(item)
    if isinstance(item, dict):
        return size + sum(footprint(k, seen) + footprint(v, seen) for k, v in item.items())
    if isinstance(item, str | bytes | int | float):
        return size
    if hasattr(item, "__iter__") and not hasattr(item, "__next__"):
        size += sum(footprint(part, seen) for part in item)
    names = [
        *getattr(item, "__dict__", ()),
        *(n for c in type(item).__mro__ for n in getattr(c, "__slots__", ())),
    ]
    return size + sum(footprint(getattr(item, name, None), seen) for name in names)


def test_memory_does_not_grow() -> None:
    world = World(fence=Fence(LAT, LON, 1500.0)).parked()
    world.case_open, world.tilt_deg, world.peak, world.rms = True, 9.0, 5.0, 0.5
    world.run(600)
    for number in range(100):
        world.see(PositionVoid(world.now, f"port{number}", VoidReason.STATUS))
    before = footprint(world.detector, set())
    world.run(3000)
    for number in range(1000):
        world.see(world.tyre(Wheel.FRONT_LEFT, sensor_id=f"{number:08x}"))
        world.see(PositionVoid(world.now, f"other{number}", VoidReason.STATUS))
    assert footprint(world.detector, set()) <= before + 2000
    assert before < 60_000


def test_time_that_goes_back_counts_as_the_present() -> None:
    world = World().parked()
    late = world.t_s
    world.t_s = 5.0
    world.see(world.power())
    world.see(world.fix())
    world.t_s = late
    world.run(300)
    assert world.verdicts == []


def test_a_night_of_suspension_and_the_drive_after_it_stay_quiet() -> None:
    world = World().parked()
    world.t_s += 8 * 3600
    world.drive(600).park(400)
    world.t_s += 3 * 86_400
    world.take(world.detector.tick(world.now))
    world.drive(600)
    assert world.verdicts == []


def test_another_vehicles_relayed_words_are_nothing_here() -> None:
    world = World(tyres=None, expects_board=False)
    world.see(Relay(0, "radio", "00", 1, 2, b"", None, None))
    world.t_s = 7200
    world.take(world.detector.tick(world.now))
    assert world.verdicts == []


def test_a_tow_and_a_pulled_tracker_are_two_incidents() -> None:
    world = World().parked()
    world.rms, world.speed = 0.5, 13.0
    world.run(300)
    world.speed, world.case_open = 0.0, True
    world.run(3)
    world.board = world.gnss = False
    world.run(3600)
    assert world.opened() == [Cause.MOVED_WITHOUT_WHEELS, Cause.REMOVED_OR_OPENED]
    assert [v.incident for v in world.detector.open_incidents()] == [1, 2]


@pytest.mark.parametrize("synced", [False, True])
def test_a_receiver_that_counts_from_1980_alarms_nobody_f07(
    shared_data: Callable[[str], Path], synced: bool
) -> None:
    """A cold start with dates of 1980, void epochs and two fixes, line by line: no verdict."""
    floor_ns = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * S
    host_ns = int(datetime(2026, 11, 20, 10, 38, 35, tzinfo=UTC).timestamp()) * S if synced else 0
    decoder = NmeaDecoder("gnss")
    detector = Detector(Limits(), tyres=None, fence=Fence(48.1314, 11.5497, 100.0), expects_board=False)
    verdicts: list[Verdict] = []
    positions = 0
    for second, line in enumerate(shared_data("field/F07.nmea").read_bytes().splitlines(keepends=True)):
        t_ns = second * S
        for item in decoder.feed(line, Now(t_ns, host_ns + t_ns, synced, floor_ns)):
            if not isinstance(item, Refusal):
                positions += isinstance(item, Position)
                verdicts += detector.observe(item)
        verdicts += detector.tick(t_ns)
    assert positions == 2 and verdicts == []
