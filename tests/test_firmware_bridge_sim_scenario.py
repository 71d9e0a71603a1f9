"""Scenarios: the same bytes each time, frames that decode, truth at the fair moment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import pytest

from firmware_bridge.reading import BoardHello, Power, PowerState, Reading, Refusal, Tyre, Vibration
from firmware_bridge.sensors.board import BoardDecoder
from firmware_bridge.sim.scenario import PLANS, scenario
from firmware_bridge.sim.script import Chunk, Script
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import ClockKind

NS = 10**9
CAUSES = {"moved_without_wheels", "removed_or_opened", "left_region", "jammed", "silent"}


@lru_cache(maxsize=8)
def played(name: str) -> tuple[Script, tuple[Chunk, ...]]:
    script = scenario(name)
    return script, tuple(script.play())


def board(chunks: Sequence[Chunk], port: str = "board") -> list[Reading | Refusal]:
    decoder = BoardDecoder(port)
    out: list[Reading | Refusal] = []
    for chunk in chunks:
        if chunk.port == port:
            out += decoder.feed(chunk.data, Now(chunk.t_ns, chunk.t_ns, True, 0))
    return out


@pytest.mark.parametrize("name", ["quiet", "pulled", "tow", "jammed", "tunnel", "left-region"])
def test_a_scenario_is_ordered_and_decodes_without_a_refusal(name: str) -> None:
    script, chunks = played(name)
    times = [chunk.t_ns for chunk in chunks]
    assert times == sorted(times)
    assert times[-1] <= script.duration_s * NS
    assert {chunk.port for chunk in chunks} == {spec.name for spec in script.ports}
    readings = board(chunks)
    assert not [reading for reading in readings if isinstance(reading, Refusal)]
    assert isinstance(readings[0], BoardHello)
    assert all(truth.cause in CAUSES and truth.t_s < script.duration_s for truth in script.truths)
    assert script.kind is ClockKind.SIMULATED


def test_the_same_name_and_seed_give_the_same_bytes_and_another_seed_others() -> None:
    script, chunks = played("pulled")
    again = scenario("pulled")
    assert tuple(again.play()) == chunks
    assert again.truths == script.truths
    other = scenario("pulled", seed=7)
    assert tuple(other.play()) != chunks
    assert other.truths == script.truths


def test_the_default_scenario_tells_its_story() -> None:
    script, chunks = played("default")
    assert [mark.name for mark in script.phases] == [
        "drive", "parked", "winched", "carried", "parked", "opened", "gone",
    ]  # fmt: skip
    assert [(truth.t_s, truth.cause) for truth in script.truths] == [
        (29520.0, "moved_without_wheels"),
        (31020.0, "removed_or_opened"),
    ]
    assert script.phase_at(29520.0).name == "winched"
    night = sum(len(chunk.data) for chunk in chunks if 1000 * NS < chunk.t_ns < 29_500 * NS)
    assert night < 1_000_000
    assert script.tyres is not None and sorted(script.tyres) == ["FL", "FR", "RL", "RR"]


def test_the_roadside_node_hears_the_four_tyres_of_the_passing_flatbed_once() -> None:
    script, chunks = played("default")
    readings = board(chunks, "roadside")
    heard = [reading for reading in readings if isinstance(reading, Tyre)]
    assert script.tyres is not None
    assert sorted(tyre.sensor_id for tyre in heard) == sorted(script.tyres.values())
    assert all(script.phase_at(tyre.t_ns / NS).name == "carried" and tyre.rolling is False for tyre in heard)
    power = [reading.t_ns for reading in readings if isinstance(reading, Power)]
    assert max(b - a for a, b in pairwise(power)) <= 60 * NS
    hellos = [reading.board_id for reading in readings if isinstance(reading, BoardHello)]
    vehicle = [r.board_id for r in board(chunks[:50]) if isinstance(r, BoardHello)]
    assert len(hellos) == 1 and hellos != vehicle


def test_a_parked_board_announces_its_sleep_and_keeps_its_word() -> None:
    _, chunks = played("quiet")
    readings = board(chunks)
    power = [reading for reading in readings if isinstance(reading, Power)]
    assert {reading.state for reading in power} == {PowerState.DRIVING, PowerState.PARKED_WATCH}
    for now, after in pairwise(power):
        assert after.t_ns - now.t_ns <= now.next_report_s * NS
    parked = [reading for reading in power if reading.state is PowerState.PARKED_WATCH]
    assert all(12.2 < reading.supply_v < 12.8 and not reading.case_open for reading in parked)
    driving = [r.supply_v for r in power if r.state is PowerState.DRIVING and r.t_ns < 300 * NS]
    assert all(14.0 < volts < 14.4 for volts in driving)


def raw_from(chunks: Sequence[Chunk], t_s: int) -> float:
    """Seconds from `t_s` to the first raw vibration frame at or after it."""
    first = next(c for c in chunks if c.port == "board" and c.t_ns > t_s * NS and len(c.data) > 500)
    return first.t_ns / NS - t_s


def test_motion_wakes_the_board_within_a_second() -> None:
    script, chunks = played("tow")
    winch = next(mark.t_s for mark in script.phases if mark.name == "winched")
    assert 0 < raw_from(chunks, round(winch)) <= 1.0
    before = [c for c in chunks if c.port == "board" and (winch - 600) * NS < c.t_ns < winch * NS]
    assert max(len(chunk.data) for chunk in before) < 200


def test_winch_and_flatbed_as_the_board_feels_them() -> None:
    script, chunks = played("tow")
    start = {mark.name: mark.t_s for mark in script.phases}
    felt = [r for r in board(chunks) if isinstance(r, Vibration)]
    parked = [v for v in felt if start["parked"] + 100 < v.t_ns / NS < start["winched"]]
    winched = [v for v in felt if start["winched"] <= v.t_ns / NS < start["carried"]]
    assert max(abs(v.gravity_mps2[0] - parked[0].gravity_mps2[0]) for v in parked) < 0.05
    assert max(abs(v.gravity_mps2[0] - parked[0].gravity_mps2[0]) for v in winched) > 1.5
    carried = [v for v in felt if v.t_ns / NS >= start["carried"] + 60 and v.rms_mps2[2] > 0.3]
    assert len(carried) > 100
    assert sum(v.dominant_hz is not None and v.dominant_hz <= 7 for v in carried) > 0.9 * len(carried)


def test_tyres_on_a_flatbed_stay_cold_constant_and_unrolled() -> None:
    script, chunks = played("tow")
    carried = next(mark.t_s for mark in script.phases if mark.name == "carried")
    tyres = [r for r in board(chunks) if isinstance(r, Tyre)]
    assert any(tyre.rolling for tyre in tyres if tyre.t_ns < 240 * NS)
    late = [tyre for tyre in tyres if tyre.t_ns > (carried - 300) * NS]
    assert not any(tyre.rolling for tyre in late)


def test_the_pulled_board_gasps_once_and_is_silent() -> None:
    script, chunks = played("pulled")
    opened = script.truths[0].t_s
    power = [r for r in board(chunks) if isinstance(r, Power)]
    first_open = next(reading for reading in power if reading.case_open)
    assert 0 <= first_open.t_ns / NS - opened <= 1
    assert power[-1].supply_v == 0 and power[-1].case_open
    assert sum(reading.supply_v == 0 for reading in power) == 1
    assert chunks[-1].port == "board" and chunks[-1].t_ns == power[-1].t_ns
    assert script.duration_s * NS - chunks[-1].t_ns > 200 * NS


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError):
        scenario("no-such-scenario")


def test_every_plan_is_reachable_by_its_name() -> None:
    assert {"default", "quiet", "tow", "pulled", "jammed", "tunnel", "left-region"} == set(PLANS)
